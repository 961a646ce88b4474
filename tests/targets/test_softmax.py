"""Softmax kernels against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from harness import LANES, Buffer, call, layouts_of, load_kernels

from sparsecc.targets.kernels.softmax import softmax_call
from sparsecc.targets.layout import Layout

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", ["rows", "features"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 7, 5), (1, 1, 1), (2, 33, 17), (3, 50, 300), (2, 1, 77)], ids=str)
def test_softmax(shape: tuple[int, ...], axis: int, layout: str, masked: bool) -> None:
    where = layouts_of(shape)[layout]
    x = Buffer(where, shape, np.float32, RNG.standard_normal(shape) * 5)
    y = Buffer(where, shape, np.float32)
    bias = np.where(RNG.random(shape[1:]) < 0.3, -np.inf, RNG.standard_normal(shape[1:])).astype(np.float32)
    bias[0, :] = bias[:, 0] = 0
    if axis == 0:
        bias[...] = 0  # the mask repeats along this axis: a masked row would be all -inf
    mask = Layout((0, shape[2], 1), 0, bias.size) if masked else None
    made = softmax_call(shape, axis, where, where, LANES, scale=0.5, mask=mask)
    functions = load_kernels({made.symbol: made.make})
    call(functions[made.symbol], [x, bias, y] if masked else [x, y], made.scalars, made.extent)
    z = x.elements.astype(np.float64) * 0.5 + (bias if masked else 0)
    e = np.exp(z - z.max(axis, keepdims=True))
    np.testing.assert_allclose(y.elements, e / e.sum(axis, keepdims=True), rtol=3e-6, atol=1e-9)
    assert y.padding_intact()


def test_large_logits_stay_finite() -> None:
    shape = (4, 40)
    values = RNG.standard_normal(shape) * 1e4
    where = Layout.rows(shape)
    x, y = Buffer(where, shape, np.float32, values), Buffer(where, shape, np.float32)
    made = softmax_call(shape, -1, where, where, LANES)
    functions = load_kernels({made.symbol: made.make})
    call(functions[made.symbol], [x, y], made.scalars, made.extent)
    np.testing.assert_allclose(y.elements.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(y.elements.argmax(axis=1), values.argmax(axis=1))


def test_from_rows_to_features() -> None:
    shape = (2, 30, 20)
    source, destination = Layout.rows(shape), Layout.features(shape, LANES)
    x, y = (
        Buffer(source, shape, np.float32, RNG.standard_normal(shape)),
        Buffer(destination, shape, np.float32),
    )
    made = softmax_call(shape, -1, source, destination, LANES)
    functions = load_kernels({made.symbol: made.make})
    call(functions[made.symbol], [x, y], made.scalars, made.extent)
    e = np.exp(x.elements - x.elements.max(-1, keepdims=True))
    np.testing.assert_allclose(y.elements, e / e.sum(-1, keepdims=True), rtol=3e-6)
    assert y.padding_intact()
