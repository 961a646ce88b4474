"""`compress`, and --latency of `compile`, by the cost model of another machine: nothing depends on time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cli_outcome import Cli
from onnx import numpy_helper

from sparsecc import compressor
from sparsecc.gauge import NonZeros

ELSEWHERE = ("--target", "arm64-linux")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight samples."""
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(path, x=np.random.default_rng(0).standard_normal((8, 8, 12, 12)).astype(np.float32))
    return path


def test_writes_a_model_and_says_what_became_of_it(
    cli: Cli, network: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.onnx"
    words = (
        "compress",
        network,
        "-o",
        out,
        "--latency",
        "0.6x",
        "--calibration",
        data,
        "--bits",
        32,
        "--widths",
        "1",
    )
    found = cli(*words, *ELSEWHERE)
    assert found.code == 0, found.err
    assert "of the dense model's time (predicted), 32 bits, outputs change by" in found.out
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    assert any(np.mean(weight == 0) > 0.3 for name, weight in weights.items() if name.startswith("w"))
    again = cli(*words, *ELSEWHERE)
    assert again.code == 2 and "exists" in again.sentence()


def test_a_model_that_misses_the_latency_is_kept_beside(
    cli: Cli, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(NonZeros):
        """Finds the budget met until the weights are chosen, and missed from then on."""

        measured, looks = True, 0

        def share(self, model: ir.Model) -> float:
            Slow.looks += 1
            return super().share(model) * (1 if Slow.looks < 3 else 3)

    monkeypatch.setattr(compressor, "_open_gauge", lambda goal, model, target, shapes: Slow(model))
    out = tmp_path / "small.onnx"
    found = cli("compress", network, "-o", out, "--latency", "0.6x")
    kept = tmp_path / "small.missed.onnx"
    assert found.code == 4 and "0.6 was asked for" in found.sentence() and str(kept) in found.sentence()
    assert not out.exists()
    assert any(np.mean(numpy_helper.to_array(t) == 0) > 0.3 for t in onnx.load(kept).graph.initializer)


def test_compile_takes_a_latency(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.scc"
    found = cli("compile", network, "-o", out, "--latency", "60%", *ELSEWHERE)
    assert found.code == 0, found.err
    report = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["report"]
    assert report["zeros"] > 0
    assert "of the dense model's time (predicted), 32 bits" in found.out


def test_compress_takes_a_share_of_zeros(cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    found = cli("compress", network, "-o", out, "--zeros", "60%")
    assert found.code == 0, found.err
    weights = [numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer if t.name.startswith("w")]
    assert sum(np.count_nonzero(w) for w in weights) <= 0.4 * sum(w.size for w in weights)
    assert "of the weights are not zero (counted), 32 bits" in found.out


def test_channels_that_went_are_shown_and_saved(cli: Cli, network: Path, data: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "small.onnx", tmp_path / "plan.json"
    found = cli(
        "compress", network, "-o", out, "--bytes", "0.6x", "--calibration", data, "--bits", 32,
        "--widths", "0.6", "--save-plan", plan,
    )  # fmt: skip
    assert found.code == 0, found.err
    assert "channels for" in found.out and "w1.channels" in found.out
    again = cli("prune", network, "-o", tmp_path / "replayed.onnx", "--plan", plan)
    assert again.code == 0, again.err
    shapes = [
        {t.name: list(t.dims) for t in onnx.load(path).graph.initializer if t.name.startswith("w")}
        for path in (out, tmp_path / "replayed.onnx")
    ]
    assert shapes[0] == shapes[1] != {"w1": [32, 8, 3, 3], "w2": [64, 32, 1, 1], "w3": [10, 64]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("compress", "--latency", "2"), "expected a share such as 0.5x"),
        (("compress", "--latency", "fast"), "expected a share such as 0.5x"),
        (("compress",), "--latency"),
        (("compress", "--latency", "0.01x"), "0.01 was asked for"),
        (("compress", "--latency", "0.5", "--zeros", "0.5"), "not allowed with argument"),
        (("compress", "--zeros", "1.2"), "expected a share such as 0.5x"),
        (("compress", "--bytes", "0.5", "--widths", "wide"), "expected shares of the FLOPs"),
        (("compress", "--bytes", "0.5", "--widths", "0.5"), "widths under 1 need calibration data"),
        (("compile", "--bytes", "0.5", "--passes", "fold-constants"), "a budget chooses the zeros"),
        (("compress", "--latency", "0.5", "--bits", "8"), "need calibration data"),
        (("compile", "--latency", "0.5", "--pattern", "4x1", "--sparsity", "0.5"), "leave --pattern"),
        (("compile", "--bits", "8"), "belong to --latency"),
    ],
)
def test_what_does_not_fit_is_refused(
    cli: Cli, network: Path, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    out = tmp_path / "out"
    found = cli(words[0], network, "-o", out, *words[1:], *ELSEWHERE)
    assert found.code == 2
    assert says in found.err
    assert not out.exists()
