"""recognize-ops: every way an exporter writes each op, golden text, what must not match, refusal."""

from __future__ import annotations

import math

import pytest
from golden_text import Golden
from pass_graphs import Weights, codes, graph, ops, run

from sparsecc.ir import dump

C: Weights = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "three": 3.0,
    "six": 6.0,
    "zero": 0.0,
    "root2": math.sqrt(2),
    "inv2": math.sqrt(0.5),
    "sixth": 1 / 6,
    "tc": 0.044715,
    "tk": math.sqrt(2 / math.pi),
    "eps": 1e-5,
    "neg_half": -0.5,
    "last": [-1],
    "g": (8,),
    "b": (8,),
}
X = "(float[2,4,8] x) => (float y)"


def test_golden(golden: Golden) -> None:
    text = f"""{X} {{
        d = Div(x, root2) e = Erf(d) a = Add(e, one) m = Mul(x, a) h = Mul(m, half)
        mu = ReduceMean(h, last) c = Sub(h, mu) sq = Mul(c, c) va = ReduceMean(sq, last) ve = Add(va, eps)
        s = Sqrt(ve) n = Div(c, s) w = Mul(n, g) y = Add(w, b) }}"""
    model = graph(text, C)
    run("recognize-ops,drop-dead", model)
    golden(dump(model))


MATCHES: list[tuple[str, str, list[str]]] = [
    ("erf x*(0.5*f)", "d = Mul(x, inv2) e = Erf(d) a = Add(one, e) h = Mul(half, a) y = Mul(x, h)", ["Gelu"]),
    (
        "erf (x*0.5)*f",
        "d = Div(x, root2) e = Erf(d) a = Add(e, one) h = Mul(x, half) y = Mul(h, a)",
        ["Gelu"],
    ),
    ("erf /2", "d = Div(x, root2) e = Erf(d) a = Add(e, one) h = Mul(x, a) y = Div(h, two)", ["Gelu"]),
    (
        "tanh pow",
        "p = Pow(x, three) q = Mul(p, tc) s = Add(x, q) u = Mul(s, tk) t = Tanh(u) a = Add(t, one) "
        "h = Mul(x, half) y = Mul(h, a)",
        ["Gelu"],
    ),
    (
        "tanh x*x*x",
        "p = Mul(x, x) r = Mul(p, x) q = Mul(tc, r) s = Add(q, x) u = Mul(tk, s) t = Tanh(u) a = Add(t, one) "
        "h = Mul(half, a) y = Mul(x, h)",
        ["Gelu"],
    ),
    (
        "tanh square",
        "p = Pow(x, two) r = Mul(x, p) q = Mul(tc, r) s = Add(q, x) u = Mul(tk, s) t = Tanh(u) "
        "a = Add(t, one) h = Mul(half, a) y = Mul(x, h)",
        ["Gelu"],
    ),
    ("hard swish", "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)", ["HardSwish"]),
    ("hard swish 2", "a = Add(three, x) c = Clip(a, zero, six) d = Div(c, six) y = Mul(d, x)", ["HardSwish"]),
    (
        "hard swish 3",
        "a = Add(x, three) c = Clip(a, zero, six) d = Mul(x, sixth) y = Mul(d, c)",
        ["HardSwish"],
    ),
    ("hard swish 4", "h = HardSigmoid<alpha=0.16666667>(x) y = Mul(x, h)", ["HardSwish"]),
    (
        "layer norm pow",
        "mu = ReduceMean(x, last) c = Sub(x, mu) q = Pow(c, two) v = ReduceMean(q, last) e = Add(v, eps) "
        "s = Sqrt(e) n = Div(c, s) w = Mul(g, n) y = Add(w, b)",
        ["LayerNormalization"],
    ),
    (
        "layer norm without bias",
        "mu = ReduceMean(x, last) c = Sub(x, mu) q = Pow(c, two) v = ReduceMean(q, last) e = Add(v, eps) "
        "s = Sqrt(e) n = Div(c, s) y = Mul(g, n)",
        ["LayerNormalization"],
    ),
    (
        "layer norm without scale",
        "mu = ReduceMean(x, last) c = Sub(x, mu) q = Pow(c, two) v = ReduceMean(q, last) e = Add(v, eps) "
        "s = Sqrt(e) y = Div(c, s)",
        ["LayerNormalization"],
    ),
    (
        "rms norm",
        "q = Pow(x, two) v = ReduceMean(q, last) e = Add(v, eps) s = Sqrt(e) r = Reciprocal(s) "
        "n = Mul(x, r) y = Mul(n, g)",
        ["RMSNormalization"],
    ),
    (
        "rms norm by power",
        "q = Mul(x, x) v = ReduceMean(q, last) e = Add(eps, v) r = Pow(e, neg_half) "
        "n = Mul(r, x) y = Mul(g, n)",
        ["RMSNormalization"],
    ),
]


@pytest.mark.parametrize(("name", "body", "expected"), MATCHES, ids=[name for name, *_ in MATCHES])
def test_matches(name: str, body: str, expected: list[str]) -> None:
    model = graph(f"{X} {{ {body} }}", C)
    run("recognize-ops", model)
    assert ops(model) == expected


NO_MATCHES: list[tuple[str, str]] = [
    ("wrong constant", "d = Div(x, two) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)"),
    (
        "another value",
        "z = Neg(x) d = Div(x, root2) e = Erf(d) a = Add(e, one) m = Mul(z, a) y = Mul(m, half)",
    ),
    ("wrong bounds", "a = Add(x, three) c = Clip(a, one, six) m = Mul(x, c) y = Div(m, six)"),
    ("swish", "s = Sigmoid(x) y = Mul(x, s)"),
    ("plain quotient", "s = Sqrt(x2) y = Div(x, s) x2 = Mul(x, x)"),
]


@pytest.mark.parametrize(("name", "body"), NO_MATCHES, ids=[name for name, _ in NO_MATCHES])
def test_near_misses_stay(name: str, body: str) -> None:
    model = graph(f"{X} {{ {body} }}", C)
    before = ops(model)
    run("recognize-ops", model)
    assert ops(model) == before


def test_a_piece_that_others_read_stays() -> None:
    text = """(float[2,4,8] x) => (float y, float z) {
        d = Div(x, root2) e = Erf(d) z = Add(e, one) m = Mul(x, z) y = Mul(m, half) }"""
    model = graph(text, C)
    run("recognize-ops", model)
    assert ops(model) == ["Div", "Erf", "Add", "Gelu"]


def test_other_axes_are_refused() -> None:
    text = """(float[2,4,8] x) => (float y) {
        mu = ReduceMean(x, axes) c = Sub(x, mu) q = Mul(c, c) v = ReduceMean(q, axes) e = Add(v, eps)
        s = Sqrt(e) y = Div(c, s) }"""
    model = graph(text, {**C, "axes": [1]})
    ctx = run("recognize-ops", model)
    assert codes(ctx) == ["axes"]
    assert "LayerNormalization" not in ops(model)
