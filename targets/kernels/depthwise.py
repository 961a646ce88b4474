"""Depthwise convolution on planes: strips of rows, accumulators in registers, no padding in memory needed.

Y[m, y, x] = epilogue(bias[m] + sum_{a, b} w[m, a, b] X[m / multiplier, s y + d a - top, s x + d b - left]).
Rows outside the plane are left out of the top and bottom strips; columns outside are masked lanes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import KernelBuilder, Pointer, const, ramp, shuffle, strided, vector_of


@dataclass(frozen=True)
class DepthwiseForm:
    """All that one kernel is specialised for; pads are (top, left); sizes are (rows, columns)."""

    size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]
    row_pitch: int
    out_row_pitch: int
    multiplier: int
    strip: int
    lanes: int
    epilogue: Epilogue


@dataclass(frozen=True)
class Strip:
    """Output rows that are computed together."""

    rows: int
    start: Any  # first output row, a number or an expression
    known: int | None  # the same as a number where rows are checked against the plane


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
        StripWriter(b, form, (value, bias, x, y), operands, (m, batch, x0, y0, y_at)).planes()
    return b.function(symbol)


def strips(form: DepthwiseForm) -> tuple[list[Strip], tuple[int, int], list[Strip]]:
    """Strips that touch the plane's top edge, the range of inner ones, and the others."""
    H, OH = form.size[0], form.out_size[0]
    count = -(-OH // form.strip)

    def inside(i: int) -> bool:
        first = form.stride[0] * i * form.strip - form.pad[0]
        last_row = form.stride[0] * ((i + 1) * form.strip - 1)
        last = last_row - form.pad[0] + form.dilation[0] * (form.kernel[0] - 1)
        return (i + 1) * form.strip <= OH and first >= 0 and last < H

    flags = [inside(i) for i in range(count)]
    low = flags.index(True) if True in flags else count
    high = low
    while high < count and flags[high]:
        high += 1

    def known(i: int) -> Strip:
        return Strip(min(form.strip, OH - i * form.strip), i * form.strip, i * form.strip)

    return [known(i) for i in range(low)], (low, high), [known(i) for i in range(high, count)]


class StripWriter:
    """Emits the code of one strip of output rows."""

    def __init__(
        self,
        b: KernelBuilder,
        form: DepthwiseForm,
        pointers: tuple[Pointer, ...],
        operands: EpilogueOperands,
        at: tuple[Any, ...],
    ) -> None:
        self.b, self.form, self.operands = b, form, operands
        self.value, self.bias, self.x, self.y = pointers
        self.m, self.batch, self.x0, self.y0, self.y_at = at
        self.outside: Any = vector_of(const(0.0, "float32"), form.lanes)

    def planes(self) -> None:
        """All strips of a plane."""
        top, interior, bottom = strips(self.form)
        for strip in top:
            self.strip(strip)
        if interior[1] > interior[0]:
            with self.b.loop(interior[1] - interior[0]) as i:
                self.strip(Strip(self.form.strip, (i + interior[0]) * self.form.strip, None))
        for strip in bottom:
            self.strip(strip)

    def strip(self, strip: Strip) -> None:
        """One strip, a vector of columns after the other."""
        V, OW = self.form.lanes, self.form.out_size[1]
        if OW < V:
            self.column(strip, 0, 0)
            return
        starts = [*range(0, OW - V + 1, V)]
        if starts[-1] + V < OW:
            starts.append(OW - V)
        inner = [c for c in starts if self._whole(c) and c % V == 0]
        loop = len(inner) > 2
        for c in starts:
            if not (loop and c in inner):
                self.column(strip, c, c)
            elif c == inner[0]:
                with self.b.loop(len(inner)) as i:
                    self.column(strip, i * V + inner[0], inner[0])

    def _whole(self, column: int) -> bool:
        """Whether no lane of the vector at `column` reads outside a row."""
        f = self.form
        first = f.stride[1] * column - f.pad[1]
        last = f.stride[1] * (column + f.lanes - 1) - f.pad[1] + f.dilation[1] * (f.kernel[1] - 1)
        return first >= 0 and last < f.size[1]

    def column(self, strip: Strip, column: Any, known: int) -> None:
        """A vector of columns of a strip; `known` is a column with as many neighbours inside the row."""
        f, b, V = self.form, self.b, self.form.lanes
        kh, kw = f.kernel
        acc = [b.register(vector_of(self.bias[self.m], V), V) for _ in range(strip.rows)]
        weights = self.m * (kh * kw)
        w = [b.register(vector_of(self.value[weights + tap], V), V).value for tap in range(kh * kw)]
        # by input row, each of which is loaded once and soon done with: the registers hold the sums
        readers: dict[int, list[tuple[int, int]]] = {}
        for r, dy in product(range(strip.rows), range(kh)):
            row = f.stride[0] * r + f.dilation[0] * dy - f.pad[0]
            if strip.known is None or 0 <= f.stride[0] * strip.known + row < f.size[0]:
                readers.setdefault(row, []).append((r, dy))
        for row, dx in product(sorted(readers), range(kw)):
            at = self.x0 + (f.stride[0] * strip.start + row) * f.row_pitch
            loaded = b.register(self.load(at, column, known, f.dilation[1] * dx - f.pad[1]), V).value
            for r, dy in readers[row]:
                b.set(acc[r], acc[r].value + w[dy * kw + dx] * loaded)
        for r in range(strip.rows):
            index = self.y0 + (strip.start + r) * f.out_row_pitch + column
            out = self.operands.apply(acc[r].value, row=self.m, index=index, batch=self.batch, lanes=V)
            b.store(self.y, index + self.y_at, out, V)

    def load(self, row_at: Any, column: Any, known: int, shift: int) -> Any:
        """The lanes x[row, stride * (column + lane) + shift], `outside` where that is outside the row.

        Lanes behind the last output column hold anything.
        """
        f, V = self.form, self.form.lanes
        s = f.stride[1]
        first = s * known + shift
        base = row_at + s * column + shift
        if s == 1:
            loaded = self.x.vector(base, V)
        elif s == 2:
            # taps of one parity pair share their two loads
            odd = shift % 2
            halves = [self.x.vector(base - odd, V), self.x.vector(base + (V - odd), V)]
            loaded = shuffle(halves, [2 * i + odd for i in range(V)])
        else:
            loaded = self.x[strided(base, s, V)]
        low = max(0, -(first // s)) if first < 0 else 0
        high = min(V, -(-(f.size[1] - first) // s))
        if low == 0 and high >= min(V, f.out_size[1] - known):
            return loaded
        lane = ramp(0, V)
        keep = tirx.And(lane >= vector_of(const(low), V), lane < vector_of(const(high), V))
        return tirx.Select(keep, loaded, self.outside)


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
