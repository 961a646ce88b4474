"""Sparse matrix times columns of 8-bit codes, lanes along the columns: convolutions and linear layers.

Y[m, p] = epilogue(scale[m] sum_k W[m, k] . X[offset[k] + p] + bias[m]), where W[m, k] and X[k] are words of
four channels (see codes.py): blocks are R x 4. The tables are those of spmm.py with words for weights; sums
stay in int32 registers. Results are fp32, or codes: a block of four rows is a word of the next layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.byte_products import dot_of, taken_away
from sparsecc.targets.kernels.codes import CHANNELS, Known, code_writer
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.kernels.spmm import for_tiles
from sparsecc.targets.kernels.vector_math import multiply_add
from sparsecc.targets.tir import KernelBuilder, Register, const, vector_of

_PREFETCH = 1024  # words of weights ahead of their use, where they do not fit the cache


@dataclass(frozen=True)
class DotsForm:
    """What a kernel of this family is specialised for; equal forms share one object.

    Attributes:
        rows: R, output rows of a block, a multiple of 4.
        tiles: widths J in vectors of the one or two classes of column tiles.
        lanes: words of a vector.
        feature: CPU feature with an instruction for the products, or "".
        stream: the weights come from beyond L2 and are fetched ahead.
        codes: results are words of codes, not fp32.
        epilogue: what happens to a scaled sum before it is stored.
        known: of the codes.
        fused: as `multiply_add` has it.
        narrow: as `dot_of` has it.
    """

    rows: int
    tiles: tuple[int, ...]
    lanes: int
    feature: str
    stream: bool
    codes: bool
    epilogue: Epilogue
    known: Known
    fused: bool = True
    narrow: bool = False


def dots_kernel(form: DotsForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: parts, group_rows, group_count, group_base, row, offset, value (as `SpmmTables.arrays`), scale
    and bias per row, [what sums start with per row], [limits of codes], X, Y, then the epilogue's operands.
    Scalars: tiles of the first class, of the second, parts, Y's row pitch (of words: word row pitch) and
    origin, X's and Y's batch strides, then the epilogue's. Extent: batch x tiles x parts.
    """
    b = KernelBuilder()
    V, R = form.lanes, form.rows
    parts, rows, count, base = (
        b.pointer(n, "int32") for n in ("parts", "group_rows", "group_count", "group_base")
    )
    row, offset, value = (b.pointer(n, "int32") for n in ("row", "offset", "value"))
    scale, bias = b.pointer("scale"), b.pointer("bias")
    starts = b.pointer("starts", "int32") if taken_away(form.feature) else None
    limits = b.pointer("limits", "int32") if form.codes else None
    x, y = b.pointer("x", "int32"), b.pointer("y", "int32" if form.codes else "float32")
    operands = EpilogueOperands(b, form.epilogue)
    tiles_first, tiles_second, part_count = (
        b.scalar(n) for n in ("tiles_first", "tiles_second", "part_count")
    )
    pitch, origin, x_batch, y_batch = (b.scalar(n) for n in ("pitch", "origin", "x_batch", "y_batch"))
    operands.declare_scalars()
    dot = dot_of(b, form.feature, V, narrow=form.narrow)
    writer = code_writer(b, limits, V, form.known) if limits is not None else None
    rows_of_y = CHANNELS if form.codes else 1  # output rows in a row of Y

    def multiply(acc: list[list[Register]], x0: Any, start: Any, blocks: Any, ahead: Register) -> None:
        with b.loop(blocks, start) as k:
            if form.stream:
                b.prefetch(value, k * R + _PREFETCH)
            o = b.register(ahead.value + x0, dtype="int32")
            b.set(ahead, offset[k + 1])
            loaded = [b.register(x.vector(o.value + j * V, V), V, "int32").value for j in range(len(acc[0]))]
            for which in dot.passes:
                xs = [dot.inputs(words, which) for words in loaded]
                for r in range(R):
                    w = dot.weights(value[k * R + r], which)
                    for cell, column in zip(acc[r], xs, strict=True):
                        b.set(cell, dot.add(cell.value, column, w))

    def finished(acc: Register, r: int, r0: Any, index: Any, batch: Any) -> Any:
        real = tirx.Cast(f"float32x{V}", acc.value)
        factor, added = vector_of(scale[r0 + r], V), vector_of(bias[r0 + r], V)
        value = multiply_add(real, factor, added, V, fused=form.fused)
        return operands.apply(value, row=r0 + r, index=index, batch=batch, lanes=V, byte=r % CHANNELS)

    def group(g: Any, J: int, x0: Any, y0: Any, column: Any, batch: Any) -> None:
        ahead = b.register(offset[base[g]], dtype="int32")
        with b.loop(rows[g + 1] - rows[g], rows[g]) as entry:
            r0 = b.register(row[entry], dtype="int32").value
            to = b.register(tirx.truncdiv(r0, const(rows_of_y)) * pitch + y0, dtype="int32").value
            start = b.register(base[g] + (entry - rows[g]) * count[g], dtype="int32").value
            first = [const(0) if starts is None else starts[r0 + r] for r in range(R)]
            acc = [[b.register(vector_of(first[r], V), V, "int32") for _ in range(J)] for r in range(R)]
            multiply(acc, x0, start, count[g], ahead)
            for top, j in product(range(0, R, rows_of_y), range(J)):
                place = pitch * (top // rows_of_y) + j * V
                index = to - y0 + origin + column + place
                out = [finished(acc[r][j], r, r0, index, batch) for r in range(top, top + rows_of_y)]
                b.store(y, to + place, out[0] if writer is None else writer.words(out), V)

    def tile(J: int, column: Any, part: Any, batch: Any) -> None:
        x0 = b.register(batch * x_batch + column, dtype="int32").value
        y0 = b.register(batch * y_batch + origin + column, dtype="int32").value
        with b.loop(parts[part + 1] - parts[part], parts[part]) as g:
            group(g, J, x0, y0, column, batch)

    for_tiles(b, form.tiles, V, (tiles_first, tiles_second, part_count), tile)
    return b.function(symbol)


def word_matrix(codes: npt.NDArray[np.int8], taps: int) -> npt.NDArray[np.int32]:
    """[M, C x taps] codes as [M, ceil(C / 4) x taps] words of four channels; missing channels are 0."""
    M = len(codes)
    by_channel = codes.reshape(M, -1, taps)
    missing = -by_channel.shape[1] % CHANNELS
    filled = np.pad(by_channel, ((0, 0), (0, missing), (0, 0)))
    words = filled.reshape(M, -1, CHANNELS, taps).transpose(0, 1, 3, 2)
    return np.ascontiguousarray(words).view("<i4").reshape(M, -1)
