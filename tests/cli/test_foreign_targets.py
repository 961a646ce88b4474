"""Targets of other machines on the command line: listed, compiled, inspected, run and refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_outcome import Cli

from sparsecc.targets.registry import MACHINES


@pytest.fixture(scope="module")
def foreign(network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network for ARM."""
    import sparsecc

    out = tmp_path_factory.mktemp("foreign") / "arm.scc"
    return sparsecc.compile(network, "arm64-linux", out, measure=False).path


def test_every_target_is_listed_with_how_it_was_checked(cli: Cli) -> None:
    lines = cli("targets").out.splitlines()
    for name, machine in MACHINES.items():
        (line,) = (line for line in lines if line.split()[0] == name)
        assert machine.verified and machine.verified in line and machine.platform.name in line
        assert all(feature in line for feature in machine.all_features)


def test_a_target_that_does_not_exist(cli: Cli, network: Path, tmp_path: Path) -> None:
    found = cli("compile", network, "-o", tmp_path / "m.scc", "--target", "arm64-windows")
    assert found.code == 2
    assert "there is no target 'arm64-windows'; targets are cpu, host, " in found.sentence()


def test_what_is_for_another_machine(cli: Cli, foreign: Path) -> None:
    found = cli("run", foreign)
    assert found.code == 4
    assert "was compiled for aarch64-linux, and this machine is x86_64-linux" in found.sentence()
    text = cli("inspect", foreign).out
    assert "arm64-linux, aarch64-linux" in text and "runs here       no" in text


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_run_under_an_emulator(cli: Cli, foreign: Path, artifact: Path, tmp_path: Path) -> None:
    """The same network as `artifact` without zeros: names and shapes are the same, and runs repeat."""
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    assert cli("run", foreign, "--emulator", "-o", first).code == 0
    assert cli("run", foreign, "--emulator", "qemu-aarch64 -cpu cortex-a53", "-o", second).code == 0
    assert cli("run", artifact, "-o", tmp_path / "here.npz").code == 0
    ours, theirs, here = (np.load(path) for path in (first, second, tmp_path / "here.npz"))
    assert list(ours) == list(here)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
        assert ours[name].shape == here[name].shape


def test_an_emulator_that_is_not_there(cli: Cli, foreign: Path) -> None:
    found = cli("run", foreign, "--emulator", "qemu-nothing")
    assert found.code == 2
    assert "the emulator 'qemu-nothing' was not found" in found.sentence()
