"""Targets for GPUs on the command line: the list, artifacts, and what they are refused for."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_outcome import Cli

from sparsecc.targets.registry import GPUS


def test_every_target_is_listed_with_how_it_was_checked(cli: Cli) -> None:
    lines = cli("targets").out.splitlines()
    for name, gpu in GPUS.items():
        (line,) = (line for line in lines if line.split()[0] == name)
        assert gpu.verified and gpu.verified in line and gpu.source in line
        assert all(family in line for family in gpu.families)


@pytest.mark.parametrize("target", ["opencl", "metal", "webgpu"])
def test_compile_and_inspect(target: str, cli: Cli, network: Path, tmp_path: Path) -> None:
    out = tmp_path / "gpu.scc"
    found = cli("compile", network, "-o", out, "--target", target)
    assert found.code == 0
    assert f"kernels {GPUS[target].source}" in found.out
    assert "Nothing was measured: kernels of GPUs are chosen by a count" in found.out
    assert f"on a device with {target}" in cli("inspect", out).out


def test_refusals(cli: Cli, network: Path, tmp_path: Path) -> None:
    tuned = cli("tune", network, "--target", "opencl", "--database", tmp_path / "found.jsonl")
    assert tuned.code == 2
    assert "target opencl is for GPUs, whose kernels are neither timed nor predicted" in tuned.sentence()
    embedded = cli("compile", network, "-o", tmp_path / "gpu.scc", "--target", "opencl", "--embed")
    assert embedded.code == 2
    assert "stay in a file: leave out --embed" in embedded.sentence()
    assert not (tmp_path / "gpu.scc").exists()
