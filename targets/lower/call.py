"""One weighted op of the graph with its fused tail, seen the same way whether or not it is fused."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError
from sparsecc.ir import fused_parts, is_fused
from sparsecc.ir.edit import attribute_int, attribute_ints, constant_of
from sparsecc.ir.encoding import row_major
from sparsecc.ir.quantized import FEW_COLUMNS
from sparsecc.ir.weights import layer_name
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.lower.state import shape_of

FloatArray = npt.NDArray[np.float32]

WIDEST_STRIDE = 64  # columns; a vector of wider strided reads would leave the slack around the arena


@dataclass(frozen=True)
class Call:
    """A node of the graph: `anchor` does the work, `tail` is applied to its result, `coding` turns that into
    8-bit codes."""

    node: ir.Node
    anchor: ir.Node
    inputs: tuple[ir.Value | None, ...]
    output: ir.Value
    tail: tuple[ir.Node, ...]
    binding: dict[ir.Value, ir.Value]
    coding: ir.Node | None = None

    @property
    def name(self) -> str:
        return self.node.name or self.output.name or self.node.op_type

    @property
    def layer(self) -> str:
        """The name of its weight, as `sparsify` has it."""
        weight = self.inputs[1]
        return self.name if weight is None else layer_name(weight)


def call_of(model: ir.Model, node: ir.Node) -> Call:
    if not is_fused(node):
        return Call(node, node, tuple(node.inputs), node.outputs[0], (), {})
    parts = fused_parts(model, node)
    inputs = tuple(None if v is None else parts.binding[v] for v in parts.anchor.inputs)
    tail, coding = parts.epilogue, None
    if tail and tail[-1].op_type == "QuantizeLinear":
        tail, coding = tail[:-1], tail[-1]
    return Call(node, parts.anchor, inputs, node.outputs[0], tuple(tail), parts.binding, coding)


def unfused(call: Call) -> tuple[list[ir.Node], dict[ir.Value, ir.Value]]:
    """Copies of a fused call's nodes that are named as the graph around it, and whom their values stand for.

    For ops that no kernel with an epilogue takes: TVM lowers the nodes one by one.
    """
    copies: dict[ir.Value, ir.Value] = {}
    actual: dict[ir.Value, ir.Value] = {}
    nodes: list[ir.Node] = []
    body = [call.anchor, *call.tail]

    def copy_of(value: ir.Value) -> ir.Value:
        if value not in copies:
            source = call.binding.get(value, value)
            name = source.name if value in call.binding else f"{call.output.name}::{len(copies)}"
            copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=source.const_value)
            copies[value], actual[copy] = copy, source
        return copies[value]

    for node in body:
        inputs = [None if v is None else copy_of(v) for v in node.inputs]
        copy = ir.Node("", node.op_type, inputs, dict(node.attributes), num_outputs=1, name=node.name)
        result = copy.outputs[0]
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        if node is body[-1]:
            result.name, actual[result] = call.output.name, call.output
        else:
            result.name = f"{call.output.name}::{len(copies)}"
        copies[node.outputs[0]] = result
        nodes.append(copy)
    return nodes, actual


@dataclass(frozen=True)
class Tail:
    """A tail as kernels take it.

    Attributes:
        epilogue: the ops.
        bias: leading additions of per-row constants, summed; [rows] or None.
        row_operands: [rows] arrays in pointer order.
        tensors: values in pointer order; constants broadcast to the output's shape, others have it.
        shape: of the output.
    """

    epilogue: Epilogue
    bias: FloatArray | None
    row_operands: tuple[FloatArray, ...]
    tensors: tuple[ir.Value, ...]
    shape: tuple[int, ...]


def tail_of(call: Call, rows: int) -> Tail:
    """Translate a fused tail for a kernel whose output has `rows` rows (channels or features; 0: none)."""
    steps: dict[ir.Value, Operand] = {call.anchor.outputs[0]: Operand("step", 0)}
    bias: FloatArray | None = None
    row_operands: list[FloatArray] = []
    tensors: list[ir.Value] = []
    ops: list[EpilogueOp] = []
    for node in call.tail:
        operands: list[Operand] = []
        constants: list[tuple[int, FloatArray]] = []
        for position, value in enumerate(node.inputs):
            if value is None:
                continue
            if value in steps:
                operands.append(steps[value])
                continue
            actual = call.binding.get(value, value)
            array = constant_of(actual)
            if array is not None and array.size == 1:
                operands.append(Operand("constant", value=float(array.reshape(()))))
            elif array is not None and array.size == rows:
                constants.append((position, array.reshape(rows).astype(np.float32)))
                operands.append(Operand("row", len(row_operands) + len(constants) - 1))
            else:
                tensors.append(actual)
                operands.append(Operand("tensor", len(tensors) - 1))
        if node.op_type == "Add" and not ops and len(constants) == 1 and len(operands) == 2:
            bias = constants[0][1] if bias is None else bias + constants[0][1]
            steps[node.outputs[0]] = Operand("step", 0)
            continue
        row_operands += [array for _, array in constants]
        attributes = _attributes(node)
        if node.op_type == "Clip":
            limits = _clip_limits(node, call)
            operands, attributes = operands[:1], limits
        ops.append(EpilogueOp(node.op_type, tuple(operands), attributes))
        steps[node.outputs[0]] = Operand("step", len(ops))
    return Tail(
        Epilogue(tuple(ops), len(row_operands), len(tensors)),
        bias,
        tuple(row_operands),
        tuple(tensors),
        shape_of(call.output),
    )


def _attributes(node: ir.Node) -> tuple[tuple[str, float], ...]:
    found: list[tuple[str, float]] = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type == ir.AttributeType.FLOAT:
            found.append((name, attribute.as_float()))
        elif attribute.type == ir.AttributeType.STRING and attribute.as_string() == "tanh":
            found.append(("tanh", 1.0))
    return tuple(found)


def _clip_limits(node: ir.Node, call: Call) -> tuple[tuple[str, float], ...]:
    limits: list[tuple[str, float]] = []
    for name, value in zip(("min", "max"), node.inputs[1:], strict=False):
        if value is None:
            continue
        array = constant_of(call.binding.get(value, value))
        if array is None:
            raise UnsupportedOpError(
                f"{call.name}: Clip has a computed {name}; compile without fuse-epilogues"
            )
        limits.append((name, float(array.reshape(()))))
    return tuple(limits)


def conv_geometry(call: Call) -> ConvGeometry | None:
    """The geometry of a 1-D or 2-D fp32 Conv with constant weights and bias; None: TVM lowers it."""
    x, w = call.inputs[0], constant_of(call.inputs[1])
    bias = call.inputs[2] if len(call.inputs) > 2 else None
    if x is None or w is None or w.ndim not in (3, 4) or w.dtype != np.float32:
        return None
    if bias is not None and constant_of(bias) is None:
        return None
    in_shape, out_shape = shape_of(x), shape_of(call.output)
    spatial = w.ndim - 2
    kernel = tuple(int(k) for k in w.shape[2:])
    stride = attribute_ints(call.anchor, "strides") or (1,) * spatial
    dilation = attribute_ints(call.anchor, "dilations") or (1,) * spatial
    if stride[-1] > WIDEST_STRIDE:
        return None
    pads = padding(call.anchor, in_shape[2:], out_shape[2:], kernel, stride, dilation)
    groups = attribute_int(call.anchor, "group", 1)

    def pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
        return (values[0], values[1]) if len(values) == 2 else (missing, values[0])

    return ConvGeometry(
        channels=in_shape[1],
        out_channels=out_shape[1],
        groups=groups,
        size=pair(in_shape[2:], 1),
        out_size=pair(out_shape[2:], 1),
        kernel=pair(kernel, 1),
        stride=pair(stride, 1),
        dilation=pair(dilation, 1),
        pad=pair(pads, 0),
    )


def padding(
    node: ir.Node,
    size: tuple[int, ...],
    out_size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Zeros before the first element of each axis, `auto_pad` resolved (ONNX, Conv)."""
    attribute = node.attributes.get("auto_pad")
    auto = "NOTSET" if attribute is None else attribute.as_string()
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max(0, (o - 1) * s + d * (k - 1) + 1 - n)
            for o, s, d, k, n in zip(out_size, stride, dilation, kernel, size, strict=True)
        ]
        return tuple(t // 2 if auto == "SAME_UPPER" else -(-t // 2) for t in total)
    if auto == "VALID":
        return (0,) * len(size)
    pads = attribute_ints(node, "pads") or (0,) * (2 * len(size))
    return tuple(pads[: len(size)])


@dataclass(frozen=True)
class LinearWeights:
    """A matrix product with constant weights as Y[..., m] = sum_k W[m, k] X[..., k] + bias[m]."""

    matrix: FloatArray
    bias: FloatArray | None
    transposed_input: bool


def linear_weights(call: Call) -> LinearWeights | None:
    """The weights of a MatMul [.., K] x [K, M] or Gemm with a constant second operand, else None."""
    w = constant_of(call.inputs[1]) if len(call.inputs) > 1 else None
    if w is None or w.ndim != 2 or w.dtype != np.float32:
        return None
    if call.anchor.op_type == "MatMul":
        return LinearWeights(row_major(w.T), None, False)
    alpha, beta = (_float(call.anchor, name, 1.0) for name in ("alpha", "beta"))
    matrix = w if attribute_int(call.anchor, "transB", 0) else w.T
    c = call.inputs[2] if len(call.inputs) > 2 else None
    bias = None
    if c is not None:
        constant = constant_of(c)
        if constant is None or (constant.size != 1 and constant.shape[-1] != constant.size):
            return None
        bias = np.broadcast_to(constant.reshape(-1), (matrix.shape[0],)) * np.float32(beta)
    matrix = row_major(matrix) * np.float32(alpha)
    return LinearWeights(matrix, bias, bool(attribute_int(call.anchor, "transA", 0)))


def _float(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def columns_of(shape: tuple[int, ...]) -> int:
    """Columns that a linear layer on this input shape has."""
    return prod(shape[:-1])


def few(shape: tuple[int, ...]) -> bool:
    """Whether a linear layer on this input shape takes the form with lanes along rows."""
    return columns_of(shape) <= FEW_COLUMNS
