"""`compile`: selection by measurement, what it leaves alone, and the memory that it takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import sparsecc
from sparsecc import compiler
from sparsecc.errors import UsageError
from sparsecc.measurement import Measured, Trial
from sparsecc.measurement import measure as really_measure
from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline
from sparsecc.report.compile_report import layer_lines

SPARSE = "sparsify{pattern=4x1 sparsity=0.9}"


@pytest.fixture
def model() -> ir.Model:
    """Three pointwise convolutions: a, b, c."""
    rng = np.random.default_rng(0)
    names = ["x", "one", "two", "y"]
    nodes = [helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], "abc"[i]) for i in range(3)]
    weights = [
        numpy_helper.from_array(rng.standard_normal((64, 64, 1, 1)).astype(np.float32), f"w{i}")
        for i in range(3)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64, 14, 14]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return sparsecc.capture(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )


def kernels(artifact: sparsecc.Artifact) -> dict[str, str]:
    """First word of each node's kernel."""
    return {layer.node: layer.kernel.split()[0] for layer in artifact.report.layers}


Clock = Callable[[Sequence[Trial]], list[dict[str, float]]]


def pretend(monkeypatch: pytest.MonkeyPatch, clock: Callable[[bool, str], float]) -> list[int]:
    """Let each layer take `clock(sparse, node)` seconds; returns a list that grows by one per measurement."""
    calls: list[int] = []

    def measure(trials: Sequence[Trial], inputs: dict[str, Any]) -> list[Measured]:
        calls.append(len(trials))
        found: list[Measured] = []
        for trial, real in zip(trials, really_measure(trials, inputs), strict=True):
            times = [0.0] * len(real.steps)
            for layer in trial.layers:
                times[layer.steps[0]] = clock("sparse" in layer.kernel, layer.node)
            found.append(Measured(trial.layers, tuple(times)))
        return found

    monkeypatch.setattr(compiler, "measure", measure)
    return calls


def test_faster_layers_stay_sparse(model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch, lambda sparse, _: 1.0 if sparse else 2.0)
    artifact = sparsecc.compile(model, out=tmp_path / "m.scc", passes=SPARSE)
    assert kernels(artifact) == {"a": "sparse", "b": "sparse", "c": "sparse"}
    assert calls == [2]
    assert artifact.report.measured_seconds == pytest.approx(3.0)
    assert artifact.report.measured_dense_seconds == pytest.approx(6.0)


def test_slower_layer_becomes_dense(model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(monkeypatch, lambda sparse, name: (1.5 if name == "b" else 0.5) if sparse else 1.0)
    artifact = sparsecc.compile(model, out=tmp_path / "m.scc", passes=SPARSE)
    assert kernels(artifact) == {"a": "sparse", "b": "dense", "c": "sparse"}
    assert calls == [2, 2]
    (layer,) = (layer for layer in artifact.report.layers if layer.node == "b")
    assert layer.reason == "the sparse kernel took 1.50 times as long as this dense one"
    assert layer.measured_seconds == layer.measured_dense_seconds == 1.0


def test_as_fast_as_dense_is_fast_enough(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pretend(monkeypatch, lambda *_: 1.0)
    artifact = sparsecc.compile(model, out=tmp_path / "m.scc", passes=SPARSE)
    assert set(kernels(artifact).values()) == {"sparse"}
    assert calls == [2]


def test_all_dense_where_the_whole_is_slower(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Layers that turn slow one after the other, until no turn is left."""
    calls: list[int] = []
    measured = pretend(monkeypatch, lambda sparse, name: 1.5 if sparse and name == "abc"[len(calls)] else 1.0)
    really = compiler.slower_layers

    def counted(plan: Measured, dense: Measured) -> frozenset[str]:
        calls.append(1)
        return really(plan, dense)

    monkeypatch.setattr(compiler, "slower_layers", counted)
    artifact = sparsecc.compile(model, out=tmp_path / "m.scc", passes=SPARSE)
    assert measured == [2, 2, 2]
    assert set(kernels(artifact).values()) == {"dense"}
    (note,) = artifact.report.notes
    assert "so all layers are dense" in note
    assert artifact.report.measured_seconds == artifact.report.measured_dense_seconds


def test_dense_model_is_measured_once(
    model: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = pretend(monkeypatch, lambda sparse, _: 1.0)
    artifact = sparsecc.compile(model, out=tmp_path / "m.scc")
    assert calls == [1]
    assert set(kernels(artifact).values()) == {"dense"}


def test_sources_are_not_changed(model: ir.Model, tmp_path: Path) -> None:
    before = ir.to_proto(model).SerializeToString()
    result = sparsecc.sparsify(model, "2:4")
    sparsecc.compile(model, out=tmp_path / "m.scc", passes=SPARSE, measure=False)
    assert ir.to_proto(model).SerializeToString() == before
    assert result.zeros == pytest.approx(0.5)
    assert [layer.pattern for layer in result.layers] == ["2:4"] * 3
    assert all(layer.zeros == pytest.approx(0.5) for layer in sparsecc.sparsify(model, "2:4").layers)


def test_sparsify_options(model: ir.Model) -> None:
    assert sparsecc.sparsify(model).zeros == pytest.approx(0.8, abs=0.01)
    result = sparsecc.sparsify(model, "unstructured", 0.5, scope="global", skip=["w1"])
    assert [refusal.code for refusal in result.refusals] == ["skipped"]
    assert result.zeros == pytest.approx(1 / 3, abs=0.01)
    with pytest.raises(UsageError):
        sparsecc.sparsify(model, "2:4", 0.7)


def test_names_in_the_report_are_those_that_skip_takes(tmp_path: Path) -> None:
    """A weight that two nodes share is one name and two nodes; a slower one of them alone becomes dense."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((64, 64)).astype(np.float32) for name in ("fc[1].weight", "head")}
    pairs = [("x", "fc[1].weight"), ("one", "fc[1].weight"), ("two", "head")]
    nodes = [
        helper.make_node("MatMul", [*pair], [out], f"node {out}")
        for pair, out in zip(pairs, ("one", "two", "y"), strict=True)
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 64]) for name in "xy")
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    model = sparsecc.capture(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    sparse = sparsecc.sparsify(model, "4x1", 0.9)
    artifact = sparsecc.compile(sparse.model, out=tmp_path / "m.scc", measure=False)
    layers = artifact.report.layers
    assert [layer.name for layer in layers] == ["fc[1]", "fc[1]", "head"]
    assert [layer.node for layer in layers] == ["node one", "node two", "node y"]
    assert {layer.name for layer in sparse.layers} == {layer.name for layer in layers}
    for layer in layers:
        skipped = sparsecc.sparsify(model, "4x1", 0.9, skip=[layer.name])
        assert [refusal.where for refusal in skipped.refusals] == [layer.name]
    page = (artifact.path / "report.html").read_text(encoding="utf-8")
    assert "fc[1]" in page and "node two" in page
    ready = sparse.model
    Pipeline.parse(COMPILE_PIPELINE).run(ready)
    plan = compiler.build_plan(ready, dense_layers=frozenset({"node two"}))
    lines = layer_lines(plan.report["layers"])
    assert [layer.kernel.split()[0] for layer in lines] == ["sparse", "dense", "sparse"]


def test_report_survives_the_manifest(model: ir.Model, tmp_path: Path) -> None:
    from sparsecc.artifact import read_artifact
    from sparsecc.report import report_of

    artifact = sparsecc.compile(model, out=tmp_path / "m.scc", passes=SPARSE, name="abc")
    manifest, _ = read_artifact(artifact.path)
    assert report_of(manifest.report) == artifact.report
    assert manifest.name == "abc"
    assert sum(layer.zeros for layer in artifact.report.layers) == pytest.approx(2.7, abs=0.01)


def test_texts_are_escaped(tmp_path: Path) -> None:
    """Names come from the model's file, so they may hold anything."""
    name = '<script>alert("x")</script>&'
    weights = numpy_helper.from_array(np.ones((8, 8), np.float32), "w")
    x, y = (helper.make_tensor_value_info(key, TensorProto.FLOAT, [1, 8]) for key in (name, "y"))
    graph = helper.make_graph(
        [helper.make_node("MatMul", [name, "w"], ["y"], name)], "g", [x], [y], [weights]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    artifact = sparsecc.compile(proto, out=tmp_path / "m.scc", measure=False)
    text = (artifact.path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text


MEMORY = """
import sys, threading, time
import sparsecc
def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024
peak, done = [0], threading.Event()
def watch():
    while not done.is_set():
        peak[0] = max(peak[0], private())
        time.sleep(0.005)
thread = threading.Thread(target=watch)
thread.start()
sparsecc.compile(sys.argv[1], out=sys.argv[2], passes="sparsify{pattern=4x1 sparsity=0.5}")
done.set()
thread.join()
print(peak[0])
"""


def test_memory_is_under_three_times_the_model(model: ir.Model, tmp_path: Path) -> None:
    """Private memory at its peak, over that of a small model's compile; mapped files do not count."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((2048, 2048)).astype(np.float32), f"w{i}")
        for i in range(4)
    ]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"n{i}") for i in range(4)]
    x, y = (helper.make_tensor_value_info(key, TensorProto.FLOAT, [1, 2048]) for key in ("x0", "x4"))
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    large, small = tmp_path / "large.onnx", tmp_path / "small.onnx"
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(large)
    )
    ir.save(model, small)

    def peak(file: Path) -> int:
        command = [sys.executable, "-c", MEMORY, str(file), str(file.with_suffix(".scc"))]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert peak(large) - peak(small) < 3 * large.stat().st_size
