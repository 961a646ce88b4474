"""Sparse matrix times dense columns, lanes along the columns: convolutions, linear layers, dense ones too.

Y[m, p] = epilogue(bias[m] + sum_k W[m, k] X[offset[k] + p]) for blocks of R rows that share a column list.
`offset[k]` is where column k's first element lies, so one form serves 1x1 and KxK convolutions, groups,
dilation and linear layers; dense is the list of all columns. A tile of R x J vectors stays in registers.
Columns are cut into chunks that fit L1, and inside a chunk blocks with the same count run together, so
that the inner loop's trip count is predictable. Low blocks pack their offsets (see quads.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.errors import LoweringError
from sparsecc.ir.encoding import coarser
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.kernels.quads import (
    Weights,
    emit_quads,
    pack_quads,
    spread,
    unit_of,
    words_in,
    words_of,
)
from sparsecc.targets.tir import KernelBuilder, Register, broadcasts, const, vector_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

_PREFETCH = 1024  # weights ahead of their use: hides the latency of memory where they do not fit the cache


@dataclass(frozen=True)
class SpmmForm:
    """What a kernel of this family is specialised for; equal forms share one object.

    Attributes:
        rows: R, output rows of a block.
        tiles: widths J in vectors of the one or two classes of column tiles.
        lanes: fp32 lanes of a vector.
        stream: the weights come from beyond L2 and are fetched ahead.
        chunked: the columns are cut into more than one chunk, partial sums wait in Y.
        epilogue: what happens to an accumulator before it is stored.
        unit: elements that one step of a packed offset stands for; 0 where offsets are not packed.
        by_lane: as `broadcasts` has it.
    """

    rows: int
    tiles: tuple[int, ...]
    lanes: int
    stream: bool
    chunked: bool
    epilogue: Epilogue
    unit: int = 0
    by_lane: bool = False


def spmm_kernel(form: SpmmForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: `SpmmTables.arrays`, bias, X, Y, then the epilogue's operands. Scalars: tiles of the first
    class, of the second, parts, Y's row pitch and origin, X's and Y's batch strides, then the epilogue's.
    Extent: batch x tiles x parts.
    """
    b = KernelBuilder()
    V, R = form.lanes, form.rows
    parts, rows, count, base = (
        b.pointer(n, "int32") for n in ("parts", "group_rows", "group_count", "group_base")
    )
    group_origin = b.pointer("group_origin", "int32") if form.unit else None
    row = b.pointer("row", "int32")
    offset = b.pointer("offset", "uint64" if form.unit else "int32")
    value, bias = b.pointer("value"), b.pointer("bias")
    x, y = b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    tiles_first, tiles_second, part_count = (
        b.scalar(n) for n in ("tiles_first", "tiles_second", "part_count")
    )
    pitch, origin, x_batch, y_batch = (b.scalar(n) for n in ("pitch", "origin", "x_batch", "y_batch"))
    operands.declare_scalars()
    phases = ("first", "middle", "last") if form.chunked else ("only",)
    F = len(phases)

    indices = spread(b, rows[0], R, V) if form.unit else []

    def multiply(acc: list[list[Register]], x0: Any, start: Any, blocks: Any, ahead: Register) -> None:
        with b.loop(blocks, start) as k:
            if form.stream:
                b.prefetch(value, k * R + _PREFETCH)
            o = b.register(tirx.Cast("int64", ahead.value) + x0, dtype="int64")
            b.set(ahead, offset[k + 1])
            xs = [b.register(x.vector(o.value + const(j * V, "int64"), V), V) for j in range(len(acc[0]))]
            for r, weight in enumerate(broadcasts(b, value, k * R, R, V, by_lane=form.by_lane)):
                w = b.register(weight, V)
                for j, column in enumerate(xs):
                    b.set(acc[r][j], acc[r][j].value + w.value * column.value)

    def group(phase: int, g: Any, J: int, x0: Any, y0: Any, column: Any, batch: Any) -> None:
        first, last = phases[phase] in ("first", "only"), phases[phase] in ("last", "only")
        ahead = b.register(offset[base[g]], dtype="uint64" if form.unit else "int32")
        with b.loop(rows[g + 1] - rows[g], rows[g]) as entry:
            r0 = b.register(row[entry], dtype="int32").value
            to = b.register(r0 * pitch + y0, dtype="int32").value
            stride = words_in(count[g]) if form.unit else count[g]
            start = b.register(base[g] + (entry - rows[g]) * stride, dtype="int32").value

            def initial(r: int, j: int) -> Any:
                return vector_of(bias[r0 + r], V) if first else y.vector(to + pitch * r + j * V, V)

            acc = [[b.register(initial(r, j), V) for j in range(J)] for r in range(R)]
            if group_origin is None:
                multiply(acc, b.register(tirx.Cast("int64", x0), dtype="int64").value, start, count[g], ahead)
            else:
                at = (group_origin[g] + x0, start, count[g])
                emit_quads(
                    b, acc, x, (offset, value), at, ahead, (indices, V), form.unit, by_lane=form.by_lane
                )
            for r, j in product(range(R), range(J)):
                out = acc[r][j].value
                if last:
                    index = to - y0 + origin + pitch * r + column + j * V
                    out = operands.apply(out, row=r0 + r, index=index, batch=batch, lanes=V)
                b.store(y, to + pitch * r + j * V, out, V)

    def tile(J: int, column: Any, part: Any, batch: Any) -> None:
        x0 = b.register(batch * x_batch + column, dtype="int32").value
        y0 = b.register(batch * y_batch + origin + column, dtype="int32").value
        for phase in range(F):
            lo = parts[part * F + phase]
            with b.loop(parts[part * F + phase + 1] - lo, lo) as g:
                group(phase, g, J, x0, y0, column, batch)

    for_tiles(b, form.tiles, V, (tiles_first, tiles_second, part_count), tile)
    return b.function(symbol)


def for_tiles(
    b: KernelBuilder,
    widths: tuple[int, ...],
    lanes: int,
    counts: tuple[Any, Any, Any],
    tile: Callable[[int, Any, Any, Any], None],
) -> None:
    """Call `tile` with width, first column, part and batch for each unit of the extent batch x tiles x parts.

    Args:
        widths: of the one or two classes of column tiles, in vectors.
        counts: tiles of the first class, of the second, parts.
    """
    tiles_first, tiles_second, part_count = counts
    with b.loop(b.end - b.begin, b.begin) as u:
        per_batch = (tiles_first + tiles_second) * part_count
        batch = b.register(tirx.truncdiv(u, per_batch), dtype="int32").value
        rest = b.register(u - batch * per_batch, dtype="int32").value
        t = b.register(tirx.truncdiv(rest, part_count), dtype="int32").value
        part = b.register(rest - t * part_count, dtype="int32").value
        first = widths[0] * lanes
        with b.branch(t < tiles_first):
            tile(widths[0], t * first, part, batch)
        if len(widths) > 1:
            with b.branch(t >= tiles_first):
                second = (t - tiles_first) * (widths[1] * lanes)
                tile(widths[1], tiles_first * first + second, part, batch)


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
    group_origin: IntArray
    row: IntArray
    offset: npt.NDArray[Any]
    value: Weights
    part_count: int
    chunked: bool
    blocks: int
    unit: int

    def arrays(self) -> list[npt.NDArray[Any]]:
        """In the order of the kernel's pointers."""
        origin = [self.group_origin] if self.unit else []
        groups = [self.parts, self.group_rows, self.group_count, self.group_base, *origin]
        return [*groups, self.row, self.offset, self.value]


def block_mask(matrix: Weights, rows: int) -> BoolArray:
    """Which blocks of `rows` x 1 hold a nonzero; [ceil(M / rows), K] from [M, K]."""
    return coarser(matrix != 0, rows, 1)


def pack_spmm(
    matrix: Weights,
    offset: npt.NDArray[np.integer[Any]],
    rows: int,
    *,
    chunk: int,
    parts: int,
    dense: bool = False,
    packed: bool = False,
) -> SpmmTables:
    """Pack [M, K] weights; `offset` is [K] (all rows alike) or [blocks, K] (grouped convolution).

    Weights are fp32, or words of four 8-bit weights for the kernel of dots.py.

    Args:
        rows: R; missing rows of the last block count as zeros.
        chunk: columns of a chunk; several chunks make the kernel `chunked`.
        parts: independent sets of row blocks, balanced by their blocks, for threads.
        dense: keep all columns, zeros too.
        packed: pack the offsets, where they are alike for all rows and lie close enough together.

    Raises:
        LoweringError: an offset is beyond 32 bits.
    """
    M, K = matrix.shape
    if offset.max(initial=0) >= 2**31:
        raise LoweringError(
            f"a layer's input needs element offset {offset.max()}, beyond 32 bits; use a smaller shape"
        )
    mask = np.ones((-(-M // rows), K), np.bool_) if dense else block_mask(matrix, rows)
    B = mask.shape[0]
    padded = np.zeros((B * rows, K), matrix.dtype)
    padded[:M] = matrix
    blocks = padded.reshape(B, rows, K)
    per_row = offset if offset.ndim == 2 else np.broadcast_to(offset, (B, K))
    starts = list(range(0, K, chunk)) if chunk < K else [0]
    chunks = [slice(start, min(start + chunk, K)) for start in starts]
    chunked = len(chunks) > 1
    unit = unit_of(offset, chunks) if packed and offset.ndim == 1 else 0
    cuts = _balanced_cuts(mask.sum(axis=1) + 1, parts)
    pieces: list[_Piece] = []
    out_parts = [0]
    for lo, hi in pairwise(cuts):
        for phase in range(3 if chunked else 1):
            for c, columns in enumerate(chunks):
                if chunked and phase != (0 if c == 0 else 2 if c == len(chunks) - 1 else 1):
                    continue
                origin = int(offset[columns].min()) if unit else 0
                piece = _Piece.of(mask[lo:hi, columns], lo, columns.start, origin, skip_empty=phase == 1)
                if len(piece.order):
                    pieces.append(piece)
            out_parts.append(sum(len(p.group_sizes) for p in pieces))
    i32 = np.int32
    block = np.concatenate([p.block for p in pieces])
    column = np.concatenate([p.column for p in pieces])
    sizes = np.concatenate([p.group_sizes for p in pieces])
    counts = np.concatenate([p.group_counts for p in pieces])
    value = np.ascontiguousarray(blocks[block, :, column])
    where, strides = per_row[block, column].astype(i32), counts
    if unit:
        origins = np.concatenate([np.full(len(p.column), p.origin) for p in pieces])
        of_blocks = np.concatenate([p.counts for p in pieces])
        where, value = pack_quads(of_blocks, (where - origins) // unit, value)
        strides = words_of(counts)
    return SpmmTables(
        parts=np.array(out_parts, i32),
        group_rows=np.concatenate([[0], np.cumsum(sizes)]).astype(i32),
        group_count=counts.astype(i32),
        group_base=np.concatenate([[0], np.cumsum(sizes * strides)[:-1]]).astype(i32),
        group_origin=np.concatenate([np.full(len(p.group_sizes), p.origin) for p in pieces]).astype(i32),
        row=np.concatenate([p.order for p in pieces]).astype(i32) * i32(rows),
        offset=np.append(where, where.dtype.type(0)),  # the kernel reads one ahead
        value=value,
        part_count=parts,
        chunked=chunked,
        blocks=len(block),
        unit=unit,
    )


@dataclass(frozen=True)
class _Piece:
    """One chunk of one part: its row blocks as they run, in groups of equal count, and their columns.

    Attributes:
        order: blocks.
        counts: columns of each, in this order.
        group_sizes, group_counts: blocks of each group, and columns of each of its blocks.
        block, column: of all blocks one behind the other.
        origin: the chunk's smallest offset, where offsets are packed.
    """

    order: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    group_sizes: npt.NDArray[np.int64]
    group_counts: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    origin: int

    @staticmethod
    def of(mask: BoolArray, first_block: int, first_column: int, origin: int, *, skip_empty: bool) -> _Piece:
        counts = mask.sum(axis=1)
        order = np.argsort(counts, kind="stable")
        if skip_empty:
            order = order[counts[order] > 0]
        which, columns = np.nonzero(mask[order])
        group_counts, group_sizes = np.unique(counts[order], return_counts=True)
        blocks = order + first_block
        return _Piece(
            blocks, counts[order], group_sizes, group_counts, blocks[which], columns + first_column, origin
        )


def _balanced_cuts(weight: npt.NDArray[np.integer[Any]], parts: int) -> list[int]:
    """Cut positions 0 = c0 < ... < c_parts = len so that each part's sum of weights is about equal."""
    total = np.concatenate([[0], np.cumsum(weight)])
    cuts = [int(np.searchsorted(total, total[-1] * i / parts)) for i in range(parts + 1)]
    cuts[0], cuts[-1] = 0, len(weight)
    return cuts
