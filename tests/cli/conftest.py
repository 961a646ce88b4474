"""One small network and its artifact for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import cli_models
import pytest
from cli_outcome import Cli, Outcome

from sparsecc.cli.main import main


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process."""

    def run(*words: object) -> Outcome:
        capfd.readouterr()
        code = main([str(word) for word in words])
        streams = capfd.readouterr()
        return Outcome(code, str(streams.out), str(streams.err))

    return run


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .onnx file."""
    return cli_models.save(cli_models.network(), tmp_path_factory.mktemp("onnx") / "network.onnx")


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, network: Path) -> Path:
    """The network in 4x1 blocks, compiled; do not write to it."""
    out = tmp_path_factory.mktemp("artifact") / "network.scc"
    sparsity = ("--pattern", "4x1", "--sparsity", "0.75")
    assert main(["compile", str(network), "-o", str(out), *sparsity, "--quiet"]) == 0
    return out
