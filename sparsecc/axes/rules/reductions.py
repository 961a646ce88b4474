"""Reductions: sums ignore zeros, means count the kept entries, maxima and minima keep their axis."""

from __future__ import annotations

from sparsecc.axes.context import OpContext
from sparsecc.axes.rules.registry import Zero, rule

_PATTERN = "X[*b,*r] -> Y[*b]"


def reduced_axes(node: OpContext) -> list[int]:
    """The axes that go, none negative."""
    rank = len(node.axes(0))
    found = node.ints(1, "axes") if node.has(1) or "axes" in node.node.attributes else None
    if not found:
        return [] if node.int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in found)


def drop(node: OpContext, gone: list[int]) -> None:
    """Outputs without the axes, or with them at size 1."""
    keep = node.int("keepdims", 1)
    axes = [
        () if number in gone else axis
        for number, axis in enumerate(node.axes(0))
        if keep or number not in gone
    ]
    for number in node.outputs:
        node.set(number, axes)


@rule("ReduceSum ReduceL1 ReduceL2 ReduceSumSquare", _PATTERN, Zero.REDUCTION)
def reduce_sum(node: OpContext) -> None:
    """Zeros add nothing."""
    gone = reduced_axes(node)
    node.facts.reduced = tuple(gone)
    drop(node, gone)


@rule("ReduceMean", "X[*b,*r~] -> Y[*b]", Zero.STATISTIC)
def reduce_mean(node: OpContext) -> None:
    """A mean over the entries that are there."""
    gone = reduced_axes(node)
    node.statistics(gone)
    node.facts.reduced = tuple(gone)
    drop(node, gone)


@rule("ReduceMax ReduceMin ReduceProd", "X[*b,*r!] -> Y[*b]", Zero.LAYOUT)
@rule("ReduceLogSum ReduceLogSumExp", "X[*b,*r!] -> Y[*b]", Zero.LOST)
def reduce_hard(node: OpContext) -> None:
    """A removed entry could have been the largest."""
    gone = reduced_axes(node)
    for axis in gone:
        node.freeze(node.axes(0)[axis], f"{node.node.op_type} runs over it", "extremum")
    drop(node, gone)


@rule("ArgMax ArgMin", "X[*b,r!] -> Y[*b]", Zero.LOST)
def arg_extremum(node: OpContext) -> None:
    """Positions would be renumbered."""
    axis = node.int("axis", 0) % len(node.axes(0))
    node.freeze(node.axes(0)[axis], f"{node.node.op_type} counts positions along it", "extremum")
    drop(node, [axis])


@rule("CumSum CumProd", "X[*b,c!] -> Y[*b,c!]", Zero.LAYOUT)
def cumulative(node: OpContext) -> None:
    """Partial sums along an axis whose order matters."""
    axes = node.axes(0)
    axis = int(node.constant(1).reshape(-1)[0]) % len(axes)
    node.freeze(axes[axis], f"{node.node.op_type} runs along it", "cumulative")
    node.set(0, axes)
    if node.node.op_type == "CumProd" and node.int("exclusive", 0):
        node.facts.zero = Zero.LOST


@rule("TopK", "X[*b,c!] k[] -> V[*b,k!] I[*b,k!]", Zero.LOST)
def top_k(node: OpContext) -> None:
    """Removed entries could have been among the largest."""
    axes = list(node.axes(0))
    axis = node.int("axis", -1) % len(axes)
    node.freeze(axes[axis], "TopK chooses among its entries", "extremum")
    axes[axis] = node.fixed(node.out_shape()[axis], "it is an axis of chosen entries", "extremum")
    node.set(0, axes)
    node.set(1, axes)
