"""Ordinary ops through TVM's own legalisation: ONNX nodes -> Relax -> TE stages -> fused loop kernels.

Shapes are static and layouts strided. A chain of nodes becomes as few kernels as possible: a producer is
inlined into its consumers unless that would repeat expensive work or leave a reduction inside a loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import LoopCall
from sparsecc.targets.kernels.chain import (
    Array,
    Chain,
    GenericCall,
    GenericChain,
    Temporary,
    numpy_name,
    static_shape,
    value_name,
)
from sparsecc.targets.kernels.copy import copy_call
from sparsecc.targets.kernels.expressions import Resolver
from sparsecc.targets.kernels.legalized import StageGraph, import_stages, kept_stages
from sparsecc.targets.kernels.nests import loop_call
from sparsecc.targets.kernels.ordered_nodes import ALONE, ordered_chain
from sparsecc.targets.kernels.schedule import plan_loops
from sparsecc.targets.layout import Layout


def legalize(
    nodes: Sequence[ir.Node],
    layouts: Mapping[str, Layout],
    *,
    constants: Mapping[str, Array],
    lanes: int,
    name: str,
    opset: int = 23,
    loops: LoopCall = loop_call,
) -> GenericChain:
    """Compile a chain of nodes to kernels.

    Args:
        nodes: in topological order; their values have static shapes and dtypes. A node whose op is in
            `ALONE` must be the only one.
        layouts: of every external input and of every value that the kernels must write.
        constants: initializers by value name. Small integer ones and single numbers become part of the
            kernels; others are pointers, row-major where `layouts` does not name them.
        lanes: fp32 lanes of a vector.
        name: prefix of temporaries and constants, unique in the plan.
        loops: makes the calls of loops, as the device runs them.

    Raises:
        UnsupportedOpError: naming op and node.
    """
    where = ", ".join(f"{n.op_type} node '{n.name}'" for n in nodes)
    if any(n.op_type in ALONE for n in nodes):
        (only,) = nodes
        return ordered_chain(only, layouts, constants, lanes, where)
    chain = Chain.collect(nodes, layouts, constants, opset, where)
    graph = import_stages(chain.model(), where)
    for inner, value in zip(graph.outputs, chain.outputs, strict=True):
        wanted = (static_shape(value), numpy_name(value))
        if graph.types[inner] != wanted:
            raise UnsupportedOpError(
                f"{where}: output '{value.name}' should be {wanted}, but TVM's importer makes it "
                f"{graph.types[inner]}; replace the node by simpler ops"
            )
    try:
        return _kernels(graph, chain, layouts, lanes, name, loops)
    except NotImplementedError as error:
        raise UnsupportedOpError(f"{where}: no kernel for {error}; replace it by simpler ops") from error


def _kernels(
    graph: StageGraph,
    chain: Chain,
    layouts: Mapping[str, Layout],
    lanes: int,
    name: str,
    loops: LoopCall,
) -> GenericChain:
    outer = {c: value_name(v) for c, v in chain.inputs.items()}
    copies: list[tuple[str, str]] = []
    for inner, value in zip(graph.outputs, chain.outputs, strict=True):
        if inner in graph.producers and inner not in outer:
            outer[inner] = value_name(value)
        else:
            copies.append((inner, value_name(value)))
    memory = {
        inner: layouts.get(outside) or Layout.rows(graph.types[inner][0]) for inner, outside in outer.items()
    }
    packed = dict(chain.pointers)
    arrays = dict(graph.arrays)
    arrays |= {
        n: np.array(graph.numbers[n], graph.types[n][1]).reshape(graph.types[n][0])
        for n, _ in copies
        if n in graph.numbers
    }
    for inner, array in arrays.items():
        memory[inner] = Layout.rows(array.shape)
        outer[inner] = f"{name}.{inner}"
        packed[outer[inner]] = array
    kept = kept_stages(graph)
    temporaries: list[Temporary] = []
    for value in (v for stage in kept for v in stage.outputs if v not in memory):
        shape, dtype = graph.types[value]
        memory[value] = Layout.rows(shape)
        outer[value] = f"{name}.{value}"
        temporaries.append(Temporary(outer[value], dtype, shape))
    dtypes = {v: t for v, (_, t) in graph.types.items()}
    make = partial(Resolver, graph.producers, memory, dtypes, graph.numbers)
    calls: list[GenericCall] = []
    digest = chain.digest
    for stage in kept:
        if not prod(stage.shape):
            continue  # an empty value
        for value in stage.outputs:
            planned = plan_loops(make, value, stage.shape, memory[value], lanes)
            symbol = structural_name(
                "generic", (digest, value, lanes, [(n, memory[n]) for n in (*planned.loads, value)])
            )
            call = loops(planned, symbol)
            inputs = tuple(outer[n] for n in planned.loads)
            calls.append(GenericCall(symbol, call.make, inputs, (outer[value],), call.extent))
    for inner, outside in copies:
        shape, dtype = graph.types[inner]
        copy = copy_call(shape, dtype, memory[inner], layouts[outside], lanes, loops)
        calls.append(GenericCall(copy.symbol, copy.make, (outer[inner],), (outside,), copy.extent))
    return GenericChain(tuple(calls), tuple(temporaries), packed)
