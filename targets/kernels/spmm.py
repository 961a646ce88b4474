"""Sparse matrix times dense columns, lanes along the columns: convolutions, linear layers, dense ones too.

Y[m, p] = epilogue(bias[m] + sum_k W[m, k] X[offset[k] + p]) for blocks of R rows that share a column list.
`offset[k]` is where column k's first element lies, so one form serves 1x1 and KxK convolutions, groups,
dilation and linear layers; dense is the list of all columns. A tile of R x J vectors stays in registers.
Columns are cut into chunks that fit L1, and inside a chunk blocks with the same count run together, so
that the inner loop's trip count is predictable.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import KernelBuilder, vector_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SpmmForm:
    """What a kernel of this family is specialised for; equal forms share one object.

    Attributes:
        rows: R, output rows of a block.
        tiles: widths J in vectors of the one or two classes of column tiles.
        lanes: fp32 lanes of a vector.
        chunked: the columns are cut into more than one chunk, partial sums wait in Y.
        epilogue: what happens to an accumulator before it is stored.
    """

    rows: int
    tiles: tuple[int, ...]
    lanes: int
    chunked: bool
    epilogue: Epilogue


def spmm_kernel(form: SpmmForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: parts, group_rows, group_count, group_base, row, offset, value, bias, X, Y, then the
    epilogue's operands. Scalars: tiles of the first class, of the second, parts, Y's row pitch and origin,
    X's and Y's batch strides, then the epilogue's. Extent: batch x tiles x parts.
    """
    b = KernelBuilder()
    V, R = form.lanes, form.rows
    parts, rows, count, base = (b.pointer(n, "int32") for n in ("parts", "group_rows", "group_count", "group_base"))
    row, offset = b.pointer("row", "int32"), b.pointer("offset", "int32")
    value, bias = b.pointer("value"), b.pointer("bias")
    x, y = b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    tiles_first, tiles_second, part_count = (b.scalar(n) for n in ("tiles_first", "tiles_second", "part_count"))
    pitch, origin, x_batch, y_batch = (b.scalar(n) for n in ("pitch", "origin", "x_batch", "y_batch"))
    operands.declare_scalars()
    phases = ("first", "middle", "last") if form.chunked else ("only",)
    F = len(phases)

    def group(phase: int, g: Any, J: int, x0: Any, y0: Any, column: Any, batch: Any) -> None:
        first, last = phases[phase] in ("first", "only"), phases[phase] in ("last", "only")
        with b.loop(rows[g + 1] - rows[g], rows[g]) as entry:
            r0 = b.register(row[entry], dtype="int32")
            at = b.register(r0.value * pitch + y0, dtype="int32")
            start = b.register(base[g] + (entry - rows[g]) * count[g], dtype="int32")
            def initial(r: int, j: int) -> Any:
                return vector_of(bias[r0.value + r], V) if first else y.vector(at.value + pitch * r + j * V, V)

            acc = [[b.register(initial(r, j), V) for j in range(J)] for r in range(R)]
            with b.loop(count[g], start.value) as k:
                o = b.register(offset[k] + x0, dtype="int32")
                xs = [b.register(x.vector(o.value + j * V, V), V) for j in range(J)]
                for r in range(R):
                    w = b.register(vector_of(value[k * R + r], V), V)
                    for j in range(J):
                        b.set(acc[r][j], acc[r][j].value + w.value * xs[j].value)
            for r in range(R):
                for j in range(J):
                    out = acc[r][j].value
                    if last:
                        out = operands.apply(
                            out, row=r0.value + r, index=at.value - y0 + origin + pitch * r + column + j * V,
                            batch=batch, lanes=V,
                        )
                    b.store(y, at.value + pitch * r + j * V, out, V)

    def tile(J: int, column: Any, part: Any, batch: Any) -> None:
        x0 = b.register(batch * x_batch + column, dtype="int32").value
        y0 = b.register(batch * y_batch + origin + column, dtype="int32").value
        for phase in range(F):
            lo = parts[part * F + phase]
            with b.loop(parts[part * F + phase + 1] - lo, lo) as g:
                group(phase, g, J, x0, y0, column, batch)

    with b.loop(b.end - b.begin, b.begin) as u:
        per_batch = (tiles_first + tiles_second) * part_count
        batch = b.register(tirx.truncdiv(u, per_batch), dtype="int32").value
        rest = b.register(u - batch * per_batch, dtype="int32").value
        t = b.register(tirx.truncdiv(rest, part_count), dtype="int32").value
        part = b.register(rest - t * part_count, dtype="int32").value
        J1 = form.tiles[0]
        with b.branch(t < tiles_first):
            tile(J1, t * (J1 * V), part, batch)
        if len(form.tiles) > 1:
            J2 = form.tiles[1]
            with b.branch(t >= tiles_first):
                tile(J2, tiles_first * (J1 * V) + (t - tiles_first) * (J2 * V), part, batch)
    return b.function(symbol)


def tile_classes(vectors: int, widest: int) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Cut `vectors` into equal tiles no wider than `widest`: (widths, number of tiles of each width).

    13 vectors at most 4 wide are 4 + 3 + 3 + 3: ((4, 3), (1, 3)).
    """
    tiles = -(-vectors // widest)
    narrow, wide_tiles = divmod(vectors, tiles)
    if wide_tiles == 0:
        return (narrow,), (tiles, 0)
    return (narrow + 1, narrow), (wide_tiles, tiles - wide_tiles)


@dataclass(frozen=True)
class SpmmTables:
    """The packed operands of one layer, named as the kernel's pointers."""

    parts: IntArray
    group_rows: IntArray
    group_count: IntArray
    group_base: IntArray
    row: IntArray
    offset: IntArray
    value: FloatArray
    part_count: int
    chunked: bool
    blocks: int


def block_mask(matrix: FloatArray, rows: int) -> BoolArray:
    """Which blocks of `rows` x 1 hold a nonzero; [ceil(M / rows), K] from [M, K]."""
    M, K = matrix.shape
    padded = np.zeros((-(-M // rows) * rows, K), bool)
    padded[:M] = matrix != 0
    return padded.reshape(-1, rows, K).any(axis=1)


def pack_spmm(
    matrix: FloatArray, offset: npt.NDArray[np.integer[Any]], rows: int, *, chunk: int, parts: int, dense: bool = False
) -> SpmmTables:
    """Pack [M, K] weights; `offset` is [K] (all rows alike) or [blocks, K] (grouped convolution).

    Args:
        rows: R; missing rows of the last block count as zeros.
        chunk: columns of a chunk; several chunks make the kernel `chunked`.
        parts: independent sets of row blocks, balanced by their blocks, for threads.
        dense: keep all columns, zeros too.
    """
    M, K = matrix.shape
    mask = block_mask(matrix, rows)
    if dense:
        mask = np.ones_like(mask)
    B = mask.shape[0]
    padded = np.zeros((B * rows, K), np.float32)
    padded[:M] = matrix
    blocks = padded.reshape(B, rows, K)
    per_row = offset if offset.ndim == 2 else np.broadcast_to(offset, (B, K))
    starts = list(range(0, K, chunk)) if chunk < K else [0]
    chunked = len(starts) > 1
    phase_of = [0] + [1] * (len(starts) - 2) + [2] if chunked else [0]
    cuts = _balanced_cuts(mask.sum(axis=1) + 1, parts)
    out_parts, group_rows, group_count, group_base = [0], [0], list[int](), list[int]()
    order_all: list[IntArray] = []
    block_list: list[IntArray] = []
    column_list: list[IntArray] = []
    base = 0
    entries = 0
    for lo, hi in zip(cuts[:-1], cuts[1:], strict=True):
        for phase in range(3 if chunked else 1):
            for c, start in enumerate(starts):
                if phase_of[c] != phase:
                    continue
                stop = min(start + chunk, K) if chunked else K
                sub = mask[lo:hi, start:stop]
                counts = sub.sum(axis=1)
                order = np.argsort(counts, kind="stable")
                bounds = np.flatnonzero(np.diff(counts[order])) + 1
                for members in np.split(order, bounds):
                    n = int(counts[members[0]]) if len(members) else 0
                    if len(members) == 0 or (n == 0 and phase == 1):
                        continue
                    order_all.append((members + lo).astype(np.int32))
                    which, columns = np.nonzero(sub[members])
                    block_list.append((members[which] + lo).astype(np.int32))
                    column_list.append((columns + start).astype(np.int32))
                    entries += len(members)
                    group_rows.append(entries)
                    group_count.append(n)
                    group_base.append(base)
                    base += n * len(members)
            out_parts.append(len(group_count))
    block = np.concatenate(block_list)
    column = np.concatenate(column_list)
    i32 = np.int32
    return SpmmTables(
        parts=np.array(out_parts, i32),
        group_rows=np.array(group_rows, i32),
        group_count=np.array(group_count, i32),
        group_base=np.array(group_base, i32),
        row=np.concatenate(order_all) * i32(rows),
        offset=per_row[block, column].astype(i32),
        value=np.ascontiguousarray(blocks[block, :, column]),
        part_count=parts,
        chunked=chunked,
        blocks=len(block),
    )


def _balanced_cuts(weight: npt.NDArray[np.integer[Any]], parts: int) -> list[int]:
    """Cut positions 0 = c0 < ... < c_parts = len so that each part's sum of weights is about equal."""
    total = np.concatenate([[0], np.cumsum(weight)])
    cuts = [int(np.searchsorted(total, total[-1] * i / parts)) for i in range(parts + 1)]
    cuts[0], cuts[-1] = 0, len(weight)
    return cuts

