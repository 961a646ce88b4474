"""Ordinary ops through TVM's own legalisation: ONNX nodes -> Relax -> TE stages -> fused loop kernels.

Shapes are static and layouts strided. A chain of nodes becomes as few kernels as possible: a producer is
inlined into its consumers unless that would repeat expensive work or leave a reduction inside a loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper
from tvm import tirx

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.kernels.expressions import Resolver
from sparsecc.targets.kernels.schedule import loop_kernel, plan_loops
from sparsecc.targets.kernels.stages import StageGraph, import_stages, kept_stages
from sparsecc.targets.layout import Layout

Array = npt.NDArray[Any]
_EMBED = 64  # integer constants up to this many elements are axes, shapes, indices: part of the kernel


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
    """

    symbol: str
    make: Callable[[], tirx.PrimFunc]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    extent: int


@dataclass(frozen=True)
class GenericChain:
    """The kernels of a chain, in order, and what they need besides the caller's values.

    `constants` are arrays that must be packed with the weights; names are unique within `prefix`.
    """

    calls: tuple[GenericCall, ...]
    temporaries: tuple[Temporary, ...]
    constants: Mapping[str, Array]


def legalize(
    nodes: Sequence[ir.Node],
    layouts: Mapping[str, Layout],
    *,
    constants: Mapping[str, Array],
    lanes: int,
    name: str,
    opset: int = 23,
) -> GenericChain:
    """Compile a chain of nodes to kernels.

    Args:
        nodes: in topological order; their values have static shapes and dtypes.
        layouts: of every external input and of every value that the kernels must write.
        constants: initializers by value name. Small integer ones and single numbers become part of the
            kernels; others are pointers, row-major where `layouts` does not name them.
        lanes: fp32 lanes of a vector.
        name: prefix of temporaries and constants, unique in the plan.

    Raises:
        UnsupportedOpError: naming op and node.
    """
    where = ", ".join(f"{n.op_type} node '{n.name}'" for n in nodes)
    chain = _Chain.collect(nodes, layouts, constants, where)
    graph = import_stages(chain.model(opset), where)
    renamed = dict(zip(graph.outputs, chain.outputs, strict=True))
    return _kernels(graph, chain, renamed, layouts, lanes, name)


@dataclass
class _Chain:
    """The nodes as a model of their own, with canonical value names."""

    nodes: list[onnx.NodeProto]
    inputs: dict[str, ir.Value]  # canonical name -> value
    outputs: list[ir.Value]
    names: dict[str, str]  # value name -> canonical name
    embedded: dict[str, Array]
    pointers: dict[str, Array]  # constants that stay in memory, by value name

    @staticmethod
    def collect(
        nodes: Sequence[ir.Node], layouts: Mapping[str, Layout], constants: Mapping[str, Array], where: str
    ) -> _Chain:
        chain = _Chain([], {}, [], {}, {}, {})
        for node in nodes:
            for value in node.inputs:
                if value is None or value.name in chain.names:
                    continue
                assert value.name is not None
                canonical = chain.names[value.name] = f"v{len(chain.names)}"
                array = constants.get(value.name)
                if array is not None and (array.size == 1 or (array.dtype.kind in "iub" and array.size <= _EMBED)):
                    chain.embedded[canonical] = array
                    continue
                if array is not None:
                    chain.pointers[value.name] = array
                elif value.name not in layouts:
                    raise UnsupportedOpError(f"{where}: input '{value.name}' has neither a layout nor a constant")
                chain.inputs[canonical] = value
            for value in node.outputs:
                assert value.name is not None
                chain.names[value.name] = f"v{len(chain.names)}"
                if value.name in layouts:
                    chain.outputs.append(value)
            proto = ir.to_proto(node)
            assert isinstance(proto, onnx.NodeProto)
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in proto.attribute):
                raise UnsupportedOpError(f"{where}: control flow cannot be compiled; export the model without it")
            proto.input[:] = [chain.names[i] if i else "" for i in proto.input]
            proto.output[:] = [chain.names[o] if o else "" for o in proto.output]
            del proto.metadata_props[:]
            proto.name, proto.doc_string = f"n{len(chain.nodes)}", ""
            chain.nodes.append(proto)
        return chain

    def model(self, opset: int) -> onnx.ModelProto:
        def info(value: ir.Value) -> onnx.ValueInfoProto:
            assert value.name is not None and value.dtype is not None and value.shape is not None
            return helper.make_tensor_value_info(
                self.names[value.name], value.dtype.value, [int(n) for n in value.shape.numpy()]
            )

        graph = helper.make_graph(
            self.nodes,
            "chain",
            [info(v) for v in self.inputs.values()],
            [info(v) for v in self.outputs],
            [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in self.embedded.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])

    def digest(self) -> str:
        return hashlib.sha256(self.model(23).SerializeToString(deterministic=True)).hexdigest()


def _kernels(
    graph: StageGraph, chain: _Chain, renamed: Mapping[str, ir.Value], layouts: Mapping[str, Layout], lanes: int, name: str
) -> GenericChain:
    outer = {c: str(v.name) for c, v in chain.inputs.items()} | {s: str(v.name) for s, v in renamed.items()}
    memory = {
        inner: layouts.get(outside) or Layout.rows(graph.types[inner][0]) for inner, outside in outer.items()
    }
    kept = kept_stages(graph)
    temporaries: list[Temporary] = []
    for stage in kept:
        for value in stage.outputs:
            if value not in memory:
                shape, dtype = graph.types[value]
                memory[value] = Layout.rows(shape)
                outer[value] = f"{name}.{value}"
                temporaries.append(Temporary(outer[value], dtype, shape))
    packed = dict(chain.pointers)
    for inner, array in graph.arrays.items():
        memory[inner] = Layout.rows(array.shape)
        outer[inner] = f"{name}.{inner}"
        packed[outer[inner]] = array
    dtypes = {v: t for v, (_, t) in graph.types.items()}
    calls: list[GenericCall] = []
    for stage in kept:
        for value in stage.outputs:
            make = partial(Resolver, graph.producers, memory, dtypes, graph.numbers)
            loops = plan_loops(make, value, stage.shape, memory[value], lanes)
            key = (chain.digest(), value, lanes, [(n, memory[n]) for n in (*loops.loads, value)])
            symbol = "generic_" + hashlib.sha256(repr(key).encode()).hexdigest()[:12]
            calls.append(
                GenericCall(
                    symbol, partial(loop_kernel, loops, symbol), tuple(outer[n] for n in loops.loads),
                    (outer[value],), loops.extent,
                )
            )  # fmt: skip
    return GenericChain(tuple(calls), tuple(temporaries), packed)
