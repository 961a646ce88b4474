"""Elementwise ops: axes are equal after broadcasting."""

from __future__ import annotations

import numpy as np

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.rules.registry import Zero, rule

_UNARY = "x[*s] -> y[*s]"
_BINARY = "a[*s] b[*s] -> y[*s]"

ZERO_AT_ZERO = (
    "Relu Gelu Erf Tanh Sqrt Abs Neg Sign Floor Ceil Round Sin Tan Asin Atan Sinh Asinh Atanh LeakyRelu "
    "Elu Selu Celu HardSwish Mish Swish Softsign Cast IsNaN IsInf ThresholdedRelu"
)
ANY_AT_ZERO = "Sigmoid Softplus Exp Log Reciprocal Cos Acos Cosh Acosh Not BitwiseNot"


@rule(ZERO_AT_ZERO, _UNARY, Zero.KEEPS)
@rule("Gelu FastGelu QuickGelu", _UNARY, Zero.KEEPS, domain="com.microsoft")
@rule(ANY_AT_ZERO, _UNARY, Zero.LOST)
@rule("PRelu", "x[*s] slope[*s] -> y[*s]", Zero.KEEPS)
@rule("Equal LessOrEqual GreaterOrEqual", _BINARY, Zero.LOST)
@rule("Mul And BitwiseAnd", _BINARY, Zero.PRODUCT)
@rule("Div BitShift Mod", _BINARY, Zero.QUOTIENT)
@rule("Add Sub Or Xor BitwiseOr BitwiseXor Less Greater", _BINARY, Zero.SUM)
@rule("Max Min Sum Mean", "a[*s] b[*s] ... -> y[*s]", Zero.SUM)
@rule("BiasGelu", _BINARY, Zero.SUM, domain="com.microsoft")
def elementwise(node: OpContext) -> None:
    """Equal axes with broadcasting."""
    node.set(0, node.broadcast_inputs())


@rule("Identity", "x[*s] -> y[*s]", Zero.KEEPS)
def identity(node: OpContext) -> None:
    """A tensor, or a sequence of tensors, as it is."""
    if node.value(0) in node.state.sequences:
        node.set_sequence(0, node.elements(0))
    else:
        node.set(0, node.axes(0))


@rule("Dropout", "x[*s] -> y[*s] mask[*s]", Zero.KEEPS)
def dropout(node: OpContext) -> None:
    """Inference: the identity, and a mask that is true everywhere."""
    if node.has(2) and (node.known(2) is None or np.any(node.known(2))):
        raise RuleError("in training mode it drops entries at random")
    axes = node.axes(0)
    node.set(0, axes)
    node.set(1, axes)
    if node.is_read(1):
        for axis in axes:
            node.freeze(axis, "the mask of Dropout is true where the entry is 0", "dropout-mask")


@rule("Where", "c[*s] a[*s] b[*s] -> y[*s]", Zero.SUM)
def where(node: OpContext) -> None:
    """Zero where both branches are."""
    elementwise(node)


@rule("Pow", _BINARY, Zero.QUOTIENT)
def power(node: OpContext) -> None:
    """0 to a positive power is 0; any other exponent, or one that data decides, may make it anything."""
    elementwise(node)
    exponent = node.known(1)
    if exponent is None or not np.all(exponent > 0):
        node.facts.zero = Zero.LOST


@rule("Clip", "x[*s] low[] high[] -> y[*s]", Zero.KEEPS)
def clip(node: OpContext) -> None:
    """0 stays 0 where the bounds enclose it."""
    node.set(0, node.axes(0))
    for number, sign in ((1, -1), (2, 1)):
        if node.has(number):
            bound = node.known(number)
            if bound is None or not np.all(sign * bound.astype(np.float64) >= 0):
                node.facts.zero = Zero.LOST


@rule("Shrink", _UNARY, Zero.KEEPS)
def shrink(node: OpContext) -> None:
    """0 lies between the thresholds unless `lambd` is negative."""
    node.set(0, node.axes(0))
    if node.number("lambd", 0.5) < 0 and node.number("bias", 0.0) != 0:
        node.facts.zero = Zero.LOST


@rule("HardSigmoid", _UNARY, Zero.LOST)
def hard_sigmoid(node: OpContext) -> None:
    """max(0, min(1, alpha x + beta)): 0 at 0 only where beta is not positive."""
    node.set(0, node.axes(0))
    if node.number("beta", 0.5) <= 0:
        node.facts.zero = Zero.KEEPS


@rule("CastLike", "x[*s] like[*t] -> y[*s]", Zero.KEEPS)
def cast_like(node: OpContext) -> None:
    """The second input lends its type only: its axes have nothing to do with the first's."""
    node.ignore(1)
    node.set(0, node.axes(0))


@rule("BitCast", "x[*s] -> y[*s]", Zero.KEEPS)
def bit_cast(node: OpContext) -> None:
    """The bits of 0 are all 0; a type of another width would regroup the last axis."""
    if node.out_shape() != node.shape(0):
        raise RuleError("types of different widths change the last axis")
    node.set(0, node.axes(0))
