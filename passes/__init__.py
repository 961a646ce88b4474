"""Graph transforms, one a file, imported as `sparsecc.passes`."""

from __future__ import annotations

if __name__ != "sparsecc.passes":
    raise ImportError("import sparsecc.passes instead of passes")

from sparsecc.passes.base import Context, Pass, PassReport, PassResult
from sparsecc.passes.hooks import CompareNumerics, DumpDir, Hook, PrintAfter, TimePasses, VerifyEach
from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline
from sparsecc.passes.registry import get_pass, pass_names

__all__ = [
    "COMPILE_PIPELINE",
    "CompareNumerics",
    "Context",
    "DumpDir",
    "Hook",
    "Pass",
    "PassReport",
    "PassResult",
    "Pipeline",
    "PrintAfter",
    "TimePasses",
    "VerifyEach",
    "get_pass",
    "pass_names",
]
