"""Indices that data decide: negative ones as in ONNX, those beyond the table at its nearest end, no noise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from harness import Buffer, call, load_kernels, run_chain
from onnx import TensorProto, helper, numpy_helper

from sparsecc.targets.layout import Layout

TABLE = np.random.default_rng(0).standard_normal((10, 24)).astype(np.float32)
RIGHT = [0, 9, 3, -1, -10, 7, -4, 0]
WRONG = [10, -11, 1000, -1000, 2**31, -(2**31) - 1, 2**40 + 3, -(2**63)]


def shaped(op: str, indices: list[int], dtype: type) -> np.ndarray:
    """Indices along axis 0, as `op` wants them; beyond int32 the ends of int32."""
    info = np.iinfo(dtype)
    column = np.array([min(max(i, info.min), info.max) for i in indices], dtype)
    if op in ("GatherElements", "ScatterElements"):
        return np.repeat(column[:, None], TABLE.shape[1], axis=1)
    return column if op == "Gather" else column[:, None]


def run_again(chain: Any, feeds: dict[str, np.ndarray], like: np.ndarray) -> np.ndarray:
    """The chain's kernels on other feeds."""
    buffers = {n: Buffer(Layout.rows(f.shape), f.shape, f.dtype, f) for n, f in feeds.items()}
    buffers["y"] = Buffer(Layout.rows(like.shape), like.shape, like.dtype)
    functions = load_kernels({c.symbol: c.make for c in chain.calls})
    for c in chain.calls:
        call(functions[c.symbol], [buffers[n] for n in (*c.inputs, *c.outputs)], (), c.extent)
    assert all(buffer.padding_intact() for buffer in buffers.values())
    return buffers["y"].elements


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize("op", ["Gather", "GatherElements", "GatherND"])
def test_gather(op: str, dtype: type) -> None:
    if op == "GatherND" and dtype == np.int32:
        pytest.skip("ONNX has int64 only")
    feeds = {"x": TABLE, "i": shaped(op, RIGHT, dtype)}
    (ours,), (expected,), chain = run_chain([helper.make_node(op, ["x", "i"], ["y"])], feeds, {}, ["y"])
    np.testing.assert_array_equal(ours, expected)
    ours = run_again(chain, feeds | {"i": shaped(op, WRONG, dtype)}, expected)
    np.testing.assert_array_equal(ours, TABLE[[9, 0] * 4])


@pytest.mark.parametrize("op", ["ScatterElements", "ScatterND"])
def test_scatter(op: str) -> None:
    updates = np.random.default_rng(1).standard_normal((2, TABLE.shape[1])).astype(np.float32)
    feeds = {"x": TABLE, "i": shaped(op, [-1, 0], np.int64), "u": updates}
    node = helper.make_node(op, ["x", "i", "u"], ["y"])
    (ours,), (expected,), chain = run_chain([node], feeds, {}, ["y"])
    np.testing.assert_array_equal(ours, expected)
    for first, second in zip(WRONG[::2], WRONG[1::2], strict=True):
        ours = run_again(chain, feeds | {"i": shaped(op, [first, second], np.int64)}, expected)
        np.testing.assert_array_equal(ours, expected)


def test_computed_indices() -> None:
    """The index is an expression of data and loop axes, and what it indexes is computed on the fly."""
    nodes = [
        helper.make_node("Mul", ["i", "two"], ["j"]),
        helper.make_node("Neg", ["x"], ["z"]),
        helper.make_node("Gather", ["z", "j"], ["y"], axis=1),
    ]
    feeds = {"x": TABLE, "i": np.array([[0, -3], [11, 5]], np.int64)}
    (ours,), (expected,), chain = run_chain(nodes, feeds, {"two": np.int64(2)}, ["y"])
    np.testing.assert_array_equal(ours, expected)
    ours = run_again(chain, feeds | {"i": np.array([[12, -13], [2**40, -(2**40)]])}, expected)
    np.testing.assert_array_equal(ours, -TABLE[:, [[23, 0], [23, 0]]])


def embedding(folder: Path, op: str = "Gather") -> Path:
    """An embedding lookup as a file."""
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 7])]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node(op, ["table", "ids"], ["y"], "lookup")
    graph = helper.make_graph([node], "g", inputs, [y], [numpy_helper.from_array(TABLE, "table")])
    path = folder / "embedding.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_compile_with_gather_prints_nothing(tmp_path: Path) -> None:
    import sparsecc

    command = [sys.executable, "-m", "sparsecc", "compile", str(embedding(tmp_path)), "-q"]
    out = tmp_path / "m.scc"
    done = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with sparsecc.load(out) as session:
        ids = np.array([[0, 9, -1, 10, 2**31, -11, -(2**40)]])
        (rows,) = session.run({"ids": ids}).values()
    np.testing.assert_array_equal(rows[0], TABLE[[0, 9, 9, 9, 9, 0, 0]])


def test_a_refused_node_is_in_the_error_alone(capfd: pytest.CaptureFixture[str]) -> None:
    from sparsecc.errors import UnsupportedOpError
    from sparsecc.targets.kernels.legalized import import_stages

    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 4]) for n in "xy"]
    node = helper.make_node("RoiAlign", ["x", "y"], ["z"])
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("z", 1, [4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    with pytest.raises(UnsupportedOpError, match="the node here"):
        import_stages(model, "the node here")
    assert capfd.readouterr() == ("", "")
