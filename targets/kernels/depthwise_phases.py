"""Depthwise convolution of stride 2 along rows: sums by phase, shifted once.

Of an input row the even and the odd columns are taken apart once, x_p[l] = X[2 l + p]. A tap at 2 q + p
from an output's column adds to the sum S_q, and Y[c] = sum_q S_q[c + q] shifts each sum once for all rows
and taps, where the plain form loads and shuffles each tap's lanes. A vector of sums gives fewer outputs than
it has lanes: by one for each q beyond the first.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm, Strip, StripWriter
from sparsecc.targets.tir import Register, const, ramp, shuffle, vector_of

STRIDE = 2


def phase_offsets(form: DepthwiseForm) -> list[tuple[int, int]]:
    """(q, p) of each of a row's taps, whose distance from an output's column is 2 q + p."""
    return [divmod(dx - form.pad[1], STRIDE) for dx in range(form.kernel[1])]


def has_phases(form: DepthwiseForm) -> bool:
    """Whether sums by phase need no more vectors for a row than the plain form."""
    if form.stride[1] != STRIDE or form.dilation[1] != 1:
        return False
    usable = form.lanes - _halo(form)
    columns = form.out_size[1]
    return usable > 0 and -(-columns // usable) == -(-columns // form.lanes)


def _halo(form: DepthwiseForm) -> int:
    shifts = [q for q, _ in phase_offsets(form)]
    return max(shifts) - min(shifts)


class PhaseWriter(StripWriter):
    """Emits strips of rows with sums by phase; `has_phases` holds."""

    def strip(self, strip: Strip) -> None:
        """One strip, as many columns as a vector of sums gives after the other."""
        usable, columns = self.form.lanes - _halo(self.form), self.form.out_size[1]
        if columns <= usable:
            self.column(strip, 0, 0)
            return
        self.vectors(strip, usable)

    def whole(self, column: int) -> bool:
        """Whether no lane of the vector at `column` reads outside a row."""
        first = STRIDE * (column + min(q for q, _ in phase_offsets(self.form)))
        return first >= 0 and first + STRIDE * self.form.lanes <= self.form.size[1]

    def column(self, strip: Strip, column: Any, known: int) -> None:
        """A vector of columns of a strip; `known` is a column with as many neighbours inside the row."""
        f, b, V = self.form, self.b, self.form.lanes
        kh, kw = f.kernel
        offsets = phase_offsets(f)
        lowest = min(q for q, _ in offsets)
        shifts = sorted({q for q, _ in offsets})
        zero = vector_of(const(0.0, "float32"), V)
        sums: dict[tuple[int, int], Register] = {}
        for r, q in product(range(strip.rows), shifts):
            start = vector_of(self.bias[self.m], V) if q == lowest else zero
            sums[r, q] = b.register(start, V)
        weights = self.m * (kh * kw)
        w = [b.register(vector_of(self.value[weights + tap], V), V).value for tap in range(kh * kw)]
        for row, uses in self.readers(strip).items():
            at = self.x0 + (f.stride[0] * strip.start + row) * f.row_pitch + STRIDE * (column + lowest)
            halves = [self.x.vector(at, V), self.x.vector(at + V, V)]
            for p in sorted({p for _, p in offsets}):
                phase = b.register(self._phase(halves, p, known + lowest), V).value
                for (dx, (q, of)), (r, dy) in product(enumerate(offsets), uses):
                    if of == p:
                        b.set(sums[r, q], sums[r, q].value + w[dy * kw + dx] * phase)
        columns = f.out_size[1]
        count = V if columns <= V - _halo(f) else V - _halo(f)
        for r in range(strip.rows):
            total = self._lanes(sums[r, lowest].value, 0, count)
            for q in shifts[1:]:
                total = total + self._lanes(sums[r, q].value, q - lowest, count)
            index = self.y0 + (strip.start + r) * f.out_row_pitch + column
            out = self.operands.apply(total, row=self.m, index=index, batch=self.batch, lanes=count)
            b.store(self.y, index + self.y_at, out, count)

    def _lanes(self, vector: Any, first: int, count: int) -> Any:
        """`count` lanes from `first` on, whatever is behind the last."""
        V = self.form.lanes
        if first == 0 and count == V:
            return vector
        return shuffle([vector], [(first + lane) % V for lane in range(count)])

    def _phase(self, halves: list[Any], phase: int, first: int) -> Any:
        """Lanes x[2 (first + lane) + phase], zero where that is outside of the row."""
        f, V = self.form, self.form.lanes
        loaded = shuffle(halves, [STRIDE * lane + phase for lane in range(V)])
        low = max(0, -(-(-STRIDE * first - phase) // STRIDE))
        high = min(V, -(-(f.size[1] - phase - STRIDE * first) // STRIDE))
        if low == 0 and high == V:
            return loaded
        lane = ramp(0, V)
        keep = tirx.And(lane >= vector_of(const(low), V), lane < vector_of(const(high), V))
        return tirx.Select(keep, loaded, self.outside)
