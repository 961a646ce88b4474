"""Convolutions: depthwise, flat over planes, or over phase planes made by a split."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.ir import encoding_of
from sparsecc.ir.edit import constant_of
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.depthwise import DepthwiseForm, choose_strip, depthwise_kernel
from sparsecc.targets.kernels.quads import worth_packing
from sparsecc.targets.kernels.shift import ShiftForm, plan_shifts, shift_kernel, shifted_offsets
from sparsecc.targets.kernels.split import SplitForm, minimum_pitch, plan_phases, split_kernel, tap_offsets
from sparsecc.targets.kernels.spmm import SpmmForm, pack_spmm, spmm_kernel, tile_classes
from sparsecc.targets.layout import ROW_SLACK, Layout, PlaneSpec, round_up
from sparsecc.targets.lower.call import Call, Tail, tail_of
from sparsecc.targets.lower.regions import PlaneRegions, flat, has_padding
from sparsecc.targets.lower.select import choose_spmm
from sparsecc.targets.lower.state import LayerReport, Lowering, Pointer, Stored, base, shape_of

FloatArray = npt.NDArray[np.float32]

_STREAMED = 128 * 1024  # bytes of weights from which fetching ahead pays


def as_planes(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """[N, C, H, W]; a 1-D convolution's [N, C, W] has H = 1."""
    return (shape[0], shape[1], 1, shape[2]) if len(shape) == 3 else (shape[0], shape[1], shape[2], shape[3])


def lower_conv(low: Lowering, regions: PlaneRegions, call: Call, g: ConvGeometry) -> None:
    """Emit the steps of a convolution with constant weights."""
    weight = constant_of(call.inputs[1])
    x, out = call.inputs[0], call.output
    assert weight is not None and x is not None
    weight = weight.reshape(weight.shape[0], weight.shape[1], *g.kernel).astype(np.float32)
    tail = tail_of(call, g.out_channels)
    bias = padded_bias(call.inputs[2] if len(call.inputs) > 2 else None, tail, g.out_channels)
    batch = shape_of(out)[0]
    y = low.buffer(output_layout(low, regions, call, g), "float32", out.name or "")
    if g.depthwise and g.out_channels % g.channels == 0:
        _depthwise(low, call, g, weight, bias, tail, y, batch)
    else:
        _dense_or_sparse(low, regions, call, g, weight, bias, tail, y, batch)
    low.define(out, y)


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


def padded_rows_of(rows: int) -> int:
    """Length of a per-row constant that kernels may read beyond the last row: a block, or whole vectors."""
    return round_up(rows + ROW_SLACK, 16)


def padded_bias(value: Any, tail: Tail, rows: int) -> FloatArray:
    """Bias and leading constant additions, with room for a kernel's last block of rows."""
    bias = np.zeros(padded_rows_of(rows), np.float32)
    given = constant_of(value)
    if given is not None:
        bias[:rows] += given.reshape(-1)
    if tail.bias is not None:
        bias[:rows] += tail.bias
    return bias


def row_operand_pointers(low: Lowering, tail: Tail) -> list[Pointer]:
    """The tail's per-row constants, padded as the bias is."""
    return [p for a in tail.row_operands for p in low.pack(np.pad(a, (0, padded_rows_of(a.size) - a.size)))]


def residuals(low: Lowering, tail: Tail, layout: Layout) -> list[Stored]:
    """The tail's tensors, each in exactly the output's layout; constants are packed in it."""

    def residual(value: ir.Value) -> Stored:
        array = constant_of(value)
        if array is not None:
            return low.constant_in(np.broadcast_to(array, tail.shape), layout)
        return low.require(
            value, lambda s: not s.exact and s.layout.same_elements(layout, tail.shape), lambda: layout
        )

    return [residual(value) for value in tail.tensors]


def row_pitch(layout: Layout, rank: int) -> int:
    return layout.strides[2] if rank == 4 else 1


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
        lambda: _plain_planes(shape, V),
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
        V,
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
            *row_operand_pointers(low, tail),
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
    _report(low, call, g, weight, "depthwise", "depthwise convolutions run dense", 0.0, 0.0, [index])


def _plain_planes(shape: tuple[int, ...], lanes: int) -> Layout:
    planes = as_planes(shape)
    layout = PlaneSpec(planes[3], 0, 0, 0, False).layout(planes, lanes)
    if len(shape) == 3:
        return Layout((layout.strides[0], layout.strides[1], 1), layout.origin, layout.size)
    return layout


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
    choice = choose_spmm(
        matrix,
        vectors,
        g.kernel[0] * g.kernel[1],
        low.machine,
        group_rows=g.out_channels // g.groups,
        batch=batch,
        dense_only=low.keep_dense(call.name),
        shiftable=shiftable,
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
        offsets, x_batch, channel_pitch = _flat_offsets(g, x.layout), x.layout.strides[0], x.layout.strides[1]
    else:
        x, offsets, x_batch, channel_pitch, index = _split(low, call, g, pitch, batch)
        steps.append(index)
    if g.groups > 1:
        rows_per_group = g.out_channels // g.groups
        first = np.arange(-(-g.out_channels // choice.rows)) * choice.rows // rows_per_group
        offsets = offsets[None, :] + (first * (g.channels // g.groups) * channel_pitch)[:, None]
    symbol, tables, extent, tile_counts = spmm_call(low, matrix, offsets, choice, vectors, batch, tail)
    extra = residuals(low, tail, y.layout)
    steps.append(
        low.step(
            call.name,
            "spmm",
            symbol,
            [*tables, *low.pack(bias), base(x), base(y), *row_operand_pointers(low, tail), *map(base, extra)],
            [
                *tile_counts,
                y.layout.strides[1],
                y.layout.origin,
                x_batch,
                y.layout.strides[0],
                *(r.layout.strides[0] for r in extra),
            ],
            extent,
        )
    )
    _report(low, call, g, matrix, choice.label, choice.reason, choice.seconds, choice.dense_seconds, steps)


def _need(layout: Layout | None) -> Layout:
    assert layout is not None
    return layout


def _flat_input(stored: Stored, pitch: int, padded: bool, regions: PlaneRegions, value: Any) -> bool:
    """Whether a stored copy has this row pitch and, if shifted reads need them, the region's zeros."""
    if stored.exact or stored.dtype != "float32" or stored.layout.strides[2:] != (pitch, 1):
        return False
    return not padded or (stored.own and stored.layout == regions.layout(value))


def _flat_offsets(g: ConvGeometry, layout: Layout) -> npt.NDArray[np.int64]:
    channel = np.arange(g.channels // g.groups, dtype=np.int64)[:, None, None] * layout.strides[1]
    rows = np.array([g.tap(0, d)[1] for d in range(g.kernel[0])])[None, :, None] * layout.strides[2]
    columns = np.array([g.tap(1, d)[1] for d in range(g.kernel[1])])[None, None, :]
    return (layout.origin + channel + rows + columns).reshape(-1)


def _split(
    low: Lowering, call: Call, g: ConvGeometry, pitch: int, batch: int
) -> tuple[Stored, npt.NDArray[np.int64], int, int, int]:
    """Emit the split; returns (phase planes, tap offsets, batch stride, stride between channels, step)."""
    x_value = call.inputs[0]
    assert x_value is not None
    shape = shape_of(x_value)
    rank = len(shape)
    V = low.machine.lanes
    plan = plan_phases(g, pitch, V)

    def form_for(stored: Stored) -> SplitForm:
        return SplitForm(g.size, g.stride, plan, row_pitch(stored.layout, rank), V)

    x = low.require(
        x_value,
        lambda s: (
            s.dtype == "float32"
            and s.layout.strides[rank - 1] == 1
            and (not s.exact or form_for(s).exact_reads)
        ),
        lambda: _plain_planes(shape, V),
    )
    form = form_for(x)
    per_channel = len(plan.phases) * plan.pitch
    batch_stride = g.channels * per_channel
    planes = low.buffer(
        Layout((batch_stride, per_channel, plan.row_pitch, 1), 0, batch * batch_stride + 64),
        "float32",
        f"{x_value.name}.phases",
    )
    symbol = low.kernel("split", form, lambda s: split_kernel(form, s))
    index = low.step(
        f"{call.name}.split",
        "split",
        symbol,
        [base(x), base(planes)],
        [g.channels, x.layout.strides[1], x.layout.origin, x.layout.strides[0]],
        batch * g.channels,
    )
    return planes, tap_offsets(g, plan), batch_stride, per_channel, index


def _shift(
    low: Lowering, call: Call, g: ConvGeometry, pitch: int, batch: int
) -> tuple[Stored, npt.NDArray[np.int64], int, int, int]:
    """Emit shifted copies; returns (copies, tap offsets, batch stride, stride between channels, step)."""
    x_value = call.inputs[0]
    assert x_value is not None
    shape = shape_of(x_value)
    plan = plan_shifts(g, pitch)
    x = low.require(
        x_value, lambda s: _readable_planes(s, 4), lambda: _plain_planes(shape, low.machine.lanes)
    )
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


def spmm_call(
    low: Lowering,
    matrix: FloatArray,
    offsets: npt.NDArray[np.int64],
    choice: Any,
    vectors: int,
    batch: int,
    tail: Tail,
) -> tuple[str, list[Pointer], int, list[int]]:
    """Pack the weights of an spmm step: (symbol, table pointers, extent, [tiles, tiles, parts])."""
    widths, (first, second) = tile_classes(vectors, choice.width)
    tiles = (first + second) * batch
    parts = 1 if tiles >= 8 or tiles % 2 == 0 else 4 if tiles < 3 else 2
    parts = min(parts, max(1, matrix.shape[0] // (4 * choice.rows)))
    packed = worth_packing(choice.rows, max(widths)) and not choice.dense
    tables = pack_spmm(
        matrix, offsets, choice.rows, chunk=choice.chunk, parts=parts, dense=choice.dense, packed=packed
    )
    stream = choice.rows >= 4 and tables.value.nbytes >= _STREAMED
    form = SpmmForm(
        choice.rows, widths, low.machine.lanes, stream, tables.chunked, tail.epilogue, tables.unit
    )
    symbol = low.kernel("spmm", form, lambda s: spmm_kernel(form, s))
    pointers = low.pack(*tables.arrays())
    return symbol, pointers, tiles * parts, [first, second, parts]


def _report(
    low: Lowering,
    call: Call,
    g: ConvGeometry,
    matrix: FloatArray,
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
            str(encoding_of(matrix.reshape(g.out_channels, -1))),
            float(1 - np.count_nonzero(matrix) / matrix.size),
            kernel,
            reason,
            seconds,
            dense_seconds,
            steps,
        )
    )
