"""All other ops: chains through TVM's legalisation, copies between layouts, pools, softmax, norms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.ir.edit import attribute_float, attribute_int, attribute_ints, constant_of
from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.copy import copy_call, zero_halo_call
from sparsecc.targets.kernels.generic import legalize
from sparsecc.targets.kernels.norm import norm_call
from sparsecc.targets.kernels.ordered_nodes import ALONE
from sparsecc.targets.kernels.pool import Window, pool_call
from sparsecc.targets.kernels.softmax import softmax_call
from sparsecc.targets.layout import Layout, PlaneSpec
from sparsecc.targets.lower.call import padding
from sparsecc.targets.lower.memory import Buffer
from sparsecc.targets.lower.state import Lowering, Pointer, Stored, base, dtype_of, shape_of

LayoutOf = Callable[[ir.Value, Sequence[ir.Value]], Layout]


def lower_chain(
    low: Lowering,
    nodes: Sequence[ir.Node],
    layout_of: LayoutOf,
    actual: Mapping[ir.Value, ir.Value] = MappingProxyType({}),
) -> None:
    """Emit the kernels of nodes that are fused; only the last node's outputs are kept.

    Args:
        actual: for values of nodes outside the graph those that they stand for, of the same name.
    """
    inside = {output for node in nodes for output in node.outputs}
    external = [actual.get(v, v) for n in nodes for v in n.inputs if v is not None and v not in inside]
    constants: dict[str, npt.NDArray[Any]] = {}
    stored: dict[str, Stored] = {}
    for value in dict.fromkeys(external):
        array = constant_of(value)
        name = value.name or ""
        if array is not None:
            constants[name] = array
        else:
            stored[name] = low.any_version(value)
    outputs = [actual.get(v, v) for v in nodes[-1].outputs]
    all_at_once = nodes[-1].op_type in ALONE  # such a kernel writes all outputs, read or not
    results = [v for v in outputs if v.name and (all_at_once or v.uses() or v.is_graph_output())]
    for value in results:
        stored[value.name or ""] = low.buffer(layout_of(value, external), dtype_of(value), value.name or "")
    label = nodes[-1].name or outputs[0].name or nodes[-1].op_type
    chain = legalize(
        nodes,
        {name: s.layout for name, s in stored.items()},
        constants=constants,
        lanes=low.machine.lanes,
        name=f"step{len(low.steps)}",
        loops=low.loops,
    )
    memory: dict[str, Pointer] = {name: base(s) for name, s in stored.items()}
    for temporary in chain.temporaries:
        memory[temporary.name] = base(
            low.buffer(Layout.rows(temporary.shape), temporary.dtype, temporary.name)
        )
    for name, array in chain.constants.items():
        memory[name] = Pointer(low.weights.add(array))
    for call in chain.calls:
        low.makers.setdefault(call.symbol, call.make)
        pointers = [memory[name] for name in (*call.inputs, *call.outputs)]
        low.step(label, "generic", call.symbol, pointers, [], call.extent)
    for value in results:
        low.define(value, stored[value.name or ""])


def copy_to(
    low: Lowering,
    source: Stored,
    shape: tuple[int, ...],
    layout: Layout,
    name: str,
    into: Buffer | None = None,
) -> Stored:
    """Copy a value into another layout, in a new buffer or in `into`."""
    made = low.buffer(layout, source.dtype, name) if into is None else Stored(into, layout, source.dtype)
    call = copy_call(shape, source.dtype, source.layout, layout, low.machine.lanes, low.loops)
    low.makers.setdefault(call.symbol, call.make)
    low.step(f"{name}.copy", "copy", call.symbol, [base(source), base(made)], [], call.extent)
    return made


def zero_halo(
    low: Lowering, stored: Stored, shape: tuple[int, ...], spec: PlaneSpec, name: str, bits: int = 0
) -> None:
    """Write zeros, or elements of these bits, around the planes of a value."""
    call = zero_halo_call(stored.layout, shape, spec, low.machine.lanes, bits)
    low.makers.setdefault(call.symbol, call.make)
    low.step(f"{name}.zeros", "zeros", call.symbol, [base(stored)], [], call.extent)


def lower_pool(low: Lowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    """MaxPool and AveragePool of small windows on planes; False for others."""
    source = node.inputs[0]
    if source is None or len(node.outputs) != 1 or source.dtype != ir.DataType.FLOAT:
        return False
    shape, kernel = shape_of(source), attribute_ints(node, "kernel_shape")
    if (
        node.op_type not in ("MaxPool", "AveragePool")
        or kernel is None
        or len(kernel) != 2
        or prod(kernel) > 64
    ):
        return False
    if attribute_int(node, "storage_order", 0):
        return False
    stride = attribute_ints(node, "strides") or (1, 1)
    dilation = attribute_ints(node, "dilations") or (1, 1)
    out_shape = shape_of(node.outputs[0])
    begin = padding(node, shape[2:], out_shape[2:], kernel, stride, dilation)
    pads = attribute_ints(node, "pads") or (0, 0, 0, 0)
    auto = node.attributes.get("auto_pad")
    ceil_mode = bool(attribute_int(node, "ceil_mode", 0))
    windows: list[Window] = []
    for axis in (0, 1):
        end = pads[2 + axis]
        if auto is not None and auto.as_string() != "NOTSET":
            covered = (out_shape[2 + axis] - 1) * stride[axis] + dilation[axis] * (kernel[axis] - 1) + 1
            end = max(0, covered - shape[2 + axis] - begin[axis])
        windows.append(Window(kernel[axis], stride[axis], begin[axis], end, dilation[axis]))
    x = low.require(source, lambda s: s.layout.strides[3] == 1, lambda: Layout.rows(shape))
    y = low.buffer(layout_of(node.outputs[0], ()), "float32", node.outputs[0].name or "")
    call = pool_call(
        shape, x.layout, y.layout, low.machine.lanes, rows=windows[0], columns=windows[1],
        average=node.op_type == "AveragePool", include_pad=bool(attribute_int(node, "count_include_pad", 0)),
        ceil_mode=ceil_mode,
    )  # fmt: skip
    _emit(low, node, "pool", call, [base(x), base(y)])
    low.define(node.outputs[0], y)
    return True


def lower_softmax(low: Lowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    """Softmax of fp32 in any layout."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.dtype != ir.DataType.FLOAT:
        return False
    shape = shape_of(source)
    x = low.any_version(source)
    y = low.buffer(layout_of(output, [source]), "float32", output.name or "")
    call = softmax_call(shape, attribute_int(node, "axis", -1), x.layout, y.layout, low.machine.lanes)
    _emit(low, node, "softmax", call, [base(x), base(y)])
    low.define(output, y)
    return True


def lower_norm(low: Lowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    """LayerNormalization and RMSNormalization with constant scale and bias."""
    source, output = node.inputs[0], node.outputs[0]
    constants = [constant_of(v) for v in node.inputs[1:] if v is not None]
    extra = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
    if source is None or source.dtype != ir.DataType.FLOAT or extra or any(c is None for c in constants):
        return False
    shape = shape_of(source)
    axis = attribute_int(node, "axis", -1) % len(shape)
    size = prod(shape[axis:])
    arrays = [np.broadcast_to(c, shape[axis:]) for c in constants if c is not None and c.size in (1, size)]
    if len(arrays) != len(constants):
        return False
    x = low.any_version(source)
    y = low.buffer(layout_of(output, [source]), "float32", output.name or "")
    call = norm_call(
        shape, range(axis, len(shape)), x.layout, y.layout, low.machine.lanes,
        epsilon=attribute_float(node, "epsilon", 1e-5), centered=node.op_type == "LayerNormalization",
        scaled=len(arrays) > 0, biased=len(arrays) > 1,
    )  # fmt: skip
    _emit(low, node, "norm", call, [base(x), *low.pack(*(a.astype(np.float32) for a in arrays)), base(y)])
    low.define(output, y)
    return True


def _emit(low: Lowering, node: ir.Node, kind: str, call: KernelCall, pointers: list[Pointer]) -> None:
    low.makers.setdefault(call.symbol, call.make)
    label = node.name or node.outputs[0].name or node.op_type
    low.step(label, kind, call.symbol, pointers, call.scalars, call.extent)
