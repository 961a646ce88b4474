"""The oracle's own float64 ops against ONNX Runtime's float32 ones, over odd geometries."""

from __future__ import annotations

import numpy as np
import pytest
from oracle_cases import model_of, normal

from sparsecc.oracle.execution import drawn_inputs, run
from sparsecc.oracle.network import dismantle

IMAGE = "(float[2,4,9,8] x) => (float y)"
KERNEL = normal(w=(6, 2, 3, 2), b=(6,), v=(4, 3, 3, 2), d=(4, 1, 3, 2))

CASES = [
    "y = Conv <group = 2> (x, w, b)",
    "y = Conv <group = 2, strides = [2,3], pads = [1,0,2,1]> (x, w)",
    "y = Conv <group = 4, dilations = [2,3], pads = [2,1,0,3]> (x, d)",
    'y = Conv <group = 2, auto_pad = "SAME_UPPER", strides = [2,2]> (x, w)',
    'y = Conv <group = 2, auto_pad = "SAME_LOWER"> (x, w)',
    'y = Conv <group = 2, auto_pad = "VALID"> (x, w)',
    "y = ConvTranspose(x, v)",
    "y = ConvTranspose <group = 2> (x, v, b)",
    "y = ConvTranspose <strides = [2,3], pads = [1,0,2,1]> (x, v)",
    "y = ConvTranspose <strides = [2,3], output_padding = [1,2], dilations = [2,1]> (x, v)",
    "y = ConvTranspose <group = 4, strides = [2,2], output_shape = [18,15]> (x, d)",
    'y = ConvTranspose <auto_pad = "SAME_UPPER", strides = [2,2]> (x, v)',
    "y = MaxPool <kernel_shape = [3,2], pads = [1,0,1,1]> (x)",
    "y = MaxPool <kernel_shape = [3,2], strides = [2,3], ceil_mode = 1> (x)",
    "y = MaxPool <kernel_shape = [2,2], dilations = [2,3]> (x)",
    'y = MaxPool <kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER"> (x)',
    "y = AveragePool <kernel_shape = [3,2], pads = [1,0,1,1]> (x)",
    "y = AveragePool <kernel_shape = [3,2], pads = [1,0,1,1], count_include_pad = 1> (x)",
    "y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1> (x)",
    "y = AveragePool <kernel_shape = [2,3], strides = [2,2], ceil_mode = 1, count_include_pad = 1> (x)",
    "y = GroupNormalization <num_groups = 2> (x, g, k)",
    "y = MeanVarianceNormalization(x)",
    "y = MeanVarianceNormalization <axes = [1,3]> (x)",
    "y = Erf(x)",
    "y = Gelu(x)",
    'y = Gelu <approximate = "tanh"> (x)',
]


@pytest.mark.parametrize("text", CASES)
def test_image_ops(text: str) -> None:
    compare(f"{IMAGE} {{ {text} }}", KERNEL | normal(g=(4,), k=(4,)))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["LSTM", "GRU"])
@pytest.mark.parametrize("extra", ["", "linear_before_reset = 1,"])
def test_recurrent_ops(op: str, direction: str, extra: str) -> None:
    gates, count = (
        (4, 1 + (direction == "bidirectional")) if op == "LSTM" else (3, 1 + (direction == "bidirectional"))
    )
    weights = normal(w=(count, gates * 5, 6), r=(count, gates * 5, 5), b=(count, gates * 10), h=(count, 3, 5))
    extra = extra if op == "GRU" else ""
    attributes = f'{extra} hidden_size = 5, direction = "{direction}"'
    text = f"(float[4,3,6] x) => (float y, float z) {{ y, z = {op} <{attributes}> (x, w, r, b, , h) }}"
    compare(text, weights)


def test_elements_gathered_from_a_part() -> None:
    weights = {"i": np.array([[[0, -1]], [[2, 1]]], np.int64)}
    compare("(float[3,4,5] x) => (float y) { y = GatherElements <axis = 2> (x, i) }", weights)


def compare(text: str, weights: dict[str, np.ndarray]) -> None:
    proto = model_of(text, weights)
    single, double = dismantle(proto, "float32"), dismantle(proto, "float64")
    inputs = drawn_inputs(single, 0)
    wide = {name: array.astype(np.float64) for name, array in inputs.items()}
    expected = run(single, single.tensors, inputs, single.outputs)
    found = run(double, double.tensors, wide, double.outputs)
    for name, (reference,) in expected.items():
        (array,) = found[name]
        assert array.dtype == np.float64
        np.testing.assert_allclose(array, reference, rtol=2e-5, atol=3e-6)


def test_erf_is_exact_to_double_precision() -> None:
    network = dismantle(model_of("(float[1] x) => (float y) { y = Erf(x) }", {}), "float64")
    (found,) = run(network, {}, {"x": np.array([0.5])}, ["y"])["y"]
    assert found[0] == 0.5204998778130465
