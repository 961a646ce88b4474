"""Convolutions: depthwise, flat over planes, or over phase planes made by a split."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.ir.edit import constant_of
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.depthwise import choose_lanes, choose_strip, depthwise_kernel
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm
from sparsecc.targets.kernels.shift import ShiftForm, plan_shifts, shift_kernel, shifted_offsets
from sparsecc.targets.kernels.split import minimum_pitch
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, Tail, tail_of
from sparsecc.targets.lower.conv_codes import lower_conv_codes
from sparsecc.targets.lower.conv_planes import (
    define_result,
    flat_offsets,
    group_offsets,
    output_layout,
    plain_planes,
    report_conv,
    row_pitch,
    split_form,
    split_step,
)
from sparsecc.targets.lower.layers import SpmmLayer
from sparsecc.targets.lower.regions import PlaneRegions, flat, has_padding
from sparsecc.targets.lower.rowwise import padded_bias, residuals, row_operand_pointers
from sparsecc.targets.lower.select import choose_spmm
from sparsecc.targets.lower.spmm import After, spmm_step
from sparsecc.targets.lower.state import Lowering, Stored, base, shape_of

FloatArray = npt.NDArray[np.float32]


def lower_conv(low: Lowering, regions: PlaneRegions, call: Call, g: ConvGeometry) -> None:
    """Emit the steps of a convolution with constant weights."""
    weight = constant_of(call.inputs[1])
    x, out = call.inputs[0], call.output
    assert weight is not None and x is not None
    weight = weight.reshape(weight.shape[0], weight.shape[1], *g.kernel).astype(np.float32)
    tail = tail_of(call, g.out_channels)
    bias = padded_bias(call.inputs[2] if len(call.inputs) > 2 else None, tail, g.out_channels)
    batch = shape_of(out)[0]
    layout = output_layout(low, regions, call, g)
    if lower_conv_codes(low, regions, call, g, weight, bias, tail, layout):
        return
    y = low.buffer(layout, "float32", out.name or "")
    if g.depthwise and g.out_channels % g.channels == 0:
        _depthwise(low, call, g, weight, bias, tail, y, batch)
    else:
        _dense_or_sparse(low, regions, call, g, weight, bias, tail, y, batch)
    define_result(low, regions, call, y)


def _readable_planes(stored: Stored, rank: int) -> bool:
    """Unit stride along a row, whole rows, and memory that may be read a little beyond."""
    return not stored.exact and stored.layout.strides[rank - 1] == 1 and stored.dtype == "float32"


def _depthwise(
    low: Lowering,
    call: Call,
    g: ConvGeometry,
    weight: FloatArray,
    bias: FloatArray,
    tail: Tail,
    y: Stored,
    batch: int,
) -> None:
    x_value = call.inputs[0]
    assert x_value is not None
    shape = shape_of(x_value)
    rank = len(shape)
    V = low.machine.lanes
    x = low.require(
        x_value,
        lambda s: _readable_planes(s, rank),
        lambda: plain_planes(shape, V),
    )
    strip = choose_strip(g.out_size, g.stride, V)
    form = DepthwiseForm(
        g.size,
        g.out_size,
        g.kernel,
        g.stride,
        g.dilation,
        g.pad,
        row_pitch(x.layout, rank),
        row_pitch(y.layout, rank),
        g.out_channels // g.channels,
        strip,
        choose_lanes(g.out_size[1], V),
        tail.epilogue,
    )
    symbol = low.kernel("depthwise", form, lambda s: depthwise_kernel(form, s))
    extra = residuals(low, tail, y.layout)
    index = low.step(
        call.name,
        "depthwise",
        symbol,
        [
            *low.pack(weight.reshape(g.out_channels, -1), bias),
            base(x),
            base(y),
            *row_operand_pointers(low, tail.row_operands),
            *map(base, extra),
        ],
        [
            g.out_channels,
            x.layout.strides[1],
            x.layout.origin,
            x.layout.strides[0],
            y.layout.strides[1],
            y.layout.origin,
            y.layout.strides[0],
            *(r.layout.strides[0] for r in extra),
        ],
        batch * g.out_channels,
    )
    report_conv(low, call, g, weight, "depthwise", "depthwise convolutions run dense", 0.0, 0.0, [index])


def _dense_or_sparse(
    low: Lowering,
    regions: PlaneRegions,
    call: Call,
    g: ConvGeometry,
    weight: FloatArray,
    bias: FloatArray,
    tail: Tail,
    y: Stored,
    batch: int,
) -> None:
    x_value = call.inputs[0]
    assert x_value is not None
    V = low.machine.lanes
    rank = len(shape_of(x_value))
    pitch = row_pitch(y.layout, rank) if rank == 4 else max(g.out_size[1], minimum_pitch(g))
    steps: list[int] = []
    matrix = weight.reshape(g.out_channels, -1)
    vectors = -(-(g.out_size[0] * pitch) // V)
    shiftable = rank == 4 and g.kernel[1] > 1 and g.stride == (1, 1) and pitch % V == 0
    taps = g.kernel[0] * g.kernel[1]
    choice = choose_spmm(
        SpmmLayer(matrix, vectors, taps, g.out_channels // g.groups, batch, shiftable),
        low.machine,
        dense_only=low.keep_dense(call.name),
        select=low.select(call.name),
    )
    planes = regions.planes(x_value)
    if shiftable and choice.rows == 1 and not choice.dense:
        x, offsets, x_batch, channel_pitch, index = _shift(low, call, g, pitch, batch)
        steps.append(index)
    elif rank == 4 and flat(g) and planes is not None and not x_value.is_graph_input():
        x = low.require(
            x_value,
            lambda s: _flat_input(s, pitch, has_padding(g), regions, x_value),
            lambda: _need(regions.layout(x_value)),
        )
        offsets, x_batch, channel_pitch = flat_offsets(g, x.layout), x.layout.strides[0], x.layout.strides[1]
    else:
        x, offsets, x_batch, channel_pitch, index = _split(low, call, g, pitch, batch)
        steps.append(index)
    offsets = group_offsets(g, offsets, choice.rows, channel_pitch)
    after = After(tail.epilogue, tail.row_operands, residuals(low, tail, y.layout))
    steps.append(
        spmm_step(
            low, call.name, (matrix, bias), offsets, choice, after, vectors=vectors, batch=batch, x=x, y=y,
            strides=(y.layout.strides[1], x_batch, y.layout.strides[0]),
        )
    )  # fmt: skip
    report_conv(
        low, call, g, weight, choice.label, choice.reason, choice.seconds, choice.dense_seconds, steps
    )


def _need(layout: Layout | None) -> Layout:
    assert layout is not None
    return layout


def _flat_input(stored: Stored, pitch: int, padded: bool, regions: PlaneRegions, value: Any) -> bool:
    """Whether a stored copy has this row pitch and, if shifted reads need them, the region's zeros."""
    if stored.exact or stored.dtype != "float32" or stored.layout.strides[2:] != (pitch, 1):
        return False
    return not padded or (stored.own and stored.layout == regions.layout(value))


def _split(
    low: Lowering, call: Call, g: ConvGeometry, pitch: int, batch: int
) -> tuple[Stored, npt.NDArray[np.int64], int, int, int]:
    """As `split_step`, from fp32."""
    x_value = call.inputs[0]
    assert x_value is not None
    shape, V = shape_of(x_value), low.machine.lanes
    rank = len(shape)

    def accepts(s: Stored) -> bool:
        unit = s.dtype == "float32" and s.layout.strides[rank - 1] == 1
        return unit and (not s.exact or split_form(g, pitch, row_pitch(s.layout, rank), V).exact_reads)

    x = low.require(x_value, accepts, lambda: plain_planes(shape, V))
    form = split_form(g, pitch, row_pitch(x.layout, rank), V)
    return split_step(low, f"{call.name}.split", f"{x_value.name}.phases", g, form, x, batch)


def _shift(
    low: Lowering, call: Call, g: ConvGeometry, pitch: int, batch: int
) -> tuple[Stored, npt.NDArray[np.int64], int, int, int]:
    """Emit shifted copies; returns (copies, tap offsets, batch stride, stride between channels, step)."""
    x_value = call.inputs[0]
    assert x_value is not None
    shape = shape_of(x_value)
    plan = plan_shifts(g, pitch)
    x = low.require(x_value, lambda s: _readable_planes(s, 4), lambda: plain_planes(shape, low.machine.lanes))
    form = ShiftForm(g.size, plan, x.layout.strides[2], low.machine.lanes)
    per_channel = len(plan.shifts) * plan.pitch
    batch_stride = g.channels * per_channel
    layout = Layout((batch_stride, per_channel, pitch, 1), 0, batch * batch_stride + 64)
    copies = low.buffer(layout, "float32", f"{x_value.name}.shifted")
    symbol = low.kernel("shift", form, lambda s: shift_kernel(form, s))
    index = low.step(
        f"{call.name}.shift", "shift", symbol, [base(x), base(copies)],
        [g.channels, x.layout.strides[1], x.layout.origin, x.layout.strides[0]], batch * g.channels,
    )  # fmt: skip
    return copies, shifted_offsets(g, plan), batch_stride, per_channel, index
