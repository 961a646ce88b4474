"""Fused calls: one node of domain `sparsecc.fused` calling a function whose body is an anchor and a tail.

    Conv_Add_Relu(x, w, b, r)  =  { c = Conv(x, w, b); a = Add(c, r); y = Relu(a) }

Bodies are ordinary ONNX, so ONNX Runtime evaluates a fused model unchanged. Each call has its own overload.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.errors import VerificationError

FUSED_DOMAIN = "sparsecc.fused"
FUSED_VERSION = 1


@dataclass(frozen=True)
class FusedParts:
    """A fused call taken apart.

    Attributes:
        anchor: the body's convolution or matrix product; its inputs are function inputs.
        epilogue: the other nodes of the body in execution order, without Constant nodes.
        binding: function input -> value at the call site.
        output: the function's output value; its shape and type are those of the call's output.
    """

    anchor: ir.Node
    epilogue: list[ir.Node]
    binding: dict[ir.Value, ir.Value]
    output: ir.Value


def is_fused(node: ir.Node) -> bool:
    """Whether the node calls a fused function."""
    return node.domain == FUSED_DOMAIN


def fused_parts(model: ir.Model, node: ir.Node) -> FusedParts:
    """Take a fused call apart.

    Raises:
        VerificationError: the call has no function, or function and call do not fit.
    """
    function = model.functions.get(node.op_identifier())
    where = f"fused call {node.name or node.op_type}"
    if function is None:
        raise VerificationError(f"{where} has no function {node.op_type} overload {node.overload!r}")
    actual = [value for value in node.inputs if value is not None]
    if len(actual) != len(node.inputs) or len(actual) != len(function.inputs) or len(node.outputs) != 1:
        raise VerificationError(f"{where} does not pass the {len(function.inputs)} inputs of its function")
    body = [inner for inner in function if inner.op_type != "Constant"]
    if not body or len(function.outputs) != 1:
        raise VerificationError(f"{where} has a function without a body or with several outputs")
    inputs = set(function.inputs)
    anchor = body[0]
    if any(value is not None and value not in inputs for value in anchor.inputs):
        raise VerificationError(
            f"{where} has an anchor {anchor.op_type} that reads more than the call's inputs"
        )
    binding = dict(zip(function.inputs, actual, strict=True))
    return FusedParts(anchor, body[1:], binding, function.outputs[0])
