"""Turn constants that are stored in few bits back into floats, so that every pass and kernel knows them.

DequantizeLinear(w: int8, scale, zero point) -> w: float32, and Cast(w: bfloat16) -> w: float32. Lowering
finds such weights by their values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, VerificationError
from sparsecc.ir.edit import (
    add_initializer,
    constant_tensor,
    fresh_name,
    is_output,
    owner_graph,
    used_names,
)
from sparsecc.ir.evaluate import evaluate
from sparsecc.ir.opset import IR_VERSION, OPSET
from sparsecc.ir.provenance import inherit, record
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class FoldDequantize(Pass):
    """Compute DequantizeLinear (ONNX DequantizeLinear-23: per tensor, axis or block) and Cast of constants.

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
            if node.domain != "" or is_output(node.outputs[0]) or not _widens(node):
                continue
            tensors = [constant_tensor(value) for value in node.inputs]
            if any(t is None for t, v in zip(tensors, node.inputs, strict=True) if v is not None):
                continue
            try:
                floats = _computed(node, tensors)
            except VerificationError as error:
                where = node.name or node.op_type
                reason = f"{node_text(node)} cannot be evaluated: {error}"
                refusals.append(Refusal(reason, where, "not-evaluated"))
                continue
            _replace(node, np.asarray(floats, order="C"), taken)
            folded += 1
        notes = (f"turned {folded} quantised constants back into floats",) if folded else ()
        return PassResult(bool(folded), tuple(refusals), notes)


def _widens(node: ir.Node) -> bool:
    """Whether it turns its first input from few bits into float32."""
    if node.op_type != "Cast":
        return node.op_type == "DequantizeLinear"
    tensor = constant_tensor(node.inputs[0])
    small = tensor is not None and tensor.dtype == ir.DataType.BFLOAT16
    return small and node.outputs[0].dtype == ir.DataType.FLOAT


def _computed(node: ir.Node, tensors: list[ir.TensorProtocol | None]) -> np.ndarray:
    """The node's result by ONNX Runtime; its inputs are initializers, since it takes none of 4 bits."""
    values = [None if tensor is None else _initializer(f"i{i}", tensor) for i, tensor in enumerate(tensors)]
    copy = ir.Node("", node.op_type, values, dict(node.attributes), num_outputs=1, name="node")
    copy.outputs[0].name, copy.outputs[0].type = "o", node.outputs[0].type
    known = [value for value in values if value is not None]
    graph = ir.Graph(
        [], copy.outputs, nodes=[copy], initializers=known, opset_imports={"": OPSET}, name="fold"
    )
    return evaluate(ir.Model(graph, ir_version=IR_VERSION), {})["o"]


def _initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    copy = ir.Tensor(tensor.numpy(), dtype=tensor.dtype)  # a value renames its tensor, which is the caller's
    return ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=copy)


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
