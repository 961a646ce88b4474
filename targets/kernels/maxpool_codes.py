"""Maxima of 8-bit codes in windows, four channels of a position at once: order is kept by scale and zero."""

from __future__ import annotations

from itertools import product
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.codes import CHANNELS
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm, Strip, StripWriter
from sparsecc.targets.tir import KernelBuilder, const, vector_of

STRIP = 2
"""Output rows that are computed together."""


def maxpool_codes_kernel(form: DepthwiseForm, symbol: str) -> Any:
    """The PrimFunc of a form, whose epilogue is empty.

    Pointers: X and Y words. Scalars: word channels, X's word channel pitch, origin and batch stride, the same
    three of Y. Extent: batch x word channels. Writes up to one vector behind a row's last column.
    """
    b = KernelBuilder()
    x, y = b.pointer("x", "int32"), b.pointer("y", "int32")
    words = b.scalar("words")
    x_pitch, x_origin, x_batch = (b.scalar(n) for n in ("x_pitch", "x_origin", "x_batch"))
    y_pitch, y_origin, y_batch = (b.scalar(n) for n in ("y_pitch", "y_origin", "y_batch"))
    with b.loop(b.end - b.begin, b.begin) as u:
        batch = b.register(tirx.truncdiv(u, words), dtype="int32").value
        m = b.register(u - batch * words, dtype="int32").value
        x0 = b.register(batch * x_batch + m * x_pitch + x_origin, dtype="int32").value
        y0 = b.register(batch * y_batch + m * y_pitch + y_origin, dtype="int32").value
        _MaxWriter(b, form, (x, y), (x0, y0)).planes()
    return b.function(symbol)


class _MaxWriter(StripWriter):
    """Emits strips; what is outside is the least code."""

    def __init__(self, b: KernelBuilder, form: DepthwiseForm, pointers: Any, at: Any) -> None:
        self.b, self.form = b, form
        self.x, self.y = pointers
        self.x0, self.y0 = at
        self.outside = vector_of(const(0), form.lanes)

    def column(self, strip: Strip, column: Any, known: int) -> None:
        f, V = self.form, self.form.lanes
        wide = f"uint8x{CHANNELS * V}"
        for row in range(strip.rows):
            best: Any = None
            for dy, dx in product(range(f.kernel[0]), range(f.kernel[1])):
                place = f.stride[0] * row + f.dilation[0] * dy - f.pad[0]
                if strip.known is not None and not 0 <= f.stride[0] * strip.known + place < f.size[0]:
                    continue
                at = self.x0 + (f.stride[0] * strip.start + place) * f.row_pitch
                loaded = tirx.reinterpret(wide, self.load(at, column, known, f.dilation[1] * dx - f.pad[1]))
                larger = loaded if best is None else tirx.Max(best, loaded)
                best = self.b.register(larger, CHANNELS * V, "uint8").value
            index = self.y0 + (strip.start + row) * f.out_row_pitch + column
            self.b.store(self.y, index, tirx.reinterpret(f"int32x{V}", best), V)
