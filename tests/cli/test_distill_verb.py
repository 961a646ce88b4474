"""`distill` on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cli_outcome import Cli


def test_trains_and_writes(cli: Cli, network: Path, tmp_path: Path) -> None:
    data, sparse, out = tmp_path / "data.npz", tmp_path / "sparse.onnx", tmp_path / "out.onnx"
    np.savez(data, x=np.random.default_rng(0).standard_normal((32, 8, 12, 12)).astype(np.float32))
    assert cli("sparsify", network, "-o", sparse, "--sparsity", "0.5", "--min-size", "64").code == 0
    words = ("distill", sparse, "--teacher", network, "-o", out)
    found = cli(*words, "--calibration", data, "--steps", "40", "--loss", "squared")
    assert found.code == 0, found.err
    assert "in 40 steps" in found.out and out.is_file()
    before, after = (float(part) for part in found.out.split("loss ")[1].split(" in ")[0].split(" -> "))
    assert after < before
    again = cli(*words, "--calibration", data)
    assert again.code == 2 and "--force" in again.sentence()
    assert cli(*words, "--force").code == 2
    dense = cli("distill", network, "--teacher", network, "-o", tmp_path / "o.onnx", "--calibration", data)
    assert dense.code == 2 and "sparsify" in dense.sentence()
