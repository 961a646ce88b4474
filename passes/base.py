"""What a pass is: a frozen dataclass; its fields are its options and `apply` changes a model in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import onnx_ir as ir

from sparsecc.errors import Refusal


@dataclass(frozen=True)
class PassResult:
    """What one application of a pass did.

    Attributes:
        changed: whether the model is different now.
        refusals: what was not done, and why.
        notes: short sentences for the report, such as `folded 12 nodes`.
    """

    changed: bool
    refusals: tuple[Refusal, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PassReport:
    """The result of a pass in a pipeline.

    Attributes:
        spec: the pass with its options, as in a pipeline spec.
        result: what it did.
        seconds: wall time of `apply`.
    """

    spec: str
    result: PassResult
    seconds: float


@dataclass
class Context:
    """What passes share during one run of a pipeline.

    Attributes:
        seed: of every random choice.
        reports: one entry per pass that ran, in order.
    """

    seed: int = 0
    reports: list[PassReport] = field(default_factory=list[PassReport])

    @property
    def refusals(self) -> list[Refusal]:
        """All refusals so far, in order."""
        return [refusal for report in self.reports for refusal in report.result.refusals]


@dataclass(frozen=True)
class Pass(ABC):
    """Base of all passes; the fields of a subclass are its options: bool, int, float, str or tuple[str, ...].

    Class attributes:
        name: as in a pipeline spec.
        summary: one line for help.
        keeps_numbers: whether the model computes the same as before up to rounding.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    keeps_numbers: ClassVar[bool] = True

    @abstractmethod
    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Change `model` in place; what cannot be done here is a refusal in the result, not an exception."""

    def __str__(self) -> str:
        from sparsecc.passes.spec import print_pass

        return print_pass(self)
