"""A small ResNet trained here on Fashion-MNIST: the task whose training data are at hand, so the one in which
options are chosen, on held-out training images, and a pruned network is fine-tuned.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from benchmarks.accuracy_images import Images, fashion, grey_patches
from benchmarks.accuracy_tasks import Task, open_batch
from benchmarks.fashion_training import Recipe, train
from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria import Calibration

WIDTHS = (16, 32, 64)
EPOCHS = 5
FINE_TUNING_EPOCHS = 3
SAMPLES = 512
BATCH = 500
INPUT = "image"


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class FashionResNet(nn.Module):
    """Stem and three stages of two blocks, 175 k parameters with the default widths."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, widths[0], 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        inputs = widths[0]
        for number, width in enumerate(widths):
            blocks += [Block(inputs, width, 1 + (number > 0)), Block(width, width, 1)]
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.norm(self.stem(image))))
        return self.classifier(x.mean((2, 3)))


class FashionResNetTask(Task):
    """Top-1 on the 10,000 test images."""

    name = "fashion-resnet"
    title = "Fashion-MNIST ResNet"
    metric = "top-1, %"
    higher_is_better = True
    kind = "classification"
    seeds = (0, 1, 2)
    fine_tuning_seeds = (0, 1)
    about = (
        "a ResNet of 175 k parameters trained here for 5 epochs on 55,000 images; top-1 on the 10,000 test "
        "images. Calibration: 512 training images with their classes (id), 512 grey patches of photographs "
        "(ood). All groups are pruned."
    )

    def model(self) -> ir.Model:
        path = self.cache / "fashion-resnet-0.safetensors"
        torch.manual_seed(0)
        module = FashionResNet()
        if path.exists():
            module.load_state_dict(load_file(path))
        else:
            train(module, fashion("train"), Recipe(EPOCHS, rate=5e-3))
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(module.state_dict(), path)
        return captured(module)

    def calibration(self, source: str, seed: int) -> Calibration:
        if source == "ood":
            return Calibration([{INPUT: part} for part in np.split(grey_patches(SAMPLES, seed), 8)])
        images = fashion("train")
        images = images.part(np.random.default_rng(seed).choice(len(images.classes), SAMPLES, replace=False))
        batches = [{INPUT: part} for part in np.split(images.pixels, 8)]
        return Calibration(batches, np.split(images.classes, 8))

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        return {"score": 100 * accuracy(model, fashion("test"))}

    def test_data(self) -> Calibration:
        images = fashion("test")
        starts = range(BATCH, len(images.classes), BATCH)
        return Calibration(
            [{INPUT: part} for part in np.split(images.pixels, starts)], np.split(images.classes, starts)
        )

    def validate(self, model: ir.Model) -> float:
        """Top-1 in percent on the held-out training images."""
        return 100 * accuracy(model, fashion("held-out"))

    def fine_tune(self, model: ir.Model, seed: int) -> ir.Model:
        module = sparsecc.to_torch(model)
        train(module, fashion("train"), Recipe(FINE_TUNING_EPOCHS, rate=3e-3, seed=seed))
        return captured(module)


def captured(module: nn.Module) -> ir.Model:
    """The module as a graph with an open batch size."""
    return open_batch(module.eval(), (torch.zeros(2, 1, 28, 28),))


def accuracy(model: ir.Model, images: Images) -> float:
    """Share of images whose class has the largest logit."""
    evaluator = Evaluator(model)
    right = 0
    for start in range(0, len(images.classes), BATCH):
        part = images.part(slice(start, start + BATCH))
        (logits,) = evaluator.run({INPUT: part.pixels}).values()
        right += int((logits.argmax(1) == part.classes).sum())
    return right / len(images.classes)
