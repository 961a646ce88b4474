"""Units of lowering: single nodes, and chains of elementwise nodes that become one kernel."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.ir.edit import constant_of
from sparsecc.targets.lower.elementwise import ELEMENTWISE

LONGEST = 24  # nodes of a chain; longer ones compile slowly and gain nothing


@dataclass
class Chain:
    """Nodes that are lowered together, in execution order; only the last one's outputs are seen outside."""

    nodes: list[ir.Node]

    @property
    def outputs(self) -> tuple[ir.Value, ...]:
        return tuple(self.nodes[-1].outputs)


def find_chains(model: ir.Model) -> list[Chain]:
    """All nodes of the main graph as units, in an order in which each unit's inputs are ready."""
    chain_of: dict[ir.Node, Chain] = {}
    order: dict[ir.Node, int] = {}
    units: list[Chain] = []
    for position, node in enumerate(model.graph):
        order[node] = position
        unit = Chain([node])
        if _elementwise(node):
            for value in dict.fromkeys(node.inputs):
                producer = None if value is None else value.producer()
                tail = chain_of.get(producer) if producer is not None else None
                if (
                    tail is None
                    or producer is None
                    or value is None
                    or not _joins(tail, producer, value, node)
                ):
                    continue
                if len(tail.nodes) + len(unit.nodes) > LONGEST:
                    continue
                unit.nodes = tail.nodes + unit.nodes
                units.remove(tail)
        unit.nodes.sort(key=order.__getitem__)
        if _elementwise(node):
            for member in unit.nodes:
                chain_of[member] = unit
        units.append(unit)
    return units


def _elementwise(node: ir.Node) -> bool:
    return (
        node.domain == ""
        and node.op_type in ELEMENTWISE
        and len(node.outputs) == 1
        and constant_of(node.outputs[0]) is None
    )


def _joins(tail: Chain, producer: ir.Node, value: ir.Value, node: ir.Node) -> bool:
    """The value is the tail's result, only this node reads it, and the shapes agree."""
    return (
        tail.nodes[-1] is producer
        and not value.is_graph_output()
        and all(user is node for user, _ in value.uses())
        and value.shape == node.outputs[0].shape
    )
