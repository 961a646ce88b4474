"""Training on Fashion-MNIST, dense or with zeros: AdamW with a warm-up and a cosine to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.accuracy_images import Images
from sparsecc.training import distillation

BATCH = 128


@dataclass(frozen=True)
class Recipe:
    """How long and how a network is trained.

    Attributes:
        epochs: how often all images are gone through.
        rate: largest learning rate.
        seed: of the order of the images and of how each is changed.
        shift: pixels by which images are moved at random in each direction; half of them are mirrored.
        half: products of bfloat16 and channels innermost, nearly twice as fast where the CPU has them.
    """

    epochs: int
    rate: float
    seed: int = 0
    shift: int = 0
    half: bool = False

    def steps(self, images: Images) -> int:
        """Of the optimiser."""
        return self.epochs * (len(images.classes) // BATCH)


def train(
    module: nn.Module,
    images: Images,
    recipe: Recipe,
    *,
    teacher: nn.Module | None = None,
    after_step: Callable[[], None] | None = None,
) -> None:
    """Train in place.

    Args:
        module: images [n, 1, 28, 28] -> logits [n, 10].
        images: to train on.
        recipe: how.
        teacher: whose logits make half of the loss.
        after_step: called behind each step of the optimiser in place of clearing the gradients.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    pixels, classes = torch.from_numpy(images.pixels), torch.from_numpy(images.classes)
    steps = recipe.steps(images)
    optimizer = torch.optim.AdamW(module.parameters(), recipe.rate, weight_decay=0.05)
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    clear = after_step or optimizer.zero_grad
    if recipe.half:
        for each in (module, *([teacher] if teacher else [])):
            each.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    module.train()
    for chosen in _batches(len(classes), recipe.epochs, generator):
        picked = _changed(pixels[chosen], recipe.shift, generator)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.half):
            logits = module(picked)
            wanted = None if teacher is None else _logits(teacher, picked)
        loss = functional.cross_entropy(logits.float(), classes[chosen])
        if wanted is not None:
            loss = 0.5 * loss + 0.5 * distillation(logits.float(), wanted.float())
        loss.backward()
        optimizer.step()
        schedule.step()
        clear()
    module.eval()


@torch.no_grad()
def _logits(teacher: nn.Module, images: Tensor) -> Tensor:
    return teacher(images)


def _batches(count: int, epochs: int, generator: torch.Generator) -> Iterator[Tensor]:
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator)
        yield from order[: count // BATCH * BATCH].split(BATCH)


def _changed(images: Tensor, shift: int, generator: torch.Generator) -> Tensor:
    """Half of them mirrored, all moved, what comes in from outside as dark as the corner is."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images[mirrored] = images[mirrored].flip(-1)
    if shift:
        size = images.shape[-1]
        wide = functional.pad(images, (shift,) * 4, value=float(images.min()))
        places = torch.randint(0, 2 * shift + 1, (len(images), 2), generator=generator)
        rows, columns = (places[:, side, None] + torch.arange(size) for side in (0, 1))
        numbers = torch.arange(len(images))[:, None, None]
        images = wide[numbers, 0, rows[:, :, None], columns[:, None, :]][:, None]
    return images
