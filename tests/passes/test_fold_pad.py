"""fold-pad: golden text, numbers, refusals."""

from __future__ import annotations

import pytest
from golden_text import Golden
from pass_graphs import Weights, codes, graph, ops, run

from sparsecc.ir import dump


def test_golden(golden: Golden) -> None:
    text = """(float[1,4,6,6] x) => (float y, float z) {
        p = Pad(x, pads, zero)  y = Conv<pads=[1,0,0,0]>(p, w)
        z = Conv<auto_pad="VALID", strides=[2,2]>(p, w) }"""
    model = graph(text, {"pads": [0, 0, 0, 1, 0, 0, 1, 1], "zero": 0.0, "w": (6, 4, 3, 3)})
    run("fold-pad", model)
    golden(dump(model))


def test_other_readers_keep_the_pad() -> None:
    text = "(float[1,4,6,6] x) => (float y, float z) { p = Pad(x, pads)  y = Conv(p, w)  z = Relu(p) }"
    model = graph(text, {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "w": (6, 4, 3, 3)})
    run("fold-pad", model)
    assert ops(model) == ["Pad", "Conv", "Relu"]


REFUSALS: list[tuple[str, Weights]] = [
    ('p = Pad<mode="reflect">(x, pads) y = Conv(p, w)', {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
    ("p = Pad(x, pads, one) y = Conv(p, w)", {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "one": 1.0}),
    ("p = Pad(x, pads) y = Conv(p, w)", {"pads": [0, 0, -1, 0, 0, 0, 0, 0]}),
    ("p = Pad(x, pads) y = Conv(p, w)", {"pads": [1, 0, 1, 1, 0, 0, 1, 1]}),
    ('p = Pad(x, pads) y = Conv<auto_pad="SAME_UPPER">(p, w)', {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}),
    ("p = Pad(x, pads, , axes) y = Conv(p, w)", {"pads": [1, 1, 1, 1], "axes": [2, 3]}),
]


@pytest.mark.parametrize(("body", "weights"), REFUSALS)
def test_refusals(body: str, weights: Weights) -> None:
    model = graph(f"(float[1,4,6,6] x) => (float y) {{ {body} }}", {**weights, "w": (6, 4, 3, 3)})
    ctx = run("fold-pad", model)
    assert ops(model) == ["Pad", "Conv"]
    assert codes(ctx) == ["not-foldable"]
