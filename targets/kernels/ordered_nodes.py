"""ONNX nodes of the `ordered` kernels: attributes and constant inputs read, kernels chosen."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.kernels.chain import (
    Array,
    GenericCall,
    GenericChain,
    numpy_name,
    static_shape,
    value_name,
)
from sparsecc.targets.kernels.copy import copy_call
from sparsecc.targets.kernels.ordered import (
    REDUCTIONS,
    cumsum_call,
    scatter_elements_call,
    scatter_nd_call,
    topk_call,
)
from sparsecc.targets.layout import Layout

ALONE = frozenset({"CumSum", "TopK", "ScatterND", "ScatterElements"})  # ops that are never part of a chain


def ordered_chain(
    node: ir.Node, layouts: Mapping[str, Layout], constants: Mapping[str, Array], lanes: int, where: str
) -> GenericChain:
    """The kernels of one node whose op is in `ALONE`; arguments as for `generic.legalize`."""
    data, target = node.inputs[0], value_name(node.outputs[0])
    source = value_name(data)
    assert data is not None
    packed = {
        n: constants[n] for n in (value_name(i) for i in node.inputs if i is not None) if n in constants
    }
    place = {n: Layout.rows(a.shape) for n, a in packed.items()} | dict(layouts)
    shape, dtype = static_shape(data), numpy_name(data)
    axis = node.attributes.get_int("axis", -1 if node.op_type == "TopK" else 0)

    def fixed(slot: int) -> int:
        name = value_name(node.inputs[slot])
        if name not in constants:
            raise UnsupportedOpError(f"{where}: input '{name}' must be a constant")
        packed.pop(name, None)
        return int(constants[name].item())

    if node.op_type == "CumSum":
        exclusive, reverse = (bool(node.attributes.get_int(a, 0)) for a in ("exclusive", "reverse"))
        call = cumsum_call(
            shape, dtype, fixed(1), place[source], place[target], lanes, exclusive=exclusive, reverse=reverse
        )
        calls = (GenericCall(call.symbol, call.make, (source,), (target,), call.extent),)
    elif node.op_type == "TopK":
        results = tuple(value_name(o) for o in node.outputs)
        if any(r not in place for r in results):
            raise UnsupportedOpError(f"{where}: both outputs are computed and need a layout")
        largest = bool(node.attributes.get_int("largest", 1))
        places = [place[n] for n in (source, *results)]
        call = topk_call(shape, dtype, axis, fixed(1), places, largest=largest)
        calls = (GenericCall(call.symbol, call.make, (source,), results, call.extent),)
    else:
        calls = _scatter(node, shape, dtype, place, axis, lanes, where)
    return GenericChain(calls, (), packed)


def _scatter(
    node: ir.Node,
    shape: tuple[int, ...],
    dtype: str,
    place: Mapping[str, Layout],
    axis: int,
    lanes: int,
    where: str,
) -> tuple[GenericCall, ...]:
    source, indices, updates = (value_name(i) for i in node.inputs)
    target = value_name(node.outputs[0])
    shapes = [static_shape(i) for i in node.inputs if i is not None]
    index_types = [numpy_name(i) for i in node.inputs if i is not None]
    kind = node.attributes.get_string("reduction", "none")
    if kind not in REDUCTIONS:
        raise UnsupportedOpError(f"{where}: reduction '{kind}' is not one of {', '.join(REDUCTIONS)}")
    copied = copy_call(shape, dtype, place[source], place[target], lanes)
    layouts = (place[indices], place[updates], place[target])
    dtypes = (index_types[1], dtype)
    if node.op_type == "ScatterND":
        call = scatter_nd_call(shape, shapes[1], dtypes, layouts, kind)
    else:
        call = scatter_elements_call(shape, shapes[2], axis, dtypes, layouts, kind)
    return (
        GenericCall(copied.symbol, copied.make, (source,), (target,), copied.extent),
        GenericCall(call.symbol, call.make, (indices, updates), (target,), call.extent),
    )
