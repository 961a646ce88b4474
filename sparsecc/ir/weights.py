"""Which initializers are weights of convolutions and matrix products, and along which axis their rows run.

Conv [O, I/g, ...] -> axis 0; Gemm [K, N] -> axis 1, transB [N, K] -> axis 0; MatMul [K, N] -> axis 1.
A weight behind a Transpose of the two axes is found too, with the axis turned round.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.ir.edit import attribute_int, attribute_ints, constant_tensor
from sparsecc.ir.fused import fused_parts, is_fused
from sparsecc.ir.provenance import source_name

WEIGHTED_OPS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class WeightUse:
    """One use of an initializer as a weight.

    Attributes:
        node: the node of the graph that uses it; a fused call where the anchor is inside a function.
        anchor: the Conv, Gemm or MatMul itself, equal to `node` unless fused.
        value: the initializer.
        axis: its output axis, the rows of its matrix view.
        groups: convolution groups, else 1.
        depthwise: a convolution with one input channel per group and as many groups as input channels.
        layer: the original parameter's name without `.weight`.
        shared: whether anything but weight uses reads the initializer, such as an embedding lookup.
    """

    node: ir.Node
    anchor: ir.Node
    value: ir.Value
    axis: int
    groups: int
    depthwise: bool
    layer: str
    shared: bool

    def is_named(self, patterns: Sequence[str]) -> bool:
        """Whether the layer's or parameter's name is one of the names or globs."""
        names = (self.layer, source_name(self.value), self.value.name or "")
        return any(name == p or fnmatch.fnmatchcase(name, p) for name in names for p in patterns)


def layer_name(value: ir.Value) -> str:
    """The original parameter's name without a trailing `.weight`."""
    return source_name(value).removesuffix(".weight")


def anchor_of(model: ir.Model, node: ir.Node) -> ir.Node:
    """The node itself, or the anchor inside the function that a fused call calls."""
    return fused_parts(model, node).anchor if is_fused(node) else node


def actual_inputs(model: ir.Model, node: ir.Node) -> list[ir.Value | None]:
    """Inputs of the anchor as values of the calling graph."""
    if not is_fused(node):
        return list(node.inputs)
    parts = fused_parts(model, node)
    return [None if value is None else parts.binding[value] for value in parts.anchor.inputs]


def weight_uses(model: ir.Model) -> list[WeightUse]:
    """All uses of initializers as weights, in graph order, subgraphs included."""
    found = list(_uses(model))
    readers: dict[ir.Value, int] = {}
    for use in found:
        readers[use.value] = readers.get(use.value, 0) + 1
    return [
        WeightUse(
            use.node,
            use.anchor,
            use.value,
            use.axis,
            use.groups,
            use.depthwise,
            use.layer,
            shared=_leaf_readers(use.value) > readers[use.value],
        )
        for use in found
    ]


def _uses(model: ir.Model) -> Iterator[WeightUse]:
    for node in model.graph.all_nodes():
        anchor = anchor_of(model, node)
        if anchor.domain not in ("", "ai.onnx") or anchor.op_type not in WEIGHTED_OPS:
            continue
        value, turned = _source_of(actual_inputs(model, node)[1])
        tensor = constant_tensor(value)
        if value is None or tensor is None or value.producer() is not None:
            continue
        rank = len(tensor.shape)
        if (anchor.op_type == "Conv" and (rank < 3 or turned)) or (anchor.op_type != "Conv" and rank != 2):
            continue
        groups = attribute_int(anchor, "group", 1) if anchor.op_type == "Conv" else 1
        axis = {"Conv": 0, "Gemm": 1 - attribute_int(anchor, "transB", 0), "MatMul": 1}[anchor.op_type]
        depthwise = groups > 1 and tensor.shape[1] == 1
        yield WeightUse(
            node,
            anchor,
            value,
            1 - axis if turned else axis,
            groups,
            depthwise,
            layer_name(value),
            shared=False,
        )


def _source_of(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """Follow Identity and two-axis Transpose back to an initializer; whether the axes were turned round."""
    turned = False
    while value is not None and (producer := value.producer()) is not None:
        swaps = producer.op_type == "Transpose" and attribute_ints(producer, "perm") in ((1, 0), None)
        if producer.domain != "" or not (swaps or producer.op_type == "Identity"):
            return None, False
        turned ^= swaps
        value = producer.inputs[0]
    return value, turned


def _leaf_readers(value: ir.Value) -> int:
    """Readers of a value's contents, through the Identity and Transpose nodes that `_source_of` follows."""
    count = 1 if value.is_graph_output() else 0
    for node, index in value.uses():
        if node.domain == "" and (node.op_type == "Shape" or (node.op_type == "CastLike" and index == 1)):
            continue
        if node.domain == "" and node.op_type in ("Identity", "Transpose"):
            count += _leaf_readers(node.outputs[0])
        else:
            count += 1
    return count
