"""Weights times columns: linear layers and convolutions, in sparse blocks or dense.

Y[m, n] = epilogue(bias[m] + sum_k W[m, k] X[offset[k] + n]), n over output positions or tokens. A thread has
R rows and V columns. A convolution with windows reads X[offset[k] + place(n)] where the tap lies inside the
plane and 0 outside, so nothing is padded or copied.

Sparse: blocks of R rows share a list of columns; a group of threads takes TY blocks, stages their columns and
weights through shared memory a chunk at a time, and reads X by vectors, as Sputnik does (Gale et al., "Sparse
GPU Kernels for Deep Learning", 2020). Blocks are ordered by their count, so that those of one group have
equal work.
Dense: all columns in order, so that X is staged too and shared by TY x R rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.ir.encoding import coarser
from sparsecc.targets.gpu.tir import GpuBuilder, Private, Shared
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import Expr, Pointer, const

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

_TAP_BITS = 16  # of a tap's column; its row is above


@dataclass(frozen=True)
class ProductForm:
    """What a kernel is specialised for; equal forms share one kernel.

    Attributes:
        rows: R of a block.
        lanes: V columns of a thread.
        block: TX x TY threads.
        chunk: columns that are staged at once; a multiple of TX where sparse, of TY where dense.
        sparse: blocks have column lists of their own.
        windowed: columns are windows of planes; otherwise they lie one behind the other.
        epilogue: what happens to a sum before it is stored.
    """

    rows: int
    lanes: int
    block: tuple[int, int]
    chunk: int
    sparse: bool
    windowed: bool
    epilogue: Epilogue

    @property
    def tile(self) -> tuple[int, int]:
        """Rows and columns of a group of threads."""
        return self.block[1] * self.rows, self.block[0] * self.lanes


def product_kernel(form: ProductForm, symbol: str) -> tirx.PrimFunc:
    """The PrimFunc of a form.

    Pointers: `SparseTables` or `DenseTables` in order, bias, X, Y, then the epilogue's. Scalars: M, N, the
    blocks (sparse) or columns (dense), groups of threads per batch, Y's row pitch, origin and batch stride,
    X's origin and batch stride, for windows `window_scalars`, then the epilogue's. Pitches, origins and
    strides of Y, and without windows of X too, are in units of V, as offsets are then, so that compilers see
    that vectors are aligned.
    Grid: column tiles, batch x row tiles.
    """
    b = GpuBuilder(form.block)
    tables = _declare_tables(b, form)
    bias, x, y = (b.pointer(n) for n in ("bias", "x", "y"))
    operands = EpilogueOperands(b, form.epilogue)
    rows, columns, count, tiles, y_pitch, y_origin, y_batch, x_origin, x_batch = (
        b.scalar(n)
        for n in (
            "rows",
            "columns",
            "count",
            "tiles",
            "y_pitch",
            "y_origin",
            "y_batch",
            "x_origin",
            "x_batch",
        )
    )
    window = [b.scalar(n) for n in _WINDOW_NAMES] if form.windowed else []
    operands.declare_scalars()

    batch = b.register(tirx.Div(b.group(1), tiles), dtype="int32").value
    tile = b.register(b.group(1) - batch * tiles, dtype="int32").value
    vector = b.register(b.group(0) * form.block[0] + b.thread(0), dtype="int32").value
    n0 = b.register(vector * form.lanes, dtype="int32").value
    first = b.register(x_origin + batch * x_batch, dtype="int32").value
    reader = _Reader(b, form, x, vector, first, columns, window)
    sums = [[b.register(const(0.0, "float32")) for _ in range(form.lanes)] for _ in range(form.rows)]
    if form.sparse:
        row0 = _sparse(b, form, tables, reader, sums, (tile, count))
    else:
        row0 = _dense(b, form, tables, reader, sums, (tile, count))

    with b.branch(n0 < columns):
        for r in range(form.rows):
            row = b.register(row0 + r, dtype="int32").value
            with b.branch(row < rows):
                at = b.register(y_origin + row * y_pitch + vector, dtype="int32").value
                index = b.register(at * form.lanes, dtype="int32").value
                result = b.local(form.lanes)
                for v in range(form.lanes):
                    total = sums[r][v].value + bias[row]
                    out = operands.apply(total, row=row, index=index + v, batch=batch, lanes=1)
                    result.put(b, const(v), out)
                b.store(y, (at + batch * y_batch) * form.lanes, result.value, form.lanes)
    return b.function(symbol)


_WINDOW_NAMES = ("out_width", "height", "width", "stride_y", "stride_x", "pad_y", "pad_x", "row_pitch")


def window_scalars(g: ConvGeometry, row_pitch: int) -> list[int]:
    """The scalars of a convolution with windows."""
    return [g.out_size[1], *g.size, *g.stride, *g.pad, row_pitch]


@dataclass(frozen=True)
class _Tables:
    """The declared pointers of the packed weights; those that a form lacks are None."""

    value: Pointer
    offset: Pointer
    tap: Pointer | None
    start: Pointer | None = None
    row: Pointer | None = None


def _declare_tables(b: GpuBuilder, form: ProductForm) -> _Tables:
    index: dict[str, Pointer] = {}
    if form.sparse:
        index = {name: b.pointer(name, "int32") for name in ("start", "row")}
    offset = b.pointer("offset", "int32")
    tap = b.pointer("tap", "int32") if form.windowed else None
    return _Tables(b.pointer("value"), offset, tap, **index)


class _Reader:
    """Reads the V elements of X that a thread's columns have for one k."""

    def __init__(
        self,
        b: GpuBuilder,
        form: ProductForm,
        x: Pointer,
        vector: Expr,
        first: Expr,
        columns: Expr,
        window: list[Expr],
    ) -> None:
        self._b, self._x, self._lanes = b, x, form.lanes
        V = form.lanes
        if not form.windowed:
            # behind the last column lie at most V - 1 elements of padding
            last = tirx.Div(columns - 1, const(V))
            self._place = b.register(first + tirx.Min(vector, last), dtype="int32").value
            return
        out_width, self._height, self._width, stride_y, stride_x, pad_y, pad_x, pitch = window
        self._corner: list[tuple[Expr, Expr, Expr]] = []
        for v in range(V):
            n = b.register(tirx.Min(vector * V + v, columns - 1), dtype="int32").value
            row = b.register(tirx.Div(n, out_width), dtype="int32").value
            iy = b.register(row * stride_y - pad_y, dtype="int32").value
            ix = b.register((n - row * out_width) * stride_x - pad_x, dtype="int32").value
            self._corner.append((iy, ix, b.register(first + iy * pitch + ix, dtype="int32").value))

    def read(self, into: Private, offset: Expr, tap: Expr | None) -> None:
        """Load the elements of the column at `offset`."""
        b = self._b
        if tap is None:
            b.set(into, self._x.vector((self._place + offset) * self._lanes, self._lanes))
            return
        dy = b.register(tirx.shift_right(tap, const(_TAP_BITS)), dtype="int32").value
        dx = b.register(tirx.bitwise_and(tap, const((1 << _TAP_BITS) - 1)), dtype="int32").value
        for v, (iy, ix, place) in enumerate(self._corner):
            inside = tirx.all(iy + dy >= 0, iy + dy < self._height, ix + dx >= 0, ix + dx < self._width)
            loaded = tirx.if_then_else(inside, self._x[place + offset], const(0.0, "float32"))
            into.put(b, const(v), loaded)


def _multiply(b: GpuBuilder, sums: list[list[Private]], weights: list[Expr], columns: Private) -> None:
    for r, weight in enumerate(weights):
        w = b.register(weight).value
        for v, total in enumerate(sums[r]):
            b.set(total, total.value + w * columns.at(v))


def _sparse(
    b: GpuBuilder,
    form: ProductForm,
    tables: _Tables,
    reader: _Reader,
    sums: list[list[Private]],
    at: tuple[Expr, Expr],
) -> Expr:
    """Add up a block of rows; returns its first row."""
    assert tables.start is not None and tables.row is not None
    R, C, (TX, TY) = form.rows, form.chunk, form.block
    tile, blocks = at
    offsets = b.shared(TY * C, "int32")
    taps = b.shared(TY * C, "int32") if tables.tap is not None else None
    values = b.shared(TY * C * R)
    mine = b.register(tile * TY + b.thread(1), dtype="int32").value
    block = b.register(tirx.Min(mine, blocks - 1), dtype="int32").value
    start = b.register(tables.start[block], dtype="int32").value
    count = b.register(
        tirx.Select(mine < blocks, tables.start[block + 1] - start, const(0)), dtype="int32"
    ).value
    # a group's first block has the most entries, and all its threads meet at the barriers
    longest = tables.start[tile * TY + 1] - tables.start[tile * TY]
    with b.loop(tirx.Div(longest + (C - 1), const(C))) as c:
        entry = b.register(start + c * C, dtype="int32").value
        left = b.register(tirx.Min(count - c * C, const(C)), dtype="int32").value
        for first in range(0, C, TX):
            j = b.register(b.thread(0) + first, dtype="int32").value
            with b.branch(j < left):
                b.put_shared(offsets, b.thread(1) * C + j, tables.offset[entry + j])
                if taps is not None and tables.tap is not None:
                    b.put_shared(taps, b.thread(1) * C + j, tables.tap[entry + j])
        for first in range(0, C * R, TX):
            j = b.register(b.thread(0) + first, dtype="int32").value
            with b.branch(j < left * R):
                b.put_shared(values, b.thread(1) * (C * R) + j, tables.value[entry * R + j])
        b.barrier()
        with b.loop(left) as j:
            at_j = b.register(b.thread(1) * C + j, dtype="int32").value
            column = b.local(form.lanes)
            reader.read(column, offsets[at_j], None if taps is None else taps[at_j])
            _multiply(b, sums, _weights(b, values, at_j * R, R), column)
        b.barrier()
    return b.register(tirx.Select(mine < blocks, tables.row[block], const(2**30)), dtype="int32").value


def _weights(b: GpuBuilder, values: Shared, index: Expr, count: int) -> list[Expr]:
    """`count` consecutive weights, four of them by one load."""
    if count % 4:
        return [values[index + r] for r in range(count)]
    found: list[Expr] = []
    for first in range(0, count, 4):
        quad = b.local(4)
        b.set(quad, values.vector(index + first, 4))
        found += [quad.at(i) for i in range(4)]
    return found


def _dense(
    b: GpuBuilder,
    form: ProductForm,
    tables: _Tables,
    reader: _Reader,
    sums: list[list[Private]],
    at: tuple[Expr, Expr],
) -> Expr:
    """Add up a tile of rows; returns this thread's first row."""
    R, V, C, (TX, TY) = form.rows, form.lanes, form.chunk, form.block
    BM, BN = form.tile
    threads = TX * TY
    tile, columns = at
    weights, inputs = b.shared(C * BM), b.shared(C * BN)
    chunks = b.register(tirx.Div(columns + (C - 1), const(C)), dtype="int32").value
    thread = b.register(b.thread(1) * TX + b.thread(0), dtype="int32").value
    with b.loop(chunks) as c:
        packed = b.register((tile * chunks + c) * (C * BM // 4), dtype="int32").value
        for first in range(0, C * BM, 4 * threads):
            j = b.register(thread + first // 4, dtype="int32").value

            def stage(j: Expr) -> None:
                quad = b.local(4)
                b.set(quad, tables.value.vector((packed + j) * 4, 4))
                b.put_shared(weights, j * 4, quad.value, 4)

            if first + 4 * threads <= C * BM:
                stage(j)
            else:
                with b.branch(j < C * BM // 4):
                    stage(j)
        for first in range(0, C, TY):
            k = b.register(c * C + b.thread(1) + first, dtype="int32").value
            last = b.register(tirx.Min(k, columns - 1), dtype="int32").value
            loaded, kept = b.local(V), b.local(V)
            reader.read(loaded, tables.offset[last], None if tables.tap is None else tables.tap[last])
            for v in range(V):  # columns behind the last have weights of 0, and 0 times infinity is none
                kept.put(b, const(v), tirx.Select(k < columns, loaded.at(v), const(0.0, "float32")))
            place = (b.thread(1) + first) * BN + b.thread(0) * V
            b.put_shared(inputs, place, kept.value, V)
        b.barrier()
        with b.unrolled(C) as k:
            column = b.local(V)
            b.set(column, inputs.vector(k * BN + b.thread(0) * V, V))
            _multiply(b, sums, _weights(b, weights, k * BM + b.thread(1) * R, R), column)
        b.barrier()
    return b.register(tile * BM + b.thread(1) * R, dtype="int32").value


@dataclass(frozen=True)
class SparseTables:
    """The packed operands of a sparse layer, named as the kernel's pointers.

    Attributes:
        start: first entry of each block, and the end.
        row: first output row of each block; blocks with more entries come first.
        offset, tap, value: of the entries; `tap` is empty where there are no windows.
    """

    start: IntArray
    row: IntArray
    offset: IntArray
    tap: IntArray
    value: FloatArray

    def arrays(self) -> list[npt.NDArray[Any]]:
        """In pointer order."""
        taps = [self.tap] if self.tap.size else []
        return [self.start, self.row, self.offset, *taps, self.value]


def pack_sparse(
    matrix: FloatArray, form: ProductForm, offset: IntArray, tap: IntArray, *, full: bool = False
) -> SparseTables:
    """Pack [M, K] weights.

    Args:
        offset: [K], or [M / R, K] where blocks read different channels (groups of a convolution).
        tap: [K], as `taps_of` makes it, or empty.
        full: zeros are entries too.
    """
    R = form.rows
    mask = coarser(np.logical_or(matrix != 0, full), R, 1)
    counts = mask.sum(axis=1)
    order = np.argsort(-counts, kind="stable")
    padded = np.zeros((len(mask) * R, matrix.shape[1]), np.float32)
    padded[: len(matrix)] = matrix
    blocks = padded.reshape(len(mask), R, -1)[order].transpose(0, 2, 1)
    where, column = np.nonzero(mask[order])
    start = np.concatenate([[0], np.cumsum(counts[order])])
    found = offset[column] if offset.ndim == 1 else offset[order[where], column]
    return SparseTables(
        _ints(start),
        _ints(order * R),
        _entries(_ints(found)),
        _entries(_ints(tap[column])) if tap.size else _ints(tap),
        _entries(np.ascontiguousarray(blocks[where, column])),
    )


@dataclass(frozen=True)
class DenseTables:
    """The packed operands of a dense layer: `offset` and `tap` of each column, and the weights in tiles."""

    offset: IntArray
    tap: IntArray
    value: FloatArray

    def arrays(self) -> list[npt.NDArray[Any]]:
        """In pointer order."""
        return [self.offset, *([self.tap] if self.tap.size else []), self.value]


def pack_dense(matrix: FloatArray, form: ProductForm, offset: IntArray, tap: IntArray) -> DenseTables:
    """Pack [M, K] weights as [row tiles][K][rows of a tile], K in whole chunks."""
    BM, C = form.tile[0], form.chunk
    M, K = matrix.shape
    padded = np.zeros((-(-M // BM) * BM, -(-K // C) * C), np.float32)
    padded[:M, :K] = matrix
    value = padded.reshape(-1, BM, padded.shape[1]).transpose(0, 2, 1)
    return DenseTables(_ints(offset), _ints(tap), np.ascontiguousarray(value))


def taps_of(g: ConvGeometry) -> tuple[IntArray, IntArray]:
    """For each position of the kernel the (row, column) of its tap, dilated, and both in one number."""
    dy, dx = np.meshgrid(
        *(np.arange(k) * d for k, d in zip(g.kernel, g.dilation, strict=True)), indexing="ij"
    )
    both = np.stack([dy.reshape(-1), dx.reshape(-1)], axis=1)
    return _ints(both), _ints((both[:, 0] << _TAP_BITS) | both[:, 1])


def _ints(array: npt.NDArray[Any]) -> IntArray:
    return np.ascontiguousarray(array, dtype=np.int32)


def _entries(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """At least one element: a buffer of a device has no size 0."""
    return array if array.size else np.zeros((1, *array.shape[1:]), array.dtype)
