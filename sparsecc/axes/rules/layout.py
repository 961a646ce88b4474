"""Ops that move entries without computing: axes are permuted, regrouped, cut, joined and repeated."""

from __future__ import annotations

from collections.abc import Sequence

from sparsecc.axes.algebra import cut, join
from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr, Dim, expand, size_of
from sparsecc.axes.edits import PinInput, SetRepeats, SetShape, SetSplit
from sparsecc.axes.rules.registry import Zero, rule


@rule("Transpose", "X[*s] -> Y[perm of s]", Zero.LAYOUT)
def transpose(node: OpContext) -> None:
    """Axes in another order."""
    axes = node.axes(0)
    order = node.int_list("perm") or tuple(reversed(range(len(axes))))
    node.set(0, [axes[number] for number in order])


@rule("Reshape Flatten", "X[*s] -> Y[factors of s regrouped row-major]", Zero.LAYOUT)
def reshape(node: OpContext) -> None:
    """Regroups factors and refines a dimension where it must."""
    axes = node.reshape(node.axes(0), node.out_shape())
    node.set(0, axes)
    if node.node.op_type == "Reshape":
        require_shape(node)
        node.edit(SetShape(1))
        freeze_varying(node, axes)


def require_shape(node: OpContext) -> None:
    """A shape that data decides cannot be rewritten."""
    if node.known(1) is None and not node.is_dynamic(1):
        raise RuleError("its shape is computed from data")


def freeze_varying(node: OpContext, axes: Sequence[AxisExpr]) -> None:
    """An entry that counts a symbolic dimension is scaled, which a sum with frozen parts does not allow."""
    if node.is_dynamic(1):
        entries = node.state.trace.constants[node.value(1)]
        for axis, varies, entry in zip(axes, node.varying(1), entries, strict=False):
            if varies and entry != -1:
                node.keep_whole_sums(axis, "its size is computed from a symbolic dimension", "symbolic")


@rule("Squeeze", "X[*s,1,*t] -> Y[*s,*t]", Zero.LAYOUT)
def squeeze(node: OpContext) -> None:
    """Axes of size 1 go."""
    axes = node.axes(0)
    listed = node.ints(1, "axes")
    gone = (
        [number for number, size in enumerate(node.shape(0)) if size == 1]
        if listed is None
        else [number % len(axes) for number in listed]
    )
    for number in gone:
        node.freeze(axes[number], "a slice of one index is squeezed", "unit-squeezed")
    if listed is None:
        if not gone:
            raise RuleError("it would squeeze any axis that shrinks to one index")
        node.edit(PinInput(1, tuple(gone)))
    node.set(0, [axis for number, axis in enumerate(axes) if number not in gone])


@rule("Unsqueeze", "X[*s,*t] -> Y[*s,1,*t]", Zero.LAYOUT)
def unsqueeze(node: OpContext) -> None:
    """New axes of size 1."""
    rank = len(node.out_shape())
    new = {number % rank for number in node.ints(1, "axes") or []}
    rest = iter(node.axes(0))
    node.set(0, [() if number in new else next(rest) for number in range(rank)])


@rule("Expand", "X[*s] shape -> Y[*b,*s]", Zero.LAYOUT)
def expand_shape(node: OpContext) -> None:
    """A repeated axis is a new dimension: queries per key-value head, for instance."""
    require_shape(node)
    axes = node.broadcast([node.axes(0)], node.out_shape())
    node.set(0, axes)
    node.edit(SetShape(1))
    if not node.is_dynamic(1) or len(axes) == node.shape(1)[0]:
        freeze_varying(node, axes)
    else:
        for axis in axes:
            node.freeze(axis, "its size is computed from a symbolic dimension", "symbolic")


@rule("Tile", "X[s] repeats -> Y[(r s)]", Zero.LAYOUT)
def tile(node: OpContext) -> None:
    """Repeats are a new outer factor."""
    result: list[AxisExpr] = []
    for axis, repeats in zip(node.axes(0), node.ints(1) or [], strict=True):
        result.append(axis if repeats == 1 else (Dim(repeats, "repeat"), *axis))
    node.set(0, result)
    node.edit(SetRepeats(1))


@rule("Concat", "A[*s,a,*t] B[*s,b,*t] -> Y[*s,(a|b),*t]", Zero.LAYOUT)
def concat(node: OpContext) -> None:
    """An ordered sum along the axis; all other axes are equal."""
    operands = [node.axes(number) for number in range(len(node.node.inputs))]
    node.set(0, join_along(node, operands, node.int("axis", 0) % len(operands[0])))


def join_along(node: OpContext, operands: list[tuple[AxisExpr, ...]], along: int) -> list[AxisExpr]:
    """Axes of a concatenation; a part of size 1 takes a slot that stays."""
    result: list[AxisExpr] = []
    for number, first in enumerate(operands[0]):
        if number == along:
            parts = [axes[number] for axes in operands if size_of(axes[number]) > 0]
            slotted = [part or node.slot("it is a part of one index", "slot") for part in parts]
            result.append(join(slotted) if slotted else (Dim(0, "empty"),))
            continue
        for axes in operands[1:]:
            node.unify(first, axes[number])
        result.append(expand(first))
    return result


@rule("Split", "X[*s,(a|b),*t] -> A[*s,a,*t] B[*s,b,*t]", Zero.LAYOUT)
def split(node: OpContext) -> None:
    """Cuts an axis into the parts of a sum."""
    axes = node.axes(0)
    along = node.int("axis", 0) % len(axes)
    sizes = [node.out_shape(number)[along] for number in node.outputs]
    for number, piece in enumerate(cut_sizes(axes[along], sizes)):
        node.set(number, [*axes[:along], piece, *axes[along + 1 :]])
    node.edit(SetSplit(1, along))


def cut_sizes(axis: AxisExpr, sizes: list[int]) -> list[AxisExpr]:
    """An axis cut into parts of the given sizes, empty ones included."""
    points: list[int] = []
    total = size_of(axis)
    offset = 0
    for size in sizes[:-1]:
        offset += size
        points.append(offset)
    inner = sorted({point for point in points if 0 < point < total})
    pieces = dict(zip([0, *inner], cut(axis, inner), strict=True))
    starts = [0, *points]
    return [
        join(pieces[start]) if size > 0 else (Dim(0, "empty"),)
        for start, size in zip(starts, sizes, strict=True)
    ]


@rule("Trilu", "X[*b,m!,n!] -> Y[*b,m!,n!]", Zero.LAYOUT)
def trilu(node: OpContext) -> None:
    """A triangle of a matrix, so rows and columns keep their places."""
    axes = node.axes(0)
    for axis in axes[-2:]:
        node.freeze(axis, "a triangle of the matrix is taken", "triangle")
    node.set(0, axes)


@rule("ReverseSequence", "X[t!,b!,*s] lengths[b!] -> Y[t!,b!,*s]", Zero.LAYOUT)
def reverse_sequence(node: OpContext) -> None:
    """Time and batch keep their places."""
    axes = node.axes(0)
    for axis in (*axes[:2], *node.axes(1)):
        node.freeze(axis, "sequences are reversed along it", "time")
    node.set(0, axes)
