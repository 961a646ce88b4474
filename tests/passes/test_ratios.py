"""Sparsity by layer: ERK and OWL against their formulas, and through `sparsify`."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import graph

import sparsecc
from sparsecc.errors import UsageError
from sparsecc.ir.evaluate import evaluate
from sparsecc.ir.weights import weight_uses
from sparsecc.passes.base import Context
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.linear_layers import linear_layers
from sparsecc.passes.ratios import erk, owl
from sparsecc.passes.sparsify import Sparsify

SHAPES = {"stem": (16, 3, 3, 3), "middle": (64, 64, 3, 3), "wide": (256, 128, 1, 1), "head": (10, 256)}
NETWORK = """(float[8,32] x) => (float y) {
    h = MatMul(x, a)  r = Relu(h)  s = MatMul(r, b)  t = Relu(s)  y = MatMul(t, c) }"""


def network() -> ir.Model:
    return graph(NETWORK, {"a": (32, 64), "b": (64, 48), "c": (48, 16)})


def data() -> Calibration:
    rng = np.random.default_rng(0)
    scale = np.ones(32, np.float32)
    scale[:2] = 30  # outliers in the first layer's inputs
    return Calibration([{"x": rng.standard_normal((8, 32)).astype(np.float32) * scale} for _ in range(3)])


def zeros(model: ir.Model) -> dict[str, float]:
    found: dict[str, float] = {}
    for use in weight_uses(model):
        assert use.value.const_value is not None
        found[use.layer] = float(np.mean(use.value.const_value.numpy() == 0))
    return found


@pytest.mark.parametrize("sparsity", [0.3, 0.8, 0.95])
def test_erk_follows_its_formula(sparsity: float) -> None:
    found = erk(SHAPES, sparsity)
    sizes = {name: np.prod(shape) for name, shape in SHAPES.items()}
    total = sum(found[name] * sizes[name] for name in SHAPES) / sum(sizes.values())
    assert total == pytest.approx(sparsity)
    assert all(0 <= share < 1 for share in found.values())
    scales = [
        (1 - found[name]) * sizes[name] / sum(shape) for name, shape in SHAPES.items() if found[name] > 0
    ]
    assert np.ptp(scales) < 1e-9 * max(scales)
    assert found["stem"] <= found["wide"] <= found["middle"] and found["stem"] < found["middle"]


def test_erk_of_nothing_and_of_no_zeros() -> None:
    assert erk({}, 0.5) == {}
    assert erk(SHAPES, 0.0) == dict.fromkeys(SHAPES, 0.0)


def test_owl_spares_layers_with_outliers() -> None:
    model, calibration = network(), data()
    layers = linear_layers(model)[0]
    found = owl(model, layers, calibration, 0.7, outlier=3.0)
    sizes = np.array([np.prod(layer.shape) for layer in layers])
    shares = np.array([found[layer.name] for layer in layers])
    assert np.average(shares, weights=sizes) == pytest.approx(0.7)
    assert np.ptp(shares) == pytest.approx(0.16)
    # the share of outliers, from the definition
    outliers: list[float] = []
    batches = [batch["x"] for batch, _ in calibration.stream(model)]
    values = np.concatenate(batches)
    for name in "abc":
        weights = model.graph.initializers[name].const_value
        assert weights is not None
        scores = np.abs(weights.numpy()) * np.linalg.norm(values, axis=0)[:, None]
        outliers.append(float(np.mean(scores > 3 * scores.mean())))
        values = np.maximum(values @ weights.numpy(), 0)
    expected = np.array(outliers)
    assert shares.argmin() == expected.argmax()
    assert (shares[0] - shares) == pytest.approx((expected - expected[0]) * 0.16 / np.ptp(expected), abs=1e-6)


def test_owl_stays_between_dense_and_empty() -> None:
    for sparsity in (0.02, 0.99):
        found = owl(network(), linear_layers(network())[0], data(), sparsity, outlier=3.0)
        assert all(0 <= share < 1 for share in found.values())
    alike = owl(network(), linear_layers(network())[0], data(), 0.5, outlier=1e9)
    assert set(alike.values()) == {0.5}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_sparsify_by_erk(method: str) -> None:
    model = network()
    calibration = None if method == "magnitude" else data()
    result = sparsecc.sparsify(
        model, "unstructured", 0.8, scope="erk", method=method, calibration=calibration, min_size=0
    )
    shapes = {layer.name: layer.shape for layer in result.layers}
    rounding = 0.5 / 32 if method == "wanda" else 2e-3  # wanda has as many zeros in every output
    assert zeros(result.model) == pytest.approx(erk(shapes, 0.8), abs=rounding)
    assert result.zeros == pytest.approx(0.8, abs=rounding)


def test_sparsify_by_owl() -> None:
    model, calibration = network(), data()
    found = sparsecc.sparsify(
        model, "unstructured", 0.7, scope="owl", method="sparsegpt", calibration=calibration, min_size=0
    )
    assert zeros(found.model) == pytest.approx(
        owl(model, linear_layers(model)[0], calibration, 0.7), abs=2e-3
    )
    assert found.zeros == pytest.approx(0.7, abs=1e-3)


def test_the_pass_has_it_too() -> None:
    model = network()
    Sparsify("4x1", 0.5, "erk", min_size=0, skip=("c",)).apply(model, Context())
    expected = erk({"a": (32, 64), "b": (64, 48)}, 0.5)
    assert zeros(model) == pytest.approx({**expected, "c": 0.0}, abs=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "owl"}, "needs a method with calibration data"),
        ({"pattern": "2:4", "scope": "erk"}, "same sparsity in every layer"),
        ({"pattern": "2:4", "scope": "owl", "method": "wanda", "calibration": data()}, "not by owl"),
        ({"scope": "hope", "sparsity": 0.5}, "layer, global or erk"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sparsecc.sparsify(network(), **options)  # pyright: ignore[reportArgumentType]


def test_the_dense_model_is_not_changed() -> None:
    model, calibration = network(), data()
    batch = next(calibration.stream(model))[0]
    before = evaluate(model, batch)["y"]
    sparsecc.sparsify(model, "4x1", 0.5, scope="owl", method="wanda", calibration=calibration, min_size=0)
    assert np.array_equal(evaluate(model, batch)["y"], before)
