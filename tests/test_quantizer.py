"""Weights of 8 bits from quantising to running: artifacts compute what the nodes say, from less memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader
from onnxruntime.quantization.quantize import quantize_static

import sparsecc
from sparsecc.errors import UsageError
from sparsecc.ir.dump import dump
from sparsecc.ir.evaluate import evaluate
from sparsecc.passes.hooks import relative_difference


def network(columns: int) -> ir.Model:
    """Two linear layers with a ReLU and a residual sum."""
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (96, 64), "b.weight": (64, 96), "a.bias": (96,), "b.bias": (64,)}
    weights = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "a.weight", "a.bias"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b.weight", "b.bias"], ["g"], transB=1),
        helper.make_node("Add", ["g", "x"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [columns, 64]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 20)]
    return sparsecc.capture(helper.make_model(graph, opset_imports=opsets, ir_version=10))


@pytest.mark.parametrize("pattern", ["dense", "unstructured", "4x1", "16x1"])
@pytest.mark.parametrize("columns", [1, 5, 20])
@pytest.mark.parametrize("bits", [8, 4])
def test_compiles_to_what_the_nodes_say(pattern: str, columns: int, bits: int, tmp_path: Path) -> None:
    model = network(columns)
    if pattern != "dense":
        model = sparsecc.sparsify(model, pattern, 0.75, min_size=0).model
    small = sparsecc.quantize(model, bits)
    assert small.bytes_after < {8: 0.35, 4: 0.2}[bits] * small.bytes_before
    artifact = sparsecc.compile(small.model, out=tmp_path / "m.scc", measure=False)
    plain = sparsecc.compile(model, out=tmp_path / "plain.scc", measure=False)
    few = columns <= 8
    assert [layer.kernel.startswith(f"int{bits} ") for layer in artifact.report.layers] == [few, few]
    assert not any(layer.kernel.startswith("int") for layer in plain.report.layers)
    rounded_to_zero = artifact.report.zeros - plain.report.zeros
    assert 0 <= rounded_to_zero < {8: 0.01, 4: 0.15}[bits] * artifact.report.weights
    if few and (bits == 8 or pattern == "dense"):
        assert artifact.manifest.weights_bytes < {8: 0.75, 4: 0.4}[bits] * plain.manifest.weights_bytes
    inputs = {"x": np.random.default_rng(1).standard_normal((columns, 64)).astype(np.float32)}
    with artifact.load() as session:
        found = session.run(inputs)
    expected = evaluate(small.model, inputs)
    assert relative_difference(found["y"], expected["y"]) < 1e-5
    unquantised = evaluate(model, inputs)
    assert 1e-4 < relative_difference(found["y"], unquantised["y"]) < {8: 0.03, 4: 0.3}[bits]


class _Samples(CalibrationDataReader):
    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self._left = [{"x": rng.standard_normal((3, 64)).astype(np.float32)} for _ in range(4)]

    def get_next(self) -> Any:
        return self._left.pop() if self._left else None


@pytest.mark.parametrize("per_channel", [False, True])
def test_models_that_others_quantised(per_channel: bool, tmp_path: Path) -> None:
    """QDQ nodes of ONNX Runtime's static quantisation: activations keep theirs, weights run as int8."""
    source, target = tmp_path / "float.onnx", tmp_path / "qdq.onnx"
    ir.save(network(3), source)
    quantize_static(
        source, target, _Samples(), quant_format=QuantFormat.QDQ, per_channel=per_channel,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    artifact = sparsecc.compile(target, out=tmp_path / "m.scc", measure=False)
    assert [layer.kernel.partition(" ")[0] for layer in artifact.report.layers] == ["int8", "int8"]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    reference = onnxruntime.InferenceSession(target, options, ["CPUExecutionProvider"])
    inputs = {"x": np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)}
    expected = np.asarray(reference.run(None, inputs)[0])
    with artifact.load() as session:
        (found,) = session.run(inputs).values()
    step = np.abs(expected).max() / 127
    assert np.abs(found - expected).max() <= 1.01 * step  # a sum at the edge of two codes may take either
    assert np.mean(np.abs(found - expected) > 0.01 * step) < 0.02


def convolutions(batch: int | str = 1) -> ir.Model:
    """Two convolutions with batch norm and ReLU, a residual sum between them, and a classifier."""
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (16, 3, 3, 3), "b.weight": (16, 16, 3, 3), "c.weight": (10, 16)}
    arrays = {
        name: rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in shapes.items()
    }
    for norm in "mn":
        arrays |= {f"{norm}.{part}": rng.uniform(0.5, 1.5, 16) for part in ("scale", "bias", "mean", "var")}
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    parts = ("scale", "bias", "mean", "var")
    nodes = [
        helper.make_node("Conv", ["x", "a.weight"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", *(f"m.{part}" for part in parts)], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Conv", ["r", "b.weight"], ["b"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["b", *(f"n.{part}" for part in parts)], ["n"]),
        helper.make_node("Add", ["n", "r"], ["s"]),
        helper.make_node("GlobalAveragePool", ["s"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "c.weight"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 12, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 20)]
    return sparsecc.capture(helper.make_model(graph, opset_imports=opsets, ir_version=10))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("method", [None, "minmax", "percentile", "entropy"])
@pytest.mark.parametrize("batch", [1, "n"])
def test_static(method: str | None, batch: int | str) -> None:
    """Batch norm goes into the weights first; the model that was given is as it was."""
    model = convolutions(batch)
    before = dump(model)
    found = sparsecc.quantize(model, calibration=sparsecc.Calibration([{"x": images(16)}]), method=method)
    assert dump(model) == before
    ops = [node.op_type for node in found.model.graph]
    assert "BatchNormalization" not in ops
    assert ops.count("QuantizeLinear") == (2 if batch == 1 else 3), "the classifier sees 1 or 16 columns"
    assert (
        found.notes[-1]
        == f"{ops.count('QuantizeLinear')} activations are uint8 with ranges by {method or 'minmax'}"
    )
    assert found.bytes_after < 0.4 * found.bytes_before
    inputs = {"x": images(1, seed=5)}
    expected, result = evaluate(model, inputs)["y"], evaluate(found.model, inputs)["y"]
    assert 1e-4 < relative_difference(result, expected) < 0.05


def test_static_weights_are_those_of_weight_only() -> None:
    model = network(20)
    data = sparsecc.Calibration(
        [{"x": np.random.default_rng(1).standard_normal((20, 64)).astype(np.float32)}]
    )
    static = sparsecc.quantize(model, calibration=data).model.graph.initializers
    plain = sparsecc.quantize(model).model.graph.initializers
    for name in ("a.weight.int8", "a.weight.scale", "b.weight.int8", "b.weight.scale"):
        first, second = static[name].const_value, plain[name].const_value
        assert first is not None
        assert second is not None
        np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_static_compiles_to_what_the_nodes_say(tmp_path: Path) -> None:
    found = sparsecc.quantize(convolutions(), calibration=sparsecc.Calibration([{"x": images(16)}]))
    artifact = sparsecc.compile(found.model, out=tmp_path / "m.scc", measure=False)
    inputs = {"x": images(1, seed=5)}
    with artifact.load() as session:
        result = session.run(inputs)["y"]
    expected = evaluate(found.model, inputs)["y"]
    assert relative_difference(result, expected) < 0.005  # sums at the edge of two codes may take either


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"bits": 4}, "have 8 bits, not 4"),
        ({"method": "mean"}, "no calibration method 'mean'"),
        ({"method": "percentile", "percentile": 10.0}, "above 50 and at most 100"),
        ({"percentile": 99.9}, "for method percentile, not minmax"),
        ({"min_size": -1}, "min-size"),
        ({"calibration": None, "method": "minmax"}, "give calibration too"),
        ({"calibration": sparsecc.Calibration([])}, "no calibration batches"),
        ({"calibration": sparsecc.Calibration([{"x": images(3)[:, :2]}])}, "has the shape"),
    ],
)
def test_static_refused(options: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"calibration": sparsecc.Calibration([{"x": images(2)}]), **options}
    with pytest.raises(UsageError, match=says):
        sparsecc.quantize(convolutions(), **given)
