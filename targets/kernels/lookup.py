"""Sparse matrix times few columns, lanes along output rows, every row with columns of its own (AVX-512).

Y[n, m] = epilogue(bias[m] + sum_k W[m, k] X[n, k]). The reduction is cut into buckets of 32 columns, whose
inputs two registers hold; one permutation looks up a different one for each of 16 rows, so that a step
multiplies 16 weights from any columns of the bucket and loads no input. A bucket takes as many steps as its
fullest row has nonzeros; the other rows are filled up with weights of 0 (ELLPACK within a bucket).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.kernels.rows import RowWeights
from sparsecc.targets.tir import KernelBuilder

LANES = 16
BUCKET = 2 * LANES
"""Columns whose inputs two registers hold."""
_LOOK_UP = "llvm.x86.avx512.vpermi2var.ps.512"
_PREFETCH = 8192  # bytes of weights ahead of their use
_SLAB = 64 * LANES  # rows that are packed at a time: their indices take more memory than the weights
_IN_FLIGHT = 4  # sums that consecutive buckets are dealt out to, to hide the latency of additions


@dataclass(frozen=True)
class LookupForm:
    """What a kernel is specialised for: N columns, all in registers at once; weights in float32 or int8."""

    columns: int
    epilogue: Epilogue
    stored: str = "float32"


def lookup_kernel(form: LookupForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: first (step of each row block), steps (of each bucket of each row block), place, value, [scale],
    bias, X, Y, then the epilogue's. Scalars: buckets, K, X's stride along n (along k it is 1), Y's along n,
    then the epilogue's. Extent: row blocks. X and Y point at their first element; nothing behind X is read.
    """
    b = KernelBuilder()
    N, V = form.columns, LANES
    first, steps = b.pointer("first", "int32"), b.pointer("steps", "int32")
    place, weights = b.pointer("place", "uint8"), RowWeights(b, form.stored)
    x, y = b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    buckets, K, xn, yn = (b.scalar(n) for n in ("buckets", "reduction", "x_n", "y_n"))
    operands.declare_scalars()
    sums = max(1, _IN_FLIGHT // N)
    with b.loop(b.end - b.begin, b.begin) as i:
        acc = [weights.sums(i, sums, V) for _ in range(N)]
        at = b.register(first[i], dtype="int32")
        with b.loop(buckets) as bucket:
            start = b.register(tirx.min(bucket * BUCKET, K - BUCKET), dtype="int32").value
            inputs = [
                [b.register(x.vector(start + xn * n + half * V, V), V).value for half in range(2)]
                for n in range(N)
            ]
            count = b.register(steps[i * buckets + bucket], dtype="int32").value
            with b.loop(count, at.value) as k:
                b.prefetch(weights.values, k * V + _PREFETCH // weights.itemsize)
                which = b.register(tirx.Cast(f"int32x{V}", place.vector(k * V, V)), V, "int32").value
                w = weights.vector(k * V, V)
                for n, (low, high) in enumerate(inputs):
                    looked_up = tirx.call_llvm_pure_intrin(f"float32x{V}", _LOOK_UP, low, which, high)
                    b.set(acc[n][0], acc[n][0].value + w * looked_up)
            b.set(at, at.value + count)
            for row in acc:
                oldest = b.register(row[0].value, V).value
                for u in range(sums - 1):
                    b.set(row[u], row[u + 1].value)
                b.set(row[-1], oldest)
        for n, row in enumerate(acc):
            operands.store_rows(y, weights.total(row, i), i, yn * n, V)
    return b.function(symbol)


def bucket_steps(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Steps of each bucket of each row block, [ceil(M / 16), ceil(K / 32)], from [M, K]."""
    M, K = mask.shape
    padded = np.zeros((-(-M // LANES) * LANES, -(-K // BUCKET) * BUCKET), np.bool_)
    padded[:M, :K] = mask
    counts = np.count_nonzero(padded.reshape(len(padded), -1, BUCKET), axis=2)
    return counts.reshape(-1, LANES, counts.shape[1]).max(axis=1)


@dataclass(frozen=True)
class LookupTables:
    """Packed operands: `place` and `value` are [steps, 16], `first` and `steps` as the kernel has them."""

    first: npt.NDArray[np.int32]
    steps: npt.NDArray[np.int32]
    place: npt.NDArray[np.uint8]
    value: npt.NDArray[Any]


def pack_lookup(matrix: npt.NDArray[Any]) -> LookupTables:
    """Pack [M, K] floats or codes, K at least `BUCKET`; the last bucket ends with K, over the one before."""
    M, K = matrix.shape
    steps = bucket_steps(matrix != 0)
    first = (np.cumsum(steps) - steps.reshape(-1)).reshape(steps.shape)
    place = np.zeros((int(steps.sum()), LANES), np.uint8)
    value = np.zeros(place.shape, matrix.dtype)
    for start in range(0, M, _SLAB):
        slab = matrix[start : start + _SLAB]
        rows, columns = np.nonzero(slab)
        buckets = columns // BUCKET
        run = rows * steps.shape[1] + buckets
        rank = np.arange(len(run)) - np.searchsorted(run, run)
        step = first[(start + rows) // LANES, buckets] + rank
        place[step, rows % LANES] = columns - np.minimum(buckets * BUCKET, K - BUCKET)
        value[step, rows % LANES] = slab[rows, columns]
    return LookupTables(first[:, 0].astype(np.int32), steps.astype(np.int32), place, value)
