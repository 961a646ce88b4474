"""Codes and biases that keep outputs: less error, zeros and grids that stay, no one code that is better."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import Weights, array_of, graph

from sparsecc.ir import evaluate, verify
from sparsecc.ir.edit import constant_of
from sparsecc.ir.quantized import quantized_of
from sparsecc.passes import Pipeline
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.quantize_static import QuantizeStatic
from sparsecc.passes.round_to_outputs import descend

CONVOLUTIONS = """(float[2,6,9,9] x) => (float y) {
    a1 = Conv<pads=[1,1,1,1], strides=[2,2]>(x, a, k)  r = Relu(a1)
    d1 = Conv<group=16, pads=[1,1,1,1]>(r, d, l)  c = Clip(d1, low, high)
    g1 = Conv<group=4>(c, g, m)  y = Conv(g1, b, n) }"""
CONVOLUTION_WEIGHTS: Weights = {
    "a": (16, 6, 3, 3), "k": (16,), "d": (16, 1, 3, 3), "l": (16,), "g": (8, 4, 1, 1), "m": (8,),
    "b": (5, 8, 1, 1), "n": (5,), "low": 0.0, "high": 6.0,
}  # fmt: skip
LINEAR = """(float[3,9,24] x) => (float y) {
    q = MatMul(x, a)  s = Add(q, k)  r = Relu(s)  f = Reshape(r, to)  g = Gemm<transB=1>(f, b, m)
    h = Relu(g)  z = MatMul(h, c)  w = MatMul(z, c)  y = Add(w, z) }"""
LINEAR_WEIGHTS: Weights = {
    "a": (24, 12), "k": (12,), "to": [27, 12], "b": (16, 12), "m": (16,), "c": (16, 16),
}  # fmt: skip
NETWORKS = {
    "convolutions": (CONVOLUTIONS, CONVOLUTION_WEIGHTS, (2, 6, 9, 9)),
    "linear": (LINEAR, LINEAR_WEIGHTS, (3, 9, 24)),
}


def inputs(shape: tuple[int, ...], count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Correlated and not centred, so that nearest codes are not the best."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).standard_normal((shape[1], shape[1]))
    return [
        {"x": np.einsum("oi,ni...->no...", mixing, generator.standard_normal(shape) + 4).astype(np.float32)}
        for _ in range(count)
    ]


def initializer(model: ir.Model, name: str) -> np.ndarray:
    """Its array."""
    array = constant_of(model.graph.initializers[name])
    assert array is not None
    return array


def error(model: ir.Model, dense: ir.Model, data: list[dict[str, np.ndarray]]) -> tuple[float, float]:
    """Root mean square and largest mean error of a channel, over the root mean square of the output."""
    wanted = np.concatenate([evaluate(dense, batch)["y"] for batch in data])
    away = np.concatenate([evaluate(model, batch)["y"] for batch in data]) - wanted
    shift = away.mean(axis=(0, 2, 3) if away.ndim == 4 else tuple(range(away.ndim - 1)))
    scale = np.sqrt(np.mean(wanted**2))
    return float(np.sqrt(np.mean(away**2)) / scale), float(np.abs(shift).max() / scale)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_less_error(name: str, sparsity: float) -> None:
    """On other data of the same distribution too; zeros stay, and codes are found in the float values."""
    text, weights, shape = NETWORKS[name]
    dense = graph(text, weights)
    if sparsity:
        Pipeline.parse(f"sparsify{{pattern=unstructured sparsity={sparsity} min-size=0}}").run(dense)
    data = inputs(shape, 40)
    found: dict[bool, tuple[float, float]] = {}
    for correct in (False, True):
        model = dense.clone()
        result = QuantizeStatic(correct=correct).quantize(model, Calibration(data))
        assert not verify(model)
        assert len(result.notes) == 2 + correct
        found[correct] = error(model, dense, inputs(shape, 20, seed=1))
        for key in model.graph.initializers:
            if not key.endswith(".int8"):
                continue
            codes, before = initializer(model, key), initializer(dense, key[:-5])
            assert not codes[before == 0].any()
            rows = codes.reshape(len(codes), -1) if name == "convolutions" or key[0] == "b" else codes.T
            assert (np.abs(rows).max(axis=1) == 127).all()
            assert quantized_of(rows.astype(np.float32) * np.float32(0.013)) is not None
    assert found[True][0] < found[False][0]
    assert found[True][1] < found[False][1]


def test_bias_takes_the_mean_error() -> None:
    """On the data themselves the mean error of each output of the first layer is gone."""
    dense = graph("(float[4,6,5,5] x) => (float y) { y = Conv(x, a, k) }", {"a": (7, 6, 3, 3), "k": (7,)})
    model, data = dense.clone(), inputs((4, 6, 5, 5), 3)
    QuantizeStatic(correct=True).quantize(model, Calibration(data))
    assert error(model, dense, data)[1] < 1e-6
    plain = dense.clone()
    QuantizeStatic().quantize(plain, Calibration(data))
    assert error(plain, dense, data)[1] > 1e-4


def test_mean_of_a_batch_normalisation() -> None:
    """Where a batch norm behind was not folded, its mean takes the error."""
    text = """(float[4,6,5,5] x) => (float y) {
        c = Conv(x, a)  y = BatchNormalization(c, scale, bias, mean, var) }"""
    weights: Weights = {
        "a": (7, 6, 1, 1),
        "scale": (7,),
        "bias": (7,),
        "mean": (7,),
        "var": np.ones(7, np.float32),
    }
    dense = graph(text, weights)
    model, data = dense.clone(), inputs((4, 6, 5, 5), 3)
    QuantizeStatic(correct=True).quantize(model, Calibration(data))
    assert error(model, dense, data)[1] < 1e-6


def test_skipped_and_twice_used() -> None:
    """Weights that stay float32 are as they were; one that is used twice is fitted at both."""
    dense = graph(LINEAR, LINEAR_WEIGHTS)
    model = dense.clone()
    result = QuantizeStatic(correct=True, skip=("b",)).quantize(model, Calibration(inputs((3, 9, 24), 4)))
    np.testing.assert_array_equal(initializer(model, "b"), array_of("b", (16, 12)))
    np.testing.assert_array_equal(initializer(model, "m"), array_of("m", (16,)))
    assert result.notes[1] == "codes and biases of 2 layers are fitted to their outputs"


def test_data_that_are_all_zero() -> None:
    """Nothing is known about the inputs: nearest codes, and biases as they were."""
    dense = graph(CONVOLUTIONS, CONVOLUTION_WEIGHTS)
    data = Calibration([{"x": np.zeros((2, 6, 9, 9), np.float32)}])
    fitted, plain = dense.clone(), dense.clone()
    QuantizeStatic(correct=True).quantize(fitted, data)
    QuantizeStatic().quantize(plain, data)
    np.testing.assert_array_equal(initializer(fitted, "a.int8"), initializer(plain, "a.int8"))
    np.testing.assert_allclose(initializer(fitted, "k"), array_of("k", (16,)), rtol=1e-6)


def test_only_as_many_batches_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three batches the first, whose extremes are those of all three."""
    data = inputs((2, 6, 9, 9), 3)
    data[1:] = [{"x": batch["x"] * np.float32(0.1)} for batch in data[1:]]
    found: list[list[np.ndarray]] = []
    for used, size in ((data, 1), (data[:1], 1 << 29), (data, 1 << 29)):
        monkeypatch.setattr("sparsecc.passes.round_to_outputs.HELD_BYTES", size)
        model = graph(CONVOLUTIONS, CONVOLUTION_WEIGHTS)
        QuantizeStatic(correct=True).quantize(model, Calibration(used))
        found.append([initializer(model, name) for name in ("a.int8", "k")])
    for first, second, third in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(second, third)


@pytest.mark.parametrize("seed", range(6))
def test_descent(seed: int) -> None:
    """Never more error than at the start, and no change of one code is better."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((40, 5)) @ generator.standard_normal((5, 5))
    wanted = np.append(127, generator.uniform(-100, 100, 4))
    target = (wanted + 0.1) @ rows.T @ rows
    gram = rows.T @ rows
    fixed = np.array([True, False, False, True, False])

    def loss(codes: np.ndarray) -> float:
        return float(codes @ gram @ codes - 2 * codes @ target)

    start = np.rint(wanted)
    codes = start.copy()[None, None]
    descend(codes, np.ones((1, 1, 1)), fixed[None, None], gram[None], target[None, None])
    found = codes[0, 0]
    assert np.array_equal(found[fixed], start[fixed])
    assert np.array_equal(found, np.rint(found))
    assert loss(found) <= loss(start)
    free = np.flatnonzero(~fixed)
    for column, step in itertools.product(free, (-1, 1)):
        other = found.copy()
        other[column] += step
        assert abs(other[column]) > 127 or loss(other) >= loss(found) - 1e-6
