"""`sweep` on the command line, by the cost model of another machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from cli_outcome import Cli


def test_draws_the_curve_and_goes_on(cli: Cli, network: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).standard_normal((8, 8, 12, 12)).astype(np.float32))
    words = (
        "sweep", network, "-o", tmp_path / "out", "--data", data, "--task", "agreement", "--patterns", "4x1",
        "--sparsities", "0.5", "0.75", "--target", "arm64-linux", "--backend", "threading",
    )  # fmt: skip
    found = cli(*words)
    assert found.code == 0, found.err
    assert "4x1 50 % magnitude" in found.out and "4x1 75 % magnitude" in found.out
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert cli(*words).out == found.out
    other = cli(*words, "--seed", "1")
    assert other.code == 2 and "another model, data or options" in other.sentence()
