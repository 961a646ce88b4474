"""Slices, gathers and scatters: constant indices select parts of an axis, computed ones keep it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr, Dim, size_of
from sparsecc.axes.edits import Select, SetIndices, SetRows
from sparsecc.axes.rules.registry import Zero, rule

_LOOKUP = "it is looked up by computed indices"
_INDICES = ("it is an axis of indices", "lookup")


@rule("Slice", "X[*s,c,*t] -> Y[*s,c[start:end:step],*t]", Zero.LAYOUT)
def slice_(node: OpContext) -> None:
    """Any constant start, end and step."""
    axes = list(node.axes(0))
    if any(node.is_dynamic(number) for number in (1, 2)):
        _slice_dynamic(node, axes)
        return
    starts, ends = node.ints(1, "starts"), node.ints(2, "ends")
    if starts is None or ends is None:
        raise RuleError("starts or ends are missing")
    chosen = node.ints(3, "axes") or list(range(len(starts)))
    steps = node.ints(4) or [1] * len(starts)
    taken: list[tuple[int, np.ndarray]] = []
    for start, end, axis, step in zip(starts, ends, chosen, steps, strict=True):
        number = axis % len(axes)
        size = node.shape(0)[number]
        indices = sliced(size, start, end, step)
        if step == 1 and len(indices) == size:
            continue
        axes[number] = node.select(axes[number], indices) if size_of(axes[number]) else (Dim(0, "empty"),)
        taken.append((number, indices))
    node.set(0, axes)
    node.edit(Select(tuple(taken)))


def _slice_dynamic(node: OpContext, axes: list[AxisExpr]) -> None:
    """Bounds that follow a symbolic dimension: the sliced axes keep their indices, the others pass."""
    why = "it is sliced at bounds computed from a symbolic dimension"
    for axis in node.ints(3, "axes") or list(range(len(node.shape(1)))):
        node.freeze(axes[axis], why, "symbolic")
        axes[axis] = node.fixed(node.out_shape()[axis], why, "symbolic")
    node.set(0, axes)


def sliced(size: int, start: int, end: int, step: int) -> np.ndarray:
    """Indices that ONNX's Slice takes of an axis: negative numbers count from the end, all are clamped."""
    if step > 0:
        first = min(max(start + size if start < 0 else start, 0), size)
        last = min(max(end + size if end < 0 else end, 0), size)
    else:
        first = min(max(start + size if start < 0 else start, 0), size - 1)
        last = min(max(end + size if end < 0 else end, -1), size - 1)
    return np.arange(first, last, step)


@rule("Gather", "X[*s,c,*t] I[*i!] -> Y[*s,*i!,*t]", Zero.LAYOUT)
def gather(node: OpContext) -> None:
    """Constant 1-D indices select; a table looked up by data, such as an embedding, keeps its rows."""
    axes = node.axes(0)
    along = node.int("axis", 0) % len(axes)
    if node.is_constant(1):
        indices = node.constant(1)
        indices = np.where(indices < 0, indices + node.shape(0)[along], indices)
        if indices.ndim == 1 and indices.size:
            node.set(0, [*axes[:along], node.select(axes[along], indices), *axes[along + 1 :]])
            node.edit(Select(((along, indices),)))
            return
        looked_up: list[AxisExpr] = [node.fixed(size, *_INDICES) for size in indices.shape]
    else:
        looked_up = list(node.axes(1))
        freeze_indices(node, node.axes(1))
    node.freeze(axes[along], _LOOKUP, "lookup")
    node.set(0, [*axes[:along], *looked_up, *axes[along + 1 :]])


def freeze_indices(node: OpContext, axes: Sequence[AxisExpr]) -> None:
    """An index that is zeroed looks up the first entry, so zeroing it is not removing it."""
    for axis in axes:
        node.freeze(axis, *_INDICES)


@rule("GatherElements", "X[*s,c!,*t] I[*s,i!,*t] -> Y[*s,i!,*t]", Zero.LAYOUT)
def gather_elements(node: OpContext) -> None:
    """The indexed axis keeps all indices; an axis of equal size elsewhere is the same."""
    axes, indices = node.axes(0), node.axes(1)
    along = node.int("axis", 0) % len(axes)
    node.freeze(axes[along], _LOOKUP, "lookup")
    for number, (axis, index) in enumerate(zip(axes, indices, strict=True)):
        if number == along:
            freeze_indices(node, [index])
        elif size_of(axis) == size_of(index):
            node.unify(axis, index)
        else:
            for touched in (axis, index):
                node.freeze(touched, "indices cover a part of it", "lookup")
    node.set(0, indices)


@rule("GatherND", "X[*b,*c!,*t] I[*b,*i!,k!] -> Y[*b,*i!,*t]", Zero.LAYOUT)
def gather_nd(node: OpContext) -> None:
    """Indexed axes keep all indices, the others pass."""
    axes, indices = node.axes(0), node.axes(1)
    batch = node.int("batch_dims", 0)
    width = node.shape(1)[-1]
    freeze_indices(node, indices[batch:])
    for axis in axes[batch : batch + width]:
        node.freeze(axis, _LOOKUP, "lookup")
    for number in range(batch):
        node.unify(axes[number], indices[number])
    node.set(0, [*indices[:-1], *axes[batch + width :]])


@rule("ScatterND", "X[*r!,*t] I[*u!,k!] U[*u!,*t] -> Y[*r!,*t]", Zero.LAYOUT)
def scatter_nd(node: OpContext) -> None:
    """Constant rows of axis 0, each written once, are assigned to a slice; else indexed axes are kept."""
    axes, updates = node.axes(0), node.axes(2)
    rows = _distinct_rows(node)
    if rows is not None:
        node.unify(node.select(axes[0], rows), updates[0])
        for axis, update in zip(axes[1:], updates[1:], strict=True):
            node.unify(axis, update)
        node.set(0, axes)
        node.edit(SetRows(1, rows))
        return
    indices = node.axes(1)
    width = node.shape(1)[-1]
    batch = len(indices) - 1
    for axis in (*axes[:width], *indices, *updates[:batch]):
        node.freeze(axis, "it is written at computed indices", "lookup")
    for axis, update in zip(axes[width:], updates[batch:], strict=True):
        node.unify(axis, update)
    node.set(0, axes)


def _distinct_rows(node: OpContext) -> np.ndarray | None:
    """Rows of axis 0 that a ScatterND overwrites, if they are constant, whole and each written once."""
    if not node.is_constant(1) or node.text("reduction", "none") != "none":
        return None
    rows = node.constant(1)
    if rows.ndim != 2 or rows.shape[-1] != 1:
        return None
    rows = np.where(rows < 0, rows + node.shape(0)[0], rows)[:, 0]
    return rows if len(np.unique(rows)) == rows.size else None


@rule("ScatterElements Scatter", "X[*s,c!,*t] I[*s,u!,*t] U[*s,u!,*t] -> Y[*s,c!,*t]", Zero.LAYOUT)
def scatter_elements(node: OpContext) -> None:
    """The indexed axis keeps all indices; the others pass where the indices cover them."""
    axes, indices, updates = node.axes(0), node.axes(1), node.axes(2)
    along = node.int("axis", 0) % len(axes)
    for number, (axis, index, update) in enumerate(zip(axes, indices, updates, strict=True)):
        if number == along:
            for touched in (axis, index, update):
                node.freeze(touched, "it is written at computed indices", "lookup")
        elif size_of(axis) == size_of(index) == size_of(update):
            node.unify(axis, index)
            node.unify(axis, update)
        else:
            for touched in (axis, index, update):
                node.freeze(touched, "indices cover a part of it", "lookup")
    node.set(0, axes)


@rule("OneHot", "I[*s] depth[] values[2!] -> Y[*s,d!]", Zero.LOST)
def one_hot(node: OpContext) -> None:
    """A new axis that counts classes."""
    axes = list(node.axes(0))
    along = node.int("axis", -1)
    along = along if along >= 0 else along + len(axes) + 1
    axes.insert(along, node.fixed(node.out_shape()[along], "it counts classes", "lookup"))
    node.set(0, axes)


@rule("Compress", "X[*s,c!,*t] condition[c!] -> Y[*s,u!,*t]", Zero.LAYOUT)
def compress(node: OpContext) -> None:
    """The condition chooses; without `axis` among all entries."""
    axes = list(node.axes(0))
    chosen = "it is an axis of chosen entries"
    node.freeze(node.axes(1)[0], _LOOKUP, "lookup")
    if "axis" not in node.node.attributes:
        for axis in axes:
            node.freeze(axis, _LOOKUP, "lookup")
        node.set(0, [node.fixed(node.out_shape()[0], chosen, "lookup")])
        return
    along = node.int("axis", 0) % len(axes)
    node.freeze(axes[along], _LOOKUP, "lookup")
    axes[along] = node.fixed(node.out_shape()[along], chosen, "lookup")
    node.set(0, axes)


@rule("TensorScatter", "past[b,*s,t!,*u] update[b,*s,q!,*u] start[b] -> present[b,*s,t!,*u]", Zero.LAYOUT)
def tensor_scatter(node: OpContext) -> None:
    """Entries of a cache are overwritten along one axis, which keeps all indices."""
    axes, update = node.axes(0), node.axes(1)
    along = node.int("axis", -2) % len(axes)
    for number, (axis, own) in enumerate(zip(axes, update, strict=True)):
        if number == along:
            for touched in (axis, own):
                node.freeze(touched, "it is written at computed indices", "lookup")
        else:
            node.unify(axis, own)
    if node.has(2):
        node.unify(axes[0], node.axes(2)[0])
    node.set(0, axes)


__all__ = ["SetIndices", "sliced"]
