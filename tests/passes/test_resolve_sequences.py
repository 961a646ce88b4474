"""resolve-sequences: equal and listed sizes, golden text, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import Weights, codes, graph, ops, run

from sparsecc.ir import dump

C: Weights = {
    "size": np.array(4),
    "sizes": [3, 4, 3],
    "p0": np.array(0),
    "p1": np.array(1),
    "last": np.array(-1),
}


def test_golden(golden: Golden) -> None:
    text = """(float[2,10] x) => (float y, float z) {
        s = SplitToSequence<axis=1>(x, size)  a = SequenceAt(s, p0)  b = SequenceAt(s, p1)
        z = SequenceAt(s, last)  y = Add(a, b) }"""
    model = graph(text, C)
    run("resolve-sequences,drop-dead", model)
    golden(dump(model))


def test_listed_sizes() -> None:
    text = """(float[2,10] x) => (float y) {
        s = SplitToSequence<axis=-1>(x, sizes)  a = SequenceAt(s, p0)
        b = SequenceAt(s, last)  y = Sub(a, b) }"""
    model = graph(text, C)
    run("resolve-sequences", model)
    assert ops(model) == ["Split", "Sub"]


@pytest.mark.parametrize("body", ["y = SequenceAt(s, i)", "n = SequenceLength(s) y = Cast<to=1>(n)"])
def test_refusals(body: str) -> None:
    text = f"(float[2,10] x, int64 i) => (float y) {{ s = SplitToSequence<axis=1>(x, size) {body} }}"
    model = graph(text, C)
    ctx = run("resolve-sequences", model)
    assert codes(ctx) == ["sequence"]
    assert ops(model)[0] == "SplitToSequence"
