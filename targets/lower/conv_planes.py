"""What convolutions of fp32 and of codes share: layouts of planes, offsets of taps, the split, the report."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sparsecc.ir import encoding_of
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.split import SplitForm, minimum_pitch, plan_phases, split_kernel, tap_offsets
from sparsecc.targets.layout import Layout, PlaneSpec
from sparsecc.targets.lower.call import Call
from sparsecc.targets.lower.recode import encode
from sparsecc.targets.lower.regions import PlaneRegions
from sparsecc.targets.lower.state import LayerReport, Lowering, Stored, base, shape_of

FloatArray = npt.NDArray[np.float32]


def as_planes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[N, C, H, W]; a 1-D convolution's [N, C, W] has H = 1."""
    return (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else (shape[0], shape[1], shape[2], shape[3])


def output_layout(low: Lowering, regions: PlaneRegions, call: Call, g: ConvGeometry) -> Layout:
    """The region's layout, or planes wide enough for this convolution alone."""
    found = regions.layout(call.output)
    if found is not None:
        return found
    pitch = g.out_size[1] if g.depthwise else max(g.out_size[1], minimum_pitch(g))
    shape = as_planes(shape_of(call.output))
    layout = PlaneSpec(pitch, 0, 0, 0, False).layout(shape, low.machine.lanes)
    if len(shape_of(call.output)) == 3:
        layout = Layout((layout.strides[0], layout.strides[1], 1), layout.origin, layout.size)
    return layout


def row_pitch(layout: Layout, rank: int) -> int:
    return layout.strides[2] if rank == 4 else 1


def plain_planes(shape: tuple[int, ...], lanes: int) -> Layout:
    planes = as_planes(shape)
    layout = PlaneSpec(planes[3], 0, 0, 0, False).layout(planes, lanes)
    if len(shape) == 3:
        return Layout((layout.strides[0], layout.strides[1], 1), layout.origin, layout.size)
    return layout


def flat_offsets(g: ConvGeometry, layout: Layout) -> npt.NDArray[np.int64]:
    channel = np.arange(g.channels // g.groups, dtype=np.int64)[:, None, None] * layout.strides[1]
    rows = np.array([g.tap(0, d)[1] for d in range(g.kernel[0])])[None, :, None] * layout.strides[2]
    columns = np.array([g.tap(1, d)[1] for d in range(g.kernel[1])])[None, None, :]
    return (layout.origin + channel + rows + columns).reshape(-1)


def group_offsets(
    g: ConvGeometry, offsets: npt.NDArray[np.int64], rows: int, channel_pitch: int
) -> npt.NDArray[np.int64]:
    """The first group's offsets for each block of rows, where there are groups."""
    if g.groups == 1:
        return offsets
    rows_per_group = g.out_channels // g.groups
    first = np.arange(-(-g.out_channels // rows)) * rows // rows_per_group
    return offsets[None, :] + (first * (g.channels // g.groups) * channel_pitch)[:, None]


def define_result(low: Lowering, regions: PlaneRegions, call: Call, y: Stored) -> None:
    """Record what a kernel left in fp32, as codes where the call ends in them."""
    codes = regions.codes.of(call.output)
    if codes is None:
        low.define(call.output, y)
    else:
        encode(low, regions, call.name, y, codes)


def split_form(g: ConvGeometry, pitch: int, source_pitch: int, lanes: int, bits: int = 0) -> SplitForm:
    return SplitForm(g.size, g.stride, plan_phases(g, pitch, lanes), source_pitch, lanes, bits)


def split_step(
    low: Lowering, label: str, name: str, g: ConvGeometry, form: SplitForm, x: Stored, batch: int
) -> tuple[Stored, npt.NDArray[np.int64], int, int, int]:
    """Emit the split; returns (phase planes, tap offsets, batch stride, stride between channels, step)."""
    plan = form.plan
    per_channel = len(plan.phases) * plan.pitch
    batch_stride = g.channels * per_channel
    layout = Layout((batch_stride, per_channel, plan.row_pitch, 1), 0, batch * batch_stride + 64)
    planes = low.buffer(layout, x.dtype, name)
    symbol = low.kernel("split", form, lambda s: split_kernel(form, s))
    index = low.step(
        label, "split", symbol, [base(x), base(planes)],
        [g.channels, x.layout.strides[1], x.layout.origin, x.layout.strides[0]], batch * g.channels,
    )  # fmt: skip
    return planes, tap_offsets(g, plan), batch_stride, per_channel, index


def report_conv(
    low: Lowering,
    call: Call,
    g: ConvGeometry,
    weights: FloatArray,
    kernel: str,
    reason: str,
    seconds: float,
    dense_seconds: float,
    steps: list[int],
) -> None:
    weight = f"{g.out_channels}x{g.channels // g.groups}x{g.kernel[0]}x{g.kernel[1]}"
    shape = f"{weight} s{g.stride[0]} on {g.size[0]}x{g.size[1]}"
    low.layers.append(
        LayerReport(
            call.layer,
            call.name,
            "Conv",
            shape,
            str(encoding_of(weights)),
            float(1 - np.count_nonzero(weights) / weights.size),
            kernel,
            reason,
            seconds,
            dense_seconds,
            steps,
        )
    )
