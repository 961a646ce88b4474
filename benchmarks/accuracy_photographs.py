"""EfficientNet-lite0 with its ImageNet weights on the photographs that come inside packages."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx_ir as ir

from benchmarks.accuracy_images import (
    calibration_pieces,
    fashion_as_photographs,
    labelled_pieces,
    labelled_views,
)
from benchmarks.accuracy_tasks import Task, divergence, open_batch
from benchmarks.models import build
from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria import Calibration

SAMPLES = {"id": 256, "ood": 64}
BATCH = 16
PIECES = 20
"""Random cut-outs of each photograph."""


_ABOUT = (
    "4.65 M parameters, ImageNet weights; share of {views} of each of 20 labelled photographs) that get the "
    "class that the dense network gives; beside it how many of the 20 photographs get the right class and "
    "the mean Kullback-Leibler divergence in nats. With 20 photographs this is not ImageNet accuracy. "
    "Calibration: 256 random cut-outs of some 280 other photographs without classes (id), 64 enlarged "
    "Fashion-MNIST images (ood). All groups are pruned."
)


class EfficientNetTask(Task):
    """Agreement with the dense network on five views of twenty photographs."""

    name = "efficientnet-lite0"
    title = "EfficientNet-lite0"
    metric = "agreement with dense, %"
    higher_is_better = True
    kind = "agreement"
    seeds = (0,)
    about = _ABOUT.format(views="100 views (5 cut-outs")

    @cached_property
    def _views(self) -> tuple[np.ndarray, np.ndarray]:
        return labelled_views()

    @cached_property
    def _dense(self) -> np.ndarray:
        return self._logits(self.model())

    def model(self) -> ir.Model:
        module, inputs = build("efficientnet-lite0", 2)
        return open_batch(module, inputs)

    def calibration(self, source: str, seed: int) -> Calibration:
        make = calibration_pieces if source == "id" else fashion_as_photographs
        pixels = make(SAMPLES[source], seed)
        return Calibration([{self._input: part} for part in np.split(pixels, len(pixels) // BATCH)])

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        logits = self._logits(model)
        right = logits[:, 0].argmax(-1) == self._views[1]
        return {**agreement(self._dense, logits), "correct": float(right.sum())}

    def test_data(self) -> Calibration:
        return Calibration([{self._input: views} for views in self._views[0]])

    @cached_property
    def _input(self) -> str:
        return self.model().graph.inputs[0].name or ""

    def _logits(self, model: ir.Model) -> np.ndarray:
        return logits_of(model, self._views[0])


class RandomViewsTask(EfficientNetTask):
    """Agreement on 400 random cut-outs of the same photographs: 100 views are few where little is left."""

    about = _ABOUT.format(views="400 views (20 random cut-outs")

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """[20, 20, 3, 224, 224] and the dense network's logits."""
        pieces = labelled_pieces(PIECES, 1)
        return pieces, logits_of(self.model(), pieces)

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        return {**super().evaluate(model), **self.agreement(model)}

    def agreement(self, model: ir.Model) -> dict[str, float]:
        """Score and divergence, without the right classes."""
        pieces, dense = self._pieces
        return agreement(dense, logits_of(model, pieces))


def agreement(dense: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    """Share of places with the dense network's class, in percent, and the mean divergence in nats."""
    same = logits.argmax(-1) == dense.argmax(-1)
    return {"score": 100 * float(same.mean()), "divergence": divergence(dense, logits)}


def logits_of(model: ir.Model, views: np.ndarray) -> np.ndarray:
    """[photographs, views, classes] for [photographs, views, 3, height, width]."""
    evaluator = Evaluator(model)
    name = model.graph.inputs[0].name or ""
    return np.stack([next(iter(evaluator.run({name: some}).values())) for some in views])
