"""What the accuracy table measures: a network with its real weights, data to calibrate on, and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.classes import class_divergence


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """One network.

    Attributes:
        cache: folder of what takes long to make: trained weights, embeddings.

    Class attributes:
        name: on the command line and in the results.
        title: in the table.
        metric: what `score` is.
        higher_is_better: whether more of it is better.
        kind: the measure's name for `sparsecc.evaluate`.
        seeds: one calibration sample, and one draw of noise, each.
        about: a sentence for the page that says what is measured on how many samples.
        only: kinds of groups that are pruned; all if empty.
        fine_tuning_seeds: of the runs with training, where there are training data.
    """

    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "sparsecc-bench")

    name: ClassVar[str]
    title: ClassVar[str]
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    kind: ClassVar[str]
    seeds: ClassVar[tuple[int, ...]]
    about: ClassVar[str]
    only: ClassVar[tuple[str, ...]] = ()
    fine_tuning_seeds: ClassVar[tuple[int, ...]] = ()

    @abstractmethod
    def model(self) -> ir.Model:
        """The dense network as `sparsecc.capture` gives it."""

    @abstractmethod
    def calibration(self, source: str, seed: int) -> Calibration:
        """A sample of the data.

        Args:
            source: "id" or "ood".
            seed: of the sample.
        """

    @abstractmethod
    def evaluate(self, model: ir.Model) -> dict[str, float]:
        """The score and other figures of a network, through ONNX Runtime."""

    @abstractmethod
    def test_data(self) -> Calibration:
        """What the score is measured on, as `sparsecc.evaluate` takes it."""

    def fine_tune(self, model: ir.Model, seed: int) -> ir.Model:
        """Train a pruned network a little; only where there are seeds for it."""
        raise NotImplementedError(self.name)


def open_batch(module: object, example: tuple[object, ...]) -> ir.Model:
    """Capture a module with a symbolic first dimension of every input."""
    import torch

    import sparsecc

    assert isinstance(module, torch.nn.Module)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(module, example, dynamic_shapes=tuple({0: batch} for _ in example))
    return sparsecc.capture(program)


def divergence(dense: np.ndarray, pruned: np.ndarray) -> float:
    """Mean Kullback-Leibler divergence in nats of the probabilities that logits [..., classes] stand for."""
    return class_divergence([(pruned,)], [(dense,)])
