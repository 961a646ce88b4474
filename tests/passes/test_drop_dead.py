"""drop-dead: one test per numbered case of its docstring, golden text, refusal."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import Weights, codes, graph, ops, run

from sparsecc.ir import dump


def test_golden(golden: Golden) -> None:
    text = """(float[2,4] x) => (float y) {
        i = Identity(x)  d = Dropout(i)  r = Reshape(d, s)  dead = Neg(w)  y = Relu(r) }"""
    model = graph(text, {"s": [2, 4], "w": (4,), "unused": (3,)})
    run("drop-dead", model)
    golden(dump(model))


def test_1_nodes_that_nobody_reads() -> None:
    model = graph("(float[2] x) => (float y) { a = Neg(x) b = Neg(a) y = Relu(x) }")
    run("drop-dead", model)
    assert ops(model) == ["Relu"]


def test_2_initializers_that_nobody_reads() -> None:
    model = graph("(float[2] x) => (float y) { y = Relu(x) }", {"w": (3,)})
    ctx = run("drop-dead", model)
    assert not model.graph.initializers
    assert ctx.reports[0].result.changed


def test_3_functions_that_nobody_calls() -> None:
    model = graph("(float[2,3] x) => (float y) { m = MatMul(x, w) dead = Relu(m) y = Neg(x) }", {"w": (3, 3)})
    run("fuse-epilogues", model)
    assert model.functions
    run("drop-dead", model)
    assert ops(model) == ["Neg"]
    assert not model.functions


NOOPS: list[tuple[str, str, Weights]] = [
    ("4 Identity", "n = Identity(x)", {}),
    ("5 Dropout", "n = Dropout(x, ratio, off)", {"ratio": 0.5, "off": np.array(False)}),
    ("5 Dropout by default", "n, mask = Dropout(x)", {}),
    ("6 Reshape", "n = Reshape(x, s)", {"s": [2, -1]}),
    ("6 Expand", "n = Expand(x, s)", {"s": [1, 4]}),
    ("6 Flatten", "n = Flatten(x)", {}),
    ("7 Transpose", "n = Transpose<perm=[0,1]>(x)", {}),
    ("8 Cast", "n = Cast<to=1>(x)", {}),
    ("8 CastLike", "n = CastLike(x, x)", {}),
    ("9 Pad", "n = Pad(x, p)", {"p": [0, 0, 0, 0]}),
    ("10 Concat", "n = Concat<axis=1>(x)", {}),
]


@pytest.mark.parametrize(("case", "node", "weights"), NOOPS, ids=[case for case, _, _ in NOOPS])
def test_noop_goes(case: str, node: str, weights: Weights) -> None:
    model = graph(f"(float[2,4] x) => (float y) {{ {node} y = Relu(n) }}", weights)
    run("drop-dead", model)
    assert ops(model) == ["Relu"]


STAYS: list[tuple[str, Weights]] = [
    ("n = Reshape(x, s)", {"s": [4, 2]}),
    ("n = Transpose<perm=[1,0]>(x)", {}),
    ("n = Transpose(x)", {}),
    ("d = Cast<to=11>(x) n = Cast<to=1>(d)", {}),
    ("n = Pad(x, p)", {"p": [0, 1, 0, 0]}),
    ("n = Expand(x, s)", {"s": [3, 2, 4]}),
    ("n = Concat<axis=1>(x, x)", {}),
]


@pytest.mark.parametrize(("node", "weights"), STAYS)
def test_what_does_something_stays(node: str, weights: Weights) -> None:
    model = graph(f"(float[2,4] x) => (float y) {{ {node} y = Relu(n) }}", weights)
    before = ops(model)
    run("drop-dead", model)
    assert ops(model) == before


def test_a_noop_before_an_output_keeps_the_name() -> None:
    model = graph("(float[2] x) => (float y) { a = Relu(x) y = Identity(a) }")
    run("drop-dead", model)
    assert ops(model) == ["Relu"]
    assert [value.name for value in model.graph.outputs] == ["y"]


def test_refusal_between_input_and_output() -> None:
    model = graph("(float[2] x) => (float y) { y = Identity(x) }")
    ctx = run("drop-dead", model)
    assert ops(model) == ["Identity"]
    assert codes(ctx) == ["output-name"]
