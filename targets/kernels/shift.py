"""Planes -> copies shifted by each column tap, so that unstructured KxK convolutions load whole cache lines.

Copy i of a channel holds x[y, x + shift_i] at (y, x), zeros outside. With a row pitch of whole vectors every
tap (dy, dx) then reads at an aligned offset; unaligned 64-byte loads cost two accesses each, and with one
output row per block the loads are what bounds the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.layout import odd_lines
from sparsecc.targets.tir import KernelBuilder, const, ramp, vector_of


@dataclass(frozen=True)
class ShiftPlan:
    """How the copies of one channel are laid out.

    Attributes:
        shifts: column shift of each copy, in order.
        row_pitch: a multiple of the vector; rows of zeros above and below are part of a copy.
        top, height, bottom: zero rows, rows of data, zero rows.
        pitch: elements of one copy.
    """

    shifts: tuple[int, ...]
    row_pitch: int
    top: int
    height: int
    bottom: int
    pitch: int


def plan_shifts(g: ConvGeometry, row_pitch: int) -> ShiftPlan:
    """The copies that a stride-1 convolution reads; `row_pitch` is at least its output's width."""
    low, high = g.shifts(0)
    shifts = tuple(sorted({g.tap(1, d)[1] for d in range(g.kernel[1])}))
    top = max(low, 0)
    height = min(g.size[0], max(0, g.out_size[0] + high))
    bottom = max(0, g.out_size[0] + high - height)
    return ShiftPlan(shifts, row_pitch, top, height, bottom, odd_lines((top + height + bottom) * row_pitch))


def shifted_offsets(g: ConvGeometry, plan: ShiftPlan) -> npt.NDArray[np.int64]:
    """[channels per group x kh x kw] element offsets from a group's first copy; all are whole vectors."""
    taps = np.empty((g.kernel[0], g.kernel[1]), np.int64)
    for dy in range(g.kernel[0]):
        for dx in range(g.kernel[1]):
            copy = plan.shifts.index(g.tap(1, dx)[1])
            taps[dy, dx] = copy * plan.pitch + (plan.top + g.tap(0, dy)[1]) * plan.row_pitch
    channel = np.arange(g.channels // g.groups, dtype=np.int64)[:, None, None]
    return (channel * (len(plan.shifts) * plan.pitch) + taps).reshape(-1)


@dataclass(frozen=True)
class ShiftForm:
    """What the kernel is specialised for; `row_pitch` is the input's, `size` its rows and columns."""

    size: tuple[int, int]
    plan: ShiftPlan
    row_pitch: int
    lanes: int


def shift_kernel(form: ShiftForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: X, Y. Scalars: channels, X's channel pitch, origin and batch stride. Extent: batch x channels.
    Reads up to a row before and behind a plane's elements.
    """
    b = KernelBuilder()
    V, plan = form.lanes, form.plan
    x, y = b.pointer("x"), b.pointer("y")
    channels, x_pitch, x_origin, x_batch = (
        b.scalar(n) for n in ("channels", "x_pitch", "x_origin", "x_batch")
    )
    zero = vector_of(const(0.0, "float32"), V)
    with b.loop(b.end - b.begin, b.begin) as u:
        batch = b.register(tirx.truncdiv(u, channels), dtype="int32").value
        channel = b.register(u - batch * channels, dtype="int32").value
        source = b.register(batch * x_batch + channel * x_pitch + x_origin, dtype="int32").value
        for index, shift in enumerate(plan.shifts):
            plane = b.register((u * len(plan.shifts) + index) * plan.pitch, dtype="int32").value
            data = plan.top * plan.row_pitch
            behind = data + plan.height * plan.row_pitch
            for start, stop in ((0, data), (behind, plan.pitch)):
                if stop > start:
                    with b.loop((stop - start) // V) as i:
                        b.store(y, plane + start + i * V, zero, V)
            with b.loop(plan.height) as r:
                at = b.register(source + r * form.row_pitch + shift, dtype="int32").value
                to = b.register(plane + data + r * plan.row_pitch, dtype="int32").value
                for column in range(0, plan.row_pitch, V):
                    b.store(y, to + column, _masked(x, at + column, column + shift, form.size[1], V), V)
    return b.function(symbol)


def _masked(x: Any, at: Any, first: int, width: int, lanes: int) -> Any:
    """The vector at `at`, whose first lane is column `first` of a row, 0 outside the row."""
    if first >= width or first + lanes <= 0:
        return vector_of(const(0.0, "float32"), lanes)
    loaded = x.vector(at, lanes)
    if first >= 0 and first + lanes <= width:
        return loaded
    column = ramp(first, lanes)
    inside = tirx.And(column >= vector_of(const(0), lanes), column < vector_of(const(width), lanes))
    return tirx.Select(inside, loaded, vector_of(const(0.0, "float32"), lanes))
