"""Depthwise convolution of 8-bit codes, of which a word of X holds four channels of one position.

Where an instruction multiplies words, four rows' words are transposed as bytes: each new word holds four
rows of one channel, and with weights (w0, w1, w2, 0) gives three taps of the first output row, with
(0, w0, w1, w2) those of the second. Else each byte becomes a lane of 32 bits (`direct`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.byte_products import Dot, dot_of, taken_away
from sparsecc.targets.kernels.codes import CHANNELS, CodeWriter, Known, code_writer
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm, Strip, StripWriter
from sparsecc.targets.kernels.epilogue import EpilogueOperands
from sparsecc.targets.kernels.vector_math import multiply_add
from sparsecc.targets.tir import KernelBuilder, Pointer, Register, broadcasts, const, vector_of

_ROWS = 4  # of a transposed word


@dataclass(frozen=True)
class DepthwiseCodesForm:
    """What a kernel is specialised for.

    Attributes:
        geometry: as for fp32, its strip from `strip_of` or `direct_strip`.
        feature: as in byte_products.py.
        known: of the codes.
        fused: as in vector_math.py.
        direct: no transposition.
        by_lane: as `broadcasts` has it.
    """

    geometry: DepthwiseForm
    feature: str
    known: Known
    fused: bool = True
    direct: bool = False
    by_lane: bool = False


def direct_strip(registers: int) -> int:
    """Output rows of a strip without transposition: each has sums of four channels, and code of its own."""
    return 2 if registers >= 32 else 1


def strip_of(kernel_rows: int, stride: int, dilation: int) -> int:
    """Output rows of a strip: as many as whole words of input rows serve, of the fewest words."""
    reach = dilation * (kernel_rows - 1) + 1
    words = -(-reach // _ROWS)
    if stride > 1 and words == 1:
        words = 2  # one output row would leave the transposition to pay for itself
    return (words * _ROWS - reach) // stride + 1


def depthwise_codes_kernel(form: DepthwiseCodesForm, symbol: str) -> Any:
    """The PrimFunc of a form; the multiplier is 1.

    Pointers: value (`pack_depthwise`, or `pack_taps`), scale [M] and bias [M], [what sums start with, M],
    limits of codes, X and Y words, then the epilogue's. Scalars: word channels, the word of four codes of
    zero, X's word channel pitch, origin and batch stride, the same three of Y, then the epilogue's. Extent:
    batch x word channels. What is outside the plane is the code of zero. Writes up to one vector behind a
    row's last column.
    """
    b = KernelBuilder()
    g = form.geometry
    value, scale, bias = b.pointer("value", "int32"), b.pointer("scale"), b.pointer("bias")
    starts = b.pointer("starts", "int32") if taken_away(form.feature) else None
    limits, x, y = b.pointer("limits", "int32"), b.pointer("x", "int32"), b.pointer("y", "int32")
    operands = EpilogueOperands(b, g.epilogue)
    words, zero = b.scalar("words"), b.scalar("zero")
    x_pitch, x_origin, x_batch = (b.scalar(n) for n in ("x_pitch", "x_origin", "x_batch"))
    y_pitch, y_origin, y_batch = (b.scalar(n) for n in ("y_pitch", "y_origin", "y_batch"))
    operands.declare_scalars()
    dot = dot_of(b, form.feature, g.lanes)
    writer = code_writer(b, limits, g.lanes, form.known)
    outside = b.register(vector_of(zero, g.lanes), g.lanes, "int32").value
    with b.loop(b.end - b.begin, b.begin) as u:
        batch = b.register(tirx.truncdiv(u, words), dtype="int32").value
        m = b.register(u - batch * words, dtype="int32").value
        x0 = b.register(batch * x_batch + m * x_pitch + x_origin, dtype="int32").value
        y0 = b.register(m * y_pitch + y_origin, dtype="int32").value
        y_at = b.register(batch * y_batch, dtype="int32").value
        kind = _DirectWriter if form.direct else _CodesWriter
        strips = kind(b, g, (value, bias, x, y), operands, (m, batch, x0, y0, y_at))
        strips.outside, strips.scale, strips.dot, strips.codes = outside, scale, dot, writer
        strips.fused, strips.by_lane, strips.starts = form.fused, form.by_lane, starts
        strips.planes()
    return b.function(symbol)


def pack_depthwise(
    codes: npt.NDArray[np.int8], strip: int, stride: int, dilation: int
) -> npt.NDArray[np.int32]:
    """[M, kh, kw] weights as words [ceil(M / 4), 4 channels, kw, pairs of output row and word of rows]."""
    M, kh, kw = codes.shape
    pairs = _pairs(kh, strip, stride, dilation)
    filled = np.pad(codes, ((0, -M % CHANNELS), (0, 0), (0, 0)))
    out = np.zeros((len(filled), kw, len(pairs), _ROWS), np.int8)
    for index, (row, word) in enumerate(pairs):
        for byte, tap in _taps(kh, row, word, stride, dilation):
            out[:, :, index, byte] = filled[:, tap, :]
    return out.view("<i4").reshape(-1, CHANNELS, kw, len(pairs))


def pack_taps(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """[M, kh, kw] weights as [ceil(M / 4), kh kw, 4 channels]."""
    filled = np.pad(codes.reshape(len(codes), -1), ((0, -len(codes) % CHANNELS), (0, 0)))
    by_word = filled.reshape(-1, CHANNELS, filled.shape[1]).transpose(0, 2, 1)
    return np.ascontiguousarray(by_word).astype(np.int32)


def _taps(kh: int, row: int, word: int, stride: int, dilation: int) -> list[tuple[int, int]]:
    """(byte of the word, kernel row) where an output row reads the rows of a word."""
    read = {stride * row + dilation * tap: tap for tap in range(kh)}
    return [(byte, read[word * _ROWS + byte]) for byte in range(_ROWS) if word * _ROWS + byte in read]


def _pairs(kh: int, strip: int, stride: int, dilation: int) -> list[tuple[int, int]]:
    """The (output row of a strip, word of input rows) that share taps."""
    reach = stride * (strip - 1) + dilation * (kh - 1) + 1
    every = product(range(strip), range(-(-reach // _ROWS)))
    return [(row, word) for row, word in every if _taps(kh, row, word, stride, dilation)]


class _CodesWriter(StripWriter):
    """Emits strips of four channels."""

    scale: Any
    dot: Dot
    codes: CodeWriter
    fused: bool
    by_lane: bool
    starts: Pointer | None

    def column(self, strip: Strip, column: Any, known: int) -> None:
        f, b, V = self.form, self.b, self.form.lanes
        kw = f.kernel[1]
        pairs = _pairs(f.kernel[0], f.strip, f.stride[0], f.dilation[0])
        used = [(index, row, word) for index, (row, word) in enumerate(pairs) if row < strip.rows]
        acc = self._sums(strip)
        read = {
            f.stride[0] * row + f.dilation[0] * tap for row in range(strip.rows) for tap in range(f.kernel[0])
        }
        for dx, word in product(range(kw), sorted({word for _, _, word in used})):
            rows = [self._row(strip, column, known, word * _ROWS + i, dx, read) for i in range(_ROWS)]
            for (c, channel), which in product(enumerate(_transposed(b, rows, V)), self.dot.passes):
                inputs = self.dot.inputs(channel, which)
                for index, row, of in used:
                    if of == word:
                        at = ((self.m * CHANNELS + c) * kw + dx) * len(pairs) + index
                        weights = self.dot.weights(self.value[at], which)
                        b.set(acc[c][row], self.dot.add(acc[c][row].value, inputs, weights))
        self._store(strip, column, acc)

    def _sums(self, strip: Strip) -> list[list[Register]]:
        """New ones [channel][row]."""
        V = self.form.lanes
        at = self.m * CHANNELS
        first = [const(0) if self.starts is None else self.starts[at + c] for c in range(CHANNELS)]
        return [
            [self.b.register(vector_of(start, V), V, "int32") for _ in range(strip.rows)] for start in first
        ]

    def _store(self, strip: Strip, column: Any, acc: list[list[Register]]) -> None:
        """Finish the sums [channel][row] and store their words."""
        for row in range(strip.rows):
            index = self.y0 + (strip.start + row) * self.form.out_row_pitch + column
            channels = [self._finished(acc[c][row].value, c, index) for c in range(CHANNELS)]
            self.b.store(self.y, index + self.y_at, self.codes.words(channels), self.form.lanes)

    def _row(self, strip: Strip, column: Any, known: int, row: int, dx: int, read: set[int]) -> Any:
        """Input row `row` of a strip, from its first output row's first tap on."""
        f = self.form
        place = row - f.pad[0]
        if row not in read:
            return self.outside
        if strip.known is not None and not 0 <= f.stride[0] * strip.known + place < f.size[0]:
            return self.outside
        at = self.x0 + (f.stride[0] * strip.start + place) * f.row_pitch
        loaded = self.load(at, column, known, f.dilation[1] * dx - f.pad[1])
        return self.b.register(loaded, f.lanes, "int32").value

    def _finished(self, total: Any, channel: int, index: Any) -> Any:
        V = self.form.lanes
        m = self.m * CHANNELS + channel
        real = tirx.Cast(f"float32x{V}", total)
        factor, added = vector_of(self.scale[m], V), vector_of(self.bias[m], V)
        value = multiply_add(real, factor, added, V, fused=self.fused)
        return self.operands.apply(value, row=m, index=index, batch=self.batch, lanes=V, byte=channel)


class _DirectWriter(_CodesWriter):
    """Emits strips of four channels, each byte by itself."""

    def column(self, strip: Strip, column: Any, known: int) -> None:
        f, b, V = self.form, self.b, self.form.lanes
        kh, kw = f.kernel
        acc = self._sums(strip)
        readers: dict[int, list[tuple[int, int]]] = {}
        for r, dy in product(range(strip.rows), range(kh)):
            readers.setdefault(f.stride[0] * r + f.dilation[0] * dy, []).append((r, dy))
        for row, dx in product(sorted(readers), range(kw)):
            words = tirx.reinterpret(f"uint32x{V}", self._row(strip, column, known, row, dx, set(readers)))
            taps = [(r, (self.m * (kh * kw) + (dy * kw + dx)) * CHANNELS) for r, dy in readers[row]]
            weights = [broadcasts(b, self.value, at, CHANNELS, V, by_lane=self.by_lane) for _, at in taps]
            for c in range(CHANNELS):
                moved = tirx.shift_right(words, vector_of(const(8 * c, "uint32"), V))
                code = tirx.bitwise_and(moved, vector_of(const(255, "uint32"), V))
                x = b.register(tirx.reinterpret(f"int32x{V}", code), V, "int32").value
                for (r, _), w in zip(taps, weights, strict=True):
                    b.set(acc[c][r], acc[c][r].value + x * w[c])
        self._store(strip, column, acc)


def _transposed(b: KernelBuilder, rows: list[Any], lanes: int) -> list[Any]:
    """Four vectors of words transposed as 4 x 4 bytes in each lane."""

    def merged(low: Any, high: Any, bits: int, mask: int) -> tuple[Any, Any]:
        """The even and the odd fields of `bits` of two vectors, side by side."""
        shift, even = vector_of(const(bits, "uint32"), lanes), vector_of(const(mask, "uint32"), lanes)
        odd = vector_of(const(mask << bits, "uint32"), lanes)
        first = tirx.bitwise_or(
            tirx.bitwise_and(low, even), tirx.bitwise_and(tirx.shift_left(high, shift), odd)
        )
        second = tirx.bitwise_or(
            tirx.bitwise_and(tirx.shift_right(low, shift), even), tirx.bitwise_and(high, odd)
        )
        return b.register(first, lanes, "uint32").value, b.register(second, lanes, "uint32").value

    words = [tirx.reinterpret(f"uint32x{lanes}", row) for row in rows]
    even01, odd01 = merged(words[0], words[1], 8, 0x00FF00FF)
    even23, odd23 = merged(words[2], words[3], 8, 0x00FF00FF)
    first, third = merged(even01, even23, 16, 0x0000FFFF)
    second, fourth = merged(odd01, odd23, 16, 0x0000FFFF)
    return [tirx.reinterpret(f"int32x{lanes}", word) for word in (first, second, third, fourth)]
