"""`compress`: latencies by the cost model, so that nothing here depends on how fast this machine is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc import compressor, option_search
from sparsecc.compressor import MissedBudgetError
from sparsecc.errors import UsageError
from sparsecc.gauge import NonZeros
from sparsecc.ir.edit import replace_constant
from sparsecc.ir.encoding import Encoding, fits
from sparsecc.ir.evaluate import evaluate, outputs_of
from sparsecc.ir.weights import weight_uses
from sparsecc.option_search import OptionSearch
from sparsecc.passes.allocate import Option
from sparsecc.passes.criteria.sensitivity import Sensitivity, divergence

ELSEWHERE = "arm64-linux"
"""A target that machines with x86 do not run: the cost model prices it."""
SHARE = 0.5


@pytest.fixture
def model() -> ir.Model:
    """Three pointwise convolutions, of which the middle one hardly matters, and a classifier."""
    rng = np.random.default_rng(0)
    names = ["x", "one", "two", "three"]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["one"]),
        helper.make_node("Conv", ["one", "w1"], ["side"]),
        helper.make_node("Add", ["one", "side"], ["two"]),
        helper.make_node("Relu", ["two"], ["two_"]),
        helper.make_node("Conv", ["two_", "w2", "b2"], ["three"]),
        helper.make_node("GlobalAveragePool", ["three"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["y"], transB=1),
    ]
    scales = [0.1, 0.001, 0.1]
    weights = [
        numpy_helper.from_array((rng.standard_normal((64, 64, 1, 1)) * scales[i]).astype(np.float32), f"w{i}")
        for i in range(len(names) - 1)
    ]
    weights.append(numpy_helper.from_array(rng.standard_normal(64).astype(np.float32), "b2"))
    weights.append(numpy_helper.from_array(rng.standard_normal((24, 64)).astype(np.float32), "head"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 16, 16])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 20)]
    return sparsecc.capture(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.fixture
def redundant() -> ir.Model:
    """Two layers of 64 hidden features, of which the second 32 hardly reach the outputs."""
    rng = np.random.default_rng(0)
    first = rng.standard_normal((64, 48)).astype(np.float32)
    second = rng.standard_normal((24, 64)).astype(np.float32)
    second[:, 32:] *= 1e-5
    weights = [numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")]
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 48])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 24])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 20)]
    return sparsecc.capture(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.fixture
def data() -> sparsecc.Calibration:
    rng = np.random.default_rng(1)
    return sparsecc.Calibration(
        [{"x": rng.standard_normal((1, 64, 16, 16)).astype(np.float32)} for _ in range(6)]
    )


def matrices(model: ir.Model) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for use in weight_uses(model):
        assert use.value.const_value is not None
        found[use.layer] = use.value.const_value.numpy()
    return found


def test_meets_the_latency_where_it_hurts_least(model: ir.Model, data: sparsecc.Calibration) -> None:
    before = matrices(model)
    result = sparsecc.compress(
        model, SHARE, calibration=data, widths=[1], bits=[32], sparsities=(0.5, 0.75, 0.9), target=ELSEWHERE
    )
    assert not result.measured
    assert 0.9 * SHARE <= result.cost <= SHARE
    assert result.bits == (32,)
    for name, matrix in matrices(result.model).items():
        option = result.options.get(name)
        if option is None or option.dense:
            continue
        assert fits(matrix, Encoding.parse(option.pattern))
        assert np.mean(matrix == 0) == pytest.approx(option.sparsity, abs=0.01)
    # the layer that hardly matters has the most zeros
    assert result.options["w1"].sparsity == max(option.sparsity for option in result.options.values())
    assert all(result.error <= other.error for other in result.uniform if other.sparsity is not None)
    assert {other.pattern for other in result.uniform} == {"unstructured", "2x1", "4x1"}
    for name, matrix in matrices(model).items():
        assert np.array_equal(matrix, before[name])


def test_outputs_change_less_than_with_one_pattern(model: ir.Model, data: sparsecc.Calibration) -> None:
    result = sparsecc.compress(model, SHARE, calibration=data, widths=[1], bits=[32], target=ELSEWHERE)
    fresh = np.random.default_rng(7).standard_normal((8, 1, 64, 16, 16)).astype(np.float32)
    expected = [tuple(evaluate(model, {"x": x}).values()) for x in fresh]

    def change(made: ir.Model) -> float:
        return divergence([tuple(evaluate(made, {"x": x}).values()) for x in fresh], expected)

    for other in result.uniform:
        if other.sparsity:
            uniform = sparsecc.sparsify(model, other.pattern, other.sparsity, method="alps", calibration=data)
            assert change(result.model) < change(uniform.model)


def test_without_data_weights_go_by_magnitude(model: ir.Model) -> None:
    result = sparsecc.compress(model, SHARE, target=ELSEWHERE)
    assert 0.9 * SHARE <= result.cost <= SHARE
    assert result.divergence is None
    before = matrices(model)
    for name, matrix in matrices(result.model).items():
        assert np.array_equal(matrix[matrix != 0], before[name][matrix != 0])


def test_each_layer_has_its_own_bits(model: ir.Model, data: sparsecc.Calibration) -> None:
    result = sparsecc.compress(
        model, 0.35, calibration=data, widths=[1], sparsities=(0.5, 0.9), loss="squared",
        target="arm64-linux+dotprod",
    )  # fmt: skip
    assert 0.9 * 0.35 <= result.cost <= 0.35
    assert result.bits == (32, 8)
    stored = {
        node.inputs[0].name: node
        for node in result.model.graph
        if node.op_type == "DequantizeLinear" and node.inputs[0] and node.inputs[0].is_initializer()
    }
    for name, option in result.options.items():
        assert (f"{name}.int8" in stored) == (option.bits == 8)
    # the classifier's inputs in 8 bits change the outputs most, and it takes no time
    assert result.options["head"] == Option()
    found = {one.bits: one.divergence for one in result.candidates}
    assert set(found) == {(32, 8), (32,), (8,)}
    both = found.pop((32, 8))
    assert all(other is None or (both is not None and both < other) for other in found.values())


def test_channels_go_where_that_changes_less(redundant: ir.Model) -> None:
    rng = np.random.default_rng(1)
    data = sparsecc.Calibration([{"x": rng.standard_normal((64, 48)).astype(np.float32)} for _ in range(4)])
    result = sparsecc.compress(
        redundant, 0.75, calibration=data, widths=(1, 0.5), bits=[32], patterns=["4x1"],
        sparsities=(0.5, 0.8), target=ELSEWHERE,
    )  # fmt: skip
    assert result.cost <= 0.75
    assert result.pruned is not None
    assert result.width == pytest.approx(0.5, abs=0.05)
    assert result.divergence is not None and result.divergence < 1e-6
    (group,) = result.pruned.groups
    assert group.kept == tuple(range(32))
    replayed = sparsecc.replay(redundant, result.pruned.plan)
    assert {name: matrix.shape for name, matrix in matrices(replayed.model).items()} == {
        name: matrix.shape for name, matrix in matrices(result.model).items()
    }
    assert [one.note for one in result.candidates] == ["", "", ""]
    assert sorted({one.pattern for one in result.candidates}) == ["", "4x1"]


def test_a_width_that_cannot_be_better_is_given_up(model: ir.Model, data: sparsecc.Calibration) -> None:
    result = sparsecc.compress(
        model, 0.9, calibration=data, widths=(1, 0.5, 0.3), bits=[32], sparsities=(0.5,), target=ELSEWHERE
    )
    assert result.pruned is None
    assert result.width == 1
    assert len(result.candidates) == 2
    assert result.candidates[1].width == pytest.approx(0.5, abs=0.1)
    assert "removing channels alone" in result.candidates[1].note


def test_skipped_layers_keep_their_channels(model: ir.Model, data: sparsecc.Calibration) -> None:
    result = sparsecc.compress(
        model, 0.6, calibration=data, widths=(0.8,), bits=[32], patterns=["4x1"], sparsities=(0.9,),
        skip=["w0"], target=ELSEWHERE,
    )  # fmt: skip
    assert result.pruned is not None
    after = matrices(result.model)
    assert np.array_equal(after["w0"], matrices(model)["w0"])
    assert after["head"].shape[1] < 64


def test_zeros_as_many_as_asked_for(model: ir.Model, data: sparsecc.Calibration) -> None:
    result = sparsecc.compress(model, zeros=0.7, calibration=data)
    assert 0.7 <= result.zeros <= 0.71
    assert (result.goal, result.measured) == ("zeros", False)
    assert result.cost == pytest.approx(1 - result.zeros)
    assert {option.pattern for option in result.options.values() if not option.dense} == {"unstructured"}
    assert result.options["w1"].sparsity == max(option.sparsity for option in result.options.values())
    (uniform,) = result.uniform
    assert uniform.sparsity == pytest.approx(0.7, abs=0.01)
    assert result.error < uniform.error


@pytest.mark.parametrize("bits", [(32,), (32, 8)])
def test_bytes_of_the_artifact(
    model: ir.Model, data: sparsecc.Calibration, tmp_path: Path, bits: tuple[int, ...]
) -> None:
    result = sparsecc.compress(
        model, bytes=0.4, calibration=data, widths=[1], bits=bits, sparsities=(0.5, 0.8)
    )

    def weights(one: ir.Model) -> int:
        out = tmp_path / "m.scc"
        artifact = sparsecc.compile(one, "cpu", out, measure=False, database=False, overwrite=True)
        return artifact.manifest.weights_bytes

    assert weights(result.model) / weights(model) == pytest.approx(result.cost, abs=1e-9)
    assert 0.3 <= result.cost <= 0.4
    assert (8 in result.bits) == (8 in bits)


def test_sensitivity_is_the_change_of_the_outputs(model: ir.Model, data: sparsecc.Calibration) -> None:
    weight = matrices(model)["w2"] * 0.5
    found = Sensitivity(model, data).of({"w2": weight})
    changed = model.clone()
    replace_constant(changed.graph.initializers["w2"], weight)
    batches = [batch for batch, _ in data.stream(model)]
    ours = np.stack([next(iter(evaluate(changed, batch).values())) for batch in batches]).astype(float)
    theirs = np.stack([next(iter(evaluate(model, batch).values())) for batch in batches]).astype(float)
    share = np.square(ours - theirs).sum() / sum(np.square(t - t.mean()).sum() for t in theirs)
    assert found == pytest.approx(share, rel=1e-3)


def test_estimates_are_the_first_order_change(model: ir.Model, data: sparsecc.Calibration) -> None:
    sensitivity = Sensitivity(model, data)
    generator = np.random.default_rng(0)
    changes = {
        name: {name: array + generator.normal(0, 1e-3, array.shape).astype(np.float32)}
        for name, array in matrices(model).items()
    }
    exact = {name: sensitivity.of(change) for name, change in changes.items()}
    found = sensitivity.estimates(changes)
    for name, value in exact.items():
        assert 0.2 * value < found[name] < 3 * value, name  # 16 draws
    mean = np.mean([sensitivity.estimates(changes, seed=seed)["w0"] for seed in range(30)])
    assert mean == pytest.approx(exact["w0"], rel=0.15)
    assert sensitivity.of({"w1": matrices(model)["w1"]}) < 1e-10


def test_many_layers_are_estimated(
    model: ir.Model, data: sparsecc.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(option_search, "_FEW", 1)
    result = sparsecc.compress(model, zeros=0.6, calibration=data)
    assert result.zeros == pytest.approx(0.6, abs=0.02)
    uniform = sparsecc.sparsify(model, "unstructured", 0.6, method="alps", calibration=data).model
    batches = [batch for batch, _ in data.stream(model)]
    dense, other = outputs_of(model, batches), outputs_of(uniform, batches)
    assert result.divergence is not None and result.divergence < divergence(other, dense)


def test_sensitivity_puts_the_weights_back(model: ir.Model, data: sparsecc.Calibration) -> None:
    sensitivity = Sensitivity(model, data)
    first = sensitivity.of({"w0": matrices(model)["w0"] * 0})
    assert sensitivity.of({"w1": matrices(model)["w1"]}) < 1e-10
    assert first > 0.01
    assert sensitivity.of({"w0": matrices(model)["w0"] * 0}) == first


@pytest.mark.parametrize("disturbed", [1, 2, 5])
def test_a_disturbed_measurement_is_taken_again(
    model: ir.Model, data: sparsecc.Calibration, monkeypatch: pytest.MonkeyPatch, disturbed: int
) -> None:
    fitted: list[int] = []

    class Disturbed(NonZeros):
        """Counts weights, and three times as many in some looks at the final model."""

        measured = True

        def share(self, model: ir.Model) -> float:
            fitted[:] = [one + 1 for one in fitted]
            return super().share(model) * (3 if fitted and fitted[0] <= disturbed else 1)

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "fit by wanda" and not fitted:
            fitted.append(0)

    monkeypatch.setattr(compressor, "_open_gauge", lambda goal, model, target, shapes: Disturbed(model))

    def compress() -> sparsecc.CompressResult:
        return sparsecc.compress(
            model, 0.5, calibration=data, widths=[1.0], bits=[32], method="wanda", progress=progress
        )

    if disturbed < 3:
        assert compress().cost <= 0.55
    else:
        with pytest.raises(MissedBudgetError, match=r"0\.5 was asked for") as missed:
            compress()
        assert missed.value.result.cost > 0.55 and missed.value.result.zeros > 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": 1.0}, "between 0 and 1"),
        ({"latency": None}, "give one budget"),
        ({"latency": 0.5, "zeros": 0.5}, "give one budget"),
        ({"latency": None, "bytes": 1.5}, "budget of bytes is a share between 0 and 1"),
        ({"latency": None, "bytes": 0.01}, "0.01 was asked for"),
        ({"latency": 0.5, "widths": [1.5]}, "over 0 and up to 1"),
        ({"latency": 0.5, "widths": [0.5]}, "widths under 1 need calibration data"),
        ({"latency": 0.5, "sparsities": ()}, "between 0 and 1"),
        ({"latency": 0.5, "probes": 0}, "at least one batch"),
        ({"latency": 0.5, "bits": [4]}, "32 or 8 bits, not 4"),
        ({"latency": 0.5, "bits": [8]}, "need calibration data"),
        ({"latency": 0.01}, "0.01 was asked for"),
        ({"latency": 0.5, "skip": ["*"]}, "no layer can be made sparse"),
        ({"latency": 0.5, "patterns": ["9y9"]}, "9y9"),
        ({"latency": 0.5, "target": "toaster"}, "toaster"),
    ],
)
def test_bad_input_is_named(model: ir.Model, options: dict[str, object], message: str) -> None:
    given = {"target": ELSEWHERE, **options}
    with pytest.raises(UsageError, match=message):
        sparsecc.compress(model, **given)  # pyright: ignore[reportArgumentType]


def test_one_pattern_is_taken_where_the_sums_of_errors_are_wrong(
    model: ir.Model, data: sparsecc.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(self: OptionSearch, changes: Mapping[str, object], option: Option) -> dict[str, float]:
        """The layer that matters most hardly matters."""
        return {name: 0.1 if name == "head" else 1 + option.sparsity for name in changes}

    monkeypatch.setattr(OptionSearch, "_damage", lie)
    result = sparsecc.compress(
        model, zeros=0.6, calibration=data, patterns=["unstructured", "2x1"], sparsities=(0.5, 0.7, 0.9)
    )
    found = {one.pattern: one.divergence for one in result.candidates}
    assert set(found) == {"", "unstructured", "2x1"}
    assert found["unstructured"] == min(one for one in found.values() if one is not None)
    assert len(set(result.options.values())) == 1
    assert next(iter(result.options.values())).pattern == "unstructured"
    assert result.zeros == pytest.approx(0.6, abs=0.02)
    for layer in result.layers:
        assert layer.zeros == pytest.approx(result.zeros, abs=0.02)


def test_the_loss_is_that_of_the_graph_or_the_one_asked_for(
    model: ir.Model, redundant: ir.Model, data: sparsecc.Calibration
) -> None:
    batches = [batch for batch, _ in data.stream(model)]
    for loss in (None, "squared"):
        result = sparsecc.compress(model, zeros=0.6, calibration=data, loss=loss)
        assert result.loss == (loss or "kl")
        outputs, expected = (outputs_of(one, batches) for one in (result.model, model))
        assert result.divergence == pytest.approx(divergence(outputs, expected, result.loss))
    with pytest.raises(UsageError, match="loss is one of kl, squared"):
        sparsecc.compress(model, zeros=0.6, loss="absolute")


@pytest.mark.parametrize(("count", "probes", "held"), [(3, 4, 3), (4, 4, 1), (12, 4, 3), (40, 4, 4)])
def test_drafts_are_judged_by_data_that_they_have_not_seen(count: int, probes: int, held: int) -> None:
    data = sparsecc.Calibration([{"x": np.full(1, n)} for n in range(count)], weights=range(1, count + 1))
    fitting, sample = data.hold_out(probes)
    seen, judged = ([int(batch["x"][0]) for batch in part.again()] for part in (fitting, sample))
    assert judged == list(range(held))
    assert seen == list(range(count))[0 if held == count else held :]
    assert [fitting.weight(n) for n in range(len(seen))] == [n + 1 for n in seen]
