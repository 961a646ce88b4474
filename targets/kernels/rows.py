"""Sparse matrix times few columns, lanes along output rows: decode, classifiers, MLPs with small batches.

Y[n, m] = epilogue(bias[m] + sum_k W[m, k] X[n, k]) for blocks of `lanes` rows that share a column list; x is
broadcast. Dense weights need no column list: the matrix streams once, in order. `chains` independent
accumulators hide the latency of the multiply-add where the columns are few. Weights of 16 bits are bfloat16,
those of 8 are codes; the row's scale multiplies their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.kernels.spmm import IntArray, block_mask
from sparsecc.targets.tir import KernelBuilder, Register, const, vector_of

_PREFETCH = 8192  # bytes of small weights ahead of their use; floats come fast enough without
_LINE = 64


@dataclass(frozen=True)
class RowsForm:
    """What a kernel is specialised for.

    Attributes:
        columns: N, all in registers at once.
        chains: accumulators per column over which consecutive blocks are dealt out.
        dense: weights hold every column in order.
        stored: float32, bfloat16, or int8 with a scale per row.
    """

    columns: int
    chains: int
    dense: bool
    lanes: int
    epilogue: Epilogue
    stored: str = "float32"


def choose_chains(columns: int, reduction: int, *, dense: bool) -> int:
    """Accumulators per column; for dense weights a divisor of K, so that nothing behind x is read."""
    chains = 8 if columns == 1 else 4 if columns == 2 else 2 if columns <= 4 else 1
    while dense and reduction % chains:
        chains //= 2
    return chains


def rows_kernel(form: RowsForm, symbol: str) -> Any:
    """Pointers: start (block runs per row block), [column], value, [scale], bias, X, Y, then the epilogue's.

    Scalars: K (rounded up to `chains`), X's strides along k and n, Y's stride along n, then the epilogue's.
    Extent: row blocks. X and Y point at their first element.
    """
    b = KernelBuilder()
    V, N, U = form.lanes, form.columns, form.chains
    start = b.pointer("start", "int32") if not form.dense else None
    column = b.pointer("column", "int32") if not form.dense else None
    weights = RowWeights(b, form.stored)
    x, y = b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    runs, xk, xn, yn = (b.scalar(n) for n in ("runs", "x_k", "x_n", "y_n"))
    operands.declare_scalars()
    with b.loop(b.end - b.begin, b.begin) as i:
        acc = [weights.sums(i, U, V) for _ in range(N)]
        if start is None or column is None:
            low: Any = b.register(i * runs, dtype="int32").value
            count: Any = runs
        else:
            low = b.register(start[i], dtype="int32").value
            count = start[i + 1] - start[i]
        with b.loop(count) as run:
            at = b.register((low + run) * U, dtype="int32").value
            for line in range(0, 0 if form.stored == "float32" else U * V, _LINE // weights.itemsize):
                b.prefetch(weights.values, at * V + (line + _PREFETCH // weights.itemsize))
            for u in range(U):
                k = run * U + u if column is None else column[at + u]
                xat = b.register(k * xk, dtype="int32").value
                w = weights.vector((at + u) * V, V)
                for n in range(N):
                    b.set(acc[n][u], acc[n][u].value + vector_of(x[xat + xn * n], V) * w)
        for n in range(N):
            operands.store_rows(y, weights.total(acc[n], i), i, yn * n, V)
    return b.function(symbol)


class RowWeights:
    """The weights of a kernel with lanes along rows, as they are stored, and what becomes of its sums.

    Declares the pointers value, [scale] and bias.
    """

    def __init__(self, b: KernelBuilder, stored: str) -> None:
        self._b = b
        self.values = b.pointer("value", "uint16" if stored == "bfloat16" else stored)
        self._scale = b.pointer("scale") if stored == "int8" else None
        self._bias = b.pointer("bias")

    @property
    def itemsize(self) -> int:
        """Bytes of a weight."""
        return np.dtype(self.values.dtype).itemsize

    def vector(self, index: Any, lanes: int) -> Any:
        """The weights from an element on, as floats."""
        loaded = self.values.vector(index, lanes)
        if self._scale is not None:
            loaded = tirx.Cast(f"float32x{lanes}", tirx.Cast(f"int32x{lanes}", loaded))
        elif self.values.dtype == "uint16":
            wide = tirx.Cast(f"uint32x{lanes}", loaded)
            bits = tirx.shift_left(wide, vector_of(const(16, "uint32"), lanes))
            loaded = tirx.reinterpret(f"float32x{lanes}", bits)
        return self._b.register(loaded, lanes).value

    def sums(self, block: Any, count: int, lanes: int) -> list[Register]:
        """Accumulators of one column; the first starts with the bias where no scale comes behind."""
        zero = vector_of(const(0.0, "float32"), lanes)
        first = zero if self._scale is not None else self._bias.vector(block * lanes, lanes)
        return [self._b.register(first if u == 0 else zero, lanes) for u in range(count)]

    def total(self, sums: list[Register], block: Any) -> Any:
        """What the accumulators come to, scale and bias included."""
        total = sums[0].value
        for other in sums[1:]:
            total = total + other.value
        if self._scale is None:
            return total
        lanes = sums[0].lanes
        return total * self._scale.vector(block * lanes, lanes) + self._bias.vector(block * lanes, lanes)


@dataclass(frozen=True)
class RowsTables:
    """Packed operands: `value` is [runs x chains, lanes]; `start` counts runs; empty tables when dense."""

    start: IntArray
    column: IntArray
    value: npt.NDArray[Any]
    runs: int
    blocks: int


def pack_rows(matrix: npt.NDArray[Any], lanes: int, chains: int, *, dense: bool) -> RowsTables:
    """Pack [M, K] weights as they are stored; all `lanes` x 1 blocks or those with nonzeros, in runs."""
    M, K = matrix.shape
    B = -(-M // lanes)
    padded = np.zeros((B * lanes, K), matrix.dtype)
    padded[:M] = matrix
    blocks = padded.reshape(B, lanes, K).transpose(0, 2, 1)
    empty: npt.NDArray[np.int32] = np.zeros(0, np.int32)
    if dense:
        runs = -(-K // chains)
        values = np.zeros((B, runs * chains, lanes), matrix.dtype)
        values[:, :K] = blocks
        return RowsTables(empty, empty, values.reshape(-1, lanes), runs, B * K)
    mask = block_mask(matrix, lanes)
    counts = -(-mask.sum(axis=1) // chains)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    column = np.zeros(int(start[-1]) * chains, np.int32)
    value = np.zeros((int(start[-1]) * chains, lanes), matrix.dtype)
    for i in range(B):
        columns = np.flatnonzero(mask[i])
        at = int(start[i]) * chains
        column[at : at + len(columns)] = columns
        value[at : at + len(columns)] = blocks[i, columns]
    return RowsTables(start, column, value, 0, int(mask.sum()))
