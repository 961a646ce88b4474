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


class EfficientNetTask(Task):
    """Agreement with the dense network on five views of twenty photographs."""

    name = "efficientnet-lite0"
    title = "EfficientNet-lite0"
    metric = "agreement with dense, %"
    higher_is_better = True
    kind = "agreement"
    seeds = (0,)
    about = (
        "4.65 M parameters, ImageNet weights; share of 100 views (5 cut-outs of each of 20 labelled "
        "photographs) that get the class that the dense network gives; beside it how many of the 20 "
        "photographs get the right class and the mean Kullback-Leibler divergence in nats. With 20 "
        "photographs this is not ImageNet accuracy. Calibration: 256 random cut-outs of some 280 other "
        "photographs without classes (id), 64 enlarged Fashion-MNIST images (ood). All groups are pruned."
    )

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
        logits, dense = self._logits(model), self._dense
        classes = self._views[1]
        same = logits.argmax(-1) == dense.argmax(-1)
        return {
            "score": 100 * float(same.mean()),
            "correct": float((logits[:, 0].argmax(-1) == classes).sum()),
            "divergence": divergence(dense, logits),
        }

    def test_data(self) -> Calibration:
        return Calibration([{self._input: views} for views in self._views[0]])

    @cached_property
    def _input(self) -> str:
        return self.model().graph.inputs[0].name or ""

    def _logits(self, model: ir.Model) -> np.ndarray:
        return logits_of(model, self._views[0])


class RandomViewsTask(EfficientNetTask):
    """Agreement on 400 random cut-outs of the same photographs: 100 views are few where little is left."""

    about = EfficientNetTask.about.replace(
        "100 views (5 cut-outs of each of 20 labelled photographs)",
        "400 views (20 random cut-outs of each of 20 labelled photographs)",
    )

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """[20, 20, 3, 224, 224] and the dense network's logits."""
        pieces = labelled_pieces(PIECES, 1)
        return pieces, logits_of(self.model(), pieces)

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        pieces, dense = self._pieces
        logits = logits_of(model, pieces)
        return {
            **super().evaluate(model),
            "score": 100 * float((logits.argmax(-1) == dense.argmax(-1)).mean()),
            "divergence": divergence(dense, logits),
        }


def logits_of(model: ir.Model, views: np.ndarray) -> np.ndarray:
    """[photographs, views, classes] for [photographs, views, 3, height, width]."""
    evaluator = Evaluator(model)
    name = model.graph.inputs[0].name or ""
    return np.stack([next(iter(evaluator.run({name: some}).values())) for some in views])
