"""Channel shuffles that no shape can keep when channels go, as one Gather.

x [n, a b, ...] -> Reshape [n, a, b, ...] -> Transpose [n, b, a, ...] -> Reshape [n, b a, ...]
    becomes   Gather(x, order, axis=1)

Behind it, a convolution of g groups reads the channels as g x (a b / g). Where neither of b and g divides the
other, the two layouts have no common refinement: channels that go must come from all a parts of x and from
all g groups in equal numbers, but not from the same places of each, which a Reshape cannot say and an order
can.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import add_initializer, attribute_int, fresh_name, used_names

CHANNELWISE = (
    "BatchNormalization",
    "Relu",
    "Clip",
    "LeakyRelu",
    "HardSwish",
    "Identity",
    "Mul",
    "Add",
    "PRelu",
)
"""Ops through which a channel of their first operand keeps its place."""
Sizes: TypeAlias = "tuple[int | ir.SymbolicDim, ...]"
_REACH = 8
"""Ops between a shuffle and the convolution that reads it, at most."""


def gather_shuffles(model: ir.Model) -> bool:
    """Replace them; whether there were any. Shapes must be known, but for open sizes of other axes."""
    names: set[str] | None = None
    for node in list(model.graph):
        found = _shuffle(node)
        if found is None:
            continue
        value, (outer, inner) = found
        if not any(_misfit(outer, inner, groups) for groups in _groups_behind(node.outputs[0])):
            continue
        names = used_names(model) if names is None else names
        order = np.arange(outer * inner).reshape(outer, inner).T.reshape(-1)
        index = add_initializer(model.graph, fresh_name(names, f"{node.name}.order"), order)
        output = node.outputs[0]
        gather = ir.node("Gather", [value, index], {"axis": 1}, name=node.name)
        result = gather.outputs[0]
        result.name, result.shape, result.type = output.name, output.shape, output.type
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [gather], [output], [result])
    return names is not None


def reordered(value: ir.Value) -> bool:
    """Whether a Gather puts the channels of a value in another order behind channelwise ops."""
    return any(
        node.op_type == "Gather" and attribute_int(node, "axis", 0) == 1 for node in _readers_behind(value)
    )


def _shuffle(last: ir.Node) -> tuple[ir.Value, tuple[int, int]] | None:
    """What is shuffled and (a, b), if this is the last of the three nodes and none other reads between."""
    turn = _only_source(last, "Reshape", "Transpose")
    first = None if turn is None else _only_source(turn, "Transpose", "Reshape")
    if turn is None or first is None or first.inputs[0] is None:
        return None
    value, split, joined = first.inputs[0], first.outputs[0].shape, last.outputs[0].shape
    if value.shape is None or split is None or joined is None or len(split) != len(value.shape) + 1:
        return None
    outer, inner = split[1], split[2]
    swap = [0, 2, 1, *range(3, len(split))]
    others = _same((value.shape[0], *value.shape[2:]), (split[0], *split[3:]))
    if not others or not _same(tuple(value.shape), tuple(joined)):
        return None
    if not isinstance(outer, int) or not isinstance(inner, int):
        return None
    # without perm all axes are reversed, which is no swap of two in the middle
    perm = list(turn.attributes["perm"].as_ints()) if "perm" in turn.attributes else []
    if value.shape[1] != outer * inner or perm != swap:
        return None
    return value, (outer, inner)


def _only_source(node: ir.Node, kind: str, before: str) -> ir.Node | None:
    """The node of kind `before` whose output only the node of `kind` reads; an Identity may lie between."""
    if node.domain != "" or node.op_type != kind:
        return None
    source = node
    while source is node or source.op_type == "Identity":
        value = source.inputs[0]
        if value is None or len(value.uses()) > 1 or value.is_graph_output():
            return None
        producer = value.producer()
        if producer is None or producer.domain != "":
            return None
        source = producer
    return source if source.op_type == before else None


def _same(sizes: Sizes, others: Sizes) -> bool:
    """Whether all sizes are known to be equal: numbers, or symbols of one name."""
    return len(sizes) == len(others) and all(
        one == other and (isinstance(one, int) or one.value is not None)
        for one, other in zip(sizes, others, strict=True)
    )


def _misfit(outer: int, inner: int, groups: int) -> bool:
    return outer > 1 and groups > 1 and inner % groups != 0 and groups % inner != 0


def _groups_behind(value: ir.Value) -> Iterator[int]:
    """Of convolutions that read a value's channels and have several in a group."""
    for node in _readers_behind(value):
        if node.op_type == "Conv" and node.inputs[1] is not None:
            weight = node.inputs[1].shape
            if weight is not None and weight[1] != 1:
                yield attribute_int(node, "group", 1)


def _readers_behind(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes that read a value's channels, directly or through channelwise ops and depthwise convolutions."""
    front = [value]
    for _ in range(_REACH):
        behind: list[ir.Value] = []
        for node in (node for item in front for node, number in item.uses() if number == 0):
            if node.domain != "":
                continue
            yield node
            if node.op_type in CHANNELWISE or _is_depthwise(node):
                behind.append(node.outputs[0])
        front = behind


def _is_depthwise(node: ir.Node) -> bool:
    weight = node.inputs[1].shape if node.op_type == "Conv" and node.inputs[1] is not None else None
    return weight is not None and weight[1] == 1 and attribute_int(node, "group", 1) == weight[0]
