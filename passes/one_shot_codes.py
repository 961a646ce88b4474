"""Sparse weights on a grid of 8 or 4 bits, chosen on calibration data: group sparsity and codes in one solve.

W with zeros  ->  s Q, Q whole numbers, for which ||Y - s Q Z||² is small (as GQSA, Zeng et al. 2024)
"""

from __future__ import annotations

import numpy as np

from sparsecc.ir.quantized import BLOCK, LARGEST
from sparsecc.passes.one_shot_solvers import Array, Problem
from sparsecc.passes.round_to_outputs import descend

_CLIPS = {8: (1.0,), 4: (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)}
"""Bits -> scales that are tried, as shares of the one that takes the largest weight in."""


def on_grid(problem: Problem, weights: Array, bits: int) -> Array:
    """Weights on the grid that `quantize` finds for them, the zeros where they are.

    A scale belongs to an output with 8 bits and to 32 inputs of an output with 4, or to the whole output
    where 32 does not divide the columns. Of several scales the one with the least error counts, inputs
    weighted by their norms; then column after column takes the codes that are best for those of all others.

    Args:
        problem: whose outputs are wanted.
        weights: with zeros, [groups, outputs of a group, columns].
        bits: 8 or 4.
    """
    largest, count = LARGEST[bits], weights.shape[2]
    side = BLOCK if bits == 4 and count % BLOCK == 0 else count
    parts = weights.reshape(*weights.shape[:2], -1, side)
    heavy = np.diagonal(problem.gram, axis1=1, axis2=2).reshape(len(weights), 1, -1, side)
    most = np.abs(parts).max(axis=3, keepdims=True)
    whole = np.where(most > 0, most / largest, 1.0)
    scale, least = whole, np.full(most.shape, np.inf)
    for clip in _CLIPS[bits]:
        codes = np.clip(np.rint(parts / (clip * whole)), -largest, largest)
        error = (heavy * (parts - clip * whole * codes) ** 2).sum(axis=3, keepdims=True)
        scale, least = np.where(error < least, clip * whole, scale), np.minimum(error, least)
    codes = np.clip(np.rint(parts / scale), -largest, largest)
    fixed = parts == 0
    # the scale is found again from the largest code
    np.put_along_axis(fixed, np.abs(parts).argmax(axis=3, keepdims=True), values=True, axis=3)
    shape = weights.shape
    codes, fixed = codes.reshape(shape), fixed.reshape(shape)
    scale = np.broadcast_to(scale, parts.shape).reshape(shape).astype(np.float32).astype(np.float64)
    descend(codes, scale, fixed, problem.gram, problem.target, bits)
    return codes * scale
