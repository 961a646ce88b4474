"""Remove what computes nothing.

y = Relu(Identity(Dropout(Reshape(x, shape of x))))  ->  y = Relu(x)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from sparsecc.errors import Refusal
from sparsecc.ir.edit import attribute_int, attribute_ints, bypass, constant_of, is_output
from sparsecc.ir.shapes import static_shape
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class DropDead(Pass):
    """Remove dead code and nodes without effect.

    1. nodes whose results nobody reads
    2. initializers that nobody reads
    3. functions that nobody calls
    4. Identity
    5. Dropout in inference, whose mask nobody reads
    6. Reshape, Expand, Squeeze, Unsqueeze or Flatten to the shape that the value has
    7. Transpose that keeps the order
    8. Cast to the type that the value has
    9. Pad by nothing
    10. Concat of one value

    A no-op between a graph input or initializer and a graph output must stay, which is a refusal.
    """

    name: ClassVar[str] = "drop-dead"
    summary: ClassVar[str] = "remove dead code and nodes without effect"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Remove to a fixed point."""
        refusals: list[Refusal] = []
        dropped = 0
        for node in list(model.graph.all_nodes()):
            if node.domain != "" or not _is_noop(node):
                continue
            source = node.inputs[0]
            if source is not None and bypass(node, source):
                dropped += 1
            else:
                reason = f"{node_text(node)} does nothing but ties an output to a value that has another name"
                refusals.append(Refusal(reason, node.name or node.op_type, "output-name"))
        nodes, initializers, functions = _drop_unused(model)
        notes: list[str] = []
        if dropped:
            notes.append(f"removed {dropped} nodes without effect")
        if nodes or initializers or functions:
            notes.append(
                f"removed {nodes} unused nodes, {initializers} initializers and {functions} functions"
            )
        return PassResult(bool(notes), tuple(refusals), tuple(notes))


def _drop_unused(model: ir.Model) -> tuple[int, int, int]:
    """Cases 1, 2 and 3: how many nodes, initializers and functions went."""
    before = _counts(model)
    common_passes.RemoveUnusedNodesPass()(model)
    common_passes.RemoveUnusedFunctionsPass()(model)
    nodes, initializers, functions = (old - new for old, new in zip(before, _counts(model), strict=True))
    return nodes, initializers, functions


def _counts(model: ir.Model) -> tuple[int, int, int]:
    nodes = sum(1 for _ in model.graph.all_nodes())
    initializers = sum(len(graph.initializers) for graph in (model.graph, *model.graph.subgraphs()))
    return nodes, initializers, len(model.functions)


def _is_noop(node: ir.Node) -> bool:
    check = NOOPS.get(node.op_type)
    return check is not None and node.inputs[0] is not None and check(node)


def _drops_nothing(node: ir.Node) -> bool:
    """Case 5."""
    training = constant_of(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else False
    mask = node.outputs[1] if len(node.outputs) > 1 else None
    return (
        training is not None
        and not np.any(training)
        and (mask is None or not (mask.uses() or is_output(mask)))
    )


def _keeps_shape(node: ir.Node) -> bool:
    """Case 6."""
    source = node.inputs[0]
    shape = None if source is None else static_shape(source)
    return shape is not None and shape == static_shape(node.outputs[0])


def _keeps_order(node: ir.Node) -> bool:
    """Case 7."""
    source = node.inputs[0]
    perm = attribute_ints(node, "perm")
    if perm is None:
        return source is not None and source.shape is not None and len(source.shape) <= 1
    return perm == tuple(range(len(perm)))


def _keeps_type(node: ir.Node) -> bool:
    """Case 8."""
    source = node.inputs[0]
    if source is None or source.dtype is None:
        return False
    if node.op_type == "CastLike":
        like = node.inputs[1]
        return like is not None and like.dtype == source.dtype
    return attribute_int(node, "to", 0) == source.dtype.value


def _pads_nothing(node: ir.Node) -> bool:
    """Case 9."""
    pads = constant_of(node.inputs[1])
    return pads is not None and not pads.any()


NOOPS: dict[str, Callable[[ir.Node], bool]] = {
    "Identity": lambda node: True,
    "Dropout": _drops_nothing,
    "Reshape": _keeps_shape,
    "Expand": _keeps_shape,
    "Squeeze": _keeps_shape,
    "Unsqueeze": _keeps_shape,
    "Flatten": _keeps_shape,
    "Transpose": _keeps_order,
    "Cast": _keeps_type,
    "CastLike": _keeps_type,
    "Pad": _pads_nothing,
    "Concat": lambda node: len(node.inputs) == 1,
}
"""Op -> whether a node of it does nothing."""
