"""simplify-attention: each case, golden text, masks that keep the guard."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import Weights, codes, graph, ops, run

from sparsecc.ir import dump

HEAD = "(float[2,4,5,3] q, float[2,4,3,5] k, bool[2,1,5,5] keep) => (float y)"
SCORES = "p = Mul(q, s) r = Mul(s, k) a = MatMul(p, r)"
GUARD = "w = Softmax(m) i = IsNaN(w) y = Where(i, zero, w)"
C: Weights = {"s": 0.5, "zero": 0.0, "low": -3e38, "none": np.zeros((2, 1, 5, 5), np.float32)}
CAUSAL = np.where(np.tril(np.ones((5, 5), bool)), 0, -np.inf).astype(np.float32)


def test_golden(golden: Golden) -> None:
    model = graph(f"{HEAD} {{ {SCORES} m = Add(a, none) {GUARD} }}", C)
    run("simplify-attention,drop-dead", model)
    golden(dump(model))


def test_1_a_scaling_that_others_read_stays() -> None:
    text = """(float[2,5,3] q, float[2,3,5] k) => (float y, float z) {
        p = Mul(q, s)  a = MatMul(p, k)  y = Neg(a)  z = Abs(p) }"""
    model = graph(text, C)
    run("simplify-attention", model)
    assert ops(model) == ["Mul", "MatMul", "Neg", "Abs"]


def test_1_a_product_that_is_an_output_stays() -> None:
    model = graph("(float[2,5,3] q, float[2,3,5] k) => (float y) { p = Mul(q, s) y = MatMul(p, k) }", C)
    run("simplify-attention", model)
    assert ops(model) == ["Mul", "MatMul"]


def test_2_zeros_that_broadcast_stay() -> None:
    model = graph(
        "(float[1,5] x) => (float y) { a = Add(x, z) y = Neg(a) }", {"z": np.zeros((3, 5), np.float32)}
    )
    run("simplify-attention", model)
    assert ops(model) == ["Add", "Neg"]


MASKS: list[tuple[str, str, Weights, bool]] = [
    ("none", "m = Neg(a) n = Add(m, m)", {}, False),
    ("product", "m = Mul(a, s)", {}, True),
    ("causal", "m = Add(a, mask)", {"mask": CAUSAL}, True),
    ("all masked", "m = Add(a, mask)", {"mask": np.full((5, 5), -np.inf, np.float32)}, False),
    ("finite choice", "c = Where(keep, zero, low) m = Add(a, c)", {}, True),
    ("infinite choice", "c = Where(keep, zero, inf) m = Add(a, c)", {"inf": -np.inf}, False),
]


@pytest.mark.parametrize(("name", "mask", "weights", "drops"), MASKS, ids=[name for name, *_ in MASKS])
def test_3_guards(name: str, mask: str, weights: Weights, drops: bool) -> None:
    text = f"{HEAD} {{ a = MatMul(q, k) {mask} {GUARD.replace('Softmax(m)', 'Softmax<axis=-1>(m)')} }}"
    model = graph(text, {**C, **weights})
    ctx = run("simplify-attention", model)
    assert ("IsNaN" not in ops(model)) is drops
    assert codes(ctx) == ([] if drops else ["mask"])
    assert model.graph.outputs[0].name == "y"
