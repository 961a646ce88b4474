"""Find ops that an exporter wrote out as arithmetic, and put the one op back.

0.5 x (1 + erf(x / sqrt 2)) -> Gelu(x);  x clip(x + 3, 0, 6) / 6 -> HardSwish(x)
(x - mean) / sqrt(var + eps) g + b -> LayerNormalization;  x / sqrt(mean(x^2) + eps) g -> RMSNormalization
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import (
    add_initializer,
    attribute_float,
    attribute_int,
    constant_of,
    fresh_name,
    only_consumer,
    operand_other_than,
    owner_graph,
    scalar_of,
    used_names,
)
from sparsecc.ir.provenance import record
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult

RELATIVE = 1e-4
"""How far a written-out constant such as 1.4142 may be from the true one."""


@dataclass(frozen=True)
class Match:
    """A recognised op.

    Attributes:
        op_type: what it is.
        inputs: of the new node.
        attributes: of the new node.
        last: the node whose result the new node replaces.
    """

    op_type: str
    inputs: list[ir.Value]
    attributes: list[ir.Attr]
    last: ir.Node


@dataclass(frozen=True)
class RecognizeOps(Pass):
    """Replace decomposed ops.

    1. Gelu by erf
    2. Gelu by tanh
    3. HardSwish by Clip or HardSigmoid
    4. LayerNormalization over the last axis
    5. RMSNormalization over the last axis

    x * Sigmoid(x) stays: it is fused as an epilogue. A normalisation over other axes is a refusal.
    """

    name: ClassVar[str] = "recognize-ops"
    summary: ClassVar[str] = "put decomposed activations and normalisations back together"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Match from every node; the pieces left over are dead and removed here."""
        taken = used_names(model)
        found: dict[str, int] = {}
        refusals: list[Refusal] = []
        for node in list(model.graph.all_nodes()):
            if node.graph is None or node.domain != "":
                continue
            match = _activation(node)
            if match is None:
                match = _normalization(node, refusals, taken)
            if match is not None:
                _replace(match)
                found[match.op_type] = found.get(match.op_type, 0) + 1
        notes = tuple(f"recognised {count} {op_type}" for op_type, count in sorted(found.items()))
        return PassResult(bool(found), tuple(refusals), notes)


def _replace(match: Match) -> None:
    last = match.last
    output = last.outputs[0]
    node = ir.Node("", match.op_type, match.inputs, match.attributes, num_outputs=1, name=last.name)
    record(node, RecognizeOps.name)
    result = node.outputs[0]
    result.shape, result.type = output.shape, output.type
    graph = owner_graph(last)
    graph.insert_after(last, node)
    name = output.name
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    _remove_dead(last)
    result.name = name


def _remove_dead(node: ir.Node) -> None:
    """Remove a node nobody reads, then what it alone read."""
    if node.graph is None or any(value.uses() or value.is_graph_output() for value in node.outputs):
        return
    sources = [value.producer() for value in node.inputs if value is not None]
    owner_graph(node).remove(node, safe=True)
    for source in sources:
        if source is not None:
            _remove_dead(source)


def _made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The producer of a value if it is one of these ops."""
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == "" and node.op_type in op_types else None


def _near(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=RELATIVE)


def _factors(value: ir.Value) -> tuple[float, list[ir.Value]]:
    """A value as number times other values, through Mul and division by numbers."""
    if (number := scalar_of(value)) is not None:
        return number, []
    node = _made_by(value, "Mul", "Div")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return 1.0, [value]
    if node.op_type == "Div":
        divisor = scalar_of(node.inputs[1])
        if not divisor:
            return 1.0, [value]
        number, values = _factors(node.inputs[0])
        return number / divisor, values
    left, right = _factors(node.inputs[0]), _factors(node.inputs[1])
    return left[0] * right[0], [*left[1], *right[1]]


def _plus(value: ir.Value | None, wanted: float) -> ir.Value | None:
    """x of `x + wanted`, else None."""
    node = _made_by(value, "Add")
    if node is None:
        return None
    for index in (0, 1):
        if _near(scalar_of(node.inputs[index]), wanted):
            return node.inputs[1 - index]
    return None


def _activation(node: ir.Node) -> Match | None:
    """Cases 1 to 3, from the product that ends them: number * x * f(x)."""
    if node.op_type not in ("Mul", "Div") or node.outputs[0].dtype is None:
        return None
    number, values = _factors(node.outputs[0])
    if len(values) != 2:
        return None
    for x, gate in (values, reversed(values)):
        if x.shape != node.outputs[0].shape:
            continue
        for recognise in (_erf_gelu, _tanh_gelu, _hard_swish):
            match = recognise(number, x, gate, node)
            if match is not None:
                return match
    return None


def _erf_gelu(number: float, x: ir.Value, gate: ir.Value, node: ir.Node) -> Match | None:
    erf = _made_by(_plus(gate, 1.0), "Erf")
    if erf is None or erf.inputs[0] is None or not _near(number, 0.5):
        return None
    scale, values = _factors(erf.inputs[0])
    return Match("Gelu", [x], [], node) if _near(scale, math.sqrt(0.5)) and _is(values, x) else None


def _tanh_gelu(number: float, x: ir.Value, gate: ir.Value, node: ir.Node) -> Match | None:
    tanh = _made_by(_plus(gate, 1.0), "Tanh")
    if tanh is None or tanh.inputs[0] is None or not _near(number, 0.5):
        return None
    scale, values = _factors(tanh.inputs[0])
    total = _made_by(values[0], "Add") if len(values) == 1 else None
    if total is None or not _near(scale, math.sqrt(2 / math.pi)):
        return None
    cubic = operand_other_than(total, x)
    if cubic is None:
        return None
    weight, powers = _factors(cubic)
    if not _near(weight, 0.044715) or not _is_cube(powers, x):
        return None
    return Match("Gelu", [x], [ir.AttrString("approximate", "tanh")], node)


def _hard_swish(number: float, x: ir.Value, gate: ir.Value, node: ir.Node) -> Match | None:
    clip = _made_by(gate, "Clip")
    if clip is not None:
        bounds = [scalar_of(value) for value in clip.inputs[1:]]
        if bounds != [0.0, 6.0] or _plus(clip.inputs[0], 3.0) is not x or not _near(number, 1 / 6):
            return None
        return Match("HardSwish", [x], [], node)
    hard = _made_by(gate, "HardSigmoid")
    if hard is None or hard.inputs[0] is not x or not _near(number, 1.0):
        return None
    slope, offset = attribute_float(hard, "alpha", 0.2), attribute_float(hard, "beta", 0.5)
    return Match("HardSwish", [x], [], node) if _near(slope, 1 / 6) and _near(offset, 0.5) else None


def _is(values: list[ir.Value], x: ir.Value) -> bool:
    return len(values) == 1 and values[0] is x


def _is_cube(values: list[ir.Value], x: ir.Value) -> bool:
    if len(values) == 3:
        return all(value is x for value in values)
    if len(values) == 2:
        return (values[0] is x and _is_square(values[1], x)) or (values[1] is x and _is_square(values[0], x))
    power = _made_by(values[0], "Pow") if values else None
    return power is not None and power.inputs[0] is x and scalar_of(power.inputs[1]) == 3.0


def _is_square(value: ir.Value | None, x: ir.Value) -> bool:
    power = _made_by(value, "Pow", "Mul")
    if power is None or power.inputs[0] is not x:
        return False
    return scalar_of(power.inputs[1]) == 2.0 if power.op_type == "Pow" else power.inputs[1] is x


def _normalization(node: ir.Node, refusals: list[Refusal], taken: set[str]) -> Match | None:
    """Cases 4 and 5, from the node that divides by the root."""
    quotient = _quotient(node)
    if quotient is None:
        return None
    numerator, root = quotient
    total = _made_by(root, "Add")
    if total is None:
        return None
    for index in (0, 1):
        epsilon = scalar_of(total.inputs[index])
        mean = _made_by(total.inputs[1 - index], "ReduceMean")
        if epsilon is None or mean is None or not _is_square(mean.inputs[0], numerator):
            continue
        if not _over_last_axis(mean):
            reason = f"{node_text(node)} normalises over other axes than the last, so it stays written out"
            refusals.append(Refusal(reason, node.name or node.op_type, "axes"))
            return None
        return _with_scale(node, numerator, epsilon, taken)
    return None


def _quotient(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """(d, v) where the node computes d / sqrt(v)."""
    if node.op_type == "Div" and (root := _made_by(node.inputs[1], "Sqrt")) is not None:
        numerator, radicand = node.inputs[0], root.inputs[0]
    elif node.op_type == "Mul":
        for index in (0, 1):
            inverse = _made_by(node.inputs[index], "Reciprocal", "Pow")
            if inverse is not None:
                break
        else:
            return None
        numerator, radicand = node.inputs[1 - index], inverse.inputs[0]
        if inverse.op_type == "Reciprocal":
            root = _made_by(inverse.inputs[0], "Sqrt")
            radicand = None if root is None else root.inputs[0]
        elif scalar_of(inverse.inputs[1]) != -0.5:
            return None
    else:
        return None
    return None if numerator is None or radicand is None else (numerator, radicand)


def _with_scale(node: ir.Node, numerator: ir.Value, epsilon: float, taken: set[str]) -> Match | None:
    """Decide between layer and RMS norm, and take in the scale and, for layer norm, the bias."""
    centre = _made_by(numerator, "Sub")
    source = numerator
    if centre is not None and centre.inputs[0] is not None:
        mean = _made_by(centre.inputs[1], "ReduceMean")
        if mean is not None and mean.inputs[0] is centre.inputs[0] and _over_last_axis(mean):
            source = centre.inputs[0]
    is_layer = source is not numerator
    width = None if source.shape is None else source.shape[-1]
    if not isinstance(width, int) or source.dtype is None:
        return None
    last = node
    scale = _vector_operand(last, "Mul", width)
    if scale is not None:
        last = scale[1]
    bias = _vector_operand(last, "Add", width) if is_layer else None
    if bias is not None:
        last = bias[1]
    if scale is None:
        ones = np.ones(width, source.dtype.numpy())
        gamma = add_initializer(owner_graph(node), fresh_name(taken, f"{node.outputs[0].name}.scale"), ones)
    else:
        gamma = scale[0]
    attributes = [ir.AttrInt64("axis", -1), ir.AttrFloat32("epsilon", epsilon)]
    inputs = [source, gamma, bias[0]] if bias is not None else [source, gamma]
    return Match("LayerNormalization" if is_layer else "RMSNormalization", inputs, attributes, last)


def _vector_operand(node: ir.Node, op_type: str, width: int) -> tuple[ir.Value, ir.Node] | None:
    """The constant [width] that the only reader of a node's result combines it with, and that reader."""
    reader = only_consumer(node.outputs[0])
    if reader is None or reader.domain != "" or reader.op_type != op_type:
        return None
    other = operand_other_than(reader, node.outputs[0])
    array = constant_of(other)
    return (other, reader) if other is not None and array is not None and array.shape == (width,) else None


def _over_last_axis(mean: ir.Node) -> bool:
    source = mean.inputs[0]
    axes = constant_of(mean.inputs[1]) if len(mean.inputs) > 1 else None
    if source is None or source.shape is None or axes is None or attribute_int(mean, "keepdims", 1) != 1:
        return False
    return [int(axis) % len(source.shape) for axis in axes.reshape(-1)] == [len(source.shape) - 1]
