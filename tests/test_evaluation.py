"""`sparsecc.evaluate` against the definitions, its intervals, and data that do not fit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import sparsecc
from sparsecc.cli.main import main
from sparsecc.errors import UsageError, VerificationError
from sparsecc.passes.criteria import Calibration

RNG = np.random.default_rng(0)


def linear(weight: np.ndarray, samples: str | int = "n") -> ir.Model:
    """Y = x weight, with an open number of samples or a fixed one."""
    x = ir.Value(name="x", shape=ir.Shape([samples, len(weight)]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", const_value=ir.tensor(weight.astype(np.float32), name="w"))
    w.shape, w.type = ir.Shape(weight.shape), ir.TensorType(ir.DataType.FLOAT)
    node = ir.node("MatMul", [x, w])
    y = node.outputs[0]
    y.name, y.type = "y", ir.TensorType(ir.DataType.FLOAT)
    y.shape = ir.Shape([samples, weight.shape[1]])
    return ir.Model(ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 23}), ir_version=10)


def test_classification_and_its_interval() -> None:
    model = linear(np.eye(4))
    inputs = RNG.standard_normal((400, 4)).astype(np.float32)
    classes = np.where(np.arange(400) < 300, inputs.argmax(1), (inputs.argmax(1) + 1) % 4)
    found = sparsecc.evaluate(model, "classification", Calibration([{"x": inputs}], [classes]))
    assert found.samples == 400
    assert found.score.value == 75
    error = 100 * np.sqrt(0.75 * 0.25 / 400)  # of a mean of 400 coin throws
    assert abs(found.score.low - (75 - 1.96 * error)) < 0.6
    assert abs(found.score.high - (75 + 1.96 * error)) < 0.6


def test_seed_decides() -> None:
    model = linear(np.eye(4))
    data = Calibration([{"x": RNG.standard_normal((50, 4)).astype(np.float32)}], [RNG.integers(0, 4, 50)])
    first, again, other = (sparsecc.evaluate(model, "perplexity", data, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first.score.value == other.score.value
    assert first != other


def test_differences_are_paired() -> None:
    """The same right and wrong samples in both: no difference on any draw, however wide the intervals."""
    model, same = linear(np.eye(4)), linear(2 * np.eye(4))
    data = Calibration([{"x": RNG.standard_normal((50, 4)).astype(np.float32)}], [RNG.integers(0, 4, 50)])
    found = sparsecc.evaluate(model, "classification", data, reference=same)
    assert found.score.high - found.score.low > 10
    assert found.difference is not None
    assert (found.difference.low, found.difference.value, found.difference.high) == (0, 0, 0)


def test_perplexity_by_hand() -> None:
    logits = RNG.standard_normal((6, 5)).astype(np.float32)
    ids = np.array([0, 4, -1, 2, 1, -7])
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    wanted = np.exp(-np.mean([np.log(probabilities[i, ids[i]]) for i in (0, 1, 3, 4)]))
    found = sparsecc.evaluate(linear(np.eye(5)), "perplexity", Calibration([{"x": logits}], [ids]))
    assert found.score.value == pytest.approx(wanted, rel=1e-6)


def test_next_ids_are_predicted_without_targets() -> None:
    """A table of logits by id: exp of the mean of -log p(next | this)."""
    table = RNG.standard_normal((7, 7)).astype(np.float32)
    ids = RNG.integers(0, 7, (3, 9))
    x = ir.Value(name="ids", shape=ir.Shape([1, 9]), type=ir.TensorType(ir.DataType.INT64))
    w = ir.Value(name="w", const_value=ir.tensor(table, name="w"))
    w.shape, w.type = ir.Shape([7, 7]), ir.TensorType(ir.DataType.FLOAT)
    node = ir.node("Gather", [w, x])
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1, 9, 7])
    model = ir.Model(
        ir.Graph([x], [y], nodes=[node], initializers=[w], opset_imports={"": 23}), ir_version=10
    )
    log = table - np.log(np.exp(table).sum(1, keepdims=True))
    wanted = np.exp(-np.mean([log[a, b] for row in ids for a, b in itertools.pairwise(row)]))
    found = sparsecc.evaluate(model, "perplexity", Calibration([{"ids": ids}]))  # cut into three
    assert found.samples == 3
    assert found.score.value == pytest.approx(wanted, rel=1e-6)


def test_agreement_and_similarity() -> None:
    turned = np.eye(4)[:, [1, 0, 2, 3]]
    inputs = RNG.standard_normal((200, 4)).astype(np.float32)
    data = Calibration([{"x": inputs[:120]}, {"x": inputs[120:]}])
    found = sparsecc.evaluate(linear(turned), "agreement", data, reference=linear(np.eye(4)))
    assert found.score.value == pytest.approx(100 * np.mean(inputs.argmax(1) >= 2))
    assert found.reference is None
    found = sparsecc.evaluate(linear(turned), "similarity", data, reference=linear(np.eye(4)))
    swapped = inputs[:, [1, 0, 2, 3]]
    assert found.score.value == pytest.approx(
        np.mean((inputs * swapped).sum(1) / (inputs**2).sum(1)), abs=1e-6
    )


def test_correlation_with_given_similarities() -> None:
    inputs = RNG.standard_normal((12, 4)).astype(np.float32)
    unit = inputs / np.linalg.norm(inputs, axis=1, keepdims=True)
    wanted = unit @ unit.T + 0.3 * RNG.standard_normal((12, 12))
    pairs = np.triu_indices(12, 1)
    found = sparsecc.evaluate(linear(np.eye(4), 3), "similarity", Calibration([{"x": inputs}], [wanted]))
    assert found.score.value == pytest.approx(
        np.corrcoef((unit @ unit.T)[pairs], wanted[pairs])[0, 1], abs=1e-6
    )
    assert found.score.low < found.score.value < found.score.high


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_input() -> None:
    model, x = linear(np.eye(4)), np.ones((3, 4), np.float32)
    with pytest.raises(UsageError, match="the task is one of"):
        sparsecc.evaluate(model, "accuracy", Calibration([{"x": x}]))
    with pytest.raises(UsageError, match="compares with a reference"):
        sparsecc.evaluate(model, "agreement", Calibration([{"x": x}]))
    with pytest.raises(UsageError, match="needs the classes"):
        sparsecc.evaluate(model, "classification", Calibration([{"x": x}]))
    with pytest.raises(UsageError, match=r"expected classes \[3\]"):
        sparsecc.evaluate(model, "classification", Calibration([{"x": x}], [np.zeros((3, 2), np.int64)]))
    with pytest.raises(UsageError, match="no input holds ids"):
        sparsecc.evaluate(model, "perplexity", Calibration([{"x": x}]))
    with pytest.raises(UsageError, match="of 4 tokens"):
        sparsecc.evaluate(model, "perplexity", Calibration([{"x": x}], [np.array([0, 1, 4])]))
    with pytest.raises(UsageError, match="the same output"):
        sparsecc.evaluate(model, "agreement", Calibration([{"x": x}]), reference=linear(np.ones((4, 2))))
    with pytest.raises(UsageError, match="a similarity for each pair"):
        sparsecc.evaluate(model, "similarity", Calibration([{"x": x}], [np.zeros((3, 2))]))
    with pytest.raises(UsageError, match="resamples must be positive"):
        sparsecc.evaluate(model, "classification", Calibration([{"x": x}], [np.zeros(3, int)]), resamples=0)
    with pytest.raises(VerificationError, match="NaN or infinite in batch 0"):
        sparsecc.evaluate(
            linear(np.eye(4) * np.inf), "classification", Calibration([{"x": x}], [np.zeros(3, int)])
        )


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ir.save(linear(np.eye(4)), tmp_path / "a.onnx")
    inputs = RNG.standard_normal((30, 4)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=inputs, target=inputs.argmax(1))
    command = [
        "eval",
        str(tmp_path / "a.onnx"),
        "--data",
        str(tmp_path / "data.npz"),
        "--task",
        "classification",
    ]
    assert main([*command, "--json", "--reference", str(tmp_path / "a.onnx")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 30
    assert found["score"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    assert found["difference"]["value"] == 0
    assert main(command) == 0
    assert "100 % [100, 100]" in capsys.readouterr().out
    assert main([*command[:-1], "agreement"]) == 2
    assert "reference" in capsys.readouterr().err
