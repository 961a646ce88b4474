"""quantize and fold-dequantize: golden text, numbers, what is left alone, bad options."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from golden_text import Golden
from pass_graphs import Weights, array_of, codes, graph, ops, run

from sparsecc.errors import UsageError
from sparsecc.ir import dump, evaluate, random_inputs, verify, weight_uses
from sparsecc.ir.provenance import passes_of, source_name
from sparsecc.passes import Context, Pipeline

TEXT = """(float[1,16,6,6] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, a__weight)  b = Conv<group=32>(a, b__weight)  c = Conv(b, c__weight)
    f = Flatten(c)  t = Transpose<perm=[1,0]>(e__weight)  g = MatMul(f, t)  y = Gemm(g, d__weight) }"""
WEIGHTS: Weights = {
    "a.weight": (32, 16, 3, 3),
    "b.weight": (32, 1, 1, 1),
    "c.weight": (16, 32, 1, 1),
    "d.weight": (20, 60),
    "e.weight": (20, 576),
}


def quantized(options: str = "") -> tuple[dict[str, np.ndarray], Context]:
    """What each layer's weight stands for afterwards, turned back into floats, and the context."""
    model = graph(TEXT, WEIGHTS)
    ctx = Pipeline.parse(f"quantize{options}").run(model)
    assert not verify(model)
    run("fold-dequantize", model)
    arrays: dict[str, np.ndarray] = {}
    for use in weight_uses(model):
        assert use.value.const_value is not None
        arrays[use.layer] = use.value.const_value.numpy()
    return arrays, ctx


def test_golden(golden: Golden) -> None:
    model = graph(TEXT, WEIGHTS)
    Pipeline.parse("quantize").run(model)
    golden(dump(model))


def test_numbers() -> None:
    """Half a step of each output's largest weight, along the right axis; small and depthwise ones stay."""
    arrays, ctx = quantized()
    for layer, axis in {"a": 0, "d": 1, "e": 0}.items():
        weight = array_of(f"{layer}.weight", WEIGHTS[f"{layer}.weight"])
        others = tuple(i for i in range(weight.ndim) if i != axis)
        step = np.abs(weight).max(axis=others, keepdims=True) / 127
        error = np.abs(arrays[layer] - weight)
        assert np.all(error <= 0.5001 * step) and error.max() > 0.3 * step.min()
    for layer in "bc":
        assert np.array_equal(arrays[layer], array_of(f"{layer}.weight", WEIGHTS[f"{layer}.weight"]))
    assert codes(ctx) == ["depthwise", "too-small"]


def test_bfloat16() -> None:
    """The nearest of its numbers, 8 bits of mantissa; ONNX Runtime computes the same from file and kernel."""
    arrays, ctx = quantized("{bits=16}")
    for layer in "ade":
        weight = array_of(f"{layer}.weight", WEIGHTS[f"{layer}.weight"])
        assert np.array_equal(arrays[layer], weight.astype(ml_dtypes.bfloat16).astype(np.float32))
        assert not np.array_equal(arrays[layer], weight)
    assert codes(ctx) == ["depthwise", "too-small"]
    model = graph(TEXT, WEIGHTS)
    inputs = random_inputs(model)
    Pipeline.parse("quantize{bits=16}").run(model)
    before = evaluate(model, inputs)["y"]
    assert ops(model).count("Cast") == 3
    Pipeline.parse("fold-dequantize").run(model)
    assert "Cast" not in ops(model)
    np.testing.assert_allclose(evaluate(model, inputs)["y"], before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [16, 8])
def test_names_and_history_survive(bits: int) -> None:
    model = graph(TEXT, WEIGHTS)
    Pipeline.parse(f"quantize{{bits={bits}}},fold-dequantize").run(model)
    assert not {"DequantizeLinear", "Cast"} & set(ops(model))
    (value,) = (use.value for use in weight_uses(model) if use.layer == "a")
    assert source_name(value) == "a.weight"
    assert passes_of(value) == ("quantize", "fold-dequantize")


def test_zeros_stay() -> None:
    model = graph(TEXT, WEIGHTS)
    Pipeline.parse("sparsify{pattern=2:4},quantize,fold-dequantize").run(model)
    (value,) = (use.value for use in weight_uses(model) if use.layer == "e")
    assert value.const_value is not None
    assert np.count_nonzero(value.const_value.numpy()) <= 20 * 576 // 2


def test_what_is_left_alone() -> None:
    assert codes(quantized("{skip=a,d.weight}")[1]) == ["skipped", "depthwise", "too-small", "skipped"]


def test_shared_weights_stay() -> None:
    text = "(int64[3] i, float[2,40] x) => (float y, float z) { y = Gather(w, i)  z = Gemm<transB=1>(x, w) }"
    model = graph(text, {"w": (50, 40)})
    assert codes(Pipeline.parse("quantize").run(model)) == ["shared"]


def test_four_bits(golden: Golden) -> None:
    """Matrices whose inputs 32 divides, along either axis; the rest stays."""
    text = """(float[2,32,1,2] x) => (float y) {
        a1 = Conv(x, a)  f = Flatten(a1)  g = Gemm<transB=1>(f, b)  h = MatMul(g, c)  y = MatMul(h, d) }"""
    model = graph(text, {"a": (32, 32, 1, 1), "b": (96, 64), "c": (96, 50), "d": (50, 40)})
    ctx = Pipeline.parse("quantize{bits=4}").run(model)
    assert not verify(model)
    assert codes(ctx) == ["indivisible", "indivisible"]
    golden(dump(model))
    run("fold-dequantize", model)
    assert "DequantizeLinear" not in ops(model)


def test_options() -> None:
    with pytest.raises(UsageError, match="8 or 4"):
        Pipeline.parse("quantize{bits=2}")
    with pytest.raises(UsageError, match="min-size"):
        Pipeline.parse("quantize{min-size=-1}")


@pytest.mark.parametrize(
    ("attributes", "operands"),
    [("<axis=0>", "w, s, z"), ("", "w, one, zone"), ("<axis=1, block_size=4>", "w, blocks")],
)
def test_folds_every_form(attributes: str, operands: str) -> None:
    """Per axis with zero points, per tensor, per block."""
    rng = np.random.default_rng(2)
    weights: Weights = {
        "w": rng.integers(0, 255, (6, 8)).astype(np.uint8),
        "s": rng.uniform(0.1, 1, 6).astype(np.float32), "z": rng.integers(0, 255, 6).astype(np.uint8),
        "one": 0.25, "zone": np.array(7, np.uint8), "blocks": rng.uniform(0.1, 1, (6, 2)).astype(np.float32),
    }  # fmt: skip
    used = {name: weights[name] for name in operands.split(", ")}
    text = f"d = DequantizeLinear{attributes}({operands})  y = Gemm<transB=1>(x, d)"
    model = graph(f"(float[2,8] x) => (float y) {{ {text} }}", used)
    run("fold-dequantize,drop-dead", model)
    assert ops(model) == ["Gemm"]
    assert [use.layer for use in weight_uses(model)] == ["w"]


def test_quantised_activations_stay() -> None:
    text = """(float[2,8] x) => (float y) {
        q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)  y = Gemm<transB=1>(d, w) }"""
    model = graph(text, {"w": (6, 8), "s": 0.1, "z": np.array(3, np.uint8)})
    run("fold-dequantize,fold-constants", model)
    assert ops(model) == ["QuantizeLinear", "DequantizeLinear", "Gemm"]


def test_whole_network_is_close() -> None:
    model = graph(TEXT, WEIGHTS)
    inputs = random_inputs(model)
    (before,) = evaluate(model, inputs).values()
    Pipeline.parse("quantize").run(model)
    (after,) = evaluate(model, inputs).values()
    assert 0 < np.abs(after - before).max() <= 0.05 * np.abs(before).max()
