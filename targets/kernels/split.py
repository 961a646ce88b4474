"""Planes -> zero-padded phase planes, so that a strided or padded convolution becomes one over offsets.

For stride s, plane (py, px) of a channel holds x[s y + py, s x + px]. Tap (dy, dx) of the convolution reads
phase (o mod s) at row shift o div s, where o = dilation * dy - pad. With s = 1 this is a padded copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.layout import odd_lines, round_up
from sparsecc.targets.tir import KernelBuilder, const, shuffle, strided, vector_of


@dataclass(frozen=True)
class PhasePlan:
    """Which phases are made and how their planes are laid out.

    Attributes:
        phases: the (py, px) that some tap reads.
        row_pitch: elements between rows, at least `minimum_pitch`.
        top, bottom: zero rows.
        height, width: largest rows and columns of data kept.
        pitch, origin: of one phase plane.
    """

    phases: tuple[tuple[int, int], ...]
    row_pitch: int
    top: int
    bottom: int
    height: int
    width: int
    pitch: int
    origin: int


def minimum_pitch(g: ConvGeometry) -> int:
    """Smallest row pitch at which shifted reads of a row find zeros, not a neighbouring row."""
    low, high = g.shifts(1)
    width = max(min(g.phase_size(px)[1], g.out_size[1] + high) for _, px in g.phases())
    return max(width + max(low, 0), g.out_size[1] + max(high, 0))


def plan_phases(g: ConvGeometry, row_pitch: int, lanes: int) -> PhasePlan:
    low_y, high_y = g.shifts(0)
    low_x, high_x = g.shifts(1)
    phases = g.phases()
    height = max(min(g.phase_size(py)[0], g.out_size[0] + high_y) for py, _ in phases)
    width = max(min(g.phase_size(px)[1], g.out_size[1] + high_x) for _, px in phases)
    top = max(low_y, 0)
    origin = round_up(top * row_pitch + max(low_x, 0), lanes)
    last = max(height, g.out_size[0] + max(high_y, 0))
    bottom = last - height
    pitch = odd_lines(
        origin
        + max(
            round_up(last * row_pitch, lanes), g.out_size[0] * row_pitch + lanes + max(high_y, 0) * row_pitch
        )
        + lanes
    )
    return PhasePlan(phases, row_pitch, top, bottom, height, width, pitch, origin)


def tap_offsets(g: ConvGeometry, plan: PhasePlan) -> npt.NDArray[np.int64]:
    """[channels per group x kh x kw] element offsets from a group's first phase plane."""
    index = {phase: i for i, phase in enumerate(plan.phases)}
    taps = np.empty((g.kernel[0], g.kernel[1]), np.int64)
    for dy in range(g.kernel[0]):
        for dx in range(g.kernel[1]):
            (py, sy), (px, sx) = g.tap(0, dy), g.tap(1, dx)
            taps[dy, dx] = index[py, px] * plan.pitch + plan.origin + sy * plan.row_pitch + sx
    channel = np.arange(g.channels // g.groups, dtype=np.int64)[:, None, None] * (
        len(plan.phases) * plan.pitch
    )
    return (channel + taps).reshape(-1)


@dataclass(frozen=True)
class SplitForm:
    """What the split kernel is specialised for."""

    size: tuple[int, int]
    stride: tuple[int, int]
    plan: PhasePlan
    row_pitch: int
    lanes: int
    bits: int = 0  # of the padding, for elements of four bytes that are not fp32

    @property
    def exact_reads(self) -> bool:
        """Whether no vector load leaves the channel's rows, so that it may read a caller's memory."""
        s, width, V = self.stride[1], min(self.plan.width, -(-self.size[1] // self.stride[1])), self.lanes
        if s == 1:
            return width >= V
        return s == 2 and width >= V and self.size[1] % 2 == 0


def split_kernel(form: SplitForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: X, Y. Scalars: channels, X's channel pitch, origin and batch stride. Extent: batch x channels.
    """
    b = KernelBuilder()
    V, plan = form.lanes, form.plan
    x, y = b.pointer("x"), b.pointer("y")
    channels, x_pitch, x_origin, x_batch = (
        b.scalar(n) for n in ("channels", "x_pitch", "x_origin", "x_batch")
    )
    padding = tirx.reinterpret("float32", const(form.bits)) if form.bits else const(0.0, "float32")
    zero = vector_of(padding, V)
    with b.loop(b.end - b.begin, b.begin) as u:
        batch = b.register(tirx.truncdiv(u, channels), dtype="int32").value
        source = b.register(
            batch * x_batch + (u - batch * channels) * x_pitch + x_origin, dtype="int32"
        ).value
        for index, (py, px) in enumerate(plan.phases):
            plane = b.register((u * len(plan.phases) + index) * plan.pitch, dtype="int32").value
            rows = min(plan.height, -(-(form.size[0] - py) // form.stride[0]))
            width = min(plan.width, -(-(form.size[1] - px) // form.stride[1]))
            with b.loop(-(-plan.origin // V)) as i:
                b.store(y, plane + i * V, zero, V)
            with b.loop(rows) as r:
                at = b.register(source + (r * form.stride[0] + py) * form.row_pitch + px, dtype="int32").value
                to = b.register(plane + plan.origin + r * plan.row_pitch, dtype="int32").value
                _row(b, form, x, y, at, to, width)
                with b.loop(max(1, -(-(plan.row_pitch - width) // V))) as i:
                    b.store(y, to + width + i * V, zero, V)
            behind = plan.origin + rows * plan.row_pitch
            with b.loop((plan.pitch - behind) // V) as i:
                b.store(y, plane + behind + i * V, zero, V)
    return b.function(symbol)


def _row(b: KernelBuilder, form: SplitForm, x: Any, y: Any, at: Any, to: Any, width: int) -> None:
    V, s = form.lanes, form.stride[1]

    def vector(column: Any, back: bool = False) -> Any:
        base = at + column * s
        if s == 1:
            return x.vector(base, V)
        if s == 2:
            return shuffle(
                [x.vector(base, V), x.vector(base + (V - 1), V)],
                [2 * i if 2 * i < V else 2 * i + 1 for i in range(V)],
            )
        return x[strided(base, s, V)]

    whole = width // V
    if whole:
        with b.loop(whole) as i:
            b.store(y, to + i * V, vector(i * V), V)
    if width % V:
        column = width - V if whole else 0
        b.store(y, to + column, vector(column), V)
