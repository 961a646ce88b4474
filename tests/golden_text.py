"""The type of the fixture `golden`, apart from conftest.py, whose name several folders use."""

from __future__ import annotations

from collections.abc import Callable

Golden = Callable[[str], None]
