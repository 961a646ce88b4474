"""Which index of which dimension each position of an axis belongs to, for scores and for explanations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sparsecc.axes.dims import AxisExpr, Dim, expand, size_of


def labels(axis: AxisExpr, offsets: Mapping[Dim, int]) -> list[np.ndarray]:
    """For each position the index of the chosen dimensions that it goes with, or -1.

    Args:
        axis: the expression.
        offsets: chosen dimension -> number of its index 0; several dimensions may be numbered side by side.

    Returns:
        Arrays [size of axis] of int64; more than one only where a position goes with several indices at
        once, as in a product of a dimension with itself.
    """
    factors = expand(axis)
    total = size_of(factors)
    found: list[np.ndarray] = []
    before = 1
    for factor in factors:
        after = total // (before * factor.size) if factor.size else 0
        for own in _own_labels(factor, offsets):
            found.append(np.tile(np.repeat(own, after), before))
        before *= factor.size
    return [array for array in found if (array >= 0).any()]


def _own_labels(factor: Dim, offsets: Mapping[Dim, int]) -> list[np.ndarray]:
    if factor.terms is None:
        start = offsets.get(factor)
        return [] if start is None else [np.arange(start, start + factor.size)]
    parts = [(size_of(term), labels(term, offsets)) for term in factor.terms]
    layers = max((len(arrays) for _, arrays in parts), default=0)
    return [
        np.concatenate(
            [arrays[layer] if layer < len(arrays) else np.full(size, -1, np.int64) for size, arrays in parts]
        )
        for layer in range(layers)
    ]
