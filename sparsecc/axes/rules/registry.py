"""The rule table: one row an op says what it means for axes, for zeroed slices and for the rewritten node.

A pattern names axes as einops does: `X[n,(g i),*s] W[(g o),i,*k] -> Y[n,(g o),*s]`; equal names are one axis,
`!` marks an axis that is frozen, `~` one over which statistics are taken.
"""

from __future__ import annotations

import enum
import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsecc.errors import UsageError

if TYPE_CHECKING:
    from sparsecc.axes.context import OpContext

FAMILIES = (
    "elementwise",
    "linear",
    "norms",
    "reductions",
    "pooling",
    "layout",
    "indexing",
    "sequences",
    "recurrent",
    "attention",
    "quantization",
    "generators",
)
"""Modules of this package that hold rows."""


class Zero(enum.Enum):
    """What an op makes of slices whose parameters were zeroed."""

    KEEPS = "f(0) = 0, elementwise"
    PRODUCT = "0 where any operand is 0"
    QUOTIENT = "0 where the first operand is 0"
    SUM = "0 where all operands are 0"
    CONTRACTION = "sums over an axis on which one operand is 0"
    LAYOUT = "moves entries"
    NORM = "statistics over kept entries, then a scale and shift that are 0"
    STATISTIC = "mean over kept entries"
    REDUCTION = "sums over entries that are 0"
    RECURRENT = "a hidden unit without weights stays 0"
    LOST = "f(0) may be anything"


@dataclass(frozen=True)
class OpRule:
    """One row of the table.

    Attributes:
        domain: "" for ONNX's own ops.
        op: the op's name.
        pattern: how its axes go together, for the reader.
        zero: what it makes of zeroed slices.
        family: the module that holds the row, or "user".
        axes: unifies the axes of the inputs and sets those of the outputs.
    """

    domain: str
    op: str
    pattern: str
    zero: Zero
    family: str
    axes: Callable[[OpContext], None]


_RULES: dict[tuple[str, str], OpRule] = {}


def rule(
    ops: str | Iterable[str], pattern: str, zero: Zero, domain: str = ""
) -> Callable[[Callable[[OpContext], None]], Callable[[OpContext], None]]:
    """Decorator that adds one row per op of `ops`, separated by spaces in a text."""
    names = ops.split() if isinstance(ops, str) else list(ops)

    def add(axes: Callable[[OpContext], None]) -> Callable[[OpContext], None]:
        for name in names:
            if (domain, name) in _RULES:
                raise UsageError(f"there is a rule for {name} already")
            family = axes.__module__.rpartition(".")[2]
            _RULES[domain, name] = OpRule(domain, name, pattern, zero, family, axes)
        return axes

    return add


def rule_for(domain: str, op: str) -> OpRule | None:
    """The row of an op, or None."""
    _load()
    return _RULES.get(("" if domain == "ai.onnx" else domain, op))


def all_rules() -> list[OpRule]:
    """The whole table, by family and name."""
    _load()
    order = {name: number for number, name in enumerate(FAMILIES)}
    return sorted(_RULES.values(), key=lambda row: (order.get(row.family, len(order)), row.op))


def register_rule(op: str, pattern: str, zero: str = "lost") -> None:
    """Add a rule for a custom op by its pattern, or replace the one that an earlier call added.

    Args:
        op: `domain::Op`.
        pattern: inputs and outputs with the names of their axes, such as
            `x[n,(g i),*s] w[(g o),i] bias[(g o)] -> y[n,(g o),*s]`. Equal names are the same axis, treated
            index by index; `(g i)` is a row-major product, `*s` any number of axes, `1` an axis of size one,
            `k[]` a single number. `name!` keeps all its indices; `name~` is an axis of the first input over
            which statistics run. Trailing inputs may be missing. What only an output has is kept, and so is
            what only inputs have, unless `zero` is contraction, reduction or statistic.
        zero: what the op makes of slices that are zero: a name of `Zero` in lower case. "lost" is always
            safe; "keeps" says that zeros in the first input are zeros in the output.

    Raises:
        UsageError: a pattern that cannot be read, a domain that is missing, or no such `zero`.
    """
    from sparsecc.axes.rules.pattern import axes_from_pattern

    domain, found, name = op.partition("::")
    if not found or not domain or not name:
        raise UsageError(f"expected an op as domain::Name, not {op!r}")
    allowed = [name.lower() for name in Zero.__members__ if name != "RECURRENT"]
    if zero not in allowed:
        names = ", ".join(allowed)
        raise UsageError(f"there is no zero behaviour {zero!r}; there are {names}")
    _load()
    _RULES[domain, name] = OpRule(
        domain, name, pattern, Zero[zero.upper()], "user", axes_from_pattern(pattern, Zero[zero.upper()])
    )


@functools.cache
def _load() -> None:
    for family in FAMILIES:
        importlib.import_module(f"sparsecc.axes.rules.{family}")
