"""fuse-epilogues: every kind of tail after every anchor, golden text, where tails end, refusals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from golden_text import Golden
from pass_graphs import Weights, codes, graph, ops, run

from sparsecc.capture import capture
from sparsecc.ir import dump, evaluate, fused_parts, random_inputs, weight_uses

CONV = ("float[2,4,5,5]", "Conv<pads=[1,1,1,1]>(x, w)", (6, 1, 1), {"w": (6, 4, 3, 3)})
MATMUL = ("float[2,3,4]", "MatMul(x, w)", (6,), {"w": (4, 6)})
GEMM = ("float[3,4]", "Gemm(x, w, c)", (6,), {"w": (4, 6), "c": (6,)})
ANCHORS = {"Conv": CONV, "MatMul": MATMUL, "Gemm": GEMM}
TAILS: list[tuple[str, str]] = [
    ("y = Relu(a)", "Relu"),
    ("y = Clip(a, lo, hi)", "Clip"),
    ("y = Clip(a, , hi)", "Clip"),
    ("y = LeakyRelu<alpha=0.1>(a)", "LeakyRelu"),
    ("y = Sigmoid(a)", "Sigmoid"),
    ("y = Tanh(a)", "Tanh"),
    ("y = HardSigmoid(a)", "HardSigmoid"),
    ("y = HardSwish(a)", "HardSwish"),
    ('y = Gelu<approximate="tanh">(a)', "Gelu"),
    ("y = Elu<alpha=0.5>(a)", "Elu"),
    ("s = Sigmoid(a) y = Mul(a, s)", "Sigmoid_Mul"),
    ("s = HardSigmoid(a) y = Mul(s, a)", "HardSigmoid_Mul"),
    ("y = Add(a, k)", "Add"),
    ("y = Sub(k, a)", "Sub"),
    ("y = Mul(k, a)", "Mul"),
    ("y = Div(a, k)", "Div"),
    ("y = Add(p, a)", "Add"),
    ("y = Mul(a, p)", "Mul"),
    ("b = Add(a, p) r = Relu(b) y = Mul(r, k)", "Add_Relu_Mul"),
    ("n = Neg(a0) b = Add(a, n) y = Relu(b)", "Add_Relu"),
]


@pytest.mark.parametrize("anchor", list(ANCHORS))
@pytest.mark.parametrize(("tail", "name"), TAILS)
def test_tails(anchor: str, tail: str, name: str) -> None:
    kind, call, channel, weights = ANCHORS[anchor]
    residual = f"a0 = {call}" if "a0" in tail else ""
    text = f"({kind} x) => (float y) {{ {residual} a = {call} {tail} }}"
    model = graph(text, {**weights, "p": channel, "k": 1.5, "lo": -0.5, "hi": 0.5})
    run("fuse-epilogues", model)
    assert ops(model)[-1] == f"{anchor}_{name}"
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_golden(golden: Golden) -> None:
    text = """(float[1,4,5,5] x) => (float y) {
        a = Conv(x, w1)  b = Clip(a, lo, hi)  c = Conv(b, w2, bias)
        d = Conv(x, w1)  e = Add(c, d)  y = Relu(e) }"""
    weights: Weights = {"w1": (6, 4, 1, 1), "w2": (6, 6, 1, 1), "bias": (6,), "lo": 0.0, "hi": 6.0}
    model = graph(text, weights)
    run("fuse-epilogues", model)
    golden(dump(model))


def test_a_residual_goes_into_the_later_anchor() -> None:
    text = """(float[1,4,5,5] x) => (float y) {
        a = Conv(x, w)  r = Relu(a)  b = Conv(r, w2)  c = Add(b, r)  y = Tanh(c) }"""
    model = graph(text, {"w": (6, 4, 1, 1), "w2": (6, 6, 1, 1)})
    run("fuse-epilogues", model)
    assert ops(model) == ["Conv_Relu", "Conv_Add_Tanh"]


def test_parts_for_the_planner() -> None:
    text = """(float[2,3,4] x, float[2,3,6] r) => (float y) {
        m = MatMul(x, w)  a = Add(m, b)  c = Add(r, a)  y = Relu(c) }"""
    model = graph(text, {"w": (4, 6), "b": (6,)})
    run("fuse-epilogues", model)
    (call,) = model.graph
    parts = fused_parts(model, call)
    assert parts.anchor.op_type == "MatMul"
    assert [node.op_type for node in parts.epilogue] == ["Add", "Add", "Relu"]
    assert [value.name for value in parts.binding.values()] == ["x", "w", "b", "r"]
    assert parts.output.shape == call.outputs[0].shape
    (use,) = weight_uses(model)
    assert (use.node, use.anchor, use.layer, use.axis) == (call, parts.anchor, "w", 1)


def test_activations_on_both_sides() -> None:
    text = "(float[2,3,4] q, float[2,4,3] k) => (float y) { s = MatMul(q, k) y = Div(s, root) }"
    model = graph(text, {"root": 2.0})
    run("fuse-epilogues", model)
    assert ops(model) == ["MatMul_Div"]


def test_overloads_are_numbered() -> None:
    text = "(float[2,4] x) => (float y) { a = MatMul(x, w) b = Relu(a) c = MatMul(b, w) y = Relu(c) }"
    model = graph(text, {"w": (4, 4)})
    run("fuse-epilogues", model)
    assert sorted(node.overload for node in model.graph) == ["1", "2"]


def test_survives_saving_and_capturing_again() -> None:
    model = graph(
        "(float[2,4] x) => (float y) { a = MatMul(x, w) b = Add(a, k) y = Relu(b) }", {"w": (4, 4), "k": 2.0}
    )
    run("fuse-epilogues", model)
    again = capture(ir.to_proto(model).SerializeToString())
    assert dump(again) == dump(model)
    inputs = random_inputs(model)
    np.testing.assert_array_equal(evaluate(again, inputs)["y"], evaluate(model, inputs)["y"])


REFUSALS: list[tuple[str, str, str]] = [
    ("two readers", "a = Conv(x, w) y = Relu(a) z = Tanh(a)", "multiple-consumers"),
    (
        "bounds from the input",
        "m = ReduceMax<keepdims=0>(x) a = Conv(x, w) y = Clip(a, , m) z = Relu(m)",
        "not-constant",
    ),
    ("spatial constant", "a = Conv(x, w) y = Add(a, plane) z = Relu(x)", "broadcast"),
    ("gate per channel", "a = Conv(x, w) g = GlobalAveragePool(x) y = Mul(a, g) z = Relu(x)", "broadcast"),
    ("broadcast up", "a = Conv(x, w) y = Add(a, batch) z = Relu(x)", "broadcast"),
]


@pytest.mark.parametrize(("name", "body", "code"), REFUSALS, ids=[name for name, *_ in REFUSALS])
def test_refusals(name: str, body: str, code: str) -> None:
    model = graph(
        f"(float[1,6,5,5] x) => (float y, float z) {{ {body} }}",
        {"w": (6, 6, 1, 1), "plane": (5, 5), "batch": (2, 6, 5, 5)},
    )
    ctx = run("fuse-epilogues", model)
    assert codes(ctx) == [code]
    assert not model.functions


def test_a_graph_output_ends_the_tail() -> None:
    model = graph("(float[2,4] x) => (float y, float z) { y = MatMul(x, w) z = Relu(y) }", {"w": (4, 4)})
    run("fuse-epilogues", model)
    assert ops(model) == ["MatMul", "Relu"]


def test_a_subgraph_that_reads_the_value_is_refused() -> None:
    text = """(float[2,4] x, bool c) => (float y, float z) {
        a = MatMul(x, w)  y = Relu(a)
        z = If(c) <then_branch = g1 () => (float[2,4] p) { p = Neg(a) },
                   else_branch = g2 () => (float[2,4] q) { q = Abs(a) }> }"""
    model = graph(text, {"w": (4, 4)})
    ctx = run("fuse-epilogues", model)
    assert codes(ctx) == ["subgraph"]
