"""Running: results for any number of threads, several sessions at once, and every wrong input refused."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from artifact_plans import (
    COLUMNS,
    check,
    counting_plan,
    example_inputs,
    example_plan,
    make_plan,
)

from sparsecc.artifact import Session, StepInfo, TensorInfo, load
from sparsecc.artifact.pack import write_artifact
from sparsecc.errors import ArtifactError, UsageError
from sparsecc.targets.plan import Ref, Step, TensorSpec, Weights


@pytest.mark.parametrize("threads", [None, 1, 2, 3, 8])
def test_results(artifact: Path, threads: int | None) -> None:
    with load(artifact, threads=threads) as session:
        assert session.threads == (threads or 1)
        for seed in range(20):
            inputs = example_inputs(seed=seed)
            check(inputs, session.run(inputs))


def test_attributes(artifact: Path) -> None:
    with load(artifact) as session:
        assert session.inputs == (
            TensorInfo("x", "float32", (40, COLUMNS)),
            TensorInfo("y", "float32", (40, COLUMNS)),
        )
        assert [spec.name for spec in session.outputs] == ["sums", "scaled"]
        assert session.steps[0] == StepInfo("scale (1)", "scale")
        assert session.manifest.passes == "sparsify{pattern=4x1}"
        assert "x: float32[40, 50]" in repr(session)
    assert "closed" in repr(session)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
@pytest.mark.parametrize("extent", [1, 2, 7, 1000])
def test_every_item_is_computed_once(tmp_path: Path, threads: int, extent: int) -> None:
    path = write_artifact(counting_plan(extent, 300, sleep=extent == 7), tmp_path / "count.scc")
    with load(path, threads=threads) as session:
        for _ in range(20):
            np.testing.assert_array_equal(session.run({})["counts"], np.full(extent, 300, np.int32))


def test_profile(artifact: Path) -> None:
    with load(artifact, threads=2) as session:
        rows = session.profile(example_inputs())
    assert [(label, kind) for label, kind, _ in rows] == [
        ("scale (1)", "scale"),
        ('add "2" */ ??/', "add"),
        ("sums é", "reduce"),
        ("again", "scale"),
    ]
    assert all(0 <= seconds < 1 for _, _, seconds in rows)


def test_profile_times_each_step(tmp_path: Path) -> None:
    plan = make_plan(
        (
            Step("short", "t_sleep", (Ref("output", 0),), (1,), 1, "sleep"),
            Step("long", "t_sleep", (Ref("output", 0),), (40,), 1, "sleep"),
        ),
        (),
        (TensorSpec("out", "float32", (1,)),),
    )
    with load(write_artifact(plan, tmp_path / "a.scc")) as session:
        times = {label: seconds for label, _, seconds in session.profile({})}
    assert times["long"] >= 0.04
    assert 0.001 <= times["short"] < times["long"]


def test_steps_run_at_the_same_time(tmp_path: Path) -> None:
    step = Step("sleep", "t_sleep", (Ref("output", 0),), (50,), 4, "sleep")
    path = write_artifact(make_plan((step,), (), (TensorSpec("out", "float32", (1,)),)), tmp_path / "a.scc")
    with load(path, threads=4) as session:
        assert session.profile({})[0][2] < 0.15  # one after the other takes 0.2 s


def test_sessions_are_independent(artifact: Path) -> None:
    failures: list[BaseException] = []

    def work(session: Session, seed: int) -> None:
        try:
            for repeat in range(50):
                inputs = example_inputs(seed=seed * 1000 + repeat)
                check(inputs, session.run(inputs))
        except BaseException as error:
            failures.append(error)

    with load(artifact, threads=2) as first, load(artifact, threads=1) as second:
        # Two Python threads share `first`, whose runs exclude each other.
        workers = [threading.Thread(target=work, args=(s, i)) for i, s in enumerate((first, second, first))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not failures


def test_runs_release_the_interpreter(tmp_path: Path) -> None:
    step = Step("sleep", "t_sleep", (Ref("output", 0),), (200,), 1, "sleep")
    path = write_artifact(make_plan((step,), (), (TensorSpec("out", "float32", (1,)),)), tmp_path / "a.scc")
    with load(path) as session:
        worker = threading.Thread(target=session.run, args=({},))
        worker.start()
        ticks = 0
        while worker.is_alive():
            ticks += 1
            worker.join(0.01)
    assert ticks > 5


def test_outputs_are_new_arrays(artifact: Path) -> None:
    with load(artifact) as session:
        inputs = example_inputs(seed=1)
        first = session.run(inputs)
        session.run(example_inputs(seed=2))
        check(inputs, first)


def test_any_layout_is_accepted(artifact: Path) -> None:
    inputs = example_inputs()
    unaligned = np.zeros(inputs["y"].nbytes + 1, np.uint8)[1:].view(np.float32).reshape(inputs["y"].shape)
    unaligned[...] = inputs["y"]
    assert not unaligned.flags.aligned
    odd = {"y": unaligned, "x": np.asfortranarray(inputs["x"])}
    with load(artifact) as session:
        check(inputs, session.run(odd))
        check(inputs, session.run({**inputs, "x": np.flip(np.flip(inputs["x"]).copy())}))


@pytest.mark.parametrize("offset", range(0, 64, 4))
def test_inputs_need_natural_alignment_only(artifact: Path, offset: int) -> None:
    inputs = example_inputs()
    memory = np.zeros(inputs["x"].nbytes + 64, np.uint8)
    moved = memory[offset : offset + inputs["x"].nbytes].view(np.float32).reshape(inputs["x"].shape)
    moved[...] = inputs["x"]
    with load(artifact) as session:
        check(inputs, session.run({**inputs, "x": moved}))


_GOOD = example_inputs()


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "the input x, y is missing: expected x, y"),
        ({"x": _GOOD["x"]}, "the input y is missing"),
        ({**_GOOD, "z": _GOOD["x"]}, "the network has no input z: its inputs are x, y"),
        ({**_GOOD, 3: _GOOD["x"]}, "the network has no input 3"),
        ({**_GOOD, "x": None}, "input 'x': expected a numpy array, found NoneType"),
        ({**_GOOD, "x": [[1.0] * 50] * 40}, "input 'x': expected a numpy array, found list"),
        ({**_GOOD, "x": _GOOD["x"].astype(np.float64)}, "expected type float32, found float64"),
        ({**_GOOD, "x": _GOOD["x"].astype(object)}, "expected type float32, found object"),
        ({**_GOOD, "x": _GOOD["x"].astype(">f4")}, "found float32 in the other byte order"),
        ({**_GOOD, "x": _GOOD["x"][:39]}, "expected shape [40, 50], found [39, 50]"),
        ({**_GOOD, "x": _GOOD["x"][None]}, "expected shape [40, 50], found [1, 40, 50]"),
        ({**_GOOD, "x": _GOOD["x"].T}, "expected shape [40, 50], found [50, 40]"),
        ({**_GOOD, "x": np.float32(1)}, "expected a numpy array, found float32"),
        (None, "expected a mapping from x, y to arrays, found NoneType"),
        ([_GOOD["x"], _GOOD["y"]], "expected a mapping from x, y to arrays, found list"),
    ],
)
def test_wrong_input_is_refused(artifact: Path, inputs: Any, sentence: str) -> None:
    with load(artifact) as session:
        for call in (session.run, session.profile):
            with pytest.raises(ArtifactError) as caught:
                call(inputs)
            assert sentence in str(caught.value)
        check(_GOOD, session.run(_GOOD))


@pytest.mark.parametrize("threads", [0, -1, 257, 1.5, "2", True])
def test_wrong_thread_count_is_refused(artifact: Path, threads: Any) -> None:
    with pytest.raises(UsageError, match="threads: expected a whole number from 1 to 256"):
        load(artifact, threads=threads)


def test_closed_session_is_refused(artifact: Path) -> None:
    session = load(artifact)
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.run(example_inputs())
    with pytest.raises(UsageError, match="closed"):
        session.profile(example_inputs())


@pytest.mark.parametrize("threads", [1, 3])
def test_failing_kernel(tmp_path: Path, threads: int) -> None:
    step = Step("fails", "t_fail", (Ref("output", 0),), (17,), 30, "fail")
    path = write_artifact(make_plan((step,), (), (TensorSpec("out", "float32", (1,)),)), tmp_path / "a.scc")
    with load(path, threads=threads) as session, pytest.raises(ArtifactError, match="a kernel failed"):
        session.run({})


def test_no_inputs_no_weights_and_empty_tensors(tmp_path: Path) -> None:
    weights = Weights()
    weights.add(np.zeros(0, np.float32))
    scalar = TensorSpec("scalar", "int32", ())
    empty = TensorSpec("empty", "float32", (3, 0))
    steps = (
        Step("zero", "t_zero", (Ref("output", 0),), (), 1, "fill"),
        Step("nothing", "t_zero", (Ref("output", 1),), (), 0, "fill"),
    )
    plan = make_plan(steps, (TensorSpec("in", "uint8", (0,)),), (scalar, empty), weights=weights)
    with load(write_artifact(plan, tmp_path / "a.scc")) as session:
        outputs = session.run({"in": np.zeros(0, np.uint8)})
    assert outputs["scalar"].shape == () and outputs["scalar"] == 0
    assert outputs["empty"].shape == (3, 0)


def test_no_steps(tmp_path: Path) -> None:
    path = write_artifact(make_plan((), (), ()), tmp_path / "a.scc", embed=True)
    with load(path, threads=2) as session:
        assert session.run({}) == {}
        assert session.profile({}) == []


def test_replaced_artifact_is_the_one_that_runs(tmp_path: Path) -> None:
    path = write_artifact(example_plan(40), tmp_path / "a.scc")
    with load(path) as old:
        write_artifact(example_plan(30), path, overwrite=True)
        with load(path) as new:
            check(example_inputs(30), new.run(example_inputs(30)))
        check(example_inputs(40), old.run(example_inputs(40)))


def test_forgotten_session_frees_its_memory(artifact: Path) -> None:
    before = set(Path("/proc/self/task").iterdir())  # some of which, of other tests, may end meanwhile
    session = load(artifact, threads=3)
    workers = set(Path("/proc/self/task").iterdir()) - before
    assert len(workers) == 2
    del session
    gc.collect()
    assert not workers & set(Path("/proc/self/task").iterdir())


def test_needs_only_numpy(artifact: Path) -> None:
    code = f"""
import sys
from sparsecc.artifact import load
load({str(artifact)!r})
heavy = {{"tvm", "torch", "onnx", "onnx_ir", "onnxruntime", "sparsecc.targets", "sparsecc.passes"}}
sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
