"""What the kernels that slide over the columns of planes share: their geometry, and strips of rows."""

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
        if self.form.out_size[1] < self.form.lanes:
            self.column(strip, 0, 0)
        else:
            self.vectors(strip, self.form.lanes)

    def vectors(self, strip: Strip, count: int) -> None:
        """All vectors of `count` columns of a strip that has at least one; the last may overlap."""
        OW = self.form.out_size[1]
        starts = [*range(0, OW - count + 1, count)]
        if starts[-1] + count < OW:
            starts.append(OW - count)
        inner = [c for c in starts if self.whole(c) and c % count == 0]
        loop = len(inner) > 2
        for c in starts:
            if not (loop and c in inner):
                self.column(strip, c, c)
            elif c == inner[0]:
                with self.b.loop(len(inner)) as i:
                    self.column(strip, i * count + inner[0], inner[0])

    def whole(self, column: int) -> bool:
        """Whether no lane of the vector at `column` reads outside a row."""
        f = self.form
        first = f.stride[1] * column - f.pad[1]
        last = f.stride[1] * (column + f.lanes - 1) - f.pad[1] + f.dilation[1] * (f.kernel[1] - 1)
        return first >= 0 and last < f.size[1]

    def readers(self, strip: Strip) -> dict[int, list[tuple[int, int]]]:
        """The (output row, tap) that read each input row, by its distance from the strip's first one."""
        f = self.form
        found: dict[int, list[tuple[int, int]]] = {}
        for r, dy in product(range(strip.rows), range(f.kernel[0])):
            row = f.stride[0] * r + f.dilation[0] * dy - f.pad[0]
            if strip.known is None or 0 <= f.stride[0] * strip.known + row < f.size[0]:
                found.setdefault(row, []).append((r, dy))
        return dict(sorted(found.items()))

    def column(self, strip: Strip, column: Any, known: int) -> None:
        """A vector of columns of a strip; `known` is a column with as many neighbours inside the row."""
        raise NotImplementedError

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
