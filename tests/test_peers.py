"""Other engines: their adapters, and the processes they run in."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sparsecc import peers
from sparsecc.arrays import Array
from sparsecc.errors import CaptureError, UsageError, VerificationError
from sparsecc.peer_process import PeerProcess
from sparsecc.peers import ENGINES, Engine, OnnxRuntime, get_engine, open_peer
from sparsecc.side_by_side import compare
from sparsecc.timing import BLOCK, WARM_UP, interleave

INPUTS: dict[str, Array] = {
    "x": np.random.default_rng(0).standard_normal((1, 16, 6, 6)).astype(np.float32),
    "ids": np.array([[2, 0, 1]], np.int64),
}


def save(path: Path, zeros: float = 0.0, rows: int = 1) -> Path:
    """x [1, 16, 6, 6] -> y, a 1x1 convolution with that share of zeros in blocks of rows; ids -> z."""
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((32, 16, 1, 1)) * np.repeat(
        rng.random((32 // rows, 16, 1, 1)) >= zeros, rows, 0
    )
    tables = {"w": weights, "t": rng.standard_normal((3, 8))}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Gather", ["t", "ids"], ["z"])]
    values = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 6, 6]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 3]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32, 6, 6]),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 3, 8]),
    ]
    initializers = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tables.items()]
    graph = helper.make_graph(nodes, "g", values[:2], values[2:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(model)
    return path


def installed(name: str) -> None:
    engine = ENGINES[name]
    if find_spec(engine.module) is None:
        pytest.skip(f"{engine.package} is not installed")


def test_unknown_and_missing_peers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no peer tflite; peers are onnxruntime, openvino"):
        get_engine("tflite")

    def missing(name: str) -> None:
        return None

    monkeypatch.setattr(peers, "find_spec", missing)
    with pytest.raises(UsageError, match="the peer mnn is not installed: run `pip install MNN`"):
        open_peer("mnn", save(tmp_path / "m.onnx"), 1)
    with pytest.raises(UsageError, match="pip install openvino"):
        PeerProcess("openvino", tmp_path / "m.onnx", 1)


@pytest.mark.parametrize("name", list(ENGINES))
def test_peers_agree_with_onnx_runtime(name: str, tmp_path: Path) -> None:
    installed(name)
    file = save(tmp_path / "m.onnx", zeros=0.7, rows=4)
    with PeerProcess(name, file, 1) as peer:
        found = peer.run(INPUTS)
        times = peer.block(1, 3)
    differences = compare(found, OnnxRuntime(file, 1).run(INPUTS))
    assert max(difference.relative for difference in differences.values()) < 1e-5
    assert len(times) == 3
    assert min(times) > 0
    assert peer.facts["version"] == ENGINES[name].version


@pytest.mark.parametrize("name", list(ENGINES))
def test_peers_refuse_files_and_inputs(name: str, tmp_path: Path) -> None:
    installed(name)
    file = save(tmp_path / "m.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(file.read_bytes()[:500])
    for path in (broken, tmp_path / "none.onnx"):
        with pytest.raises(CaptureError, match=path.name):
            PeerProcess(name, path, 1)
    with PeerProcess(name, file, 1) as peer:
        for wrong in ({"z": INPUTS["x"]}, {**INPUTS, "x": INPUTS["x"].astype(np.float64)}):
            with pytest.raises(VerificationError):
                peer.run(wrong)
        assert peer.run(INPUTS).keys() == {"y", "z"}, "a refusal does not end it"


@pytest.mark.parametrize(
    ("name", "zeros", "rows", "sparse"),
    [
        ("mnn", 0.0, 1, 0),
        ("mnn", 0.5, 1, 0),
        ("mnn", 0.8, 1, 1),
        ("mnn-4x1", 0.5, 4, 1),
        ("mnn-4x1", 0.0, 4, 0),
    ],
)
def test_mnn_says_which_layers_are_sparse(
    name: str, zeros: float, rows: int, sparse: int, tmp_path: Path
) -> None:
    installed(name)
    with PeerProcess(name, save(tmp_path / "m.onnx", zeros, rows), 1) as peer:
        assert (peer.facts["layers"], peer.facts["sparse_layers"]) == (1, sparse)


def test_a_peer_whose_process_dies(tmp_path: Path) -> None:
    with PeerProcess("onnxruntime", save(tmp_path / "m.onnx"), 1) as peer:
        peer.run(INPUTS)
        folder = Path(peer._folder.name)
        peer._child.kill()
        with pytest.raises(VerificationError, match=r"ONNX Runtime ended with exit code -9; .* said nothing"):
            peer.block(1, 1)
    assert not folder.exists()


def test_a_peer_keeps_to_the_cpus_of_its_parent(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        with PeerProcess("onnxruntime", save(tmp_path / "m.onnx"), 1) as peer:
            assert os.sched_getaffinity(peer._child.pid) == {min(before)}
    finally:
        os.sched_setaffinity(0, before)


class Fake:
    """Doubles x."""

    def __init__(self, path: Path, threads: int) -> None:
        self.facts: Mapping[str, object] = {"threads": threads}
        self.calls = 0

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return {"y": inputs["x"] * 2}

    def bind(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        def step() -> None:
            self.calls += 1

        return step

    def block(self, warm_up: int, runs: int) -> list[float]:
        self.calls += warm_up + runs
        return [0.5] * runs


def test_any_engine_can_be_a_peer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(ENGINES, "fake", Engine("Fake", "pytest", "pytest", Fake, chatty=False))
    peer = open_peer("fake", save(tmp_path / "m.onnx"), 2)
    assert peer.facts == {"threads": 2}
    assert np.array_equal(peer.run(INPUTS)["y"], INPUTS["x"] * 2)
    with pytest.raises(CaptureError, match="no file"):
        open_peer("fake", tmp_path / "none.onnx", 1)


def test_sides_that_time_themselves(tmp_path: Path) -> None:
    side = Fake(tmp_path, 1)
    found = interleave({"self": side, "call": lambda: None}, runs=2 * BLOCK)
    assert found["self"].median == 0.5
    assert found["call"].runs == found["self"].runs == 2 * BLOCK
    assert side.calls == 2 * (WARM_UP + BLOCK)
