"""MaxPool and AveragePool on [N, C, H, W] planes with any row and channel pitch.

Separable inside a window: rows are combined first, as contiguous vectors, then the window's columns by
shuffles (stride 2: even and odd lanes of two loads). Outputs whose window leaves the plane sideways are
computed one by one from the columns they have; above and below, the loop over the window's rows is shorter.
Nothing outside the planes is read, and the last vector of a row overlaps the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.rowwise import strided
from sparsecc.targets.layout import Layout
from sparsecc.targets.tir import KernelBuilder, Register, const, vector_of

_UNIT = 1024  # outputs of a parallel unit, at least


@dataclass(frozen=True)
class Window:
    """A pooling window along one dimension; `end` is the padding behind the data."""

    kernel: int
    stride: int
    begin: int
    end: int
    dilation: int = 1

    def output(self, size: int, ceil_mode: bool) -> int:
        """Outputs for `size` inputs; with `ceil_mode` the last window may leave the padding, but must
        begin inside the data or the padding in front (ONNX MaxPool, AveragePool)."""
        span = size + self.begin + self.end - (self.kernel - 1) * self.dilation - 1
        count = (-(-span // self.stride) if ceil_mode else span // self.stride) + 1
        if ceil_mode and (count - 1) * self.stride >= size + self.begin:
            count -= 1
        return count

    def taps(self, at: int, low: int, high: int) -> list[int]:
        """The taps of output `at` that lie in [low, high)."""
        first = at * self.stride - self.begin
        return [k for k in range(self.kernel) if low <= first + k * self.dilation < high]


@dataclass(frozen=True)
class PoolForm:
    """`source` and `destination` are (origin, strides of n, c, row); rows are contiguous."""

    batch: int
    channels: int
    size: tuple[int, int]
    output: tuple[int, int]
    rows: Window
    columns: Window
    average: bool
    include_pad: bool
    source: tuple[int, tuple[int, ...]]
    destination: tuple[int, tuple[int, ...]]
    lanes: int

    @property
    def rows_per_unit(self) -> int:
        return min(self.output[0], max(1, _UNIT // self.output[1]))

    @property
    def extent(self) -> int:
        return self.batch * self.channels * -(-self.output[0] // self.rows_per_unit)


def pool_kernel(form: PoolForm, symbol: str) -> tirx.PrimFunc:
    """Pointers: x, y. No scalars. Extent: planes x blocks of output rows."""
    b = KernelBuilder()
    x, y = b.pointer("x"), b.pointer("y")
    blocks = -(-form.output[0] // form.rows_per_unit)
    with b.loop(b.end - b.begin, b.begin) as u:
        plane = b.register(tirx.Div(u, const(blocks)), dtype="int32").value
        block = b.register(u - plane * blocks, dtype="int32").value
        n = b.register(tirx.Div(plane, const(form.channels)), dtype="int32").value
        c = b.register(plane - n * form.channels, dtype="int32").value
        starts = [
            b.register(n * s[0] + c * s[1] + origin, dtype="int32").value
            for origin, s in (form.source, form.destination)
        ]
        first = block * form.rows_per_unit
        rows = tirx.Min(const(form.rows_per_unit), const(form.output[0]) - first)
        with b.loop(rows, first) as row:
            _Row(b, form, x, y, starts, row).emit()
    return b.function(symbol)


class _Row:
    """One row of outputs."""

    def __init__(self, b: KernelBuilder, form: PoolForm, x: Any, y: Any, starts: list[Any], row: Any) -> None:
        self.b, self.form, self.x, self.y = b, form, x, y
        w = form.rows
        low = b.register(row * w.stride - w.begin, dtype="int32").value  # input row of tap 0
        self.first = b.register(
            tirx.Max(const(0), tirx.Div(const(w.dilation - 1) - low, const(w.dilation))), dtype="int32"
        ).value
        last = tirx.Min(const(w.kernel), tirx.Div(const(form.size[0] - 1) - low, const(w.dilation)) + 1)
        self.taps = b.register(last - self.first, dtype="int32").value
        self.step = w.dilation * form.source[1][2]
        self.source = b.register(
            starts[0] + (low + self.first * w.dilation) * form.source[1][2], dtype="int32"
        ).value
        self.target = b.register(starts[1] + row * form.destination[1][2], dtype="int32").value
        self.counted: Any = self.taps
        if form.average and form.include_pad:
            inside = tirx.Div(const(form.size[0] + w.end - 1) - low, const(w.dilation)) + 1
            self.counted = b.register(tirx.Min(const(w.kernel), inside), dtype="int32").value

    def emit(self) -> None:
        form, w = self.form, self.form.columns
        width = form.size[1]
        whole = [o for o in range(form.output[1]) if len(w.taps(o, 0, width)) == w.kernel]
        for o in range(form.output[1]):
            if o not in whole:
                self._edge(o)
        if not whole:
            return
        lanes = 1 << (min(form.lanes, len(whole)).bit_length() - 1)
        with self.b.loop(-(-len(whole) // lanes)) as i:
            o = self.b.register(
                tirx.Min(i * lanes, const(len(whole) - lanes)) + whole[0], dtype="int32"
            ).value
            at = self.b.register(self.source + (o * w.stride - w.begin), dtype="int32").value
            value = self._window(at, lanes)
            self.b.store(self.y, self.target + o, self._scaled(value, w.kernel, lanes), lanes)

    def _combine(self, a: Any, c: Any) -> Any:
        return a + c if self.form.average else tirx.Max(a, c)

    def _start(self, lanes: int) -> Register:
        zero = const(0.0 if self.form.average else float("-inf"), "float32")
        return self.b.register(vector_of(zero, lanes) if lanes > 1 else zero, lanes)

    def _edge(self, o: int) -> None:
        w = self.form.columns
        taps = w.taps(o, 0, self.form.size[1])
        acc = self._start(1)
        with self.b.loop(self.taps) as k:
            at = self.b.register(self.source + k * self.step + (o * w.stride - w.begin), dtype="int32").value
            for t in taps:
                self.b.set(acc, self._combine(acc.value, self.x[at + t * w.dilation]))
        counted = w.taps(o, -w.begin, self.form.size[1] + w.end) if self.form.include_pad else taps
        self.b.store(self.y, self.target + o, self._scaled(acc.value, len(counted), 1))

    def _window(self, at: Any, lanes: int) -> Any:
        """The combined windows of `lanes` outputs, the first one's tap 0 in column `at`."""
        w = self.form.columns
        if w.stride == 2 and w.dilation == 1 and w.kernel > 1 and lanes > 1:
            # (first column, even lanes wanted, odd lanes wanted); an odd last tap is the odd lanes of a
            # load one column earlier, so that nothing behind the window is read
            loads = [(k, True, True) for k in range(0, w.kernel - 1, 2)]
            if w.kernel % 2:
                loads.append((w.kernel - 2, False, True))
            pairs = [(self._start(lanes), self._start(lanes)) for _ in loads]
            parts = [r for pair in pairs for r in pair]
            self._rows(parts, [at + k + o for k, _, _ in loads for o in (0, lanes)], lanes)
            terms: list[Any] = []
            for (_, even, odd), (a, c) in zip(loads, pairs, strict=True):
                for start, wanted in ((0, even), (1, odd)):
                    if wanted:
                        lanes_of = [const(start + 2 * i) for i in range(lanes)]
                        terms.append(tirx.Shuffle([a.value, c.value], lanes_of))
        else:
            parts = [self._start(lanes) for _ in range(w.kernel)]
            self._rows(parts, [at + k * w.dilation for k in range(w.kernel)], lanes, w.stride)
            terms = [p.value for p in parts]
        total = self.b.register(terms[0], lanes)
        for term in terms[1:]:
            self.b.set(total, self._combine(total.value, term))
        return total.value

    def _rows(self, parts: Sequence[Register], columns: Sequence[Any], lanes: int, stride: int = 1) -> None:
        """Combine the window's rows into `parts`, each from its own first column."""
        with self.b.loop(self.taps) as k:
            row = self.b.register(k * self.step, dtype="int32").value
            for part, column in zip(parts, columns, strict=True):
                at = column + row
                loaded = self.x[strided(at, stride, lanes)] if lanes > 1 else self.x[at]
                self.b.set(part, self._combine(part.value, loaded))

    def _scaled(self, value: Any, columns: int, lanes: int) -> Any:
        if not self.form.average:
            return value
        count = tirx.Cast("float32", self.counted * columns)
        factor = self.b.register(const(1.0, "float32") / count).value
        return value * (vector_of(factor, lanes) if lanes > 1 else factor)


def pool_call(
    shape: Sequence[int],
    source: Layout,
    destination: Layout,
    lanes: int,
    *,
    rows: Window,
    columns: Window,
    average: bool,
    include_pad: bool = False,
    ceil_mode: bool = False,
) -> KernelCall:
    """Pool a fp32 [N, C, H, W] tensor; pointers x, y. Both layouts have contiguous rows."""
    n, c, h, w = shape
    form = PoolForm(
        batch=n,
        channels=c,
        size=(h, w),
        output=(rows.output(h, ceil_mode), columns.output(w, ceil_mode)),
        rows=rows,
        columns=columns,
        average=average,
        include_pad=include_pad,
        source=(source.origin, source.strides[:3]),
        destination=(destination.origin, destination.strides[:3]),
        lanes=lanes,
    )
    symbol = structural_name("pool", form)
    return KernelCall(symbol, partial(pool_kernel, form, symbol), (), form.extent)
