"""Weights of 16, 8 or 4 bits: made, and found again in the float32 values that they stand for.

16 bits are bfloat16. 8 bits have one scale per row, 4 bits one per block of 32 columns of a row, as
llama.cpp's Q4_0 has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]
Floats = NDArray[np.float32]

BLOCK = 32
"""Columns that share a scale of 4-bit weights."""
FEW_COLUMNS = 8
"""Linear layers on up to so many columns are limited by the bytes of weights: activations stay float32."""
LARGEST = {8: 127, 4: 7}
"""Bits -> the largest code; the least is its negative, so that the grid is symmetric."""
BITS = {"float32": 32, "bfloat16": 16, "int8": 8, "int4": 4}
"""Of weights as linear layers with few columns keep them."""
_ROUNDING = 1e-3  # of a step; products of a code and a scale in float32 stay far below


@dataclass(frozen=True)
class Quantized:
    """What a matrix [M, K] is on a grid: w = code * scale.

    Attributes:
        bits: 8 or 4.
        codes: [M, K].
        scale: [M] for 8 bits, [M, K / 32] for 4.
    """

    bits: int
    codes: Codes
    scale: Floats


def quantize_matrix(matrix: Floats, bits: int) -> Quantized:
    """Round [M, K] to a grid with the largest magnitude of each row or block at the largest code.

    For 4 bits K must be a multiple of `BLOCK`.
    """
    rows, largest = _rows_of(matrix, bits), LARGEST[bits]
    scale = (np.abs(rows).max(axis=1, initial=0.0) / largest).astype(np.float32)
    scale[scale == 0] = 1.0
    return _shaped(matrix, bits, np.clip(np.rint(rows / scale[:, None]), -largest, largest), scale)


def is_bfloat16(matrix: Floats) -> bool:
    """Whether all values are bfloat16 numbers: of their 32 bits the lower half is zero."""
    return not np.bitwise_and(matrix.view(np.uint32), np.uint32(0xFFFF)).any()


def quantized_of(matrix: Floats) -> Quantized | None:
    """What `matrix` was computed from, whoever quantised it; None where it was not.

    The largest magnitude of a row or block, or for 8 bits of the whole tensor, is taken to be 127 or 7 steps
    or, as some tools leave it, 128 or 8. Where that puts all values on whole steps, they are quantised.
    """
    for bits in (8, 4):
        if not matrix.size or (bits == 4 and matrix.shape[1] % BLOCK):
            continue
        rows = _rows_of(matrix, bits)
        scale = _scales(rows[:1], matrix, bits)
        scale = None if scale is None else _scales(rows, matrix, bits)
        if scale is not None:
            return _shaped(matrix, bits, np.rint(rows / scale[:, None]), scale)
    return None


def _rows_of(matrix: Floats, bits: int) -> Floats:
    """What shares a scale, one behind the other."""
    return matrix if bits == 8 else matrix.reshape(-1, BLOCK)


def _shaped(matrix: Floats, bits: int, codes: Floats, scale: Floats) -> Quantized:
    wide = scale if bits == 8 else scale.reshape(len(matrix), -1)
    return Quantized(bits, codes.astype(np.int8).reshape(matrix.shape), wide)


def _scales(rows: Floats, matrix: Floats, bits: int) -> Floats | None:
    """A scale for each of `rows` that puts its values on whole steps; `matrix` holds them among others."""
    found = np.zeros(len(rows), np.float32)
    candidates = [np.abs(rows).max(axis=1)]
    if bits == 8:
        candidates.append(np.full_like(candidates[0], max(matrix.max(), -matrix.min())))
    for largest in candidates:
        for steps in (LARGEST[bits], LARGEST[bits] + 1):
            scale = np.where(largest > 0, largest / steps, 1.0).astype(np.float32)
            exact = rows / scale[:, None]
            codes = np.rint(exact)
            whole = (np.abs(exact - codes).max(axis=1) <= _ROUNDING) & (codes.max(axis=1) <= LARGEST[bits])
            found = np.where((found == 0) & whole, scale, found)
        if found.all():
            return found
    return None
