"""One artifact of the example plan for all tests that do not change it."""

from __future__ import annotations

from pathlib import Path

import pytest
from artifact_plans import example_plan

from sparsecc.artifact.pack import write_artifact


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives are extracted below the test's own folder."""
    monkeypatch.setenv("SPARSECC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder; do not write to it."""
    return write_artifact(example_plan(), tmp_path_factory.mktemp("artifact") / "example.scc")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as one file; do not write to it."""
    return write_artifact(example_plan(), tmp_path_factory.mktemp("archive") / "example.scc", archive=True)
