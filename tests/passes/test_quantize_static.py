"""quantize-static: golden text, numbers, which values are stored in 8 bits, ranges by method, bad data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from golden_text import Golden
from pass_graphs import Weights, array_of, codes, graph

from sparsecc.errors import UsageError
from sparsecc.ir import dump, evaluate, verify
from sparsecc.ir.edit import constant_of
from sparsecc.passes import Context, Pipeline
from sparsecc.passes.activation_ranges import Range, activation_ranges, clipped_bins
from sparsecc.passes.base import PassResult
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.quantize_static import QuantizeStatic

TEXT = """(float[1,3,8,8] x) => (float y) {
    a1 = Conv<pads=[1,1,1,1]>(x, a__weight, a__bias)  r = Relu(a1)
    d1 = Conv<group=8, pads=[1,1,1,1]>(r, d__weight)  b1 = Conv(d1, b__weight)  s = Add(b1, r)
    p = GlobalAveragePool(s)  f = Flatten(p)  y = Gemm<transB=1>(f, e__weight) }"""
WEIGHTS: Weights = {
    "a.weight": (8, 3, 3, 3),
    "a.bias": (8,),
    "d.weight": (8, 1, 3, 3),
    "b.weight": (8, 8, 1, 1),
    "e.weight": (5, 8),
}


def batches(count: int = 3, **shapes: tuple[int, ...]) -> Calibration:
    """Normal numbers for each input."""
    generator = np.random.default_rng(0)
    drawn = shapes or {"x": (1, 3, 8, 8)}
    return Calibration(
        [
            {name: generator.standard_normal(shape).astype(np.float32) for name, shape in drawn.items()}
            for _ in range(count)
        ]
    )


def quantized(
    model: ir.Model, calibration: Calibration | None = None, **options: object
) -> tuple[PassResult, dict[str, str]]:
    """Quantise in place; the result, and value -> name of what its reader reads, by reader's output."""
    item = QuantizeStatic(**options)  # pyright: ignore[reportArgumentType]
    result = item.quantize(model, calibration or batches())
    assert not verify(model)
    read = {
        node.outputs[0].name or "": " ".join(v.name or "" for v in node.inputs if v) for node in model.graph
    }
    return result, read


def pairs(model: ir.Model) -> list[str]:
    """Names of the values that are quantised, in the graph's order."""
    return [
        node.inputs[0].name or ""
        for node in model.graph
        if node.op_type == "QuantizeLinear" and node.inputs[0]
    ]


def found_codes(result: PassResult) -> list[str]:
    return [refusal.code for refusal in result.refusals]


def test_golden(golden: Golden) -> None:
    model = graph(TEXT, WEIGHTS)
    quantized(model)
    golden(dump(model))


def test_numbers() -> None:
    """Against float64 arithmetic on codes that are computed here, from ONNX's definition."""
    text = """(float[2,6,4,4] x) => (float y) {
        c = Conv(x, a, bias)  r = Relu(c)  y = Conv(r, b) }"""
    weights: Weights = {"a": (16, 6, 1, 1), "bias": (16,), "b": (7, 16, 1, 1)}
    model = graph(text, weights)
    (batch,) = batches(1, x=(2, 6, 4, 4)).batches  # pyright: ignore[reportGeneralTypeIssues]
    quantized(model, Calibration([batch]))

    def rounded(array: np.ndarray) -> np.ndarray:
        low, high = min(0.0, array.min()), max(0.0, array.max())
        scale = float(np.float32((float(high) - float(low)) / 255))
        zero = np.clip(np.rint(-low / scale), 0, 255)
        return scale * (np.clip(np.rint(array / scale) + zero, 0, 255) - zero)

    def weight(name: str) -> np.ndarray:
        array = array_of(name, weights[name]).astype(np.float64)[:, :, 0, 0]
        scale = (np.abs(array).max(axis=1) / 127).astype(np.float32).astype(np.float64)[:, None]
        return scale * np.rint(array / scale)

    x = batch["x"].astype(np.float64)
    bias = array_of("bias", weights["bias"])[None, :, None, None]
    inner = np.maximum(np.einsum("oi,nihw->nohw", weight("a"), rounded(x)) + bias, 0)
    dense = np.einsum("oi,nihw->nohw", array_of("a", weights["a"])[:, :, 0, 0], x) + bias
    limit = np.maximum(dense, 0).max()  # ranges are those of the network before
    step = float(np.float32(limit / 255))
    inner = step * np.clip(np.rint(inner / step), 0, 255)
    expected = np.einsum("oi,nihw->nohw", weight("b"), inner)
    (found,) = evaluate(model, batch).values()
    error = np.abs(found - expected)
    assert np.median(error) < 1e-5 * np.abs(expected).max()
    assert error.max() <= 1.01 * step * np.abs(weight("b")).max()  # a sum at the edge of two codes
    (before,) = evaluate(graph(text, weights), batch).values()
    assert 0.001 < np.abs(found - before).max() / np.abs(before).max() < 0.03


def test_zeros_stay() -> None:
    model = graph(TEXT, WEIGHTS)
    Pipeline.parse("sparsify{pattern=unstructured sparsity=0.5 min-size=0}").run(model)
    quantized(model)
    codes_of = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value
    }
    assert codes_of["b.weight.int8"].dtype == np.int8
    assert np.count_nonzero(codes_of["b.weight.int8"]) <= 32
    sources = [node for node in model.graph if node.op_type == "DequantizeLinear" and len(node.inputs) == 2]
    assert len(sources) == 4, "weights have no zero point"


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_zero_points(method: str) -> None:
    """0 behind a ReLU, so that its zeros are code 0; in between where both signs come; 255 at most."""
    model = graph(TEXT, WEIGHTS)
    quantized(model, method=method)
    zeros = {name: constant_of(model.graph.initializers[f"{name}.zero_point"]) for name in pairs(model)}
    assert zeros["r"] == 0
    assert zeros["x"] is not None
    assert zeros["d1"] is not None
    assert 90 < zeros["x"] < 165
    assert 0 < zeros["d1"] < 255


def test_grids() -> None:
    assert Range(0, 0).grid() == (1, 0)
    assert Range(0, 1e-44).grid() == (1, 0)
    scale, zero = Range(-255, 0).grid()
    assert (scale, zero) == (1, 255)
    scale, zero = Range(-1.0, 3.0).grid()
    assert (scale.dtype, zero.dtype, int(zero)) == (np.float32, np.uint8, 64)
    assert Range(-3e38, 3e38).grid()[0] == np.float32(6e38 / 255)


# Which values are stored in 8 bits, and who reads them.


def test_convolutional_values_are_read_by_all() -> None:
    """The residual Add and depthwise convolution too; one pair for both readers; the head stays."""
    model = graph(TEXT, WEIGHTS)
    result, read = quantized(model)
    assert pairs(model) == ["x", "r", "d1"]
    assert read["s"] == "b1 r.dequantized"
    assert read["d1"] == "r.dequantized d.weight.float32"
    assert read["p"] == "s"
    assert read["a1"] == "x.dequantized a.weight.float32 a.bias"
    assert read["y"] == "f e.weight.float32"
    assert found_codes(result) == ["few-columns"]
    assert result.notes[0].startswith("4 weights are int8")


RESIDUALS = {
    # the identity
    "i = Relu(x)  a1 = Conv(i, a)  s = Add(i, a1)  y = Conv(s, b)": (["i", "s"], "i.dequantized a1"),
    # the branch that runs first is stored, the other takes the sum into its epilogue
    "a1 = Conv(x, a)  b1 = Conv(x, b)  s = Add(b1, a1)  r = Relu(s)  y = Conv(r, a)": (
        ["x", "a1", "r"],
        "b1 a1.dequantized",
    ),
    "a1 = Conv(x, a)  r1 = Relu(a1)  b1 = Conv(x, b)  s = Add(r1, b1)  y = Conv(s, a)": (
        ["x", "r1", "s"],
        "r1.dequantized b1",
    ),
    # linear bottlenecks: the stream is what convolutions read
    "a1 = Conv(x, a)  b1 = Conv(a1, b)  s = Add(a1, b1)  y = Conv(s, a)": (
        ["x", "a1", "s"],
        "a1.dequantized b1",
    ),
    # no convolution takes this sum
    "p = Relu(x)  q = Sigmoid(x)  s = Add(p, q)  y = Conv(s, a)": (["s"], "p q"),
    # a pooled branch is stored for the convolution that adds it
    "m = MaxPool<kernel_shape=[1,1]>(x)  a1 = Conv(x, a)  s = Add(a1, m)  y = Conv(s, b)": (
        ["x", "m", "s"],
        "a1 m.dequantized",
    ),
    # not a sum
    "g = Sigmoid(x)  a1 = Conv(g, a)  s = Mul(a1, x)  y = Conv(s, b)": (["g", "s"], "a1 x"),
}


@pytest.mark.parametrize("body", RESIDUALS)
@pytest.mark.parametrize("batch", ["1", "n"])
def test_residuals(body: str, batch: str) -> None:
    expected, sums = RESIDUALS[body]
    weights: Weights = {"a": (8, 8, 1, 1), "b": (8, 8, 1, 1)}
    model = graph(f"(float[{batch},8,4,4] x) => (float y) {{ {body} }}", weights)
    _, read = quantized(model, batches(2, x=(1, 8, 4, 4)))
    assert pairs(model) == expected
    assert read["s"] == sums


def test_values_of_linear_layers() -> None:
    """One pair for three layers; the normalisation and the residual of a transformer read floats."""
    text = """(float[2,9,16] x) => (float y) {
        q = MatMul(x, a)  k = MatMul(x, b)  m = Mul(q, k)  o = MatMul(m, c)  y = Add(o, x) }"""
    model = graph(text, {"a": (16, 16), "b": (16, 16), "c": (16, 16)})
    result, read = quantized(model, batches(2, x=(2, 9, 16)))
    assert pairs(model) == ["x", "m"]
    assert (read["q"], read["k"]) == ("x.dequantized a.float32", "x.dequantized b.float32")
    assert read["y"] == "o x"
    assert not result.refusals


@pytest.mark.parametrize(("rows", "few"), [(8, True), (9, False)])
@pytest.mark.parametrize("fixed", [True, False])
def test_few_columns(rows: int, few: bool, fixed: bool) -> None:
    """With an open batch those of the first calibration batch count."""
    dim = rows if fixed else "n"
    model = graph(f"(float[{dim},16] x) => (float y) {{ y = Gemm<transB=1>(x, w) }}", {"w": (8, 16)})
    result, _ = quantized(model, batches(2, x=(rows, 16)))
    assert pairs(model) == ([] if few else ["x"])
    assert found_codes(result) == (["few-columns"] if few else [])
    assert result.changed


def test_outputs_stay() -> None:
    text = "(float[1,8,4,4] x) => (float h, float y) { h = Conv(x, a)  y = Conv(h, b) }"
    model = graph(text, {"a": (8, 8, 1, 1), "b": (8, 8, 1, 1)})
    _, read = quantized(model, batches(1, x=(1, 8, 4, 4)))
    assert [value.name for value in model.graph.outputs] == ["h", "y"]
    assert all(value.dtype == ir.DataType.FLOAT for value in model.graph.outputs)
    assert read["h.uint8"].startswith("h ")
    assert read["y"] == "h.dequantized b.float32"


def test_skip() -> None:
    """A skipped layer keeps its weights and asks for no pair; what others need in 8 bits it reads so."""
    text = """(float[1,8,4,4] x) => (float y) {
        a1 = Conv(x, a)  b1 = Conv(a1, b)  c1 = Conv(a1, c)  y = Concat<axis=1>(b1, c1) }"""
    weights: Weights = {"a": (8, 8, 1, 1), "b": (8, 8, 1, 1), "c": (8, 8, 1, 1)}
    model = graph(text, weights)
    result, read = quantized(model, batches(1, x=(1, 8, 4, 4)), skip=("a", "c*"))
    assert found_codes(result) == ["skipped", "skipped"]
    assert read["a1"] == "x a"
    assert (read["b1"], read["c1"]) == ("a1.dequantized b.float32", "a1.dequantized c")


def test_what_stays_float32() -> None:
    text = """(float[1,8,4,4] x, int64[3] i) => (float y, float z) {
        g = Conv<group=2>(x, grouped)  d = Conv<group=8>(g, depth)  t = Conv(d, tiny)
        f = Flatten<axis=2>(t)  y = MatMul(f, table)  z = Gather(table, i) }"""
    model = graph(
        text, {"grouped": (8, 4, 1, 1), "depth": (8, 1, 1, 1), "tiny": (9, 8, 1, 1), "table": (16, 300)}
    )
    data = Calibration([{"x": np.ones((1, 8, 4, 4), np.float32), "i": np.zeros(3, np.int64)}])
    result, _ = quantized(model, data, min_size=100)
    assert found_codes(result) == ["too-small", "too-small", "too-small", "shared"]
    assert not pairs(model), "what such layers read stays as it is"
    assert not [name for name in model.graph.initializers if name.endswith("int8")]


def test_subgraphs_stay() -> None:
    text = """(float[9,16] x, bool c) => (float y) {
        y = If(c) <then_branch = t () => (float[9,16] u) { u = MatMul(x, w) },
                   else_branch = e () => (float[9,16] v) { v = Identity(x) }> }"""
    model = graph(text, {"w": (16, 16)})
    data = Calibration([{"x": np.ones((9, 16), np.float32), "c": np.array(True)}])
    result, _ = quantized(model, data)
    assert found_codes(result) == ["subgraph"]
    assert not result.changed


def test_what_is_quantised_already_is_not_again() -> None:
    model = graph(TEXT, WEIGHTS)
    quantized(model)
    before = pairs(model)
    Pipeline.parse("fold-dequantize").run(model)
    quantized(model)
    assert pairs(model) == before


# Ranges.


def observed(method: str, percentile: float = 99.0) -> tuple[np.ndarray, Range]:
    """All values of an input over three batches with outliers, and its range."""
    generator = np.random.default_rng(3)
    arrays = [(generator.standard_t(3, (1, 3, 8, 8)) * 2 + 0.5).astype(np.float32) for _ in range(3)]
    model = graph(TEXT, WEIGHTS)
    data = Calibration([{"x": array} for array in arrays])
    (found,) = activation_ranges(model, [model.graph.inputs[0]], data, method, percentile).values()
    return np.concatenate(arrays).reshape(-1), found


def test_minmax() -> None:
    values, found = observed("minmax")
    assert (found.low, found.high) == (values.min(), values.max())


@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_percentile(percentile: float) -> None:
    """The share outside on each side is what was asked for, to one bin."""
    values, found = observed("percentile", percentile)
    width = (values.max() - values.min()) / 8192
    cut = (1 - percentile / 100) / 2
    assert np.mean(values < found.low - 1e-6) <= cut
    assert np.mean(values > found.high + 1e-6) <= cut
    assert np.mean(values < found.low + 1.01 * width) >= cut
    assert np.mean(values > found.high - 1.01 * width) >= cut


def test_percentile_of_one_sign_keeps_zero() -> None:
    model = graph("(float[9,4] x) => (float y) { y = MatMul(x, w) }", {"w": (4, 4)})
    data = Calibration([{"x": np.linspace(3, 4, 36, dtype=np.float32).reshape(9, 4)}])
    (found,) = activation_ranges(model, [model.graph.inputs[0]], data, "percentile", 90.0).values()
    assert found.low == 0
    assert 3.9 < found.high < 4


def reference_clip(counts: np.ndarray, levels: int) -> int:
    """Migacz 2017, slide by slide, in plain loops."""
    counts = np.array([counts[1], *counts[1:]], np.float64)
    found: list[tuple[float, int]] = []
    for kept in range(levels, len(counts) + 1):
        p = counts[:kept].copy()
        p[-1] += counts[kept:].sum()
        q = np.zeros(kept)
        for level in range(levels):
            inside = [i for i in range(kept) if level * kept // levels <= i < (level + 1) * kept // levels]
            filled = [i for i in inside if counts[i] > 0]
            for i in filled:
                q[i] = sum(counts[inside]) / len(filled)
        if not counts[kept - 1]:
            continue
        p, q = p / p.sum(), q / q.sum()
        divergence = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        found.append((divergence, -kept))
    return -min(found)[1]


@pytest.mark.parametrize("seed", range(4))
def test_entropy(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = np.abs(generator.standard_t(2 + seed, 4000))
    counts = np.histogram(values, 96, (0, values.max()))[0]
    kept = clipped_bins(counts, 16)
    assert kept == reference_clip(counts, 16)
    assert 16 <= kept < 96


def test_entropy_clips_outliers_only() -> None:
    generator = np.random.default_rng(1)
    values = np.append(generator.standard_normal(99_990), np.linspace(10, 20, 10)).astype(np.float32)
    model = graph("(float[1000,100] x) => (float y) { y = MatMul(x, w) }", {"w": (100, 2)})
    data = Calibration([{"x": values.reshape(1000, 100)}])
    (found,) = activation_ranges(model, [model.graph.inputs[0]], data, "entropy").values()
    assert found.low == -found.high or found.low == values.min()
    assert 2.5 < found.high < 10


def test_order_and_size_of_batches_make_no_difference() -> None:
    """Arrays of several batches are cut where the first dimension is fixed."""
    arrays = [batch["x"] for batch in batches(4).batches]  # pyright: ignore[reportGeneralTypeIssues]
    texts: set[str] = set()
    for data in (
        [{"x": array} for array in arrays],
        [{"x": array} for array in reversed(arrays)],
        [{"x": np.concatenate(arrays)}],
    ):
        for _ in range(2):
            model = graph(TEXT, WEIGHTS)
            quantized(model, Calibration(data), method="percentile", percentile=99.0)
            values = [(name, constant_of(value)) for name, value in model.graph.initializers.items()]
            texts.add(dump(model) + "".join(f"{name}{array!r}" for name, array in values))
    assert len(texts) == 1


def test_values_are_read_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, Range]] = []
    for size in (1 << 28, 1):
        monkeypatch.setattr("sparsecc.passes.activation_ranges.PORTION_BYTES", size)
        model = graph(TEXT, WEIGHTS)
        values = [*model.graph.inputs, *(node.outputs[0] for node in model.graph)]
        ranges = activation_ranges(model, values, batches(), "entropy")
        found.append({value.name or "": item for value, item in ranges.items()})
    assert len(found[0]) == len(found[1]) == 9
    for name, item in found[0].items():
        expected = (item.low, item.high)
        np.testing.assert_allclose((found[1][name].low, found[1][name].high), expected, rtol=1e-5)


def test_a_value_that_is_always_zero() -> None:
    model = graph("(float[9,4] x) => (float y) { r = Relu(x)  y = MatMul(r, w) }", {"w": (4, 4)})
    for method in ("minmax", "percentile", "entropy"):
        copy = model.clone()
        quantized(copy, Calibration([{"x": -np.ones((9, 4), np.float32)}]), method=method)
        (found,) = evaluate(copy, {"x": np.ones((9, 4), np.float32)}).values()
        assert np.isfinite(found).all()


# Bad data and options.

BAD: list[tuple[object, str]] = [
    ([], "no calibration batches"),
    ([{"x": np.ones((1, 3, 8, 9), np.float32)}], "has the shape"),
    ([{"x": np.ones((3, 8, 8), np.float32)}], "has the shape"),
    ([{"x": np.ones((1, 3, 8, 8), np.int64)}], "is of type int64"),
    ([{"x": np.array(["a"])}], "has the shape"),
    ([{"x": np.full((1, 3, 8, 8), np.nan, np.float32)}], "NaN or infinity"),
    ([{"z": np.ones((1, 3, 8, 8), np.float32)}], "has an input 'z'"),
    ([{}], "lacks the input x"),
    ([np.ones((1, 3, 8, 8), np.float32)], "is a ndarray"),
]


@pytest.mark.parametrize(("data", "says"), BAD)
def test_bad_data(data: list[dict[str, np.ndarray]], says: str) -> None:
    model = graph(TEXT, WEIGHTS)
    before = dump(model)
    with pytest.raises(UsageError, match=says):
        quantized(model, Calibration(data))
    assert dump(model) == before


def test_activations_that_are_no_numbers() -> None:
    """The node is named, and nothing is changed."""
    text = "(float[9,4] x) => (float y) { r = Log(x)  y = MatMul(r, w) }"
    for number in (0.0, -1.0):
        model = graph(text, {"w": (4, 4)})
        with pytest.raises(UsageError, match=r"Log.* computes NaN or infinity on calibration batch 1"):
            quantized(
                model,
                Calibration([{"x": np.full((9, 4), n, np.float32)} for n in (1.0, number)]),
            )
        assert pairs(model) == []


def test_options(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no calibration method 'mean'; methods are minmax"):
        QuantizeStatic(method="mean")
    with pytest.raises(UsageError, match="above 50"):
        QuantizeStatic(percentile=20)
    with pytest.raises(UsageError, match="min-size"):
        QuantizeStatic(min_size=-1)
    with pytest.raises(UsageError, match="no calibration batches"):
        Pipeline.parse("quantize-static").run(graph(TEXT, WEIGHTS))
    with pytest.raises(UsageError, match=r"absent.npz is no .npz file"):
        Pipeline.parse(f"quantize-static{{calibration={tmp_path / 'absent.npz'}}}").run(graph(TEXT, WEIGHTS))


def test_in_a_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "data.npz"
    np.savez(file, x=np.ones((5, 3, 8, 8), np.float32))
    spec = f"fold-batch-norm,quantize-static{{calibration={file} method=entropy}}"
    model = graph(TEXT, WEIGHTS)
    ctx: Context = Pipeline.parse(spec).run(model)
    assert str(Pipeline.parse(spec)) == spec
    assert pairs(model) == ["x", "r", "d1"]
    assert codes(ctx) == ["few-columns"]


def test_what_a_max_pool_reads_has_the_range_of_its_result() -> None:
    text = """(float[1,3,8,8] x) => (float y) {
        c = Conv(x, a)  r = Relu(c)  p = MaxPool<kernel_shape=[2,2]>(r)  y = Conv(p, b) }"""
    model = graph(text, {"a": (8, 3, 1, 1), "b": (4, 8, 1, 1)})
    quantized(model)
    assert pairs(model) == ["x", "r", "p"]
    coding = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    numbers = [[constant_of(value) for value in node.inputs[1:] if value] for node in coding]
    assert numbers[1] == numbers[2] != numbers[0]
