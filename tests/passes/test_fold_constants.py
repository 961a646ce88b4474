"""fold-constants: golden text, numbers, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import codes, graph, ops, run

from sparsecc.errors import UsageError
from sparsecc.ir import dump, encoding_of, get_encoding, weight_uses
from sparsecc.ir.encoding import Encoding, set_encoding
from sparsecc.ir.provenance import passes_of, source_name, transforms_of
from sparsecc.passes import Pipeline


def test_golden(golden: Golden) -> None:
    model = graph(
        """(float[2,4,6] x) => (float y, float z) {
            t = Transpose<perm=[1,0]>(fc__weight)
            m = MatMul(x, t)
            s = Shape(m)
            n = Gather<axis=0>(s, zero)
            u = Unsqueeze(n, axes)
            target = Concat<axis=0>(u, rest)
            y = Reshape(m, target)
            z = CastLike(four, x)
        }""",
        {"fc.weight": (8, 6), "zero": np.array(0), "axes": [0], "rest": [-1], "four": [4]},
    )
    run("fold-constants,drop-dead", model)
    golden(dump(model))


def test_a_transposed_parameter_keeps_name_history_and_encoding() -> None:
    weight = np.ones((8, 8), np.float32)
    weight[:4, ::2] = 0
    weight[4:, 1::2] = 0
    model = graph(
        "(float[2,8] x) => (float y) { t = Transpose(fc__weight) y = MatMul(x, t) }", {"fc.weight": weight}
    )
    value = model.graph.initializers["fc.weight"]
    set_encoding(value, Encoding("block", rows=4, columns=1))
    run("fold-constants", model)
    (use,) = weight_uses(model)
    assert (use.value.name, use.axis, use.layer) == ("fc.weight", 1, "fc")
    assert source_name(use.value) == "fc.weight"
    assert transforms_of(use.value) == ("transpose(1,0)",)
    assert passes_of(use.value) == ("fold-constants",)
    assert str(get_encoding(use.value, use.axis)) == "4x1"
    assert encoding_of(weight) == get_encoding(use.value, use.axis)


def test_a_weight_used_twice_is_transposed_once() -> None:
    text = """(float[2,6] x) => (float y) {
        t = Transpose(w)  u = Transpose(w)  a = MatMul(x, t)  b = MatMul(a, u)  y = Add(b, c) }"""
    model = graph(text, {"w": (6, 6), "c": (6,)})
    run("fold-constants,drop-dead", model)
    assert ops(model) == ["MatMul", "MatMul", "Add"]
    assert len(model.graph.initializers) == 2


def test_a_tied_weight_keeps_its_other_readers() -> None:
    text = "(int64[2,3] i) => (float y) { e = Gather(emb, i) t = Transpose(emb) y = MatMul(e, t) }"
    model = graph(text, {"emb": (10, 6)})
    run("fold-constants", model)
    (use,) = weight_uses(model)
    assert (use.value.name, use.layer) == ("emb.1", "emb")


def test_parts_of_dynamic_shapes_fold() -> None:
    text = """(float[N,4,6] x) => (float y) {
        s = Shape(x)  c = Gather(s, one)  u = Unsqueeze(c, axes)  target = Concat<axis=0>(minus, u)
        y = Reshape(x, target) }"""
    model = graph(text, {"one": np.array(1), "axes": [0], "minus": [-1]})
    run("fold-constants,drop-dead", model)
    assert ops(model) == ["Reshape"]


def test_a_folded_output_stays_an_output() -> None:
    model = graph("(float[2] x) => (float y, float z) { y = Relu(x) z = Neg(c) }", {"c": (3,)})
    run("fold-constants", model)
    assert sorted(ops(model)) == ["Constant", "Relu"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_growth_is_refused() -> None:
    model = graph(
        "(float[1024,512] x) => (float y) { e = Expand(c, s) y = Add(x, e) }", {"c": (1,), "s": [1024, 512]}
    )
    ctx = run("fold-constants", model)
    assert codes(ctx) == ["too-large"]
    assert "Expand" in ops(model)
    run("fold-constants{max-growth=1000000}", model)
    assert ops(model) == ["Add"]


def test_random_and_quantised_nodes_stay() -> None:
    text = """(float[4] x) => (float y) {
        q = DequantizeLinear(w, scale)  y = Add(x, q) }"""
    model = graph(text, {"w": np.array([1, 2, 3, 4], np.int8), "scale": 0.5})
    run("fold-constants", model)
    assert ops(model) == ["DequantizeLinear", "Add"]


def test_inside_subgraphs() -> None:
    text = """(float[2] x, bool c) => (float y) {
        y = If(c) <then_branch = g1 () => (float[2] a) { n = Neg(k) a = Add(x, n) },
                   else_branch = g2 () => (float[2] b) { b = Sub(x, k) }> }"""
    model = graph(text, {"k": (2,)})
    run("fold-constants", model)
    assert "Neg" not in [node.op_type for node in model.graph.all_nodes()]


def test_bad_option() -> None:
    with pytest.raises(UsageError, match="max-growth"):
        Pipeline.parse("fold-constants{max-growth=-1}")
