"""Sequences of tensors, which exporters write for chunk, split and unbind."""

from __future__ import annotations

from sparsecc.axes.context import Axes, OpContext
from sparsecc.axes.dims import AxisExpr
from sparsecc.axes.edits import SetSequenceSplit
from sparsecc.axes.rules.layout import cut_sizes, join_along
from sparsecc.axes.rules.registry import Zero, rule


@rule("SplitToSequence", "X[*s,(a|b),*t] -> [A[*s,a,*t], B[*s,b,*t]]", Zero.LAYOUT)
def split_to_sequence(node: OpContext) -> None:
    """Cuts an axis; without `keepdims` and sizes each element loses it."""
    axes = node.axes(0)
    along = node.int("axis", 0) % len(axes)
    shapes = node.state.trace.sequences[node.node.outputs[0]]
    keep = node.has(1) or node.int("keepdims", 1) == 1
    sizes = [shape[along] if keep else 1 for shape in shapes]
    elements: list[Axes] = []
    pieces: list[AxisExpr] = []
    for piece in cut_sizes(axes[along], sizes):
        if not keep:
            node.freeze(piece, "it is unbound into elements", "unbound")
        middle = (piece,) if keep else ()
        pieces.append(piece)
        elements.append((*axes[:along], *middle, *axes[along + 1 :]))
    node.set_sequence(0, elements)
    node.edit(SetSequenceSplit(1, tuple(pieces)))


@rule("SequenceAt", "[A, B, ...] -> A", Zero.LAYOUT)
def sequence_at(node: OpContext) -> None:
    """One element."""
    node.set(0, node.elements(0)[int(node.constant(1).reshape(-1)[0])])


@rule("SequenceConstruct", "A B ... -> [A, B, ...]", Zero.LAYOUT)
def sequence_construct(node: OpContext) -> None:
    """Elements in order."""
    node.set_sequence(0, [node.axes(number) for number in range(len(node.node.inputs))])


@rule("SequenceInsert", "[A, ...] B -> [A, ..., B]", Zero.LAYOUT)
def sequence_insert(node: OpContext) -> None:
    """One more element, at the end unless a constant says where."""
    elements = list(node.elements(0))
    place = int(node.constant(2).reshape(-1)[0]) if node.has(2) else len(elements)
    elements.insert(place if place >= 0 else place + len(elements), node.axes(1))
    node.set_sequence(0, elements)


@rule("SequenceErase", "[A, B, ...] -> [B, ...]", Zero.LAYOUT)
def sequence_erase(node: OpContext) -> None:
    """One element less, the last unless a constant says which."""
    elements = list(node.elements(0))
    elements.pop(int(node.constant(1).reshape(-1)[0]) if node.has(1) else -1)
    node.set_sequence(0, elements)


@rule("SequenceLength", "[A, ...] -> n[]", Zero.LOST)
def sequence_length(node: OpContext) -> None:
    """Reads no entry."""
    node.set(0, ())


@rule("SequenceEmpty", "-> []", Zero.LAYOUT)
def sequence_empty(node: OpContext) -> None:
    """No elements."""
    node.set_sequence(0, [])


@rule("ConcatFromSequence", "[A[*s,a,*t], B[*s,b,*t]] -> Y[*s,(a|b),*t]", Zero.LAYOUT)
def concat_from_sequence(node: OpContext) -> None:
    """A concatenation, or a stack along a new axis."""
    elements = node.elements(0)
    rank = len(node.out_shape())
    along = node.int("axis", 0) % rank
    if node.int("new_axis", 0):
        elements = [(*axes[:along], (), *axes[along:]) for axes in elements]
    node.set(0, join_along(node, elements, along))
