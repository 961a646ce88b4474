"""Golden texts: `golden(text)` compares with a file beside the test; `--update-golden` rewrites it."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_text import Golden
from hypothesis import settings

# Machines are shared: how long an example takes says nothing.
settings.register_profile("sparsecc", parent=settings(), deadline=None)
settings.load_profile("sparsecc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite golden texts instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with `golden/<test file>.<test name>.txt` in the folder of the test."""
    path: Path = (
        request.path.parent / "golden" / f"{request.path.stem.removeprefix('test_')}.{request.node.name}.txt"
    )

    def compare(text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path.name} is missing; run pytest --update-golden and review it"
        assert text == path.read_text(encoding="utf-8")

    return compare
