"""Quantisation: scales and zero points lie along one axis of their tensor, or count blocks of it.

Entries that stand for 0 are 0 only where the zero point is, so any other zero point loses zeros.
"""

from __future__ import annotations

import numpy as np

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr, expand, size_of
from sparsecc.axes.rules.linear import convolve, multiply
from sparsecc.axes.rules.registry import Zero, rule


@rule("QuantizeLinear DequantizeLinear", "X[*s,c,*t] scale[c] zero[c] -> Y[*s,c,*t]", Zero.KEEPS)
def quantize_linear(node: OpContext) -> None:
    """Per tensor, per index of an axis, or per block of an axis.

    Follows ONNX QuantizeLinear-23 and DequantizeLinear-23.
    """
    axes = node.axes(0)
    numbers = [number for number in (1, 2) if node.has(number)]
    block = node.int("block_size", 0)
    for number in numbers:
        scale = node.axes(number)
        if not block and all(size == 1 for size in node.shape(number)):
            continue
        along = node.int("axis", 1) % len(axes)
        if not block:
            node.unify(axes[along], scale[0])
            continue
        if node.shape(number)[along] * block != node.shape(0)[along]:
            raise RuleError(f"blocks of {block} do not divide axis {along} of size {node.shape(0)[along]}")
        for place, (axis, own) in enumerate(zip(axes, scale, strict=True)):
            inner = node.fixed(block, "it counts the entries of a block with one scale", "block")
            node.unify(axis, own + inner if place == along else own)
    node.set(0, [expand(axis) for axis in axes])
    # Quantising divides by a scale that is zeroed where it lies along the removed indices.
    divides = node.node.op_type == "QuantizeLinear" and np.prod(node.shape(1)) != 1
    if divides or not all_zero(node, 2):
        node.facts.zero = Zero.LOST


@rule(
    "QLinearConv", "X[n,(g i),*s!] W[(g o),i,*k!] scale[(g o)] B[(g o)] -> Y[n,(g o),*t!]", Zero.CONTRACTION
)
def quantized_conv(node: OpContext) -> None:
    """As Conv; the weight's scale and zero point may be per output channel."""
    channels = convolve(node, 0, 3, 8)
    for number in (4, 5):
        _along(node, number, channels)
    _scalars(node, (1, 2, 6, 7))
    if not all(all_zero(node, number) for number in (2, 5, 7)):
        node.facts.zero = Zero.LOST


@rule(
    "ConvInteger", "X[n,(g i),*s!] W[(g o),i,*k!] zero_x[] zero_w[(g o)] -> Y[n,(g o),*t!]", Zero.CONTRACTION
)
def conv_integer(node: OpContext) -> None:
    """As Conv."""
    channels = convolve(node, 0, 1, None)
    _along(node, 3, channels)
    _scalars(node, (2,))
    if not all(all_zero(node, number) for number in (2, 3)):
        node.facts.zero = Zero.LOST


@rule("MatMulInteger", "A[*b,m,k] B[*b,k,n] zero_a[] zero_b[n] -> Y[*b,m,n]", Zero.CONTRACTION)
def matmul_integer(node: OpContext) -> None:
    """As MatMul; zero points are single numbers or, of B, per column."""
    multiply(node, 0, 1)
    _scalars(node, (2,))
    _along(node, 3, node.axes(1)[-1])
    if not all(all_zero(node, number) for number in (2, 3)):
        node.facts.zero = Zero.LOST


@rule("QLinearMatMul", "A[*b,m,k] B[*b,k,n] scale_b[n] -> Y[*b,m,n]", Zero.CONTRACTION)
def quantized_matmul(node: OpContext) -> None:
    """As MatMul; scale and zero point of B may be per column."""
    multiply(node, 0, 3)
    _scalars(node, (1, 2, 6, 7))
    for number in (4, 5):
        _along(node, number, node.axes(3)[-1])
    if not all(all_zero(node, number) for number in (2, 5, 7)):
        node.facts.zero = Zero.LOST


def all_zero(node: OpContext, number: int) -> bool:
    """Whether a zero point is absent or known to be 0."""
    if not node.has(number):
        return True
    known = node.known(number)
    return known is not None and not np.any(known)


def _along(node: OpContext, number: int, axis: AxisExpr) -> None:
    """A scale or zero point that is a single number, or one per index of an axis."""
    if not node.has(number):
        return
    own = node.axes(number)
    if len(own) > 1:
        raise RuleError(f"input {number} has {len(own)} axes instead of one per column or channel")
    if own and size_of(own[0]) != 1:
        node.unify(own[0], axis)


def _scalars(node: OpContext, numbers: tuple[int, ...]) -> None:
    for number in numbers:
        if node.has(number) and np.prod(node.shape(number)) != 1:
            raise RuleError(f"input {number} is not a single number")
