"""Weights on a grid of 8 bits with one scale per row: made, and found again in float32 values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
_ROUNDING = 1e-3  # of a step; products of a code and a scale in float32 stay far below


def quantize_rows(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Codes [M, K] and scales [M] from [M, K]: w = code * scale, the largest of a row at 127 or -127."""
    scale = (np.abs(matrix).max(axis=1, initial=0.0) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1.0
    codes = np.clip(np.rint(matrix / scale[:, None]), -LARGEST, LARGEST)
    return codes.astype(np.int8), scale


def codes_of(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """The codes and scales that `matrix` was computed from, whoever quantised it; None where it was not.

    A row's largest magnitude, or that of the whole tensor, is taken to be 127 steps or, as some tools leave
    it, 128. Rows whose values then all are whole steps are quantised; all rows must be.
    """
    if not matrix.size or _scales(matrix[:1], matrix) is None:
        return None
    scale = _scales(matrix, matrix)
    if scale is None:
        return None
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


def _scales(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """A scale for each of `rows` that puts its values on whole steps; `matrix` holds them among others."""
    of_rows = np.abs(rows).max(axis=1)
    found = np.zeros(len(rows), np.float32)
    for largest in (of_rows, np.full_like(of_rows, max(matrix.max(), -matrix.min()))):
        for steps in (LARGEST, LARGEST + 1):
            scale = np.where(largest > 0, largest / steps, 1.0).astype(np.float32)
            exact = rows / scale[:, None]
            codes = np.rint(exact)
            whole = (np.abs(exact - codes).max(axis=1) <= _ROUNDING) & (codes.max(axis=1) <= LARGEST)
            found = np.where((found == 0) & whole, scale, found)
        if found.all():
            return found
    return None
