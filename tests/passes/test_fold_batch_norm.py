"""fold-batch-norm: each numbered case for each anchor, golden text, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import Weights, array_of, codes, graph, ops, run

from sparsecc.ir import dump
from sparsecc.ir.encoding import Encoding, get_encoding, set_encoding
from sparsecc.ir.provenance import passes_of

BN: Weights = {
    "g": (6,),
    "b": (6,),
    "m": (6,),
    "v": np.abs(array_of("v", (6,))) + np.float32(0.5),
}
ANCHORS: list[tuple[str, str, str, Weights]] = [
    ("Conv", "float[2,4,5,5]", "Conv(x, w)", {"w": (6, 4, 3, 3)}),
    ("Conv with bias", "float[2,4,5,5]", "Conv<pads=[1,1,1,1]>(x, w, c)", {"w": (6, 4, 3, 3), "c": (6,)}),
    ("grouped Conv", "float[2,4,5,5]", "Conv<group=2>(x, w)", {"w": (6, 2, 3, 3)}),
    ("Conv 1d", "float[2,4,5]", "Conv(x, w)", {"w": (6, 4, 1)}),
    ("ConvTranspose", "float[2,4,5,5]", "ConvTranspose(x, w)", {"w": (4, 6, 3, 3)}),
    ("grouped ConvTranspose", "float[2,4,5,5]", "ConvTranspose<group=2>(x, w)", {"w": (4, 3, 3, 3)}),
    ("Gemm", "float[3,4]", "Gemm(x, w)", {"w": (4, 6)}),
    ("Gemm transB", "float[3,4]", "Gemm<transB=1, alpha=2.0>(x, w, c)", {"w": (6, 4), "c": (6,)}),
    ("Gemm beta", "float[3,4]", "Gemm<beta=0.25>(x, w, c)", {"w": (4, 6), "c": (1, 6)}),
]
IDS = [name for name, *_ in ANCHORS]


def test_golden(golden: Golden) -> None:
    text = """(float[1,4,5,5] x) => (float y, float z) {
        c = Conv(x, conv__weight)  n = BatchNormalization(c, g, b, m, v)  y = Mul(n, s)
        r = Relu(n2)  n2 = BatchNormalization(y, g, b, m, v)  z = Neg(r) }"""
    model = graph(text, {**BN, "conv.weight": (6, 4, 3, 3), "s": (6, 1, 1)})
    run("fold-batch-norm,drop-dead", model)
    golden(dump(model))


@pytest.mark.parametrize(("name", "kind", "anchor", "weights"), ANCHORS, ids=IDS)
def test_1_batch_norm(name: str, kind: str, anchor: str, weights: Weights) -> None:
    text = f"""({kind} x) => (float y) {{
        a = {anchor}  n = BatchNormalization<epsilon=0.01>(a, g, b, m, v)  y = Relu(n) }}"""
    model = graph(text, {**BN, **weights})
    run("fold-batch-norm", model)
    assert ops(model) == [anchor.split("(", maxsplit=1)[0].split("<", maxsplit=1)[0], "Relu"]
    assert passes_of(model.graph.initializers["w"]) == ("fold-batch-norm",)


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize(("name", "kind", "anchor", "weights"), ANCHORS, ids=IDS)
def test_2_and_3_arithmetic(op: str, name: str, kind: str, anchor: str, weights: Weights) -> None:
    rank = kind.count(",") + 1
    text = f"({kind} x) => (float y) {{ a = {anchor} b = {op}(a, s) d = {op}(b, t) y = Relu(d) }}"
    model = graph(text, {**weights, "s": (6, *(1,) * (rank - 2)), "t": 1.5})
    run("fold-batch-norm", model, tolerance=1e-4)
    assert len(ops(model)) == 2


def test_2_commutes() -> None:
    model = graph(
        "(float[2,4,5,5] x) => (float y) { a = Conv(x, w) y = Mul(s, a) }",
        {"w": (6, 4, 1, 1), "s": (6, 1, 1)},
    )
    run("fold-batch-norm", model)
    assert ops(model) == ["Conv"]


def test_4_and_5_without_an_anchor() -> None:
    text = """(float[2,6,5,5] x) => (float y) {
        n = BatchNormalization(x, g, b, m, v)  a = Mul(n, s)  c = Add(a, t)  y = Relu(c) }"""
    model = graph(text, {**BN, "s": (6, 1, 1), "t": (1, 6, 1, 1)})
    run("fold-batch-norm", model)
    assert ops(model) == ["Mul", "Add", "Relu"]


def test_a_following_bias_keeps_an_encoding() -> None:
    weight = array_of("w", (8, 8, 1, 1)).copy()
    weight[:4, ::2] = 0
    weight[4:, 1::2] = 0
    model = graph(
        "(float[1,8,3,3] x) => (float y) { a = Conv(x, w) y = Mul(a, s) }", {"w": weight, "s": (8, 1, 1)}
    )
    value = model.graph.initializers["w"]
    set_encoding(value, Encoding("block", rows=4, columns=1))
    run("fold-batch-norm", model)
    assert str(get_encoding(value)) == "4x1"


REFUSALS: list[tuple[str, str, Weights, str]] = [
    (
        "shared weight",
        "a = Conv(x, w) c = Conv(x, w) b = Mul(a, s) y = Add(b, c)",
        {"w": (6, 6, 1, 1), "s": (6, 1, 1)},
        "shared",
    ),
    (
        "statistics from the input",
        "p = GlobalAveragePool(x) q = Flatten(p) e = ReduceMean<keepdims=0>(q, zero) a = Conv(x, w) "
        "y = BatchNormalization(a, e, b, m, v)",
        {**BN, "w": (6, 6, 1, 1), "zero": [0]},
        "not-constant",
    ),
    (
        "bias from the input",
        "e = Neg(k) f = Add(e, e) a = Conv(x, w, f) y = Mul(a, s)",
        {"w": (6, 6, 1, 1), "s": (6, 1, 1), "k": (6,)},
        "not-constant",
    ),
]


@pytest.mark.parametrize(("name", "body", "weights", "code"), REFUSALS, ids=[name for name, *_ in REFUSALS])
def test_refusals(name: str, body: str, weights: Weights, code: str) -> None:
    model = graph(f"(float[1,6,5,5] x) => (float y) {{ {body} }}", weights)
    ctx = run("fold-batch-norm", model)
    assert code in codes(ctx)


def test_a_spatial_constant_stays() -> None:
    model = graph(
        "(float[1,6,5,5] x) => (float y) { a = Conv(x, w) y = Add(a, s) }", {"w": (6, 6, 1, 1), "s": (5, 5)}
    )
    run("fold-batch-norm", model)
    assert ops(model) == ["Conv", "Add"]


def test_several_readers_stay() -> None:
    text = "(float[1,6,5,5] x) => (float y, float z) { a = Conv(x, w) y = Mul(a, s) z = Relu(a) }"
    model = graph(text, {"w": (6, 6, 1, 1), "s": (6, 1, 1)})
    run("fold-batch-norm", model)
    assert ops(model) == ["Conv", "Mul", "Relu"]
