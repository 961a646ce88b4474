"""Kernels that reduce rows and then map them: the loops that softmax and the normalisations share.

A row is what the reduced dimensions span; the others number the rows. Lanes run across rows where an outer
dimension is contiguous (feature-major data: each lane its own row, nothing horizontal), else along the row
(row-major data: partial results per lane, folded at the end).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from sparsecc.targets.layout import Layout
from sparsecc.targets.tir import KernelBuilder, Pointer, Register, const, ramp, vector_of

Dim = tuple[int, tuple[int, ...]]  # extent, stride per tensor


@dataclass(frozen=True)
class RowForm:
    """Dimensions with their strides per tensor; all baked into the kernel.

    Attributes:
        outer, reduced: outermost first; the lanes run along the last of one of them.
        origins: element index of each tensor's first element.
        across: whether lanes are rows.
    """

    outer: tuple[Dim, ...]
    reduced: tuple[Dim, ...]
    origins: tuple[int, ...]
    lanes: int
    across: bool

    @property
    def count(self) -> int:
        """Elements of a row."""
        return prod(n for n, _ in self.reduced)


def row_form(shape: Sequence[int], axes: Sequence[int], layouts: Sequence[Layout], lanes: int) -> RowForm:
    """The form for rows along `axes` of tensors that are all indexed by `shape` (stride 0 repeats)."""
    dims: list[Dim] = [(n, tuple(layout.strides[d] for layout in layouts)) for d, n in enumerate(shape)]
    outer = _merged([d for i, d in enumerate(dims) if i not in axes])
    reduced = _merged([d for i, d in enumerate(dims) if i in axes])
    best = max(outer, key=lambda d: (d[1][:2] == (1, 1), d[0]), default=(1, (0,)))
    contiguous = bool(reduced) and reduced[-1][1][:2] == (1, 1) and reduced[-1][0] >= 4
    across = best[1][:2] == (1, 1) and best[0] > 1 and (not contiguous or best[0] >= lanes)
    if across:
        outer = [d for d in outer if d is not best] + [best]
    return RowForm(tuple(outer), tuple(reduced), tuple(layout.origin for layout in layouts), lanes, across)


def _merged(dims: list[Dim]) -> list[Dim]:
    """By descending stride, neighbours merged where every tensor allows it."""
    kept: list[Dim] = []
    for extent, strides in sorted((d for d in dims if d[0] > 1), key=lambda d: -abs(d[1][0])):
        if kept and all(a == b * extent for a, b in zip(kept[-1][1], strides, strict=True)):
            kept[-1] = (kept[-1][0] * extent, strides)
        else:
            kept.append((extent, strides))
    return kept


def runs(extent: int, lanes: int, widest: int) -> list[tuple[int, int, int]]:
    """Cut [0, extent) into (first, steps, width): the widest vectors first, then halves down to 1."""
    found: list[tuple[int, int, int]] = []
    done = 0
    for width in dict.fromkeys((widest, *(lanes >> s for s in range(lanes.bit_length())))):
        if steps := (extent - done) // width:
            found.append((done, steps, width))
            done += steps * width
    return found


def strided(base: Any, stride: int, lanes: Any) -> Any:
    """base, base + stride, ... in `lanes` lanes."""
    return tirx.Ramp(base, const(stride), lanes)


def fold(b: KernelBuilder, combine: Callable[[Any, Any], Any], register: Register) -> Any:
    """All lanes of a register combined to one scalar."""
    value, width = register.value, register.lanes
    while width > 1:
        width //= 2
        low, high = ([const(i + o) for i in range(width)] for o in (0, width))
        halves = combine(tirx.Shuffle([value], low), tirx.Shuffle([value], high))
        value = b.register(halves, width, register.dtype).value
    return value


class Rows:
    """One kernel under construction: `units` runs a body per unit, in which sweeps read the rows."""

    def __init__(self, form: RowForm, b: KernelBuilder, widest: int) -> None:
        self.form, self.b, self.widest = form, b, widest
        self._base: list[Any] = []
        self.width = 1  # lanes of a row statistic

    @property
    def _blocks(self) -> list[tuple[int, int, int]]:
        return runs(self.form.outer[-1][0], self.form.lanes, self.widest) if self.form.across else [(0, 1, 1)]

    @property
    def _others(self) -> tuple[Dim, ...]:
        return self.form.outer[:-1] if self.form.across else self.form.outer

    @property
    def extent(self) -> int:
        """Units of parallel work: blocks of rows."""
        return prod(n for n, _ in self._others) * sum(steps for _, steps, _ in self._blocks)

    def units(self, body: Callable[[], None]) -> None:
        b, base = self.b, 0
        for first, steps, width in self._blocks:
            units = steps * prod(n for n, _ in self._others)
            low, high = tirx.Max(b.begin, const(base)), tirx.Min(b.end, const(base + units))
            with b.loop(high - low, low) as u:
                rest = b.register(u - base, dtype="int32").value
                index: list[Any] = [const(o) for o in self.form.origins]
                dims = (
                    [(steps, tuple(s * width for s in self.form.outer[-1][1])), *reversed(self._others)]
                    if (self.form.across)
                    else list(reversed(self._others))
                )
                for extent, strides in dims:
                    outer = b.register(tirx.Div(rest, const(extent)), dtype="int32").value
                    i = b.register(rest - outer * extent, dtype="int32").value
                    index = [at + i * s for at, s in zip(index, strides, strict=True)]
                    rest = outer
                if self.form.across:
                    index = [at + first * s for at, s in zip(index, self.form.outer[-1][1], strict=True)]
                self._base = [b.register(at, dtype="int32").value for at in index]
                self.width = width
                body()
            base += units

    def sweep(self, body: Callable[[Point], None]) -> None:
        """Run `body` at every point of the unit's rows."""
        self._sweep(list(self.form.reduced), self._base, body)

    def _sweep(self, dims: list[Dim], index: list[Any], body: Callable[[Point], None]) -> None:
        across = self.form.across
        if not dims or (len(dims) == 1 and not across):
            extent, strides = dims[0] if dims else (1, (0,) * len(index))
            if across or not dims:
                lane_strides = self.form.outer[-1][1] if across else strides
                body(
                    Point(
                        self.b,
                        [self.b.register(i, dtype="int32").value for i in index],
                        lane_strides,
                        self.width,
                    )
                )
                return
            widest = self.widest if strides[:2] == (1, 1) else 1
            lanes = self.form.lanes if strides[:2] == (1, 1) else 1
            for first, steps, width in runs(extent, lanes, widest):
                with self.b.loop(steps) as i:
                    at = [o + (i * width + first) * s for o, s in zip(index, strides, strict=True)]
                    body(Point(self.b, [self.b.register(o, dtype="int32").value for o in at], strides, width))
            return
        extent, strides = dims[0]
        with self.b.loop(extent) as i:
            self._sweep(dims[1:], [o + i * s for o, s in zip(index, strides, strict=True)], body)

    def statistic(self, combine: Callable[[Any, Any], Any], identity: float) -> Statistic:
        """A reduction over the unit's rows."""
        widths = (
            {self.width}
            if self.form.across
            else {
                1,
                *(
                    w
                    for _, _, w in (
                        runs(self.form.reduced[-1][0], self.form.lanes, self.widest)
                        if self.form.reduced
                        else []
                    )
                ),
            }
        )
        return Statistic(self.b, combine, identity, sorted(widths, reverse=True), self.form.across)


@dataclass(frozen=True)
class Point:
    """`width` elements at a time; `index` per tensor."""

    b: KernelBuilder
    index: list[Any]
    strides: tuple[int, ...]
    width: int

    def load(self, pointer: Pointer, tensor: int) -> Any:
        stride = self.strides[tensor]
        if self.width == 1:
            return self.b.register(pointer[self.index[tensor]], 1, pointer.dtype).value
        if stride == 0:
            value = vector_of(pointer[self.index[tensor]], self.width)
        else:
            value = pointer[strided(self.index[tensor], stride, self.width)]
        return self.b.register(value, self.width, pointer.dtype).value

    def store(self, pointer: Pointer, tensor: int, value: Any) -> None:
        if self.width == 1:
            self.b.store(pointer, self.index[tensor], value)
        elif self.strides[tensor] == 1:
            self.b.emit(tirx.BufferStore(pointer.buffer, value, [ramp(self.index[tensor], self.width)]))
        else:
            at = strided(self.index[tensor], self.strides[tensor], self.width)
            self.b.emit(tirx.BufferStore(pointer.buffer, value, [at]))

    def spread(self, value: Any, lanes: int) -> Any:
        """A row statistic of `lanes` lanes (one, or one per row) for this point's lanes."""
        return value if lanes == self.width else vector_of(value, self.width)

    def number(self, value: float) -> Any:
        scalar = const(value, "float32")
        return scalar if self.width == 1 else vector_of(scalar, self.width)


class Statistic:
    """Accumulates; one register per vector width, folded into one result."""

    def __init__(
        self,
        b: KernelBuilder,
        combine: Callable[[Any, Any], Any],
        identity: float,
        widths: list[int],
        across: bool,
    ) -> None:
        self._b, self._combine, self._across = b, combine, across
        start = const(identity, "float32")
        self._registers = {w: b.register(start if w == 1 else vector_of(start, w), w) for w in widths}

    def add(self, value: Any, width: int) -> None:
        register = self._registers[width]
        self._b.set(register, self._combine(register.value, value))

    def result(self) -> Any:
        """One value per row: a vector across rows, else a scalar."""
        if self._across:
            (only,) = self._registers.values()
            return only.value
        total = self._registers[1]
        for width, register in self._registers.items():
            if width > 1:
                self._b.set(total, self._combine(total.value, fold(self._b, self._combine, register)))
        return total.value
