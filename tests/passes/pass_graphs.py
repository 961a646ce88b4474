"""Small graphs for tests, from ONNX text and seeded weights, and the check that every pass test ends with."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir

from sparsecc.capture import capture
from sparsecc.ir import OPSET, evaluate, random_inputs
from sparsecc.passes import Context, Pipeline, VerifyEach
from sparsecc.passes.hooks import relative_difference

Weights = Mapping[str, "tuple[int, ...] | np.ndarray | float | list[int]"]


def array_of(name: str, spec: tuple[int, ...] | np.ndarray | float | list[int]) -> np.ndarray:
    """An array, a float32 number, an int64 list, or normal numbers of a shape, seeded by the name."""
    if isinstance(spec, np.ndarray):
        return spec
    if isinstance(spec, list):
        return np.array(spec, np.int64)
    if isinstance(spec, tuple):
        return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(spec).astype(np.float32)
    return np.array(spec, np.float32)


def proto_of(text: str, weights: Weights | None = None, opset: int = OPSET) -> onnx.ModelProto:
    """`(float[1,3,8,8] x) => (float y) { y = Conv(x, w) }`, weights by name; `a__b` in the text is `a.b`."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> test {text}')
    for node in proto.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
    for output in proto.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, spec in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array_of(name, spec), name))
    return proto


def graph(text: str, weights: Weights | None = None, opset: int = OPSET) -> ir.Model:
    """The captured model of `proto_of`."""
    return capture(proto_of(text, weights, opset))


def run(spec: str, model: ir.Model, tolerance: float = 1e-5) -> Context:
    """Run a pipeline in place with the verifier; outputs must stay what ONNX Runtime computed before."""
    inputs = random_inputs(model)
    before = evaluate(model, inputs)
    ctx = Pipeline.parse(spec).run(model, hooks=[VerifyEach()])
    after = evaluate(model, inputs)
    assert list(after) == list(before)
    for name, reference in before.items():
        assert relative_difference(after[name], reference) <= tolerance, name
    return ctx


def ops(model: ir.Model) -> list[str]:
    """Op types of the main graph in order."""
    return [node.op_type for node in model.graph]


def codes(ctx: Context) -> list[str]:
    """Codes of all refusals in order."""
    return [refusal.code for refusal in ctx.refusals]
