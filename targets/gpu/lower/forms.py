"""Which form a layer with weights gets: block height, sparse or dense, by a count of loads and multiply-adds.

A thread with R rows and V columns makes R V multiply-adds for each entry, one load of V inputs, and one of
the entry's column and R weights. On no device has that been measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsecc.ir.encoding import coarser

_HEIGHTS = (1, 2, 4, 8)
_LOADS = 2.0  # an entry's loads, in multiply-adds of a row
_DENSE_LOADS = 1.0  # inputs are shared by all rows of a tile


@dataclass(frozen=True)
class FormChoice:
    """Rows of a block, whether it is sparse, and why."""

    rows: int
    sparse: bool
    reason: str

    @property
    def label(self) -> str:
        """For reports."""
        return f"sparse {self.rows}x1" if self.sparse else "dense"


def choose_form(matrix: npt.NDArray[np.float32], group_rows: int, *, dense_only: bool) -> FormChoice:
    """The cheapest form of [M, K] weights.

    Args:
        group_rows: output rows that share input channels, which a block may not straddle.
        dense_only: the caller wants no sparse form.
    """
    M = len(matrix)
    heights = [r for r in _HEIGHTS if group_rows == M or group_rows % r == 0]
    dense_rows = max(r for r in heights if r in (1, 4, 8) and (r == 1 or r * 8 <= 2 * M or r == 4))
    if dense_only:
        return FormChoice(dense_rows, False, "kept dense")
    costs: dict[int, float] = {}
    for rows in heights:
        mask = coarser(matrix != 0, rows, 1)
        stored = float(mask.mean()) if mask.size else 0.0
        costs[rows] = stored * (rows + _LOADS) / rows
    best = min(costs, key=lambda rows: (costs[rows], -rows))
    dense = (dense_rows + _DENSE_LOADS) / dense_rows
    if costs[best] < dense:
        return FormChoice(best, True, f"{costs[best] / dense:.2f} of the dense kernel's work; not measured")
    return FormChoice(dense_rows, False, "sparse kernels would load and multiply as much; not measured")
