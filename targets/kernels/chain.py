"""A chain of ONNX nodes as a model of its own, and the kernel calls that compute it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper
from tvm import tirx

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.layout import Layout

Array = npt.NDArray[Any]
_EMBED = 64  # integer constants up to this many elements are axes, shapes, indices: part of the kernel
_CONSTANT_SLOTS = {"Resize": (1, 2, 3), "Upsample": (1,), "OneHot": (1, 2), "Pad": (1, 2, 3)}


@dataclass(frozen=True)
class Temporary:
    """A buffer between the kernels of one chain, row-major."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GenericCall:
    """One kernel call.

    Attributes:
        symbol: equal for equal chains, shapes and layouts.
        make: builds the PrimFunc.
        inputs, outputs: names of values, temporaries or constants, in pointer order.
        extent: of the parallel range.
    """

    symbol: str
    make: Callable[[], tirx.PrimFunc]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    extent: int


@dataclass(frozen=True)
class GenericChain:
    """The kernels of a chain, in order, and what they need besides the caller's values.

    Attributes:
        constants: arrays that lie row-major with the weights (or as `layouts` said), by name.
    """

    calls: tuple[GenericCall, ...]
    temporaries: tuple[Temporary, ...]
    constants: Mapping[str, Array]


def value_name(value: ir.Value | None) -> str:
    """The name of a value that must be there."""
    if value is None or not value.name:
        raise UnsupportedOpError("a node lacks an input that its op needs; check the model")
    return value.name


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value, which must be known."""
    if value.shape is None or not value.shape.is_static():
        raise UnsupportedOpError(
            f"value '{value.name}' has no static shape; run shape inference with fixed inputs"
        )
    return value.shape.numpy()


def numpy_name(value: ir.Value) -> str:
    """The dtype of a value as a numpy name."""
    if value.dtype is None:
        raise UnsupportedOpError(f"value '{value.name}' has no dtype; run shape inference")
    return str(value.dtype.numpy())


@dataclass
class Chain:
    """The nodes with canonical value names v0, v1, ..., so that equal chains have equal digests.

    Attributes:
        inputs: value by canonical name.
        embedded: constants that are part of the kernels, by canonical name.
        pointers: constants that stay in memory, by value name.
    """

    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    inputs: dict[str, ir.Value] = field(default_factory=dict[str, ir.Value])
    outputs: list[ir.Value] = field(default_factory=list[ir.Value])
    names: dict[str, str] = field(default_factory=dict[str, str])
    embedded: dict[str, Array] = field(default_factory=dict[str, Array])
    pointers: dict[str, Array] = field(default_factory=dict[str, Array])

    @staticmethod
    def collect(
        nodes: Sequence[ir.Node],
        layouts: Mapping[str, Layout],
        constants: Mapping[str, Array],
        opset: int,
        where: str,
    ) -> Chain:
        chain = Chain(opset)
        for node in nodes:
            for slot, value in enumerate(node.inputs):
                if value is not None and value.name not in chain.names:
                    chain._add_input(node, slot, value, layouts, constants, where)
            for value in node.outputs:
                chain.names[value_name(value)] = f"v{len(chain.names)}"
                if value.name in layouts:
                    chain.outputs.append(value)
            chain._add_node(node, where)
        return chain

    def _add_input(
        self, node: ir.Node, slot: int, value: ir.Value, layouts: Mapping[str, Layout],
        constants: Mapping[str, Array], where: str,
    ) -> None:  # fmt: skip
        name = value_name(value)
        canonical = self.names[name] = f"v{len(self.names)}"
        array = constants.get(name)
        if array is not None and (
            array.size <= 1
            or (array.dtype.kind in "iub" and array.size <= _EMBED)
            or slot in _CONSTANT_SLOTS.get(node.op_type, ())
        ):
            self.embedded[canonical] = array
            return
        if array is not None:
            self.pointers[name] = array
        elif name not in layouts:
            raise UnsupportedOpError(f"{where}: input '{name}' has neither a layout nor a constant")
        self.inputs[canonical] = value

    def _add_node(self, node: ir.Node, where: str) -> None:
        proto = ir.to_proto(node)
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute):
            raise UnsupportedOpError(f"{where}: control flow cannot be compiled; export the model without it")
        proto.input[:] = [self.names[i] if i else "" for i in proto.input]
        proto.output[:] = [self.names[o] if o else "" for o in proto.output]
        del proto.metadata_props[:]
        proto.name, proto.doc_string = f"n{len(self.nodes)}", ""
        self.nodes.append(proto)
        if node.op_type == "OneHot":
            # TVM's importer wants a scalar depth and forgets the dtype of the values
            depth = self.names[value_name(node.inputs[1])]
            self.embedded[depth] = self.embedded[depth].reshape(())
            (result,) = proto.output
            proto.output[:] = [f"{result}_untyped"]
            dtype = ir.DataType.from_numpy(np.dtype(numpy_name(node.outputs[0]))).value
            self.nodes.append(helper.make_node("Cast", list(proto.output), [result], to=dtype))

    def model(self) -> onnx.ModelProto:
        """The chain as an ONNX model."""

        def info(name: str, value: ir.Value) -> onnx.ValueInfoProto:
            dtype = ir.DataType.from_numpy(np.dtype(numpy_name(value))).value
            return helper.make_tensor_value_info(name, dtype, static_shape(value))

        graph = helper.make_graph(
            self.nodes,
            "chain",
            [info(n, v) for n, v in self.inputs.items()],
            [info(self.names[value_name(v)], v) for v in self.outputs],
            [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in self.embedded.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])

    @property
    def digest(self) -> str:
        """Equal for equal computations; layouts not included."""
        return hashlib.sha256(self.model().SerializeToString(deterministic=True)).hexdigest()
