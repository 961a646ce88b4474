"""All other ops: chains through TVM's legalisation, copies between layouts, pools, softmax, norms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from sparsecc.ir.edit import constant_of
from sparsecc.targets.kernels.generic import copy_call, legalize, zero_halo_call
from sparsecc.targets.layout import Layout, PlaneSpec
from sparsecc.targets.lower.memory import Buffer
from sparsecc.targets.lower.state import Lowering, Pointer, Stored, base, dtype_of, shape_of
from sparsecc.targets.plan import Ref

LayoutOf = Callable[[ir.Value, Sequence[ir.Value]], Layout]


def lower_chain(low: Lowering, nodes: Sequence[ir.Node], layout_of: LayoutOf) -> None:
    """Emit the kernels of nodes that are fused; only the last node's outputs are kept."""
    inside = {output for node in nodes for output in node.outputs}
    external = [v for n in nodes for v in n.inputs if v is not None and v not in inside]
    constants: dict[str, npt.NDArray[Any]] = {}
    stored: dict[str, Stored] = {}
    for value in dict.fromkeys(external):
        array = constant_of(value)
        name = value.name or ""
        if array is not None:
            constants[name] = array
        else:
            stored[name] = low.any_version(value)
    results = [v for v in nodes[-1].outputs if v.name and (v.uses() or v.is_graph_output())]
    for value in results:
        stored[value.name or ""] = low.buffer(layout_of(value, external), dtype_of(value), value.name or "")
    label = nodes[-1].name or results[0].name or nodes[-1].op_type
    chain = legalize(
        nodes, {name: s.layout for name, s in stored.items()}, constants=constants, lanes=low.machine.lanes,
        name=f"step{len(low.steps)}",
    )
    memory: dict[str, Pointer] = {name: base(s) for name, s in stored.items()}
    for temporary in chain.temporaries:
        memory[temporary.name] = base(low.buffer(Layout.rows(temporary.shape), temporary.dtype, temporary.name))
    for name, array in chain.constants.items():
        memory[name] = Pointer(low.weights.add(array))
    for call in chain.calls:
        low.makers.setdefault(call.symbol, call.make)
        pointers = [memory[name] for name in (*call.inputs, *call.outputs)]
        low.step(label, "generic", call.symbol, pointers, [], call.extent)
    for value in results:
        low.define(value, stored[value.name or ""])


def copy_to(
    low: Lowering, source: Stored, shape: tuple[int, ...], layout: Layout, name: str, into: Buffer | None = None
) -> Stored:
    """Copy a value into another layout, in a new buffer or in `into`."""
    made = low.buffer(layout, source.dtype, name) if into is None else Stored(into, layout, source.dtype)
    call = copy_call(shape, source.dtype, source.layout, layout, low.machine.lanes)
    low.makers.setdefault(call.symbol, call.make)
    low.step(f"{name}.copy", "copy", call.symbol, [base(source), base(made)], [], call.extent)
    return made


def zero_halo(low: Lowering, stored: Stored, shape: tuple[int, ...], spec: PlaneSpec, name: str) -> None:
    """Write zeros around the planes of a value."""
    call = zero_halo_call(stored.layout, shape, spec)
    low.makers.setdefault(call.symbol, call.make)
    low.step(f"{name}.zeros", "zeros", call.symbol, [base(stored)], [], call.extent)


def lower_pool(low: Lowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    return False


def lower_softmax(low: Lowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    return False


def lower_norm(low: Lowering, node: ir.Node, layout_of: LayoutOf) -> bool:
    return False


__all__ = ["Ref", "copy_to", "lower_chain", "lower_norm", "lower_pool", "lower_softmax", "shape_of", "zero_halo"]
