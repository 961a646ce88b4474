"""Turn constants that are stored in few bits back into floats, so that every pass and kernel knows them.

DequantizeLinear(w: int8, scale, zero point) -> w: float32.  Lowering finds int8 weights by their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, VerificationError
from sparsecc.ir.edit import add_initializer, constant_of, fresh_name, is_output, owner_graph, used_names
from sparsecc.ir.provenance import inherit, record
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult
from sparsecc.passes.fold_constants import evaluate_node


@dataclass(frozen=True)
class FoldDequantize(Pass):
    """Compute DequantizeLinear of constants (ONNX DequantizeLinear-23: per tensor, axis or block).

    The result keeps the name and history of what was quantised. `fold-constants` leaves these nodes alone,
    since a file of them is meant to stay small.
    """

    name: ClassVar[str] = "fold-dequantize"
    summary: ClassVar[str] = "turn quantised constants back into floats"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Fold every such node; what ONNX Runtime cannot compute is a refusal."""
        taken = used_names(model)
        folded = 0
        refusals: list[Refusal] = []
        for node in list(model.graph.all_nodes()):
            if node.op_type != "DequantizeLinear" or node.domain != "" or is_output(node.outputs[0]):
                continue
            arrays = [None if value is None else constant_of(value) for value in node.inputs]
            if any(a is None for a, v in zip(arrays, node.inputs, strict=True) if v is not None):
                continue
            try:
                (floats,) = evaluate_node(node, arrays)
            except VerificationError as error:
                where = node.name or node.op_type
                reason = f"{node_text(node)} cannot be evaluated: {error}"
                refusals.append(Refusal(reason, where, "not-evaluated"))
                continue
            _replace(node, np.asarray(floats, order="C"), taken)
            folded += 1
        notes = (f"turned {folded} quantised constants back into floats",) if folded else ()
        return PassResult(bool(folded), tuple(refusals), notes)


def _replace(node: ir.Node, floats: np.ndarray, taken: set[str]) -> None:
    """Put an initializer in the node's place, named as what was quantised where that is free."""
    origin, output, graph = node.inputs[0], node.outputs[0], owner_graph(node)
    assert origin is not None
    name = origin.name or "weight"
    node.replace_input_with(0, None)
    if not origin.uses() and origin.is_initializer() and not is_output(origin):
        owner = origin.graph
        assert owner is not None
        owner.initializers.pop(name)
        taken.discard(name)
    value = add_initializer(graph, fresh_name(taken, name), floats)
    inherit(value, origin)
    record(value, FoldDequantize.name)
    output.replace_all_uses_with(value)
    graph.remove(node, safe=True)
