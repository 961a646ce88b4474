"""Reorders the indices of dimensions network-wide: other numbers in memory, the same function.

The expressions that say what a deletion takes say what a reordering moves: a product is an outer sum of
positions, a concatenation a concatenation. No shape, split or attribute changes, so only weights do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.axes.analysis import Analysis
from sparsecc.axes.dims import AxisExpr, Dim, expand, size_of
from sparsecc.axes.groups import Group, Groups
from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import add_initializer, fresh_name, replace_constant, used_names

Orders = Mapping[Dim, np.ndarray]
"""Free root -> old index at each new place [dim.size]; one that is absent stays as it is."""


def refusal(group: Group) -> Refusal | None:
    """Why the indices of a group cannot be reordered, or None.

    Sums that meet entries other than zero (`inexact`) forbid to delete, not to reorder; such groups are
    left alone all the same, as are all that are frozen.
    """
    if group.frozen is not None:
        return Refusal(group.frozen.reason, group.name, group.frozen.code)
    if len(group.dims) > 1:
        reason = "its indices were cut apart and tied one by one, so each has its place"
        return Refusal(reason, group.name, "tied")
    return None


def permutable(groups: Groups) -> list[Group]:
    """The groups whose indices may be reordered, in the order of the groups."""
    return [group for group in groups if refusal(group) is None]


def permuted_positions(axis: AxisExpr, orders: Orders) -> np.ndarray:
    """Old position at each new position along an axis, int64 [size of axis], as `np.take` wants it."""
    positions = np.zeros(1, np.int64)
    for root in expand(axis):
        positions = (positions[:, None] * root.size + _own_positions(root, orders)).reshape(-1)
    return positions


def _own_positions(root: Dim, orders: Orders) -> np.ndarray:
    if root.terms is None:
        found = orders.get(root)
        return np.arange(root.size, dtype=np.int64) if found is None else found.astype(np.int64)
    parts: list[np.ndarray] = []
    start = 0
    for term in root.terms:
        parts.append(start + permuted_positions(term, orders))
        start += size_of(term)
    return np.concatenate(parts)


def runs(axis: AxisExpr, dim: Dim) -> Iterator[tuple[int, int]]:
    """Where a free root lies along an axis: (start, step) for each of its occurrences.

    Index i of an occurrence is the `step` positions from `start + i * step` on, so that one occurrence is
    `dim.size * step` consecutive positions.
    """
    roots = expand(axis)
    after = size_of(roots)
    before = 1
    for root in roots:
        after //= root.size
        for start, step in _own_runs(root, dim):
            for outer in range(before):
                yield (outer * root.size + start) * after, step * after
        before *= root.size


def _own_runs(root: Dim, dim: Dim) -> Iterator[tuple[int, int]]:
    if root is dim:
        yield 0, 1
    offset = 0
    for term in root.terms or ():
        for start, step in runs(term, dim):
            yield offset + start, step
        offset += size_of(term)


def permute(groups: Groups, orders: Orders) -> ir.Model:
    """A copy of the model with reordered weights, which computes the same up to the rounding of sums.

    Args:
        groups: of the model; neither is changed.
        orders: for dimensions of `permutable` groups.

    Raises:
        UsageError: an order that is no permutation, or of a dimension that cannot be reordered.
    """
    _check(groups, orders)
    changed = {dim: order for dim, order in orders.items() if (order != np.arange(dim.size)).any()}
    analysis = groups.analysis
    model = analysis.model.clone()
    for value in analysis.parameters:
        if (array := _reordered(analysis, value, changed)) is not None:
            replace_constant(model.graph.initializers[value.name or ""], array)
    _reorder_constants(analysis, model, changed)
    return model


def _check(groups: Groups, orders: Orders) -> None:
    allowed = {group.dims[0] for group in permutable(groups)}
    for dim, order in orders.items():
        if dim not in allowed:
            reason = f": {dim.frozen.reason}" if dim.frozen is not None else ""
            raise UsageError(
                f"dimension {dim.name} cannot be reordered{reason}; take dimensions of `permutable(groups)`"
            )
        if not np.array_equal(np.sort(order), np.arange(dim.size)):
            raise UsageError(
                f"the order of {dim.name} must name each of its {dim.size} indices once, found {order.size}"
            )


def _reordered(analysis: Analysis, value: ir.Value, orders: Orders) -> np.ndarray | None:
    """The contents of a weight or constant in the new order, or None where nothing moves."""
    positions = [permuted_positions(axis, orders) for axis in analysis.axes[value]]
    moved = [axis for axis, new in enumerate(positions) if (new != np.arange(new.size)).any()]
    if not moved:
        return None
    if value in analysis.trace.constants:
        array = analysis.trace.constants[value]
    else:
        assert value.const_value is not None
        array = value.const_value.numpy()
    for axis in moved:
        array = np.take(array, positions[axis], axis=axis)
    return array


def _reorder_constants(analysis: Analysis, model: ir.Model, orders: Orders) -> None:
    """Constants that are read as data get reordered copies; the constant itself may be a shape too."""
    names = used_names(model)
    copies: dict[ir.Value, ir.Value | None] = {}
    nodes: Sequence[ir.Node] = list(model.graph)
    for original, copy in zip(analysis.model.graph, nodes, strict=True):
        facts = analysis.facts.get(original)
        for number in sorted(facts.data) if facts is not None else ():
            value = original.inputs[number]
            if value is None or value not in analysis.pseudo:
                continue
            if value not in copies:
                array = _reordered(analysis, value, orders)
                name = f"{value.name}.reordered"
                copies[value] = (
                    None if array is None else add_initializer(model.graph, fresh_name(names, name), array)
                )
            if (reordered := copies[value]) is not None:
                copy.replace_input_with(number, reordered)
