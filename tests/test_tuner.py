"""`tune` with a runner that pretends: what it measures and keeps, and that interruptions cost nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc.errors import UsageError
from sparsecc.host import host_cpu
from sparsecc.measurement import Loaded, Measured, Trial
from sparsecc.report.compile_report import layer_lines
from sparsecc.targets.plan import Plan
from sparsecc.tuning.database import read_records

SPARSE = "sparsify{pattern=4x1 sparsity=0.75}"
TARGET = "x86-64-v3"  # whose kernels every machine that runs these tests has


@pytest.fixture
def model() -> ir.Model:
    """Two pointwise convolutions a and b alike but for their zeros, and a classifier."""
    rng = np.random.default_rng(0)
    names = ["x", "one", "two"]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], "ab"[i]) for i in range(2)]
    nodes += [
        helper.make_node("GlobalAveragePool", ["two"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "head"], ["y"], "head", transB=1),
    ]
    weights = [
        numpy_helper.from_array(rng.standard_normal((64, 64, 1, 1)).astype(np.float32), f"w{i}")
        for i in range(2)
    ]
    weights.append(numpy_helper.from_array(rng.standard_normal((24, 64)).astype(np.float32), "head"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 9, 9])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 24])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 20)]
    return sparsecc.capture(helper.make_model(graph, opset_imports=opsets, ir_version=10))


class PretendedTrial(Trial):
    """A plan that nobody runs."""

    def __init__(self, plan: Plan) -> None:
        self.layers = layer_lines(plan.report["layers"])
        self.symbols = [step.symbol for step in plan.steps]

    def close(self) -> None:
        """There is nothing to close."""


class Pretender:
    """Times that follow from the kernels alone; raises KeyboardInterrupt instead of one measurement.

    Attributes:
        cpu: this machine's.
        loaded: how many plans were.
    """

    cpu = str(host_cpu())

    def __init__(self, interrupt_at: int = 0) -> None:
        self.loaded = self._measured = 0
        self._interrupt_at = interrupt_at

    def load(self, plan: Plan) -> Trial:
        self.loaded += 1
        return PretendedTrial(plan)

    def measure(self, trials: Sequence[Loaded], inputs: Mapping[str, Any]) -> list[Measured]:
        assert inputs
        self._measured += 1
        if self._measured == self._interrupt_at:
            raise KeyboardInterrupt
        return [Measured(trial.layers, tuple(map(_seconds, trial.symbols))) for trial in trials]  # type: ignore[attr-defined]


def _seconds(symbol: str) -> float:
    return 1e-6 * (1 + int(hashlib.sha256(symbol.encode()).hexdigest()[:4], 16) / 2**16)


def tuned(model: ir.Model, path: Path, runner: Pretender, **options: Any) -> sparsecc.TuneResult:
    return sparsecc.tune(model, TARGET, passes=SPARSE, database=path, runner=runner, **options)


def kept(path: Path) -> dict[tuple[str, str], float]:
    """Seconds by layer and form."""
    found: dict[tuple[str, str], float] = {}
    for record in read_records(path):
        found.update({(record.key, form): seconds for form, seconds in record.seconds.items()})
    return found


def test_the_fastest_form_of_each_layer_is_found(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    result = tuned(model, path, Pretender(), trials=4)
    assert [layer.node for layer in result.layers] == ["a", "b", "head"]
    assert result.missing == 0
    times = kept(path)
    assert len(times) == result.measured
    for layer in result.layers:
        assert 2 <= layer.forms <= 4
        assert layer.seconds <= layer.model_seconds and layer.gain >= 1
        assert (layer.form == layer.model_form) == (layer.gain == 1.0)
    by_key: dict[str, list[float]] = {}
    for (key, _), seconds in times.items():
        by_key.setdefault(key, []).append(seconds)
    assert sorted(min(found) for found in by_key.values()) == pytest.approx(
        sorted(layer.seconds for layer in result.layers), rel=0.04
    )
    assert any(layer.gain > 1 for layer in result.layers)
    assert result.seconds is not None and result.model_seconds is not None
    assert result.seconds < result.model_seconds


def test_nothing_is_measured_twice(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    first = tuned(model, path, Pretender(), trials=4)
    runner = Pretender()
    again = tuned(model, path, runner, trials=4)
    assert again.measured == 0 and again.layers == first.layers
    assert runner.loaded <= 2, "the choice of the cost model and the fastest forms"
    more = tuned(model, path, Pretender(), trials=5)
    assert 0 < more.measured <= 3


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_an_interrupted_call_is_continued(model: ir.Model, tmp_path: Path, at: int) -> None:
    whole = tuned(model, tmp_path / "whole.jsonl", Pretender(), trials=4)
    with pytest.raises(KeyboardInterrupt):
        tuned(model, tmp_path / "t.jsonl", Pretender(interrupt_at=at), trials=4)
    before = len(kept(tmp_path / "t.jsonl")) if at > 1 else 0
    assert (before > 0) == (at > 1)
    rest = tuned(model, tmp_path / "t.jsonl", Pretender(), trials=4)
    assert rest.layers == whole.layers
    assert rest.measured == whole.measured - before
    assert kept(tmp_path / "t.jsonl") == kept(tmp_path / "whole.jsonl")


def test_no_time_at_all(model: ir.Model, tmp_path: Path) -> None:
    result = tuned(model, tmp_path / "t.jsonl", Pretender(), trials=4, budget=0.0)
    assert result.measured == 3, "the choice of the cost model"
    assert result.missing > 0
    assert all(layer.form == layer.model_form for layer in result.layers)
    assert result.seconds == result.model_seconds


def test_compile_uses_the_database(model: ir.Model, tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    result = tuned(model, path, Pretender(), trials=4)
    (changed, *_) = (layer for layer in result.layers if layer.form != layer.model_form)

    def reasons(**options: Any) -> dict[str, str]:
        artifact = sparsecc.compile(
            model, TARGET, tmp_path / "m.scc", passes=SPARSE, measure=False, overwrite=True, **options
        )
        return {layer.node: layer.reason for layer in artifact.report.layers}

    found = reasons(database=path)[changed.node]
    assert "times as fast as the cost model's choice" in found
    assert "measured" not in reasons(database=False)[changed.node]
    with pytest.raises(UsageError, match="there is no database"):
        reasons(database=tmp_path / "none.jsonl")


def test_refusals(model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        tuned(model, tmp_path / "t.jsonl", Pretender(), trials=1)
    with pytest.raises(UsageError, match="no target"):
        sparsecc.tune(model, "toaster")
    monkeypatch.setattr("sparsecc.targets.registry.host_features", frozenset[str])
    with pytest.raises(UsageError, match="this machine lacks"):
        sparsecc.tune(model, TARGET, database=tmp_path / "t.jsonl")
