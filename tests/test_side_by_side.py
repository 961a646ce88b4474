"""Arrays from files, timing in turns, and the comparison of outputs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sparsecc.arrays import random_arrays, read_arrays
from sparsecc.artifact.manifest import TensorInfo
from sparsecc.errors import UsageError
from sparsecc.side_by_side import compare
from sparsecc.timing import BLOCK, WARM_UP, Timing, interleave, pinned

SPECS = (TensorInfo("x", "float32", (2, 3)), TensorInfo("ids", "int64", (4,)), TensorInfo("m", "bool", ()))


def test_random_arrays_follow_their_specs() -> None:
    found = random_arrays(SPECS, seed=5)
    for spec in SPECS:
        assert found[spec.name].shape == spec.shape
        assert found[spec.name].dtype == np.dtype(spec.dtype)
    assert set(found["ids"]) <= {0, 1}
    assert np.array_equal(random_arrays(SPECS, seed=5)["x"], found["x"])
    assert not np.array_equal(random_arrays(SPECS, seed=6)["x"], found["x"])


def test_read_arrays(tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "a=b.npy", x)
    np.savez(tmp_path / "more.npz", ids=np.arange(4), m=np.array(True))
    plain, more = str(tmp_path / "a=b.npy"), str(tmp_path / "more.npz")
    assert np.array_equal(read_arrays([plain], SPECS[:1])["x"], x)
    assert read_arrays([f"x={plain}", more], SPECS).keys() == {"x", "ids", "m"}
    with pytest.raises(UsageError, match=r"which input is .*the inputs are x, ids, m"):
        read_arrays([plain], SPECS)
    with pytest.raises(UsageError, match="names of its own"):
        read_arrays([f"x={more}"], SPECS)


def test_interleave_takes_turns() -> None:
    calls: list[str] = []
    found = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=2 * BLOCK)
    warm = BLOCK + WARM_UP  # those before each block are not timed
    assert calls == (["a"] * warm + ["b"] * warm) * 2
    assert found["a"].runs == 2 * BLOCK
    assert 0 <= found["a"].fastest <= found["a"].median


def test_timing_of_runs() -> None:
    found = Timing.of([5.0, 1.0, 2.0, 3.0, 100.0, 4.0, 6.0, 7.0, 8.0, 9.0])
    assert (found.median, found.fastest, found.spread, found.runs) == (5.5, 1.0, 7.0, 10)


def test_pinning_is_undone() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(RuntimeError), pinned(1) as cpus:
        assert os.sched_getaffinity(0) == set(cpus)
        assert len(cpus) == 1
        raise RuntimeError
    assert os.sched_getaffinity(0) == before
    with pinned(len(before) + 1) as cpus:
        assert cpus == ()


def test_compare() -> None:
    x = np.array([1.0, -4.0], np.float32)
    found = compare({"y": x}, {"y": np.array([1.5, -4.0], np.float32)})["y"]
    assert (found.absolute, found.relative) == (0.5, 0.125)
    empty = np.zeros((0, 2), np.float32)
    assert compare({"y": empty}, {"y": empty})["y"].absolute == 0.0
    with pytest.raises(UsageError, match="shape"):
        compare({"y": x}, {"y": empty})
    with pytest.raises(UsageError, match="outputs are y here and z"):
        compare({"y": x}, {"z": x})
