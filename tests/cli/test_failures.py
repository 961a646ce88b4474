"""Whatever goes wrong ends in one sentence and the right exit code, and leaves nothing behind."""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cli_models
import numpy as np
import pytest
from cli_outcome import Cli

from sparsecc import peers
from sparsecc.cli import inspect_verb, options

BAD_MODELS: list[tuple[Callable[[Path], Path], int, str]] = [
    (cli_models.truncated, 3, "truncated"),
    (cli_models.corrupt, 3, "is not an ONNX model"),
    (cli_models.missing_external_data, 3, "external data external.data"),
    (cli_models.unknown_op, 3, "Frobnicate"),
    (cli_models.unknown_domain, 3, "my.domain"),
    (cli_models.cycle, 3, "cycle"),
    (cli_models.nan_weights, 4, "w1"),
    (cli_models.zero_size, 4, "zero"),
    (cli_models.symbolic, 3, "--shape"),
]


@pytest.mark.parametrize(("make", "code", "says"), BAD_MODELS)
def test_bad_models(cli: Cli, tmp_path: Path, make: Callable[[Path], Path], code: int, says: str) -> None:
    source = make(tmp_path)
    before = set(tmp_path.iterdir())
    found = cli("compile", source, "-o", tmp_path / "out.scc")
    assert says in found.sentence()
    assert found.code == code
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--shape", "x=1,a"), 2, "expected NAME=DIMS"),
        (("--shape", "z=1,8,12,12"), 2, "z"),
        (("--shape", "x=1,8,12,12", "--shape", "x=2,8,12,12"), 2, "twice"),
        (("--target", "pdp-11"), 2, "there is no target"),
        (("--passes", "shrink"), 2, "there is no pass"),
        (("--passes", "sparsify{"), 2, "option=value"),
        (("--pattern", "7y1"), 2, "is not a pattern"),
        (("--pattern", "4x1", "--sparsity", "1.5"), 2, "sparsity"),
        (("--sparsity", "0.5"), 2, "need --pattern"),
        (("--print-after", "nothing"), 2, "there is no pass"),
        (("--cc", "no-such-compiler"), 3, "no-such-compiler"),
        (("--name", "1st"), 2, "C symbols"),
    ],
)
def test_bad_options(
    cli: Cli, network: Path, tmp_path: Path, words: tuple[str, ...], code: int, says: str
) -> None:
    found = cli("compile", network, "-o", tmp_path / "out.scc", *words, "--quiet")
    assert says in found.sentence()
    assert found.code == code
    assert list(tmp_path.iterdir()) == []


def test_argparse_errors(cli: Cli) -> None:
    assert cli("compile").code == 2
    assert cli("fly").code == 2
    assert cli("run", "x.scc", "--threads", "many").code == 2


def test_existing_output_is_kept(cli: Cli, network: Path, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    for words in ((), ("--force",)):
        found = cli("compile", network, "-o", tmp_path / "notes", *words)
        assert found.code == 2
        assert "is not an artifact" in found.sentence()
    copy = shutil.copytree(artifact, tmp_path / "copy.scc")
    assert cli("compile", network, "-o", copy).code == 2
    assert cli("compile", network, "-o", copy, "--force", "--no-measure").code == 0


def test_no_such_model(cli: Cli, tmp_path: Path) -> None:
    assert cli("compile", tmp_path / "none.onnx", "-o", tmp_path / "m.scc").code == 3
    assert cli("run", tmp_path / "none.scc").code == 4
    assert cli("bench", tmp_path / "none.scc").code == 4
    assert cli("inspect", tmp_path / "none.scc").code == 4


@pytest.mark.parametrize(
    ("array", "code", "says"),
    [
        (np.zeros((1, 8, 12, 11), np.float32), 4, "expected shape [1, 8, 12, 12]"),
        (np.zeros((8, 12, 12), np.float32), 4, "expected shape"),
        (np.zeros((1, 8, 12, 12), np.float64), 4, "expected type float32"),
        (np.array([{}], dtype=object), 2, "cannot be read"),
    ],
)
def test_wrong_inputs(
    cli: Cli, artifact: Path, tmp_path: Path, array: np.ndarray, code: int, says: str
) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    for verb in (("run",), ("bench", "--runs", "30")):
        found = cli(verb[0], artifact, *verb[1:], "--input", tmp_path / "x.npy")
        assert says in found.sentence().replace("that can be read", "cannot be read")
        assert found.code == code


def test_inputs_that_are_no_arrays(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY garbage")
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 garbage")
    np.savez(tmp_path / "other.npz", z=np.zeros(3))
    assert cli("run", artifact, "-i", tmp_path / "x.npy").code == 2
    assert cli("run", artifact, "-i", tmp_path / "x.npz").code == 2
    assert cli("run", artifact, "-i", tmp_path / "absent.npy").code == 2
    assert cli("run", artifact, "-i", f"x={tmp_path / 'other.npz'}").code == 2
    found = cli("run", artifact, "-i", tmp_path / "other.npz")
    assert found.code == 4
    assert "no input z" in found.sentence()
    assert cli("run", artifact, "--seed", "-1").code == 2
    assert cli("run", artifact, "--threads", "0").code == 2
    assert cli("run", artifact, "-o", tmp_path / "no" / "y.npz").code == 2


def test_flipped_byte_in_any_file(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    for name in sorted(path.name for path in artifact.iterdir()):
        copy = shutil.copytree(artifact, tmp_path / f"{name}.scc")
        data = bytearray((copy / name).read_bytes())
        data[len(data) // 2] ^= 0x10
        (copy / name).write_bytes(data)
        for verb in ("run", "bench", "inspect"):
            found = cli(verb, copy)
            assert found.code == 4, (verb, name)
            assert found.sentence()


def test_cpu_with_fewer_features(cli: Cli, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loading = importlib.import_module("sparsecc.artifact.load")
    monkeypatch.setattr(loading, "host_features", lambda: frozenset({"sse2"}))
    found = cli("run", artifact)
    assert found.code == 4
    assert "needs the CPU features" in found.sentence()


def test_bench_refuses(cli: Cli, artifact: Path, network: Path, tmp_path: Path) -> None:
    assert cli("bench", artifact, "--runs", "3").code == 2
    assert cli("bench", artifact, "--model", tmp_path / "none.onnx").code == 3
    assert cli("bench", artifact, "--model", cli_models.truncated(tmp_path)).code == 3
    assert "needs --model" in cli("bench", artifact, "--peer", "mnn").sentence()
    found = cli("bench", artifact, "--model", network, "--peer", "tflite")
    assert found.code == 2
    assert "peers are onnxruntime, openvino, mnn, mnn-4x1" in found.sentence()
    other = cli_models.network(2)
    found = cli("bench", artifact, "--model", cli_models.save(other, tmp_path / "two.onnx"))
    assert found.code == 4
    assert found.sentence()


@pytest.mark.parametrize("package", ["openvino", "MNN"])
def test_bench_beside_peers_that_are_not_installed(
    cli: Cli, artifact: Path, network: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    found = cli("bench", artifact, "--model", network, "--peer", package.lower())
    assert found.code == 2
    assert f"pip install {package}" in found.sentence()


def test_our_bugs(cli: Cli, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError("by nought")

    monkeypatch.setattr(inspect_verb, "run", fail)
    found = cli("inspect", artifact)
    assert found.code == 70
    (line,) = found.err.splitlines()
    assert "ZeroDivisionError: by nought" in line
    file = Path(line.rpartition(" ")[2])
    assert "Traceback" in file.read_text()
    file.unlink()


def test_read_shapes() -> None:
    assert options.read_shapes(["x=1,3, 224,224", "scale="]) == {"x": (1, 3, 224, 224), "scale": ()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", ["capture", "lower and compile kernels"])
def test_interrupted_compile_leaves_nothing(network: Path, tmp_path: Path, number: int, phase: str) -> None:
    out, scratch, cache = (tmp_path / name for name in ("out", "scratch", "cache"))
    for folder in (out, scratch, cache):
        folder.mkdir()
    command = [sys.executable, "-m", "sparsecc", "compile", str(network), "-o", str(out / "m.scc")]
    environment = {
        **os.environ,
        "TMPDIR": str(scratch),
        "SPARSECC_CACHE": str(cache),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip() == phase:
            break
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "sparsecc: interrupted"
    assert "Traceback" not in err
    assert list(out.iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_closed_pipe_is_quiet(artifact: Path) -> None:
    command = f"{sys.executable} -m sparsecc inspect {artifact} | true"
    done = subprocess.run(["bash", "-c", command], check=False, capture_output=True, text=True)
    assert done.stderr == ""
