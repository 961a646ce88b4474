"""simplify-layout: each case, golden text, refusal."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import codes, graph, ops, run

from sparsecc.ir import dump

KEY = """(float[2,5,12] x) => (float y) {
    h = Reshape(x, heads)  t = Transpose<perm=[0,2,1,3]>(h)  f = Reshape(t, flat)
    u = Transpose<perm=[0,2,1]>(f)  k = Reshape(u, key)  y = Neg(k) }"""
SHAPES = {"heads": [2, 5, 4, 3], "flat": [-1, 5, 3], "key": [2, 4, 3, 5]}


def test_golden(golden: Golden) -> None:
    model = graph(KEY, SHAPES)
    run("simplify-layout,drop-dead", model)
    golden(dump(model))


def test_1_reshape_of_reshape() -> None:
    model = graph(
        "(float[2,3,4] x) => (float y) { a = Reshape(x, s) y = Reshape(a, t) }",
        {"s": [6, 4], "t": [0, -1, 2]},
    )
    run("simplify-layout,drop-dead", model)
    assert ops(model) == ["Reshape"]


def test_1_other_readers_keep_the_first() -> None:
    text = "(float[2,3,4] x) => (float y, float z) { a = Reshape(x, s) y = Reshape(a, t) z = Neg(a) }"
    model = graph(text, {"s": [6, 4], "t": [2, 12]})
    run("simplify-layout,drop-dead", model)
    assert ops(model) == ["Reshape", "Reshape", "Neg"]


def test_2_to_an_output() -> None:
    text = """(float[2,4,5,3] x) => (float y) {
        f = Reshape(x, flat)  u = Transpose<perm=[0,2,1]>(f)  y = Reshape(u, key) }"""
    model = graph(text, SHAPES)
    run("simplify-layout,drop-dead", model)
    assert ops(model) == ["Transpose"]
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize(
    ("flat", "perm", "key"),
    [
        ([8, 5, 3], "0,1,2", [2, 4, 5, 3]),
        ([8, 5, 3], "0,2,1", [4, 2, 3, 5]),
        ([4, 10, 3], "0,2,1", [2, 4, 3, 5]),
    ],
)
def test_2_near_misses_keep_their_numbers(flat: list[int], perm: str, key: list[int]) -> None:
    text = f"""(float[2,4,5,3] x) => (float y) {{
        f = Reshape(x, flat)  u = Transpose<perm=[{perm}]>(f)  y = Reshape(u, key) }}"""
    model = graph(text, {"flat": flat, "key": key})
    run("simplify-layout", model)
    assert ops(model) == ["Reshape", "Transpose", "Reshape"]


def test_3_transposes() -> None:
    text = """(float[2,3,4] x) => (float y) {
        a = Transpose<perm=[1,2,0]>(x)  b = Transpose<perm=[2,1,0]>(a)  y = Transpose<perm=[0,2,1]>(b) }"""
    model = graph(text)
    run("simplify-layout,drop-dead", model)
    assert ops(model) == ["Transpose"]


def test_refusal() -> None:
    text = "(float[N,4] x) => (float y) { a = Reshape(x, s) y = Reshape(a, t) }"
    model = graph(text, {"s": [-1, 2], "t": np.array([-1], np.int64)})
    ctx = run("simplify-layout", model)
    assert codes(ctx) == ["not-static"]
