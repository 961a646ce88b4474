"""Every verb does its work and says what it did."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cli_outcome import Cli, reference

from sparsecc.cli.main import VERBS
from sparsecc.peers import ENGINES

FACTORY = """\
import torch

def make_model():
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(40, 64), torch.nn.ReLU(), torch.nn.Linear(64, 7))
    return module, torch.zeros(2, 40)

def broken():
    raise ValueError("no weights today")

answer = 42
"""


def test_help_of_every_verb(cli: Cli) -> None:
    assert "exit codes" in cli("--help").out
    for verb in VERBS:
        found = cli(verb, "--help")
        assert found.code == 0
        assert f"sparsecc {verb}" in found.out.partition("examples:")[2], verb


def test_no_verb_shows_help(cli: Cli) -> None:
    found = cli()
    assert found.code == 0
    assert "verbs:" in found.out


def test_version(cli: Cli) -> None:
    assert cli("--version").out.startswith("sparsecc 0.")


def test_capture_onnx(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "captured.onnx"
    found = cli("capture", network, "-o", out)
    assert found.code == 0
    assert "input   x" in found.out
    x = np.ones((1, 8, 12, 12), np.float32)
    np.testing.assert_allclose(reference(out, x), reference(network, x), rtol=1e-5, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["captured.onnx"]


def test_capture_python(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    out = tmp_path / "net.onnx"
    found = cli("capture", f"{tmp_path / 'nets.py'}:make_model", "-o", out)
    assert found.code == 0, found.err
    assert reference(out, np.zeros((2, 40), np.float32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("nets.py", 2, "name the function"),
        ("nets.py:absent", 2, "has no function 'absent'"),
        ("nets.py:answer", 2, "has no function 'answer'"),
        ("nets.py:broken", 3, "ValueError: no weights today"),
        ("other.py:make", 2, "there is no file"),
    ],
)
def test_capture_python_refused(cli: Cli, tmp_path: Path, source: str, code: int, says: str) -> None:
    (tmp_path / "nets.py").write_text(FACTORY)
    found = cli("capture", tmp_path / source, "-o", tmp_path / "net.onnx")
    assert found.code == code
    assert says in found.sentence()


def test_sparsify(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "sparse.onnx"
    found = cli("sparsify", network, "-o", out, "--pattern", "4x1", "--sparsity", "0.5", "--skip", "w2")
    assert found.code == 0, found.err
    rows = {line.split()[0]: line for line in found.out.splitlines() if line.strip()}
    assert "50.0%" in rows["w1"]
    assert "is skipped by name" in rows["w2"]
    assert "under min-size 1024" in rows["w3"]
    refused = cli("sparsify", network, "-o", out)
    assert refused.code == 2
    assert "--force" in refused.sentence()
    assert cli("sparsify", network, "-o", out, "--pattern", "2:4", "--force").code == 0


def test_sparsify_with_data(cli: Cli, network: Path, tmp_path: Path) -> None:
    """Less is lost than by magnitude, and what does not fit together is a sentence."""
    samples = np.random.default_rng(0).standard_normal((24, 8, 12, 12)).astype(np.float32)
    data = tmp_path / "data.npz"
    np.savez(data, x=samples[:16])
    options = ("--pattern", "unstructured", "--sparsity", "0.7", "--min-size", "0")
    losses: list[float] = []
    for number, more in enumerate(
        ((), ("--calibration", data), ("--calibration", data, "--method", "wanda"))
    ):
        out = tmp_path / f"{number}.onnx"
        found = cli("sparsify", network, "-o", out, *options, *more)
        assert found.code == 0, found.err
        share = float(found.out.rsplit(": ", 1)[1].split("%")[0])
        assert abs(share - 70) < 1  # wanda rounds in every row
        ours, theirs = (reference(path, samples[16:17]) for path in (out, network))
        losses.append(float(np.abs(ours - theirs).max()))
    assert losses[1] < losses[0]
    out = tmp_path / "refused.onnx"
    refused = cli("sparsify", network, "-o", out, *options, "--method", "sparsegpt")
    assert refused.code == 2 and "needs calibration data" in refused.sentence()
    refused = cli("sparsify", network, "-o", out, *options, "--calibration", data, "--method", "magnitude")
    assert refused.code == 2 and "needs no calibration data" in refused.sentence()
    assert not out.exists()


def test_quantize(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    found = cli("quantize", network, "-o", out, "--skip", "w2")
    assert found.code == 0, found.err
    rows = {line.split()[0]: line for line in found.out.splitlines() if line.strip()}
    assert "is skipped by name" in rows["w2"]
    assert "under min-size 1024" in rows["w3"]
    assert "int8 with a scale per output" in found.out
    assert out.stat().st_size < network.stat().st_size
    assert cli("compile", out, "-o", tmp_path / "m.scc", "--no-measure").code == 0
    refused = cli("quantize", network, "-o", out)
    assert refused.code == 2
    assert "--force" in refused.sentence()


def test_quantize_static(cli: Cli, network: Path, tmp_path: Path) -> None:
    """One file with many samples, or several with one each, give the same."""
    samples = np.random.default_rng(0).standard_normal((6, 8, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "all.npz", x=samples)
    files: list[object] = []
    for number, sample in enumerate(samples):
        np.savez(tmp_path / f"{number}.npz", x=sample[None])
        files += ["--calibration", tmp_path / f"{number}.npz"]
    out, again = tmp_path / "int8.onnx", tmp_path / "again.onnx"
    found = cli(
        "quantize", network, "-o", out, "--calibration", tmp_path / "all.npz", "--method", "percentile",
        "--percentile", "99.9",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "3 weights are int8" in found.out
    assert "2 activations are uint8 with ranges by percentile" in found.out
    assert "w3 has few columns (1)" in found.out
    assert (
        cli("quantize", network, "-o", again, *files, "--method", "percentile", "--percentile", "99.9").code
        == 0
    )
    assert out.read_bytes() == again.read_bytes()
    assert "are fitted to their outputs" not in found.out
    corrected = cli("quantize", network, "-o", tmp_path / "corrected.onnx", *files, "--correct")
    assert "codes and biases of 3 layers are fitted to their outputs" in corrected.out
    difference = reference(out, samples[:1]) - reference(network, samples[:1])
    assert 0 < np.abs(difference).max() < 0.1 * np.abs(reference(network, samples[:1])).max()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--method", "minmax"), "give calibration too"),
        (("--calibration", "absent.npz"), "absent.npz is no .npz file"),
        (("--calibration", "bytes.npz"), "bytes.npz is no .npz file"),
        (("--calibration", "shape.npz"), "has the shape [1, 8, 12, 11]"),
        (("--calibration", "type.npz"), "is of type int32"),
        (("--calibration", "nan.npz"), "holds NaN or infinity"),
        (("--calibration", "name.npz"), "has an input 'z'"),
        (("--calibration", "good.npz", "--method", "mean"), "no calibration method 'mean'"),
        (("--calibration", "good.npz", "--bits", "4"), "have 8 bits, not 4"),
        (("--calibration", "good.npz", "--method", "percentile", "--percentile", "101"), "at most 100"),
    ],
)
def test_quantize_static_refused(
    cli: Cli,
    network: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    good = np.ones((1, 8, 12, 12), np.float32)
    Path("bytes.npz").write_bytes(b"no archive")
    np.savez("good.npz", x=good)
    np.savez("shape.npz", x=good[..., :11])
    np.savez("type.npz", x=good.astype(np.int32))
    np.savez("nan.npz", x=good * np.nan)
    np.savez("name.npz", z=good)
    found = cli("quantize", network, "-o", "out.onnx", *words)
    assert found.code == 2
    assert says in found.sentence()
    assert not Path("out.onnx").exists()


def test_compile_run_and_compare(cli: Cli, network: Path, tmp_path: Path) -> None:
    sparse, out, result = tmp_path / "sparse.onnx", tmp_path / "m.scc", tmp_path / "y.npz"
    cli("sparsify", network, "-o", sparse, "--pattern", "unstructured", "--sparsity", "0.7")
    compiled = cli("compile", sparse, "-o", out)
    assert compiled.code == 0, compiled.err
    assert "\r" not in compiled.err, "no terminal, so no rewritten line"
    assert len(compiled.err.splitlines()) < 10
    assert "layers are sparse" in compiled.out
    x = np.random.default_rng(1).standard_normal((1, 8, 12, 12)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    for given in (tmp_path / "x.npy", f"x={tmp_path / 'x.npy'}"):
        found = cli("run", out, "--input", given, "-o", result, "--force", "--threads", "2")
        assert found.code == 0, found.err
    np.testing.assert_allclose(np.load(result)["y"], reference(sparse, x), rtol=1e-4, atol=1e-5)


def test_run_is_repeatable(cli: Cli, artifact: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert cli("run", artifact, "--seed", seed, "-o", tmp_path / f"{name}.npz").code == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["y"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert cli("run", artifact, "-o", tmp_path / "a.npz").code == 2


def test_archive_with_embedded_weights_for_another_cpu(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.scc"
    options = ("--archive", "--embed", "--target", "x86-64-v3", "--no-measure", "--name", "tiny")
    found = cli("compile", network, "-o", out, *options)
    assert found.code == 0, found.err
    assert out.is_file()
    assert "Nothing was measured" in found.out
    text = cli("inspect", out).out
    assert "in the library" in text
    assert "tiny" in text
    assert cli("run", out).code == 0


def test_shape_specialises_the_batch(cli: Cli, tmp_path: Path) -> None:
    from cli_models import symbolic

    out = tmp_path / "m.scc"
    found = cli("compile", symbolic(tmp_path), "-o", out, "--shape", "x=3,8,12,12", "--no-measure")
    assert found.code == 0, found.err
    assert "float32[3, 10]" in found.out


def test_bench_beside_onnx_runtime(cli: Cli, artifact: Path, network: Path) -> None:
    found = cli("bench", artifact, "--model", network, "--runs", "30", "--json")
    assert found.code == 0, found.err
    values = json.loads(found.out)
    assert values["ratio"] == pytest.approx(values["ours"]["median"] / values["theirs"]["median"])
    assert values["ours"]["runs"] >= 30
    assert values["differences"]["y"]["absolute"] > 0, "the artifact is sparse, the model dense"
    text = cli("bench", artifact, "--runs", "30").out
    assert "median" in text
    assert "ONNX Runtime" not in text


@pytest.mark.parametrize("name", ["openvino", "mnn"])
def test_bench_beside_other_peers(cli: Cli, artifact: Path, network: Path, name: str) -> None:
    if find_spec(ENGINES[name].module) is None:
        pytest.skip(f"{ENGINES[name].package} is not installed")
    words = ("bench", artifact, "--model", network, "--runs", "30", "--peer", name, "--peer", "onnxruntime")
    found = cli(*words, "--json")
    assert found.code == 0, found.err
    values = json.loads(found.out)
    assert list(values["peers"]) == [name, "onnxruntime"]
    assert values["theirs"] == values["peers"][name]["timing"]
    assert values["peers"]["onnxruntime"]["differences"]["y"]["relative"] == pytest.approx(
        values["differences"]["y"]["relative"], rel=1e-2
    )
    text = cli(*words).out
    assert f"sparsecc / {ENGINES[name].title}  " in text
    assert "sparsecc / ONNX Runtime  " in text


def test_inspect(cli: Cli, artifact: Path, network: Path) -> None:
    found = cli("inspect", artifact, "--steps")
    assert found.code == 0
    for word in ("weights.bin", "sha256", "4x1", "first", "second", "head", "runs here       yes", "steps:"):
        assert word in found.out, word
    links = next(line for line in found.out.splitlines() if line.startswith("links"))
    assert set(links.replace(",", "").split()[1:]) <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}
    manifest = json.loads(cli("inspect", artifact, "--json").out)
    assert manifest["passes"].startswith("specialize-shapes,sparsify{pattern=4x1 sparsity=0.75}")
    assert "Conv" in cli("inspect", network).out


def test_links_are_those_that_readelf_shows(artifact: Path) -> None:
    from sparsecc.cli.elf import needed_libraries

    library = artifact / "libmodel.so"
    text = subprocess.run(["readelf", "-d", library], check=True, capture_output=True, text=True).stdout
    shown = [line.split("[")[1].rstrip("]") for line in text.splitlines() if "(NEEDED)" in line]
    assert needed_libraries(library) == shown
    assert needed_libraries(artifact / "model.h") == []


def test_targets_and_passes(cli: Cli) -> None:
    assert "x86-64-v4" in cli("targets").out
    text = cli("passes").out
    assert "sparsify: " in text
    assert "min-size=1024" in text


def test_watching_the_passes(cli: Cli, network: Path, tmp_path: Path) -> None:
    found = cli(
        "compile", network, "-o", tmp_path / "m.scc", "--no-measure", "--pattern", "2:4", "--verify-each",
        "--compare-each", "--time-passes", "--dump-dir", tmp_path / "dump", "--print-after", "fold-constants",
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "// after fold-constants" in found.out
    assert " s  sparsify{pattern=2:4" in found.err
    names = sorted(path.name for path in (tmp_path / "dump").iterdir())
    assert "02-sparsify.txt" in names


class _Checker(HTMLParser):
    """Every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "line", "rect", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_report_is_one_page_without_outside_files(artifact: Path) -> None:
    text = (artifact / "report.html").read_text(encoding="utf-8")
    checker = _Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    assert not checker.seen & {"script", "link", "img", "iframe"}
    assert "http" not in text.replace("http-equiv", "")
    for word in ("first", "second", "head", "4x1", "<svg"):
        assert word in text


def test_module_runs_as_a_program() -> None:
    command = [sys.executable, "-m", "sparsecc", "targets"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "runs here" in done.stdout
