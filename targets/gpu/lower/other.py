"""Products of two activations, softmax and normalisations on a device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import attribute_float, attribute_int, constant_of
from sparsecc.targets.gpu.kernels.matmul import BLOCK, TILE, MatMulForm, matmul_kernel
from sparsecc.targets.gpu.kernels.rowwise import NormForm, block_of, grid_of, norm_kernel, softmax_kernel
from sparsecc.targets.gpu.lower.state import DeviceLowering
from sparsecc.targets.kernels.rowwise import row_form
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, tail_of
from sparsecc.targets.lower.rowwise import residuals
from sparsecc.targets.lower.state import base, dtype_of, shape_of

LayoutOf = Callable[[ir.Value, Sequence[ir.Value]], Layout]


def lower_product(low: DeviceLowering, call: Call, wanted: Layout | None) -> None:
    """Emit MatMul of [..., M, K] and [..., K, N]; `wanted` is the output's layout, if anybody has a wish."""
    a_value, b_value = call.inputs[0], call.inputs[1]
    assert a_value is not None and b_value is not None
    out_shape = shape_of(call.output)
    a_shape, b_shape = shape_of(a_value), shape_of(b_value)
    a_vector, b_vector = len(a_shape) == 1, len(b_shape) == 1
    batch = out_shape[: len(out_shape) - (not a_vector) - (not b_vector)]
    M, N, K = 1 if a_vector else a_shape[-2], 1 if b_vector else b_shape[-1], a_shape[-1]
    a, other = low.any_version(a_value), low.any_version(b_value)
    layout = wanted if wanted is not None and not (a_vector or b_vector) else Layout.rows(out_shape)
    y = low.buffer(layout, "float32", call.output.name or "")
    strides = list(layout.strides)
    y_n = 0 if b_vector else strides.pop()
    y_m = 0 if a_vector else strides.pop()
    a_m, a_k = (0, a.layout.strides[0]) if a_vector else a.layout.strides[-2:]
    b_k, b_n = (other.layout.strides[0], 0) if b_vector else other.layout.strides[-2:]
    batches: list[list[int]] = []
    for d, extent in enumerate(batch):
        back = d - len(batch)
        batches.append(
            [
                extent,
                _batch_stride(a.layout, a_shape, back),
                _batch_stride(other.layout, b_shape, back),
                strides[d],
            ]
        )
    operands, sides = (a, other), ((a.layout.origin, a_m, a_k), (other.layout.origin, b_k, b_n))
    if y_m == 1 and y_n != 1:  # (A B)^T = B^T A^T, so that neighbouring threads write neighbouring elements
        M, N, y_m, y_n = N, M, y_n, y_m
        operands, sides = (other, a), ((other.layout.origin, b_n, b_k), (a.layout.origin, a_k, a_m))
        batches = [[extent, second, first, own] for extent, first, second, own in batches]
    tail = tail_of(call, 0)
    form = MatMulForm(sides[0][2] == 1, sides[1][1] == 1 and sides[1][2] != 1, len(batch), tail.epilogue)
    symbol = low.kernel("matmul", form, lambda s: matmul_kernel(form, s))
    extra = residuals(low, tail, layout)
    tiles = -(-M // TILE[0])
    scalars = [
        M,
        N,
        K,
        tiles,
        *sides[0],
        *sides[1],
        layout.origin,
        y_m,
        y_n,
        *(n for b in batches for n in b),
    ]
    low.launch(
        call.name,
        "matmul",
        symbol,
        [base(operands[0]), base(operands[1]), base(y), *map(base, extra)],
        [*scalars, *(0 for _ in extra)],
        (-(-N // TILE[1]), prod(batch) * tiles),
        BLOCK,
    )
    low.define(call.output, y)


def _batch_stride(layout: Layout, shape: tuple[int, ...], axis: int) -> int:
    """Stride of a batch dimension counted from the matrix dimensions, 0 where it is broadcast."""
    at = len(shape) - 2 + axis
    return 0 if at < 0 or shape[at] == 1 else layout.strides[at]


def lower_softmax(low: DeviceLowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    """Softmax of fp32 in any layout; False for others."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT:
        return False
    shape = shape_of(source)
    x = low.any_version(source)
    y = low.buffer(layout_of(output, [source]), dtype_of(output), output.name or "")
    axis = attribute_int(node, "axis", -1) % len(shape)
    form = row_form(shape, [axis], [x.layout, y.layout], 1)
    symbol = low.kernel("softmax", form, lambda s: softmax_kernel(form, s))
    label = node.name or output.name or node.op_type
    low.launch(label, "softmax", symbol, [base(x), base(y)], [], grid_of(form), block_of())
    low.define(output, y)
    return True


def lower_norm(low: DeviceLowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    """LayerNormalization and RMSNormalization with constant scale and bias; False for others."""
    source, output = node.inputs[0], node.outputs[0]
    constants = [constant_of(v) for v in node.inputs[1:] if v is not None]
    extra = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
    if source is None or source.dtype != ir.DataType.FLOAT or extra or any(c is None for c in constants):
        return False
    shape = shape_of(source)
    axis = attribute_int(node, "axis", -1) % len(shape)
    arrays = [np.broadcast_to(c, shape[axis:]) for c in constants if c is not None]
    x = low.any_version(source)
    y = low.buffer(layout_of(output, [source]), "float32", output.name or "")
    inner = Layout.rows(shape[axis:])
    repeated = replace(inner, strides=(*(0 for _ in shape[:axis]), *inner.strides))
    rows = row_form(shape, range(axis, len(shape)), [x.layout, y.layout, *(repeated for _ in arrays)], 1)
    form = NormForm(
        rows,
        attribute_float(node, "epsilon", 1e-5),
        node.op_type == "LayerNormalization",
        len(arrays) > 0,
        len(arrays) > 1,
    )
    symbol = low.kernel("norm", form, lambda s: norm_kernel(form, s))
    pointers = [base(x), *low.pack(*(a.astype(np.float32) for a in arrays)), base(y)]
    label = node.name or output.name or node.op_type
    low.launch(label, "norm", symbol, pointers, [], grid_of(rows), block_of())
    low.define(output, y)
    return True
