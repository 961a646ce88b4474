"""Compile neural networks to sparse libraries that are faster than dense ones.

capture -> sparsify -> compile -> load. Everything is imported when it is first used: `import sparsecc` needs
numpy only, and a machine that only runs artifacts needs nothing else.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from sparsecc import errors

if TYPE_CHECKING:
    from sparsecc.artifact.load import load
    from sparsecc.capture import capture
    from sparsecc.compiler import Artifact, compile
    from sparsecc.passes.pipeline import Pipeline
    from sparsecc.sparsifier import SparsifyResult, sparsify

__all__ = ["Artifact", "Pipeline", "SparsifyResult", "capture", "compile", "errors", "load", "sparsify"]

_HOMES = {
    "Artifact": "sparsecc.compiler",
    "Pipeline": "sparsecc.passes.pipeline",
    "SparsifyResult": "sparsecc.sparsifier",
    "capture": "sparsecc.capture",
    "compile": "sparsecc.compiler",
    "load": "sparsecc.artifact.load",
    "sparsify": "sparsecc.sparsifier",
}


class _Package(ModuleType):
    """Keeps `sparsecc.capture` the function although a subpackage of that name exists."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
