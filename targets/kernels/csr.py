"""Unstructured sparse matrix (CSR) times few columns: one output row at a time, scalar multiply-adds.

Y[n, m] = epilogue(bias[m] + sum_k value[k] X[n, column[k]]). Several accumulators per row hide the latency
of the multiply-add; a row's nonzeros are padded to whole rounds of them with zero weights. Columns are
stored in 16 bits. Sixteen rows share one vector epilogue and store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import KernelBuilder, const

MAX_COLUMN = 2**16  # reductions up to here fit the 16-bit column index


@dataclass(frozen=True)
class CsrForm:
    """What a kernel is specialised for: N columns, `chains` accumulators per column, rows per store."""

    columns: int
    chains: int
    lanes: int
    epilogue: Epilogue


def csr_chains(columns: int) -> int:
    return 8 if columns == 1 else 4 if columns == 2 else 2


def csr_kernel(form: CsrForm, symbol: str) -> Any:
    """Pointers: start (rounds before each row), column (uint16), value, bias, X, Y, then the epilogue's.

    Scalars: X's strides along k and n, Y's stride along n, then the epilogue's. Extent: blocks of `lanes`
    rows. X and Y point at their first element.
    """
    b = KernelBuilder()
    V, N, U = form.lanes, form.columns, form.chains
    start, column = b.pointer("start", "int32"), b.pointer("column", "uint16")
    value, bias, x, y = b.pointer("value"), b.pointer("bias"), b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    xk, xn, yn = (b.scalar(n) for n in ("x_k", "x_n", "y_n"))
    operands.declare_scalars()
    zero = const(0.0, "float32")
    with b.loop(b.end - b.begin, b.begin) as i:
        totals = [b.local(V) for _ in range(N)]
        with b.loop(V) as r:
            row = b.register(i * V + r, dtype="int32").value
            low = b.register(start[row], dtype="int32").value
            acc = [[b.register(zero) for _ in range(U)] for _ in range(N)]
            with b.loop(start[row + 1] - low, low) as rounds:
                for u in range(U):
                    k = rounds * U + u
                    w = b.register(value[k]).value
                    at = b.register(tirx.Cast("int32", column[k]) * xk, dtype="int32").value
                    for n in range(N):
                        b.set(acc[n][u], acc[n][u].value + w * x[at + xn * n])
            for n in range(N):
                total = acc[n][0].value
                for u in range(1, U):
                    total = total + acc[n][u].value
                totals[n].put(b, r, total)
        for n in range(N):
            sums = totals[n].value + bias.vector(i * V, V)
            operands.store_rows(y, sums, i, yn * n, V)
    return b.function(symbol)


@dataclass(frozen=True)
class CsrTables:
    """Packed operands; `start` has one entry per padded row and one more, in rounds."""

    start: npt.NDArray[np.int32]
    column: npt.NDArray[np.uint16]
    value: npt.NDArray[np.float32]


def csr_rounds(matrix: npt.NDArray[np.float32], chains: int) -> int:
    """Rounds of `chains` nonzeros, summed over rows."""
    return int((-(-np.count_nonzero(matrix, axis=1) // chains)).sum())


def pack_csr(matrix: npt.NDArray[np.float32], lanes: int, chains: int) -> CsrTables:
    """Pack [M, K], K at most `MAX_COLUMN`; rows are padded to whole vectors, nonzeros to whole rounds."""
    M = matrix.shape[0]
    counts = np.zeros(-(-M // lanes) * lanes, np.int64)
    counts[:M] = np.count_nonzero(matrix, axis=1)
    start = np.concatenate([[0], np.cumsum(-(-counts // chains))])
    column = np.zeros(int(start[-1]) * chains, np.uint16)
    value = np.zeros(len(column), np.float32)
    rows, columns = np.nonzero(matrix)
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    at = start[rows] * chains + np.arange(len(rows)) - first[rows]
    column[at] = columns
    value[at] = matrix[rows, columns]
    return CsrTables(start.astype(np.int32), column, value)
