"""Linear layers with few columns: the threads of a row block share its weights' columns.

Y[n, m] = epilogue(bias[m] + scale[m] sum_k W[m, k] X[n, k]) for blocks of R rows that share a list of
columns; dense is the list of all. Neighbouring threads read neighbouring entries; their sums fold through
shared memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.ir.encoding import coarser
from sparsecc.targets.gpu.tir import GpuBuilder, Private
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import Expr, const

BLOCK = (32, 4)


@dataclass(frozen=True)
class RowsForm:
    """What a kernel is specialised for.

    Attributes:
        rows: R of a block.
        columns: N.
        sparse: blocks have column lists of their own.
        coded: the weights are 8-bit codes with a scale for each row.
    """

    rows: int
    columns: int
    sparse: bool
    coded: bool
    epilogue: Epilogue


def rows_kernel(form: RowsForm, symbol: str) -> tirx.PrimFunc:
    """The PrimFunc of a form.

    Pointers: start and column (sparse), value [entries, R], scale (coded), bias, X, Y, then the epilogue's.
    Scalars: M, blocks, K, X's origin and strides along n and k, Y's origin and stride along n, then the
    epilogue's. Grid: blocks.
    """
    b = GpuBuilder(BLOCK)
    (TX, TY), R, N = BLOCK, form.rows, form.columns
    start = b.pointer("start", "int32") if form.sparse else None
    column = b.pointer("column", "int32") if form.sparse else None
    value = b.pointer("value", "int8" if form.coded else "float32")
    scale = b.pointer("scale") if form.coded else None
    bias, x, y = b.pointer("bias"), b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    names = ("rows", "blocks", "depth", "x_origin", "x_n", "x_k", "y_origin", "y_n")
    rows, blocks, depth, x_origin, x_n, x_k, y_origin, y_n = (b.scalar(n) for n in names)
    operands.declare_scalars()
    mine = b.register(b.group(0) * TY + b.thread(1), dtype="int32").value
    block = b.register(tirx.Min(mine, blocks - 1), dtype="int32").value
    if start is None:
        first, count = block * depth, depth
    else:
        first = start[block]
        count = start[block + 1] - first
    first = b.register(first, dtype="int32").value
    count = b.register(count, dtype="int32").value
    sums = [[b.register(const(0.0, "float32")) for _ in range(N)] for _ in range(R)]
    with b.loop(tirx.Div(count - b.thread(0) + (TX - 1), const(TX))) as i:
        j = b.register(i * TX + b.thread(0), dtype="int32").value
        k = b.register(j if column is None else column[first + j], dtype="int32").value
        inputs = [b.register(x[x_origin + x_n * n + k * x_k]).value for n in range(N)]
        for r in range(R):
            weight = value[(first + j) * R + r]
            w = b.register(tirx.Cast("float32", weight) if form.coded else weight).value
            for n in range(N):
                b.set(sums[r][n], sums[r][n].value + w * inputs[n])

    def store(total: Expr, row: Expr, n: Expr) -> None:
        final = total if scale is None else total * scale[row]
        index = b.register(y_origin + n * y_n + row, dtype="int32").value
        out = operands.apply(final + bias[row], row=row, index=index, batch=const(0), lanes=1)
        b.store(y, index, out)

    fold_rows(b, sums, mine, rows, store)
    return b.function(symbol)


def fold_rows(
    b: GpuBuilder,
    sums: list[list[Private]],
    block: Expr,
    rows: Expr,
    store: Callable[[Expr, Expr, Expr], None],
) -> None:
    """Add up the parts [R][N] that the threads along x have of a block's sums.

    Args:
        block: this thread's; blocks behind the last have no rows.
        rows: M.
        store: called with a sum, its row and its column.
    """
    (TX, TY), R, N = BLOCK, len(sums), len(sums[0])
    scratch = b.shared(TX * TY * R * N)
    for r in range(R):
        for n in range(N):
            at = (b.thread(1) * (R * N) + (r * N + n)) * TX + b.thread(0)
            b.put_shared(scratch, at, sums[r][n].value)
    b.barrier()
    for first in range(0, R * N, TX):
        result = b.register(b.thread(0) + first, dtype="int32").value
        r = b.register(tirx.Div(result, const(N)), dtype="int32").value
        row = b.register(block * R + r, dtype="int32").value
        with b.branch(tirx.all(result < R * N, row < rows)):
            total = b.register(const(0.0, "float32"))
            with b.unrolled(TX) as t:
                b.set(total, total.value + scratch[(b.thread(1) * (R * N) + result) * TX + t])
            store(total.value, row, b.register(result - r * N, dtype="int32").value)


def pack_rows(matrix: npt.NDArray[Any], rows: int, *, sparse: bool) -> list[npt.NDArray[Any]]:
    """Pack [M, K] weights: start, column (sparse only) and value [entries, R]."""
    blocks = -(-len(matrix) // rows)
    padded = np.zeros((blocks * rows, matrix.shape[1]), matrix.dtype)
    padded[: len(matrix)] = matrix
    entries = padded.reshape(blocks, rows, -1).transpose(0, 2, 1)
    if not sparse:
        return [np.ascontiguousarray(entries)]
    mask = coarser(matrix != 0, rows, 1)
    where, column = np.nonzero(mask)
    start = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    value = np.ascontiguousarray(entries[where, column])
    if not len(value):  # a buffer of a device has no size 0
        column, value = np.zeros(1), np.zeros((1, rows), matrix.dtype)
    return [start.astype(np.int32), column.astype(np.int32), value]
