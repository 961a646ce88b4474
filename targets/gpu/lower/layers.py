"""Layers with weights on a device: convolutions, depthwise ones, and linear layers."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.ir import encoding_of
from sparsecc.ir.edit import constant_of
from sparsecc.ir.quantized import BLOCK, Quantized, quantized_of
from sparsecc.targets.gpu.kernels.depthwise import THREADS, DepthwiseForm, depthwise_kernel
from sparsecc.targets.gpu.kernels.groups import GroupsForm, groups_kernel, pack_groups
from sparsecc.targets.gpu.kernels.product import (
    ProductForm,
    pack_dense,
    pack_sparse,
    product_kernel,
    taps_of,
    window_scalars,
)
from sparsecc.targets.gpu.kernels.rows import BLOCK as ROWS_BLOCK
from sparsecc.targets.gpu.kernels.rows import RowsForm, pack_rows, rows_kernel
from sparsecc.targets.gpu.lower.forms import FormChoice, choose_form
from sparsecc.targets.gpu.lower.state import QUAD, DeviceLowering, in_quads, is_flat, planes
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.groups import stored_groups
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, LinearWeights, Tail, columns_of, few, tail_of
from sparsecc.targets.lower.conv_planes import report_conv
from sparsecc.targets.lower.linear import linear_layout
from sparsecc.targets.lower.rowwise import padded_bias, padded_rows_of, residuals, row_operand_pointers
from sparsecc.targets.lower.state import LayerReport, Pointer, Stored, base, shape_of

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

_NO_TAPS = np.zeros(0, np.int32)
_WIDE = 64  # columns from which a group has one warp along them


def lower_conv(low: DeviceLowering, call: Call, g: ConvGeometry) -> None:
    """Emit a convolution with constant weights."""
    weight = constant_of(call.inputs[1])
    x_value, out = call.inputs[0], call.output
    assert weight is not None and x_value is not None
    shape = shape_of(x_value)
    weight = weight.reshape(weight.shape[0], weight.shape[1], *g.kernel).astype(np.float32)
    tail = tail_of(call, g.out_channels)
    bias = padded_bias(call.inputs[2] if len(call.inputs) > 2 else None, tail, g.out_channels)
    if g.pointwise:
        x = low.require(x_value, lambda s: is_flat(s, shape), lambda: planes(shape))
    else:
        x = low.require(
            x_value,
            lambda s: s.dtype == "float32" and s.layout.strides[-1] == 1,
            lambda: planes(shape),
        )
    y = low.buffer(planes(shape_of(out)), "float32", out.name or "")
    if g.depthwise and g.out_channels % g.channels == 0:
        _depthwise(low, call, g, weight, bias, tail, x, y)
    else:
        _conv(low, call, g, weight, bias, tail, x, y)
    low.define(out, y)


def _row_pitch(stored: Stored) -> int:
    return stored.layout.strides[2] if len(stored.layout.strides) == 4 else 1


def _depthwise(
    low: DeviceLowering,
    call: Call,
    g: ConvGeometry,
    weight: FloatArray,
    bias: FloatArray,
    tail: Tail,
    x: Stored,
    y: Stored,
) -> None:
    form = DepthwiseForm(g.kernel, g.stride, g.dilation, tail.epilogue)
    symbol = low.kernel("depthwise", form, lambda s: depthwise_kernel(form, s))
    extra = residuals(low, tail, y.layout)
    positions = prod(g.out_size)
    scalars = [
        g.out_channels,
        g.out_channels // g.channels,
        positions,
        g.out_size[1],
        *g.size,
        *g.pad,
        _row_pitch(x),
        x.layout.strides[1],
        x.layout.origin,
        x.layout.strides[0],
        y.layout.strides[1],
        y.layout.origin,
        y.layout.strides[0],
        *(r.layout.strides[0] for r in extra),
    ]
    pointers = _pointers(low, [weight.reshape(g.out_channels, -1), bias], x, y, tail, extra)
    grid = -(-positions // THREADS), shape_of(call.output)[0] * g.out_channels
    index = low.launch(call.name, "depthwise", symbol, pointers, scalars, grid, (THREADS,))
    report_conv(low, call, g, weight, "depthwise", "depthwise convolutions run dense", 0.0, 0.0, [index])


def _pointers(
    low: DeviceLowering,
    tables: list[npt.NDArray[np.generic]],
    x: Stored,
    y: Stored,
    tail: Tail,
    extra: list[Stored],
) -> list[Pointer]:
    rows = row_operand_pointers(low, tail.row_operands)
    return [*low.pack(*tables), base(x), base(y), *rows, *map(base, extra)]


def _conv(
    low: DeviceLowering,
    call: Call,
    g: ConvGeometry,
    weight: FloatArray,
    bias: FloatArray,
    tail: Tail,
    x: Stored,
    y: Stored,
) -> None:
    matrix = weight.reshape(g.out_channels, -1)
    group_rows = g.out_channels // g.groups
    choice = choose_form(matrix, group_rows, dense_only=low.keep_dense(call.name))
    own_columns = choice.sparse or g.groups > 1
    per_group = g.channels // g.groups
    taps, both = taps_of(g)
    channel = np.arange(per_group)[:, None] * x.layout.strides[1]
    inside = taps[:, 0] * _row_pitch(x) + taps[:, 1]
    offset = (channel + inside[None, :]).reshape(-1).astype(np.int32)
    tap = _NO_TAPS if g.pointwise else np.tile(both, per_group)
    if g.groups > 1:
        blocks = -(-g.out_channels // choice.rows)
        first = np.arange(blocks) * choice.rows // group_rows * per_group * x.layout.strides[1]
        offset = (first[:, None] + offset[None, :]).astype(np.int32)
    strides = (x.layout.strides[0], y.layout.strides[1], y.layout.strides[0])
    window = [] if g.pointwise else window_scalars(g, _row_pitch(x))
    index = _product(
        low, call, choice, matrix, (offset, tap), bias, tail, (x, y),
        columns=prod(g.out_size), batch=shape_of(call.output)[0], strides=strides, window=window,
        own_columns=own_columns,
    )  # fmt: skip
    report_conv(low, call, g, weight, choice.label, choice.reason, 0.0, 0.0, [index])


def product_form(
    choice: FormChoice, columns: int, *, sparse: bool, windowed: bool, tail: Tail
) -> ProductForm:
    """The kernel of a layer: how many threads along rows and columns, and what is staged at once."""
    if sparse:
        block = (32, 4) if columns > _WIDE else (16, 8)
        return ProductForm(choice.rows, QUAD, block, 32, True, windowed, tail.epilogue)
    return ProductForm(max(choice.rows, 4), QUAD, (16, 8), 16, False, windowed, tail.epilogue)


def _product(
    low: DeviceLowering,
    call: Call,
    choice: FormChoice,
    matrix: FloatArray,
    reads: tuple[IntArray, IntArray],
    bias: FloatArray,
    tail: Tail,
    tensors: tuple[Stored, Stored],
    *,
    columns: int,
    batch: int,
    strides: tuple[int, int, int],
    window: list[int],
    own_columns: bool,
) -> int:
    """Emit a product; `strides` are X's batch, Y's row and Y's batch stride."""
    x, y = tensors
    offset, tap = reads
    if not window:
        offset = offset // QUAD
    form = product_form(choice, columns, sparse=own_columns, windowed=bool(window), tail=tail)
    symbol = low.kernel("product", form, lambda s: product_kernel(form, s))
    tile_rows, tile_columns = form.tile
    if own_columns:
        # of a dense layer in groups every block lists all columns of its group
        tables = pack_sparse(matrix, form, offset, tap, full=not choice.sparse)
        count = len(tables.row)
    else:
        tables, count = pack_dense(matrix, form, offset, tap), matrix.shape[1]
    tiles = -(-len(matrix) // tile_rows)
    extra = residuals(low, tail, y.layout)
    x_batch, y_row, y_batch = strides
    unit = 1 if window else QUAD
    scalars = [
        len(matrix), columns, count, tiles, y_row // QUAD, y.layout.origin // QUAD, y_batch // QUAD,
        x.layout.origin // unit, x_batch // unit, *window, *(y_batch for _ in extra),
    ]  # fmt: skip
    return low.launch(
        call.name,
        "product",
        symbol,
        _pointers(low, [*tables.arrays(), bias], x, y, tail, extra),
        scalars,
        (-(-columns // tile_columns), batch * tiles),
        form.block,
    )


def lower_linear(low: DeviceLowering, call: Call, weights: LinearWeights) -> None:
    """Emit a MatMul or Gemm with constant weights."""
    x_value, out = call.inputs[0], call.output
    assert x_value is not None
    shape = shape_of(x_value)
    if weights.transposed_input:
        shape = (shape[1], shape[0])
    rows = len(weights.matrix)
    tail = tail_of(call, rows)
    bias = np.zeros(padded_rows_of(rows), np.float32)
    for part in (weights.bias, tail.bias):
        if part is not None:
            bias[:rows] += part
    y = low.buffer(linear_layout(shape_of(out), QUAD), "float32", out.name or "")
    if few(shape):
        _few_columns(low, call, weights, tail, bias, shape, y)
    else:
        _many_columns(low, call, weights, tail, bias, shape, y)
    low.define(out, y)


def _view(stored: Stored, shape: tuple[int, ...], transposed: bool) -> Layout | None:
    """The [columns, K] view of an input."""
    layout = stored.layout.transpose((1, 0)) if transposed else stored.layout
    return layout.reshape(shape, (columns_of(shape), shape[-1]))


def _input(
    low: DeviceLowering, value: ir.Value, shape: tuple[int, ...], transposed: bool, *, quads: bool
) -> tuple[Stored, Layout]:
    """A stored copy and its [columns, K] view; with `quads` the columns lie one behind the other."""

    def accepts(s: Stored) -> bool:
        view = _view(s, shape, transposed)
        if view is None or s.dtype != "float32":
            return False
        return not quads or (view.strides[0] == 1 and in_quads(s, view.strides[1:], columns_of(shape)))

    def layout() -> Layout:
        made = Layout.features(shape, QUAD) if quads else Layout.rows(shape)
        return made.transpose((1, 0)) if transposed else made

    x = low.require(value, accepts, layout)
    view = _view(x, shape, transposed)
    assert view is not None
    return x, view


def _many_columns(
    low: DeviceLowering,
    call: Call,
    weights: LinearWeights,
    tail: Tail,
    bias: FloatArray,
    shape: tuple[int, ...],
    y: Stored,
) -> None:
    x_value, matrix = call.inputs[0], weights.matrix
    assert x_value is not None
    x, view = _input(low, x_value, shape, weights.transposed_input, quads=True)
    choice = choose_form(matrix, len(matrix), dense_only=low.keep_dense(call.name))
    offset = (np.arange(matrix.shape[1]) * view.strides[1]).astype(np.int32)
    columns = columns_of(shape)
    index = _product(
        low, call, choice, matrix, (offset, _NO_TAPS), bias, tail, (x, y),
        columns=columns, batch=1, strides=(0, y.layout.strides[-1], 0), window=[], own_columns=choice.sparse,
    )  # fmt: skip
    _report(low, call, matrix, columns, choice.label, choice.reason, index)


def _few_columns(
    low: DeviceLowering,
    call: Call,
    weights: LinearWeights,
    tail: Tail,
    bias: FloatArray,
    shape: tuple[int, ...],
    y: Stored,
) -> None:
    x_value, matrix = call.inputs[0], weights.matrix
    assert x_value is not None
    columns = columns_of(shape)
    x, view = _input(low, x_value, shape, weights.transposed_input, quads=False)
    quantized = quantized_of(matrix)
    if quantized is not None and quantized.bits == 8 and "int8" not in low.gpu.types:
        quantized = None
    if quantized is not None and quantized.bits == 4:
        kind, symbol, tables, sizes, label, reason = _groups(low, call, quantized, columns, tail)
    else:
        kind, symbol, tables, sizes, label, reason = _rows(low, call, matrix, quantized, columns, tail)
    extra = residuals(low, tail, y.layout)
    y_n = y.layout.strides[-2] if len(y.layout.strides) > 1 else 0
    scalars = [
        len(matrix), *sizes, view.origin, view.strides[0], view.strides[1], y.layout.origin, y_n,
        *(0 for _ in extra),
    ]  # fmt: skip
    blocks = sizes[0] if sizes else len(matrix)
    index = low.launch(
        call.name,
        kind,
        symbol,
        _pointers(low, [*tables, bias], x, y, tail, extra),
        scalars,
        (-(-blocks // ROWS_BLOCK[1]), 1),
        ROWS_BLOCK,
    )
    label += f", {columns} column{'s' if columns > 1 else ''}"
    _report(low, call, matrix, columns, label, reason, index)


_Kernel = tuple[str, str, list[npt.NDArray[np.generic]], list[int], str, str]
"""Family, symbol, tables, scalars behind M, and for the report a label and why."""


def _rows(
    low: DeviceLowering, call: Call, matrix: FloatArray, quantized: Quantized | None, columns: int, tail: Tail
) -> _Kernel:
    """Weights of 32 or 8 bits, in blocks of rows."""
    choice = choose_form(matrix, len(matrix), dense_only=low.keep_dense(call.name))
    rows = min(choice.rows, 4)
    form = RowsForm(rows, columns, choice.sparse, quantized is not None, tail.epilogue)
    symbol = low.kernel("rows", form, lambda s: rows_kernel(form, s))
    tables = pack_rows(matrix if quantized is None else quantized.codes, rows, sparse=choice.sparse)
    if quantized is not None:
        tables.append(np.pad(quantized.scale, (0, padded_rows_of(len(matrix)) - len(matrix))))
    sizes = [-(-len(matrix) // rows), matrix.shape[1]]
    label = ("" if quantized is None else "int8 ") + replace(choice, rows=rows).label
    return "rows", symbol, tables, sizes, label, choice.reason


def _groups(low: DeviceLowering, call: Call, quantized: Quantized, columns: int, tail: Tail) -> _Kernel:
    """Weights of 4 bits; groups of zeros are not stored."""
    form = GroupsForm(columns, tail.epilogue)
    symbol = low.kernel("groups", form, lambda s: groups_kernel(form, s))
    mask = stored_groups(quantized.codes)
    if low.keep_dense(call.name):
        mask[:] = True
    label = "int4 dense" if mask.all() else f"int4 sparse 1x{BLOCK}"
    reason = f"{mask.mean():.0%} of the groups of {BLOCK} columns are stored"
    return "groups", symbol, pack_groups(quantized, mask), [], label, reason


def _report(
    low: DeviceLowering, call: Call, matrix: FloatArray, columns: int, kernel: str, reason: str, step: int
) -> None:
    low.layers.append(
        LayerReport(
            call.layer,
            call.name,
            call.anchor.op_type,
            f"{matrix.shape[0]}x{matrix.shape[1]} on {columns} columns",
            str(encoding_of(matrix)),
            float(1 - np.count_nonzero(matrix) / matrix.size),
            kernel,
            reason,
            0.0,
            0.0,
            [step],
        )
    )
