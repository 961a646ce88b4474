"""A text form of a model, stable enough for golden files: no addresses, one value or node a line.

weight conv.weight: float32[8,3,3,3] 4x1 zeros=80.0%
conv: float32[1,8,8,8] = Conv(x, conv.weight) {pads=[1,1,1,1]}
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from sparsecc.ir.encoding import get_encoding
from sparsecc.ir.provenance import passes_of, source_name
from sparsecc.ir.shapes import ir_type_name, value_text
from sparsecc.ir.weights import weight_uses

SHOWN_ELEMENTS = 8
DEFAULT_ATTRIBUTES = {"dilations": 1, "strides": 1, "pads": 0}


def dump(model: ir.Model) -> str:
    """Text of the whole model: imports, inputs, initializers, nodes, outputs, functions, and a newline."""
    axes = {use.value: use.axis for use in weight_uses(model)}
    domains = ", ".join(f"{name or 'onnx'} {number}" for name, number in sorted(model.opset_imports.items()))
    lines = [f"model {model.graph.name or '-'} ({domains})"]
    lines += [f"  input {value.name}: {value_text(value)}" for value in model.graph.inputs]
    lines += [f"  {_initializer(value, axes)}" for value in _sorted(model.graph)]
    lines += list(_nodes(model.graph, "  "))
    lines += [f"  output {value.name}: {value_text(value)}" for value in model.graph.outputs]
    for function in sorted(model.functions.values(), key=lambda f: (f.domain, f.name, f.overload)):
        inputs = ", ".join(str(value.name) for value in function.inputs)
        lines.append(f"function {function.domain}.{function.name}:{function.overload}({inputs})")
        lines += list(_nodes(function.graph, "  "))
        lines.append(f"  return {', '.join(str(value.name) for value in function.outputs)}")
    return "\n".join(lines) + "\n"


def _sorted(graph: ir.Graph) -> list[ir.Value]:
    return sorted(graph.initializers.values(), key=lambda value: value.name or "")


def _initializer(value: ir.Value, axes: dict[ir.Value, int]) -> str:
    tensor = value.const_value
    kind = "weight" if value in axes else "const"
    if tensor is None:
        return f"{kind} {value.name}: {value_text(value)} without data"
    array = tensor.numpy()
    text = f"{kind} {value.name}: {ir_type_name(tensor.dtype)}[{','.join(map(str, array.shape))}]"
    if value in axes:
        zeros = 100.0 * (1.0 - np.count_nonzero(array) / max(array.size, 1))
        text += f" {get_encoding(value, axes[value])} zeros={zeros:.1f}%"
    elif array.size <= SHOWN_ELEMENTS:
        text += f" = {_numbers(array)}"
    if source_name(value) != value.name:
        text += f" from {source_name(value)}"
    if passes_of(value):
        text += f" by {' '.join(passes_of(value))}"
    return text


def _numbers(array: np.ndarray) -> str:
    flat = [
        f"{number:.6g}" if isinstance(number, float) else str(number) for number in array.reshape(-1).tolist()
    ]
    return flat[0] if array.ndim == 0 else f"[{','.join(flat)}]"


def _nodes(graph: ir.Graph, indent: str) -> Iterator[str]:
    for node in graph:
        results = ", ".join(f"{value.name}: {value_text(value)}" for value in node.outputs)
        domain = f"{node.domain}." if node.domain else ""
        overload = f":{node.overload}" if node.overload else ""
        operands = ", ".join("-" if value is None else str(value.name) for value in node.inputs)
        subgraphs = [(name, graph) for name, attr in node.attributes.items() for graph in _graphs(attr)]
        attributes = " ".join(sorted(text for attr in node.attributes.values() if (text := _attribute(attr))))
        attributes = f" {{{attributes}}}" if attributes else ""
        yield f"{indent}{results} = {domain}{node.op_type}{overload}({operands}){attributes}"
        for name, inner in subgraphs:
            yield f"{indent}  {name}({', '.join(f'{v.name}: {value_text(v)}' for v in inner.inputs)})"
            yield from (f"{indent}    {_initializer(value, {})}" for value in _sorted(inner))
            yield from _nodes(inner, indent + "    ")
            yield f"{indent}    yield {', '.join(str(value.name) for value in inner.outputs)}"


def _graphs(attr: ir.Attr) -> list[ir.Graph]:
    if attr.type == ir.AttributeType.GRAPH:
        return [attr.as_graph()]
    return list(attr.as_graphs()) if attr.type == ir.AttributeType.GRAPHS else []


def _attribute(attr: ir.Attr) -> str | None:
    """`name=value`, or None for subgraphs and for values that equal the op's default."""
    if attr.is_ref():
        return f"{attr.name}=@{attr.ref_attr_name}"
    if attr.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return None
    if attr.type == ir.AttributeType.TENSOR:
        array = attr.as_tensor().numpy()
        shown = _numbers(array) if array.size <= SHOWN_ELEMENTS else f"<{array.size} elements>"
        return f"{attr.name}={shown}"
    if attr.type == ir.AttributeType.INTS:
        numbers = attr.as_ints()
        if numbers and all(number == DEFAULT_ATTRIBUTES.get(attr.name) for number in numbers):
            return None
        return f"{attr.name}=[{','.join(map(str, numbers))}]"
    if attr.type == ir.AttributeType.FLOAT:
        return f"{attr.name}={attr.as_float():.6g}"
    if attr.type == ir.AttributeType.FLOATS:
        return f"{attr.name}=[{','.join(f'{number:.6g}' for number in attr.as_floats())}]"
    return f"{attr.name}={attr.value}"
