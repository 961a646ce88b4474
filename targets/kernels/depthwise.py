"""Depthwise convolution on planes: strips of rows, accumulators in registers, no padding in memory needed.

Y[m, y, x] = epilogue(bias[m] + sum_{a, b} w[m, a, b] X[m / multiplier, s y + d a - top, s x + d b - left]).
Rows outside the plane are left out of the top and bottom strips; columns outside are masked lanes.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.depthwise_phases import PhaseWriter, has_phases
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm, Strip, StripWriter
from sparsecc.targets.kernels.epilogue import EpilogueOperands
from sparsecc.targets.tir import KernelBuilder, const, vector_of


def depthwise_kernel(form: DepthwiseForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: value [M, kh, kw], bias [M], X, Y, then the epilogue's. Scalars: channels M, X's channel pitch,
    origin and batch stride, the same three of Y, then the epilogue's. Extent: batch x channels.
    Writes up to one vector behind a row's last column.
    """
    b = KernelBuilder()
    value, bias, x, y = b.pointer("value"), b.pointer("bias"), b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    channels = b.scalar("channels")
    x_pitch, x_origin, x_batch = (b.scalar(n) for n in ("x_pitch", "x_origin", "x_batch"))
    y_pitch, y_origin, y_batch = (b.scalar(n) for n in ("y_pitch", "y_origin", "y_batch"))
    operands.declare_scalars()
    with b.loop(b.end - b.begin, b.begin) as u:
        batch = b.register(tirx.truncdiv(u, channels), dtype="int32").value
        m = b.register(u - batch * channels, dtype="int32").value
        source = m if form.multiplier == 1 else tirx.truncdiv(m, const(form.multiplier))
        x0 = b.register(batch * x_batch + source * x_pitch + x_origin, dtype="int32").value
        y0 = b.register(m * y_pitch + y_origin, dtype="int32").value
        y_at = b.register(batch * y_batch, dtype="int32").value
        writer = PhaseWriter if has_phases(form) else _TapWriter
        writer(b, form, (value, bias, x, y), operands, (m, batch, x0, y0, y_at)).planes()
    return b.function(symbol)


class _TapWriter(StripWriter):
    """Emits strips of rows tap by tap."""

    def column(self, strip: Strip, column: Any, known: int) -> None:
        """A vector of columns of a strip; `known` is a column with as many neighbours inside the row."""
        f, b, V = self.form, self.b, self.form.lanes
        kh, kw = f.kernel
        acc = [b.register(vector_of(self.bias[self.m], V), V) for _ in range(strip.rows)]
        weights = self.m * (kh * kw)
        w = [b.register(vector_of(self.value[weights + tap], V), V).value for tap in range(kh * kw)]
        # by input row, each of which is loaded once and soon done with: the registers hold the sums
        readers = self.readers(strip)
        for row, dx in product(readers, range(kw)):
            at = self.x0 + (f.stride[0] * strip.start + row) * f.row_pitch
            loaded = b.register(self.load(at, column, known, f.dilation[1] * dx - f.pad[1]), V).value
            for r, dy in readers[row]:
                b.set(acc[r], acc[r].value + w[dy * kw + dx] * loaded)
        for r in range(strip.rows):
            index = self.y0 + (strip.start + r) * f.out_row_pitch + column
            out = self.operands.apply(acc[r].value, row=self.m, index=index, batch=self.batch, lanes=V)
            b.store(self.y, index + self.y_at, out, V)


def choose_strip(out_size: tuple[int, int], stride: tuple[int, int], lanes: int) -> int:
    """Rows of a strip: input rows are reused inside one, its accumulators fit the registers (measured)."""
    height, width = out_size
    if lanes < 16:
        return min(height, 4)
    if stride[0] > 1 and width > 32:
        return min(height, 2)
    if stride[0] > 1 or 16 < width <= 100:
        return min(height, 4)
    return min(height, 7 if height % 7 == 0 else 8)


def choose_lanes(columns: int, lanes: int) -> int:
    """Lanes for rows of so many columns: half of the widest vectors where these fit (measured)."""
    return lanes // 2 if lanes == 16 and 2 * columns <= lanes else lanes
