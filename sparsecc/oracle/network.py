"""An ONNX model taken apart: a graph without numbers, and all its tensors by name.

Weights are fed to a run as inputs, so one graph serves the original weights, enlarged ones and masked ones,
and no weight is ever written into a protobuf.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx.inliner
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    helper,
    numpy_helper,
)

Precision = Literal["float32", "float64"]
Tensors = dict[str, np.ndarray]

NARROW: dict[str, set[int]] = {
    "float32": {TensorProto.FLOAT16, TensorProto.BFLOAT16},
    "float64": {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT},
}
WIDE = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
SHAPE_OPS = ("Shape", "Size")
TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "output_datatype", "softmax_precision")


class NetworkError(ValueError):
    """A model that cannot be taken apart; one sentence."""


@dataclass(frozen=True)
class Network:
    """A graph and its tensors.

    Attributes:
        proto: the model without initializers and without Constant nodes in its main graph.
        tensors: initializers and Constants by name; read only.
        precision: floating types narrower than this were widened, in the graph and in the tensors.
    """

    proto: ModelProto
    tensors: Tensors
    precision: Precision

    @property
    def outputs(self) -> list[str]:
        """Names of the graph outputs in order."""
        return [value.name for value in self.proto.graph.output]

    def copy(self) -> Network:
        """A network whose graph and tensor table can be changed; the arrays are shared."""
        proto = ModelProto()
        proto.CopyFrom(self.proto)
        return Network(proto, dict(self.tensors), self.precision)

    def with_constants(self, values: Tensors) -> Network:
        """The network with some computed values, which are no graph outputs, as tensors."""
        result = self.copy()
        nodes = list(result.proto.graph.node)
        del result.proto.graph.node[:]
        for node in nodes:
            if len(node.output) == 1 and node.output[0] in values:
                continue
            node.output[:] = [f"{name}/computed" if name in values else name for name in node.output]
            result.proto.graph.node.append(node)
        wide = helper.tensor_dtype_to_np_dtype(WIDE[self.precision])
        for name, array in values.items():
            result.tensors[name] = array.astype(wide) if is_float(array) else array
        return result

    def static(self) -> set[str]:
        """Values that depend on graph inputs by their shapes and types at most."""
        dynamic = {value.name for value in self.proto.graph.input}
        for node in self.proto.graph.node:
            if node.op_type in SHAPE_OPS:
                continue
            read = node.input[:1] if node.op_type == "CastLike" else read_names(node)
            if any(name in dynamic for name in read):
                dynamic.update(node.output)
        made = {name for node in self.proto.graph.node for name in node.output}
        return (made | self.tensors.keys()) - dynamic


def dismantle(model: ModelProto, precision: Precision) -> Network:
    """Separate a model into graph and tensors and widen narrow floats.

    Raises:
        NetworkError: a tensor lies in a file that was not loaded.
    """
    light, tensors = ModelProto(), dict[str, np.ndarray]()
    light.ir_version = model.ir_version
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name or "main"
    for tensor in model.graph.initializer:
        tensors[tensor.name] = _array(tensor)
    light.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    light.graph.input.extend(value for value in model.graph.input if value.name not in tensors)
    light.graph.output.extend(model.graph.output)
    for output in light.graph.output:
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    light.graph.node.extend(model.graph.node)
    if light.functions:
        light = onnx.inliner.inline_local_functions(light)
    nodes = list(light.graph.node)
    del light.graph.node[:], light.graph.value_info[:]
    for node in nodes:
        constant = _constant(node)
        if constant is None:
            light.graph.node.append(node)
        else:
            tensors[node.output[0]] = constant
    narrow = NARROW[precision]
    _widen_graph(light.graph, narrow, WIDE[precision])
    wide = helper.tensor_dtype_to_np_dtype(WIDE[precision])
    for name, array in tensors.items():
        if helper.np_dtype_to_tensor_dtype(array.dtype) in narrow:
            tensors[name] = array.astype(wide)
    return Network(light, tensors, precision)


def is_float(array: np.ndarray) -> bool:
    """Whether an array is of a floating type that ONNX computes in."""
    return array.dtype.kind == "f"


def is_weight(array: np.ndarray) -> bool:
    """Whether a tensor may be a parameter: floats, more than one of them."""
    return is_float(array) and array.size > 1


def read_names(node: NodeProto) -> Iterable[str]:
    """Names that a node reads, those read from the outer graph by its bodies included."""
    yield from node.input
    for item in node.attribute:
        for body in bodies(item):
            for inner in body.node:
                yield from read_names(inner)
            yield from (value.name for value in body.output)


def bodies(item: AttributeProto) -> list[GraphProto]:
    """Graphs that an attribute holds."""
    return [item.g] if item.type == AttributeProto.GRAPH else list(item.graphs)


def attribute(node: NodeProto, name: str, default: object) -> object:
    """The value of an attribute in Python's types."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def _array(tensor: TensorProto) -> np.ndarray:
    if tensor.data_location == TensorProto.EXTERNAL:
        raise NetworkError(
            f"tensor {tensor.name} lies in a file of its own; load the model with its external data"
        )
    return numpy_helper.to_array(tensor)


def _constant(node: NodeProto) -> np.ndarray | None:
    """What a Constant node holds, or None for other nodes and for texts and sparse tensors."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for item in node.attribute:
        match item.name:
            case "value":
                return _array(item.t)
            case "value_float":
                return np.array(item.f, np.float32)
            case "value_floats":
                return np.array(item.floats, np.float32)
            case "value_int":
                return np.array(item.i, np.int64)
            case "value_ints":
                return np.array(item.ints, np.int64)
            case _:
                pass
    return None


def _widen_graph(graph: GraphProto, narrow: set[int], wide: int) -> None:
    for value in (*graph.input, *graph.output):
        _widen_type(value.type, narrow, wide)
    for tensor in graph.initializer:
        _widen_tensor(tensor, narrow, wide)
    for node in graph.node:
        constant = _constant(node)
        if constant is not None:
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(constant)))
        for item in node.attribute:
            _widen_attribute(item, narrow, wide)


def _widen_attribute(item: AttributeProto, narrow: set[int], wide: int) -> None:
    if item.type == AttributeProto.TENSOR:
        _widen_tensor(item.t, narrow, wide)
    elif item.type == AttributeProto.INT and item.name in TYPE_ATTRIBUTES and item.i in narrow:
        item.i = wide
    for graph in bodies(item):
        del graph.value_info[:]
        _widen_graph(graph, narrow, wide)


def _widen_tensor(tensor: TensorProto, narrow: set[int], wide: int) -> None:
    if tensor.data_type in narrow:
        array = _array(tensor).astype(helper.tensor_dtype_to_np_dtype(wide))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _widen_type(kind: TypeProto, narrow: set[int], wide: int) -> None:
    if kind.HasField("tensor_type") and kind.tensor_type.elem_type in narrow:
        kind.tensor_type.elem_type = wide
    elif kind.HasField("sequence_type"):
        _widen_type(kind.sequence_type.elem_type, narrow, wide)
    elif kind.HasField("optional_type"):
        _widen_type(kind.optional_type.elem_type, narrow, wide)
