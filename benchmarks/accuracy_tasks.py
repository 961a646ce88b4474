"""What the accuracy table measures: a network with its real weights, data to calibrate on, and a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from sparsecc.passes.criteria import Calibration

SOURCES = ("id", "ood")
"""Where calibration data come from: like the data the score is taken on, or unlike them."""


@dataclass(frozen=True)
class Reconstruction:
    """Options of `reconstruct`, chosen on held-out training images of Fashion-MNIST."""

    regress: bool = False
    batch_norm: bool = False
    damping: float = 0.01


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
        seeds: one calibration sample, and one draw of noise, each.
        about: a sentence for the page that says what is measured on how many samples.
        only: kinds of groups that are pruned; all if empty.
        reconstruction: with calibration data; without batch norm for other data and noise.
    """

    cache: Path = field(default_factory=lambda: Path.home() / ".cache" / "sparsecc-bench")

    name: ClassVar[str]
    title: ClassVar[str]
    metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    seeds: ClassVar[tuple[int, ...]]
    about: ClassVar[str]
    only: ClassVar[tuple[str, ...]] = ()
    reconstruction: ClassVar[Reconstruction] = Reconstruction()

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


def open_batch(module: object, example: tuple[object, ...]) -> ir.Model:
    """Capture a module with a symbolic first dimension of every input."""
    import torch

    import sparsecc

    assert isinstance(module, torch.nn.Module)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(module, example, dynamic_shapes=tuple({0: batch} for _ in example))
    return sparsecc.capture(program)
