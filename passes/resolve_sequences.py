"""Replace a sequence of pieces that is made and taken apart at once by a Split.

s = SplitToSequence(x, 64);  a = SequenceAt(s, 0);  b = SequenceAt(s, 1)  ->  a, b = Split(x, [64, 64])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import (
    add_initializer,
    attribute_int,
    constant_of,
    fresh_name,
    is_output,
    owner_graph,
    scalar_of,
    used_names,
)
from sparsecc.ir.provenance import record
from sparsecc.ir.shapes import infer_shapes, static_shape
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class ResolveSequences(Pass):
    """Turn SplitToSequence with SequenceAt into Split.

    The sizes and positions must be constant, the split axis static, and nothing else may read the sequence;
    otherwise it is a refusal.
    """

    name: ClassVar[str] = "resolve-sequences"
    summary: ClassVar[str] = "replace sequences of pieces by Split"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Resolve every SplitToSequence."""
        taken = used_names(model)
        refusals: list[Refusal] = []
        resolved = 0
        for node in list(model.graph.all_nodes()):
            if node.domain != "" or node.op_type != "SplitToSequence":
                continue
            sizes = _sizes(node)
            readers = _positions(node, len(sizes)) if sizes else None
            if sizes is None or readers is None:
                reason = f"{node_text(node)} stays: its sizes, positions or readers are not known"
                refusals.append(Refusal(reason, node.name or node.op_type, "sequence"))
                continue
            _split(node, sizes, readers, taken)
            resolved += 1
        if resolved:
            infer_shapes(model)
        notes = (f"replaced {resolved} sequences by Split",) if resolved else ()
        return PassResult(bool(resolved), tuple(refusals), notes)


def _sizes(node: ir.Node) -> list[int] | None:
    """Sizes of the pieces, or None where they are not known or lose their axis."""
    source = node.inputs[0]
    shape = None if source is None else static_shape(source)
    split = constant_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape is None or split is None:
        return None
    size = shape[attribute_int(node, "axis", 0)]
    if split.ndim:
        return [int(number) for number in split]
    step = int(split)
    return [min(step, size - start) for start in range(0, size, step)]


def _positions(node: ir.Node, count: int) -> dict[ir.Node, int] | None:
    """SequenceAt -> index of its piece; None where anything else reads the sequence."""
    found: dict[ir.Node, int] = {}
    for reader, _ in node.outputs[0].uses():
        position = scalar_of(reader.inputs[1]) if reader.op_type == "SequenceAt" else None
        if position is None or not -count <= position < count or reader.graph is not node.graph:
            return None
        found[reader] = int(position) % count
    return None if is_output(node.outputs[0]) else found


def _split(node: ir.Node, sizes: list[int], readers: dict[ir.Node, int], taken: set[str]) -> None:
    graph, source = owner_graph(node), node.inputs[0]
    name = fresh_name(taken, f"{node.outputs[0].name}.sizes")
    numbers = add_initializer(graph, name, np.array(sizes, np.int64))
    axis = attribute_int(node, "axis", 0)
    split = ir.Node(
        "", "Split", [source, numbers], [ir.AttrInt64("axis", axis)], num_outputs=len(sizes), name=node.name
    )
    record(split, ResolveSequences.name)
    shape = None if source is None else static_shape(source)
    for index, (piece, size) in enumerate(zip(split.outputs, sizes, strict=True)):
        piece.name = fresh_name(taken, f"{node.outputs[0].name}.{index}")
        if shape is not None and source is not None:
            dims = list(shape)
            dims[axis] = size
            piece.shape, piece.type = ir.Shape(dims), source.type
    graph.insert_before(node, split)
    for reader, index in readers.items():
        piece, output = split.outputs[index], reader.outputs[0]
        kept, final = output.name, is_output(output)
        output.replace_all_uses_with(piece, replace_graph_outputs=final)
        graph.remove(reader, safe=True)
        if final:
            piece.name = kept
    graph.remove(node, safe=True)
