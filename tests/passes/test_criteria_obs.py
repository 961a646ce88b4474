"""The structured OBS score: patches equal what a convolution sees, scores equal least squares on the data."""

from __future__ import annotations

import numpy as np
import pytest
from criteria_graphs import CNN, CNN_WEIGHTS, array, mlp
from pass_graphs import graph

from sparsecc.axes.groups import groups
from sparsecc.errors import Refusal, UsageError
from sparsecc.ir import evaluate, random_inputs
from sparsecc.passes.criteria import Calibration, group_scores
from sparsecc.passes.criteria.linear_layers import linear_layers, patches
from sparsecc.passes.criteria.moments import Values, second_moments
from sparsecc.passes.criteria.obspa import StructuredOBS, block_scores, damped_inverse


def small_integers(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Whole numbers, on which float32 sums are exact."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("attributes", "spatial", "weight"),
    [
        ("", (5, 6), (4, 6, 1, 1)),
        ("pads=[1,1,1,1]", (5, 6), (4, 6, 3, 3)),
        ("pads=[0,1,2,1], strides=[2,1]", (6, 7), (4, 6, 3, 2)),
        ("pads=[2,2,2,2], dilations=[2,2]", (6, 7), (4, 6, 3, 3)),
        ("group=3, pads=[1,1,1,1]", (5, 5), (9, 2, 3, 3)),
        ("group=6", (5, 5), (12, 1, 2, 2)),
        ('auto_pad="SAME_UPPER", strides=[2,2]', (5, 6), (4, 6, 3, 4)),
        ('auto_pad="SAME_LOWER", strides=[2,2]', (5, 6), (4, 6, 3, 4)),
        ('auto_pad="VALID"', (5, 6), (4, 6, 2, 3)),
        ("pads=[1,2], strides=[2]", (9,), (4, 6, 3)),
        ("group=2, pads=[1,1,1,1,1,1]", (3, 4, 5), (4, 3, 3, 3, 3)),
    ],
)
def test_patches_times_the_matrix_are_the_convolution(
    attributes: str, spatial: tuple[int, ...], weight: tuple[int, ...]
) -> None:
    shape = (2, 6, *spatial)
    text = f"(float[{','.join(map(str, shape))}] x) => (float y) {{ y = Conv<{attributes}>(x, w) }}"
    model = graph(text.replace("<>", ""), {"w": small_integers(weight, 1)})
    x = small_integers(shape)
    ((layer,), refusals) = linear_layers(model)
    rows = np.concatenate(list(patches(layer.uses[0], x, weight[2:])), axis=1)
    found = rows @ layer.matrix.transpose(0, 2, 1)
    expected = evaluate(model, {"x": x})["y"]
    expected = expected.reshape(2, layer.groups, -1, *expected.shape[2:])
    expected = np.moveaxis(expected, 1, 0)
    expected = np.moveaxis(expected, 2, -1).reshape(layer.groups, -1, expected.shape[2])
    np.testing.assert_array_equal(found, expected)
    assert not refusals
    samples = np.split(rows, 2, axis=1)
    chosen = np.concatenate([sample[:, number::3] for number, sample in enumerate(samples)], axis=1)
    some = np.concatenate(list(patches(layer.uses[0], x, weight[2:], every=3)), axis=1)
    np.testing.assert_array_equal(some, chosen)


@pytest.mark.parametrize(
    ("text", "weight"),
    [
        ("(float[2,3,6] x) => (float y) { y = MatMul(x, w) }", (6, 4)),
        ("(float[7,6] x) => (float y) { y = Gemm(x, w) }", (6, 4)),
        ("(float[7,6] x) => (float y) { y = Gemm<transB=1>(x, w) }", (4, 6)),
        ("(float[6,7] x) => (float y) { y = Gemm<transA=1>(x, w) }", (6, 4)),
        ("(float[2,3,6] x) => (float y) { t = Transpose<perm=[1,0]>(w)  y = MatMul(x, t) }", (4, 6)),
    ],
)
def test_rows_times_the_matrix_are_the_product(text: str, weight: tuple[int, ...]) -> None:
    model = graph(text, {"w": small_integers(weight, 1)})
    inputs = {"x": small_integers(random_inputs(model)["x"].shape)}
    ((layer,), _) = linear_layers(model)
    rows = np.concatenate(list(patches(layer.uses[0], inputs["x"], ())), axis=1)
    np.testing.assert_array_equal(
        (rows @ layer.matrix.transpose(0, 2, 1))[0], evaluate(model, inputs)["y"].reshape(-1, 4)
    )
    some = np.concatenate(list(patches(layer.uses[0], inputs["x"], (), every=4)), axis=1)
    np.testing.assert_array_equal(some, rows[:, ::4])


@pytest.mark.parametrize(
    ("text", "bias", "sign"),
    [
        ("y = Gemm(x, w, b)", "b", 1),
        ("y = Gemm<beta=0.5>(x, w, b)", None, 1),
        ("m = MatMul(x, w)  y = Add(b, m)", "b", 1),
        ("m = MatMul(x, w)  n = Add(m, b)  y = Add(n, m)", None, 1),
        ("m = MatMul(x, w)  n = Add(m, b)  y = Mul(n, b)", None, 1),
        ("m = MatMul(x, w)  y = Mul(m, b)", None, 1),
    ],
)
def test_which_bias_belongs_to_a_product(text: str, bias: str | None, sign: int) -> None:
    model = graph(f"(float[3,4] x) => (float y) {{ {text} }}", {"w": (4, 4), "b": (4,)})
    ((layer,), _) = linear_layers(model)
    assert (None if layer.bias is None else layer.bias.name, layer.bias_sign) == (bias, sign)


def test_a_batch_norm_behind_takes_the_mean() -> None:
    text = """(float[2,3,4,4] x) => (float y) {
        a = Conv(x, w)  y = BatchNormalization(a, scale, bias, mean, variance) }"""
    names = {"scale": (5,), "bias": (5,), "mean": (5,), "variance": np.ones(5, np.float32)}
    ((layer,), _) = linear_layers(graph(text, {"w": (5, 3, 1, 1), **names}))
    assert layer.bias is not None and (layer.bias.name, layer.bias_sign) == ("mean", -1)


def test_weights_of_several_readers() -> None:
    text = """(int64[3] ids, float[3,4] x) => (float y) {
        e = Gather(table, ids)  t = Transpose<perm=[1,0]>(table)  a = MatMul(e, w)  b = MatMul(x, w)
        c = Add(a, b)  y = MatMul(c, t) }"""
    layers, refusals = linear_layers(graph(text, {"table": (9, 4), "w": (4, 4)}))
    assert [(layer.name, layer.input_names) for layer in layers] == [("w", ["e", "x"])]
    assert [(refusal.where, refusal.code) for refusal in refusals] == [("table", "shared")]


def test_moments_over_all_uses_and_batches() -> None:
    text = "(float[3,4] x) => (float y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, w) }"
    model = graph(text, {"w": (4, 4)})
    (layer,) = linear_layers(model)[0]
    batches = [{"x": small_integers((3, 4), seed)} for seed in range(3)]
    ((_, moments),) = second_moments(model, [layer], Calibration(batches))
    rows = [batch["x"] for batch in batches]
    rows += [Values(model, ["r"]).run(batch)["r"] for batch in batches]
    stacked = np.concatenate(rows).astype(np.float64)
    np.testing.assert_allclose(moments.sums[0], stacked.T @ stacked, rtol=1e-14)
    assert moments.rows == 18


def least_squares_loss(weights: np.ndarray, inputs: np.ndarray, removed: np.ndarray) -> float:
    """Least squared error of W X without some rows of X."""
    target = (weights @ inputs).T
    kept = np.delete(inputs, removed, axis=0).T
    solution = np.linalg.lstsq(kept, target, rcond=None)[0]
    return float(np.sum((target - kept @ solution) ** 2))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_block_scores_are_least_squares(size: int) -> None:
    generator = np.random.default_rng(size)
    inputs = generator.standard_normal((6, 6)) @ generator.standard_normal((6, 40))
    weights = generator.standard_normal((5, 6))
    blocks = [np.arange(start, start + size) for start in range(0, 6, size)]
    found = block_scores(weights[None], np.linalg.inv(inputs @ inputs.T)[None], blocks)
    expected = [least_squares_loss(weights, inputs, block) for block in blocks]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_damping_spares_the_constant_input_and_replaces_dead_ones() -> None:
    moments = np.diag([4.0, 0, 8, 10])[None]
    inverse = damped_inverse(moments, 3, 0.5)[0]
    np.testing.assert_allclose(inverse, np.diag([1 / 6, 1, 1 / 10, 1 / 10]), rtol=1e-14)


def test_scores_of_a_network() -> None:
    model, w, v = mlp()
    batches = [{"x": np.random.default_rng(seed).standard_normal((6, 5))} for seed in range(4)]
    criterion = StructuredOBS(damping=1e-12)
    (scores,) = group_scores(
        groups(model), criterion, normalization="none", calibration=Calibration(batches)
    ).values()
    hidden = np.tanh(np.concatenate([batch["x"] for batch in batches]) @ w).T
    expected = [least_squares_loss(v.T, hidden, np.array([unit])) for unit in range(4)]
    np.testing.assert_allclose(scores, np.divide(expected, np.sum((v.T @ hidden) ** 2)), rtol=1e-8)


def test_the_bias_takes_the_mean() -> None:
    text = "(double[20,5] x) => (double y) { a = MatMul(x, w)  r = Relu(a)  y = Gemm(r, v, b) }"
    generator = np.random.default_rng(3)
    w, v = generator.standard_normal((5, 4)), generator.standard_normal((4, 3))
    model = graph(text, {"w": w, "v": v, "b": np.zeros(3)})
    x = generator.standard_normal((20, 5))
    (scores,) = group_scores(
        groups(model), StructuredOBS(1e-12), normalization="none", calibration=Calibration([{"x": x}])
    ).values()
    hidden = np.maximum(x @ w, 0).T
    with_one = np.concatenate([hidden, np.ones((1, 20))])
    wide = np.concatenate([v.T, np.zeros((3, 1))], axis=1)
    expected = [least_squares_loss(wide, with_one, np.array([unit])) for unit in range(4)]
    outputs = v.T @ hidden
    energy = np.sum((outputs - outputs.mean(axis=1, keepdims=True)) ** 2)
    np.testing.assert_allclose(scores, np.divide(expected, energy), rtol=1e-8)


def test_channels_of_a_convolution_go_with_their_window() -> None:
    found = groups(graph(CNN, CNN_WEIGHTS))
    data = Calibration([random_inputs(found.model, seed) for seed in range(2)])
    scores = group_scores(found, StructuredOBS(1e-9), normalization="none", calibration=data)
    layer = next(layer for layer in linear_layers(found.model)[0] if layer.name == "c.weight")
    values = [Values(found.model, ["r"]).run(batch)["r"] for batch, _ in data.stream(found.model)]
    rows = np.concatenate([part[0] for value in values for part in patches(layer.uses[0], value, (3, 3))])
    weights = array(found.model, "c.weight").astype(np.float64).reshape(6, 72)
    expected = [least_squares_loss(weights, rows.T, np.arange(9 * i, 9 * i + 9)) for i in range(8)]
    assert expected[6] < 1e-12  # a channel that ReLU never lets through
    outputs = weights @ rows.T
    np.testing.assert_allclose(
        scores["a.channels"], np.divide(expected, np.sum(outputs**2)), rtol=1e-5, atol=1e-12
    )


def test_noise_stands_in_for_data_and_what_is_too_wide_is_scored_by_l2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = groups(graph(CNN, CNN_WEIGHTS))
    first, second = group_scores(found, "obspa", seed=1), group_scores(found, "obspa", seed=1)
    assert all((first[name] == second[name]).all() and first[name].any() for name in first)
    monkeypatch.setattr("sparsecc.passes.criteria.obspa.MAX_COLUMNS", 71)
    refusals: list[Refusal] = []
    third = group_scores(found, "obspa", seed=1, refusals=refusals)
    norms = group_scores(found, "l2")
    assert [refusal.where for refusal in refusals] == ["a.channels"]
    assert (third["a.channels"] == norms["a.channels"]).all()
    assert (third["c.channels"] == first["c.channels"]).all()


def test_bad_options() -> None:
    with pytest.raises(UsageError, match="damping of criterion obspa must be positive, not 0"):
        StructuredOBS(damping=0)
    with pytest.raises(UsageError, match="takes 0 batches of noise or more, not -1"):
        StructuredOBS(noise_batches=-1)
