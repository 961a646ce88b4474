"""Put the elementwise tail of a convolution or matrix product into one call with it.

    c = Conv(x, w, b); a = Add(c, r); y = Relu(a)  ->  y = sparsecc.fused.Conv_Add_Relu:1(x, w, b, r)

The body of the called function holds the same nodes, so the model computes what it did.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import constant_of, is_output, owner_graph
from sparsecc.ir.fused import FUSED_DOMAIN, FUSED_VERSION
from sparsecc.ir.opset import OPSET
from sparsecc.ir.provenance import passes_of, record
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult

ANCHORS = ("Conv", "MatMul", "Gemm")
UNARY = frozenset(["Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "Elu"])
GATES = frozenset(("Sigmoid", "HardSigmoid", "Tanh"))
BINARY = frozenset(("Add", "Sub", "Mul", "Div"))


@dataclass(frozen=True)
class Stop:
    """Why a tail ends: a sentence and a code; no code means that there is nothing to tell."""

    reason: str
    code: str = ""


@dataclass
class Group:
    """An anchor and its tail, growing.

    Attributes:
        nodes: anchor first, then the tail in execution order.
        scalars: constant inputs to bake into the body.
    """

    nodes: list[ir.Node]
    scalars: dict[ir.Value, np.ndarray] = field(default_factory=dict[ir.Value, np.ndarray])

    @property
    def output(self) -> ir.Value:
        """The value that the group computes."""
        return self.nodes[-1].outputs[0]


@dataclass(frozen=True)
class FuseEpilogues(Pass):
    """Fuse elementwise tails into Conv, MatMul and Gemm.

    1. an activation: Relu, Clip by constants, LeakyRelu, Sigmoid, Tanh, HardSigmoid, HardSwish, Gelu, Elu
    2. x * Sigmoid(x), also with HardSigmoid or Tanh
    3. Add, Sub, Mul, Div with a scalar or a per-output-channel constant
    4. Add, Sub, Mul or Div with a tensor of the same shape; Add is a residual connection
    5. QuantizeLinear with one constant scale that only DequantizeLinear reads; nothing more is fused behind

    A residual of two anchors goes into the one that runs later. The tail ends where another node reads the
    value, or where an operand would broadcast differently: refusals say which.
    """

    name: ClassVar[str] = "fuse-epilogues"
    summary: ClassVar[str] = "fuse elementwise tails into convolutions and matrix products"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Fuse, later anchors first."""
        refusals: list[Refusal] = []
        groups: list[Group] = []
        claimed: set[ir.Node] = set()
        anchors = [n for n in model.graph.all_nodes() if n.domain == "" and n.op_type in ANCHORS]
        for anchor in reversed(anchors):
            group = Group([anchor])
            while not isinstance(step := _next(group, claimed), Stop):
                claimed.update(step)
                group.nodes.extend(step)
            if step.code:
                refusals.append(Refusal(step.reason, anchor.name or anchor.op_type, step.code))
            if len(group.nodes) > 1:
                groups.append(group)
        for group in reversed(groups):
            _outline(model, group)
        notes = (f"fused {len(groups)} tails",) if groups else ()
        return PassResult(bool(groups), tuple(reversed(refusals)), notes)


def _next(group: Group, claimed: set[ir.Node]) -> list[ir.Node] | Stop:
    """The next one or two nodes of the tail."""
    value = group.output
    if is_output(value) or group.nodes[-1].op_type == "QuantizeLinear":
        return Stop("")
    readers = list(dict.fromkeys(node for node, _ in value.uses()))
    if any(reader.graph is not group.nodes[0].graph for reader in readers):
        return Stop(f"{value.name} is read inside a subgraph", "subgraph")
    if len(readers) == 2:
        gate = _gated(value, readers)
        if gate is not None and not claimed.intersection(gate):
            return gate
    if len(readers) != 1:
        fusible = any(reader.op_type in UNARY | BINARY | {"Clip"} for reader in readers)
        text = (
            f"{value.name} has {len(readers)} readers, so the tail of {node_text(group.nodes[0])} ends there"
        )
        return Stop(text, "multiple-consumers" if fusible else "")
    (node,) = readers
    if node.domain != "":
        return Stop("")
    if node in claimed:
        return Stop("")
    if node.op_type in UNARY:
        return [node]
    if node.op_type == "Clip":
        return _clip(group, node, value)
    if node.op_type == "QuantizeLinear":
        return _coding(group, node, value)
    if node.op_type in BINARY:
        return _binary(group, node, value)
    return Stop("")


def _gated(value: ir.Value, readers: list[ir.Node]) -> list[ir.Node] | None:
    """Case 2: the two readers are a gate and the Mul of value and gate."""
    for gate, product in (readers, reversed(readers)):
        if gate.domain == product.domain == "" and gate.op_type in GATES and product.op_type == "Mul":
            result = gate.outputs[0]
            only_use = len(result.uses()) == 1 and not is_output(result)
            if only_use and {*product.inputs} == {value, result}:
                return [gate, product]
    return None


def _clip(group: Group, node: ir.Node, value: ir.Value) -> list[ir.Node] | Stop:
    bounds = [bound for bound in node.inputs[1:] if bound is not None]
    arrays = [constant_of(bound) for bound in bounds]
    if node.inputs[0] is not value or any(array is None for array in arrays):
        return Stop(f"{node_text(node)} has bounds that are not constant", "not-constant")
    group.scalars.update({b: a for b, a in zip(bounds, arrays, strict=True) if a is not None})
    return [node]


def _coding(group: Group, node: ir.Node, value: ir.Value) -> list[ir.Node] | Stop:
    """Case 5."""
    numbers = {v: constant_of(v) for v in node.inputs[1:] if v is not None}
    if node.inputs[0] is not value or any(n is None or n.size != 1 for n in numbers.values()):
        return Stop(f"{node_text(node)} has a scale that is not one constant", "not-constant")
    if any(reader.op_type != "DequantizeLinear" for reader, _ in node.outputs[0].uses()):
        return Stop("")
    group.scalars.update({v: n for v, n in numbers.items() if n is not None})
    return [node]


def _binary(group: Group, node: ir.Node, value: ir.Value) -> list[ir.Node] | Stop:
    """Cases 3 and 4."""
    others = [operand for operand in node.inputs if operand is not value]
    if len(others) != 1 or others[0] is None or value.shape is None or value.dtype != others[0].dtype:
        return Stop("")
    other = others[0]
    if node.outputs[0].shape is not None and node.outputs[0].shape != value.shape:
        return Stop(f"{node_text(node)} broadcasts {value.name} to another shape", "broadcast")
    constant = constant_of(other)
    if constant is not None and constant.size == 1 and constant.ndim <= len(value.shape):
        group.scalars[other] = constant
        return [node]
    if other.shape is not None and other.shape == value.shape and value.shape.is_static():
        return [node]
    if constant is not None and _along_channels(group.nodes[0], constant.shape, value.shape):
        return [node]
    text = (
        f"{node_text(node)} reads {other.name}, which is neither per channel nor of the shape of {value.name}"
    )
    return Stop(text, "broadcast")


def _along_channels(anchor: ir.Node, shape: tuple[int, ...], output: ir.Shape) -> bool:
    """Whether a constant broadcasts along the channels only: axis 1 of Conv, the last of MatMul, Gemm."""
    rank = len(output)
    axis = 1 if anchor.op_type == "Conv" else rank - 1
    dims = (1,) * (rank - len(shape)) + tuple(shape)
    return (
        len(dims) == rank
        and dims[axis] == output[axis]
        and all(dim == 1 for index, dim in enumerate(dims) if index != axis)
    )


def _outline(model: ir.Model, group: Group) -> None:
    """Replace the group by a call of a new function that holds copies of its nodes."""
    anchor, last = group.nodes[0], group.nodes[-1]
    inside: dict[ir.Value, ir.Value] = {}
    actual: list[ir.Value] = []
    formal: list[ir.Value] = []
    body: list[ir.Node] = []
    for node in group.nodes:
        operands: list[ir.Value | None] = []
        for value in node.inputs:
            if value is None or value in inside:
                operands.append(None if value is None else inside[value])
            elif node is not anchor and value in group.scalars:
                operands.append(_baked(body, value, group.scalars[value]))
            else:
                parameter = ir.Value(name=f"in{len(formal)}", shape=value.shape, type=value.type)
                formal.append(parameter)
                actual.append(value)
                operands.append(parameter)
        copy = ir.Node("", node.op_type, operands, dict(node.attributes), num_outputs=1, name=node.name)
        result = copy.outputs[0]
        result.name, result.shape, result.type = (
            node.outputs[0].name,
            node.outputs[0].shape,
            node.outputs[0].type,
        )
        inside[node.outputs[0]] = result
        body.append(copy)
    op_type = "_".join(node.op_type for node in group.nodes)
    overload = str(
        1 + sum(1 for domain, name, _ in model.functions if (domain, name) == (FUSED_DOMAIN, op_type))
    )
    graph = ir.Graph(formal, [inside[last.outputs[0]]], nodes=body, opset_imports={"": OPSET}, name=op_type)
    function = ir.Function(FUSED_DOMAIN, op_type, overload, graph=graph, attributes=[])
    model.functions[function.identifier()] = function
    model.opset_imports[FUSED_DOMAIN] = FUSED_VERSION
    _call(group, function, actual)


def _baked(body: list[ir.Node], value: ir.Value, array: np.ndarray) -> ir.Value:
    """A Constant node at this place of the body."""
    tensor = ir.tensor(array)
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], num_outputs=1)
    result = node.outputs[0]
    result.name, result.shape, result.type = (
        f"k{len(body)}",
        ir.Shape(array.shape),
        ir.TensorType(tensor.dtype),
    )
    result.const_value = tensor
    body.append(node)
    return result


def _call(group: Group, function: ir.Function, actual: list[ir.Value]) -> None:
    anchor, last = group.nodes[0], group.nodes[-1]
    output = last.outputs[0]
    call = ir.Node(
        FUSED_DOMAIN, function.name, actual, overload=function.overload, num_outputs=1, name=anchor.name
    )
    for name in passes_of(anchor):
        record(call, name)
    record(call, FuseEpilogues.name)
    result = call.outputs[0]
    result.shape, result.type = output.shape, output.type
    name = output.name
    graph = owner_graph(last)
    graph.insert_after(last, call)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    for node in reversed(group.nodes):
        graph.remove(node, safe=True)
    result.name = name
