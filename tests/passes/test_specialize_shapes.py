"""specialize-shapes: golden text, linked symbols, refusals of what stays symbolic."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import graph, ops

from sparsecc.errors import UnsupportedOpError, UsageError, VerificationError
from sparsecc.ir import dump, evaluate, random_inputs, verify
from sparsecc.passes import Pipeline

FLATTEN = """(float[N,4,H,6] x, float[N,C] z) => (float y) {
    s = Shape(x)  n = Gather(s, zero)  u = Unsqueeze(n, axes)  target = Concat<axis=0>(u, minus)
    f = Reshape(x, target)  y = Concat<axis=1>(f, z) }"""
WEIGHTS = {"zero": np.array(0), "axes": [0], "minus": [-1]}


def test_golden(golden: Golden) -> None:
    model = graph(FLATTEN, WEIGHTS)
    Pipeline.parse("specialize-shapes{shapes=x:2x4x5x6,z:2x3}").run(model)
    golden(dump(model))


def test_numbers_stay() -> None:
    model = graph(FLATTEN, WEIGHTS)
    reference = model.clone()
    Pipeline.parse("specialize-shapes{shapes=x:2x4x5x6,z:2x3},drop-dead").run(model)
    assert ops(model) == ["Reshape", "Concat"]
    assert not verify(model, static=True)
    inputs = random_inputs(model)
    np.testing.assert_array_equal(evaluate(model, inputs)["y"], evaluate(reference, inputs)["y"])


def test_one_symbol_is_one_number() -> None:
    model = graph("(float[N,4] x, float[N,4] z) => (float y) { y = Add(x, z) }")
    Pipeline.parse("specialize-shapes{shapes=x:3x4}").run(model)
    assert not verify(model, static=True)


def test_a_static_model_needs_no_shapes() -> None:
    model = graph("(float[2,4] x) => (float y) { y = Relu(x) }")
    ctx = Pipeline.parse("specialize-shapes").run(model)
    assert not ctx.reports[0].result.changed


REFUSED = [
    (
        "specialize-shapes",
        UnsupportedOpError,
        r"input x has the shape float32\[N,4\]; fix it with --shape x=1,4",
    ),
    ("specialize-shapes{shapes=w:2x4}", UsageError, "no input w; its inputs are x, z"),
    ("specialize-shapes{shapes=x:2x5}", UsageError, "cannot become"),
    ("specialize-shapes{shapes=x:2x4x1}", UsageError, "wrong rank"),
    ("specialize-shapes{shapes=x:0x4}", UsageError, "at least 1"),
    ("specialize-shapes{shapes=x:2x4,z:3x4}", UsageError, "both 2 and 3"),
]


@pytest.mark.parametrize(("spec", "error", "message"), REFUSED)
def test_refusals(spec: str, error: type[Exception], message: str) -> None:
    model = graph("(float[N,4] x, float[N,4] z) => (float y) { y = Add(x, z) }")
    with pytest.raises(error, match=message):
        Pipeline.parse(spec).run(model)


def test_shapes_that_the_graph_contradicts() -> None:
    model = graph("(float[N,K] x) => (float y) { y = MatMul(x, w) }", {"w": (4, 4)})
    with pytest.raises(VerificationError, match="shape inference failed"):
        Pipeline.parse("specialize-shapes{shapes=x:2x5}").run(model)


def test_data_dependent_shapes_are_refused() -> None:
    model = graph("(float[4] x) => (int64 y) { y = NonZero(x) }")
    with pytest.raises(UnsupportedOpError, match="NonZero node y"):
        Pipeline.parse("specialize-shapes").run(model)


@pytest.mark.parametrize("item", ["x", ":1x2", "x:1xa", "x:1x-2"])
def test_bad_items(item: str) -> None:
    with pytest.raises(UsageError, match="form input:1x3x224x224"):
        Pipeline.parse(f'specialize-shapes{{shapes="{item}"}}')
