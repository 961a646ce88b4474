"""`knee`: the point that curves bend at, and a model of which half the weights are nearly zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc.cli.main import main
from sparsecc.errors import UsageError
from sparsecc.knee import SPARSITIES, find_knee

DATA = np.random.default_rng(1).standard_normal((64, 64)).astype(np.float32)


def proto() -> onnx.ModelProto:
    """Two layers, of whose weights 60 % are a thousandth of the others."""
    rng = np.random.default_rng(0)
    weights = []
    for name, shape in (("a", (96, 64)), ("b", (16, 96))):
        values = rng.standard_normal(shape) * np.where(rng.random(shape) < 0.6, 1e-3, 1.0)
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "b"], ["y"], transB=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [64, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [64, 16])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def model() -> ir.Model:
    return sparsecc.capture(proto())


def test_the_knee_of_curves() -> None:
    x = [step / 20 for step in range(1, 20)]
    assert find_knee(x, [max(0.0, (one - 0.7) * 4) for one in x]) == pytest.approx(0.7)
    assert find_knee(x, [one**0.5 for one in x]) == 0  # damage rises at once
    assert find_knee(x, [0.0] * 19) == pytest.approx(0.95)
    # what is worse than saying nothing counts alike
    assert find_knee([0.2, 0.4, 0.6, 0.8], [0, 0.1, 50, 1e9]) == 0.4


def test_finds_what_can_go(model: ir.Model) -> None:
    found = sparsecc.knee(model, sparsecc.Calibration([{"x": DATA}]))
    assert found.sparsities == SPARSITIES
    assert 0.6 <= found.sparsity <= 0.7
    below = found.damages[found.sparsities.index(0.55)]
    assert below < 1e-5
    assert found.damages[-1] > 0.5
    fitted = sparsecc.knee(model, sparsecc.Calibration([{"x": DATA}]), method="sparsegpt")
    assert fitted.sparsity >= found.sparsity - 0.051
    assert fitted.damages[10] < found.damages[10]


def test_the_command_draws_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(proto(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "data.npz", x=DATA)
    words = ["knee", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "data.npz")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "% unstructured zeros change the outputs little" in out
    assert "####" in out
    assert main(words[:2]) == 2
    assert "give some with --calibration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "2:4"}, "has one sparsity"),
        ({"sparsities": (0.5, 0.6)}, "at least three"),
        ({"sparsities": (0.5, 0.6, 1.0)}, "between 0 and 1"),
        ({"method": "hope"}, "hope"),
    ],
)
def test_bad_input_is_named(model: ir.Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sparsecc.knee(model, sparsecc.Calibration([{"x": DATA}]), **options)  # pyright: ignore[reportArgumentType]
