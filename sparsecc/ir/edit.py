"""Small edits that keep an onnx_ir graph consistent: constants, unique names, bypassing nodes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.errors import VerificationError
from sparsecc.ir.encoding import ENCODING_KEY, fits, tagged_encoding


def owner_graph(node: ir.Node) -> ir.Graph:
    """The graph or subgraph a node is in.

    Raises:
        VerificationError: the node is in no graph.
    """
    graph = node.graph
    if isinstance(graph, ir.Function):
        return graph.graph
    if graph is None:
        raise VerificationError(f"node {node.name or node.op_type} is in no graph")
    return graph


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of a Constant node's output; None for all else, inputs included."""
    if value is None or value.is_graph_input():
        return None
    producer = value.producer()
    if producer is None:
        return value.const_value if value.is_initializer() else None
    if producer.domain in ("", "ai.onnx") and producer.op_type == "Constant":
        return ir.convenience.get_const_tensor(value)
    return None


def constant_of(value: ir.Value | None) -> np.ndarray | None:
    """The array of an initializer or Constant node, else None."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def scalar_of(value: ir.Value | None) -> float | None:
    """The number in a constant of one element, else None."""
    array = constant_of(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def used_names(model: ir.Model) -> set[str]:
    """All value names of the main graph, its subgraphs and its initializers."""
    names = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values()) if value.name}
    for node in model.graph.all_nodes():
        names.update(value.name for value in node.outputs if value.name)
    for graph in model.graph.subgraphs():
        names.update(value.name for value in graph.inputs if value.name)
        names.update(graph.initializers)
    return names


def fresh_name(taken: set[str], name: str) -> str:
    """`name`, or `name.1`, `name.2`, ... if it is taken; the answer is added to `taken`."""
    candidate = name
    number = 0
    while candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    taken.add(candidate)
    return candidate


def add_initializer(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Register `array` as an initializer of `graph`; the name must be free."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace_constant(value: ir.Value, array: np.ndarray) -> None:
    """Give an initializer new contents; an encoding tag that the new zeros contradict is dropped."""
    array = np.asarray(array, order="C")
    tensor = ir.tensor(array, name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)
    value.dtype = tensor.dtype
    tag = tagged_encoding(value)
    if tag is not None and not any(fits(array, tag, axis) for axis in range(max(array.ndim, 1))):
        del value.metadata_props[ENCODING_KEY]


def is_output(value: ir.Value) -> bool:
    """Whether the value is an output of its graph or function."""
    return value.is_graph_output()


def only_consumer(value: ir.Value) -> ir.Node | None:
    """The node that alone uses `value` (in the same graph, and it is no graph output), else None."""
    consumers = {id(node): node for node, _ in value.uses()}
    if is_output(value) or len(consumers) != 1:
        return None
    (node,) = consumers.values()
    producer = value.producer()
    return node if producer is None or node.graph is producer.graph else None


def bypass(node: ir.Node, value: ir.Value) -> bool:
    """Replace the first output of `node` by `value` everywhere and remove the node.

    Graph outputs keep their names: the node stays (False) where the value already has a name to keep because
    it is an input, an initializer or another output.
    """
    output = node.outputs[0]
    graph = owner_graph(node)
    if is_output(output):
        producer = value.producer()
        if producer is None or is_output(value) or producer.graph is not node.graph:
            return False
        name, shape, dtype = output.name, output.shape, output.dtype
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        value.name = name
        if shape is not None:
            value.shape = shape
        if dtype is not None:
            value.dtype = dtype
        return True
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
    return True


def operand_other_than(node: ir.Node, value: ir.Value) -> ir.Value | None:
    """The second operand of a binary node that uses `value` exactly once, else None."""
    if len(node.inputs) != 2 or (node.inputs[0] is value) == (node.inputs[1] is value):
        return None
    return node.inputs[1] if node.inputs[0] is value else node.inputs[0]


def attribute_int(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def attribute_float(node: ir.Node, name: str, default: float) -> float:
    """A float attribute or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def attribute_ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    """An integer list attribute or None."""
    attribute = node.attributes.get(name)
    return None if attribute is None else tuple(attribute.as_ints())
