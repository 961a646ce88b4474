"""Elementwise ops: axes are equal after broadcasting."""

from __future__ import annotations

import numpy as np

from sparsecc.axes.context import OpContext
from sparsecc.axes.rules.registry import Zero, rule

ZERO_AT_ZERO = (
    "Relu Gelu Erf Tanh Sqrt Abs Neg Sign Floor Ceil Round Sin Tan Asin Atan Sinh Asinh Atanh LeakyRelu PRelu "
    "Elu Selu Celu HardSwish Mish Swish Softsign Cast Identity Dropout IsNaN IsInf ThresholdedRelu Shrink"
)
ANY_AT_ZERO = (
    "Sigmoid HardSigmoid Softplus Exp Log Reciprocal Cos Acos Cosh Acosh Not Equal Less Greater LessOrEqual "
    "GreaterOrEqual BitwiseNot BitwiseOr BitwiseXor Xor"
)


@rule(ZERO_AT_ZERO, "x[*s] -> y[*s]", Zero.KEEPS)
@rule(ANY_AT_ZERO, "a[*s] b[*s] -> y[*s]", Zero.LOST)
@rule("Mul And BitwiseAnd", "a[*s] b[*s] -> y[*s]", Zero.PRODUCT)
@rule("Div BitShift Mod", "a[*s] b[*s] -> y[*s]", Zero.QUOTIENT)
@rule("Add Sub Max Min Sum Mean Or", "a[*s] b[*s] ... -> y[*s]", Zero.SUM)
def elementwise(node: OpContext) -> None:
    """Equal axes with broadcasting; side outputs such as Dropout's mask have them too."""
    axes = node.broadcast_inputs()
    for number in node.outputs:
        node.set(number, axes)


@rule("Where", "c[*s] a[*s] b[*s] -> y[*s]", Zero.SUM)
def where(node: OpContext) -> None:
    """Zero where both branches are."""
    elementwise(node)


@rule("Pow", "a[*s] b[*s] -> y[*s]", Zero.QUOTIENT)
def power(node: OpContext) -> None:
    """0 to a positive power is 0; any other exponent makes the zeros unknown."""
    elementwise(node)


@rule("Clip", "x[*s] low[] high[] -> y[*s]", Zero.KEEPS)
def clip(node: OpContext) -> None:
    """Bounds are single numbers; whether 0 lies between them is for the exactness pass."""
    node.set(0, node.axes(0))


@rule("CastLike", "x[*s] like[*t] -> y[*s]", Zero.KEEPS)
def cast_like(node: OpContext) -> None:
    """The second input lends its type only: its axes have nothing to do with the first's."""
    node.set(0, node.axes(0))


def positive(value: np.ndarray) -> bool:
    """Whether every exponent keeps 0 at 0."""
    return bool(np.all(value > 0))
