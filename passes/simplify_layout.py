"""Merge chains of Reshape and Transpose.

Transpose(Transpose(x, p), q) -> Transpose(x, p[q]);   Reshape(Reshape(x)) -> Reshape(x)
Reshape(Transpose(Reshape(x, [ab,c,d]), [0,2,1]), [a,b,d,c]) -> Transpose(x, [0,1,3,2])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import add_initializer, attribute_ints, fresh_name, is_output, owner_graph, used_names
from sparsecc.ir.provenance import record
from sparsecc.ir.shapes import static_shape
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class SimplifyLayout(Pass):
    """Merge layout changes.

    1. Reshape of a Reshape, where the final shape is static
    2. Reshape, Transpose of the last two axes and Reshape back, as exporters write the key of an attention
    3. Transpose of a Transpose

    Nodes that lose their last reader are left for drop-dead. Shapes that are not static are refusals.
    """

    name: ClassVar[str] = "simplify-layout"
    summary: ClassVar[str] = "merge chains of Reshape and Transpose"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Merge in graph order, so that chains of any length end as one node."""
        taken = used_names(model)
        refusals: list[Refusal] = []
        merged = 0
        for node in list(model.graph.all_nodes()):
            if node.graph is None or node.domain != "":
                continue
            if node.op_type == "Reshape":
                merged += _merge_reshape(node, taken, refusals)
            elif node.op_type == "Transpose":
                merged += _merge_transpose(node)
        notes = (f"merged {merged} layout changes",) if merged else ()
        return PassResult(bool(merged), tuple(refusals), notes)


def _source(value: ir.Value | None, op_type: str, node: ir.Node) -> ir.Node | None:
    """The producer of a value if it is this op in the same graph as `node`."""
    found = None if value is None else value.producer()
    same = found is not None and found.domain == "" and found.op_type == op_type and found.graph is node.graph
    return found if same else None


def _merge_reshape(node: ir.Node, taken: set[str], refusals: list[Refusal]) -> bool:
    """Cases 1 and 2."""
    shape = static_shape(node.outputs[0])
    inner = _source(node.inputs[0], "Reshape", node)
    if inner is not None:
        if shape is None:
            where = node.name or node.op_type
            reason = f"{node_text(node)} follows another Reshape but its shape is not static"
            refusals.append(Refusal(reason, where, "not-static"))
            return False
        node.replace_input_with(0, inner.inputs[0])
        if (
            node.inputs[1] is None
            or node.inputs[1].const_value is None
            or 0 in node.inputs[1].const_value.numpy()
        ):
            numbers = ir.tensor(list(shape), dtype=ir.DataType.INT64).numpy()
            name = fresh_name(taken, f"{node.outputs[0].name}.shape")
            node.replace_input_with(1, add_initializer(owner_graph(node), name, numbers))
        record(node, SimplifyLayout.name)
        return True
    swap = _source(node.inputs[0], "Transpose", node)
    inner = None if swap is None else _source(swap.inputs[0], "Reshape", node)
    if swap is None or inner is None or inner.inputs[0] is None or attribute_ints(swap, "perm") != (0, 2, 1):
        return False
    before, flat = static_shape(inner.inputs[0]), static_shape(inner.outputs[0])
    if before is None or shape is None or flat is None or len(before) < 3:
        return False
    if flat != (math.prod(before[:-2]), *before[-2:]) or shape != (*before[:-2], before[-1], before[-2]):
        return False
    rank = len(before)
    _as_transpose(node, inner.inputs[0], (*range(rank - 2), rank - 1, rank - 2))
    return True


def _as_transpose(node: ir.Node, source: ir.Value, perm: tuple[int, ...]) -> None:
    """Put a Transpose of `source` in the place of `node`, merged with the Transpose before it."""
    graph, output = owner_graph(node), node.outputs[0]
    fresh = ir.Node("", "Transpose", [source], [ir.AttrInt64s("perm", perm)], num_outputs=1, name=node.name)
    record(fresh, SimplifyLayout.name)
    result, name = fresh.outputs[0], output.name
    result.shape, result.type = output.shape, output.type
    graph.insert_before(node, fresh)
    output.replace_all_uses_with(result, replace_graph_outputs=is_output(output))
    graph.remove(node, safe=True)
    result.name = name
    _merge_transpose(fresh)


def _merge_transpose(node: ir.Node) -> bool:
    """Case 3."""
    inner = _source(node.inputs[0], "Transpose", node)
    if inner is None or inner.inputs[0] is None:
        return False
    first, second = attribute_ints(inner, "perm"), attribute_ints(node, "perm")
    if first is None or second is None:
        return False
    node.replace_input_with(0, inner.inputs[0])
    node.attributes["perm"] = ir.AttrInt64s("perm", [first[axis] for axis in second])
    record(node, SimplifyLayout.name)
    return True
