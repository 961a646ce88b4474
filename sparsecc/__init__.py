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
    from sparsecc.axes.groups import groups
    from sparsecc.axes.rules.registry import register_rule
    from sparsecc.capture import capture
    from sparsecc.compiler import Artifact, compile
    from sparsecc.compressor import CompressResult, compress
    from sparsecc.distiller import DistillResult, distill
    from sparsecc.evaluation import Evaluation, evaluate
    from sparsecc.group_penalty import GroupPenalty
    from sparsecc.knee import KneeResult, knee
    from sparsecc.passes.criteria import Calibration
    from sparsecc.passes.pipeline import Pipeline
    from sparsecc.passes.prune_plan import PrunePlan
    from sparsecc.pruner import PruneResult, prune, prune_ratios, replay
    from sparsecc.quantizer import QuantizeResult, quantize
    from sparsecc.sparsifier import SparsifyResult, sparsify
    from sparsecc.sweeper import SweepResult, sweep
    from sparsecc.torch.convert import to_torch
    from sparsecc.training import SparseTraining
    from sparsecc.tuner import TuneResult, tune

__all__ = [
    "Artifact",
    "Calibration",
    "CompressResult",
    "DistillResult",
    "Evaluation",
    "GroupPenalty",
    "KneeResult",
    "Pipeline",
    "PrunePlan",
    "PruneResult",
    "QuantizeResult",
    "SparseTraining",
    "SparsifyResult",
    "SweepResult",
    "TuneResult",
    "capture",
    "compile",
    "compress",
    "distill",
    "errors",
    "evaluate",
    "groups",
    "knee",
    "load",
    "prune",
    "prune_ratios",
    "quantize",
    "register_rule",
    "replay",
    "sparsify",
    "sweep",
    "to_torch",
    "tune",
]

_HOMES = {
    "Artifact": "sparsecc.compiler",
    "Calibration": "sparsecc.passes.criteria",
    "CompressResult": "sparsecc.compressor",
    "DistillResult": "sparsecc.distiller",
    "Evaluation": "sparsecc.evaluation",
    "GroupPenalty": "sparsecc.group_penalty",
    "KneeResult": "sparsecc.knee",
    "Pipeline": "sparsecc.passes.pipeline",
    "PrunePlan": "sparsecc.passes.prune_plan",
    "PruneResult": "sparsecc.pruner",
    "QuantizeResult": "sparsecc.quantizer",
    "SparseTraining": "sparsecc.training",
    "SparsifyResult": "sparsecc.sparsifier",
    "SweepResult": "sparsecc.sweeper",
    "TuneResult": "sparsecc.tuner",
    "capture": "sparsecc.capture",
    "compile": "sparsecc.compiler",
    "compress": "sparsecc.compressor",
    "distill": "sparsecc.distiller",
    "evaluate": "sparsecc.evaluation",
    "groups": "sparsecc.axes.groups",
    "knee": "sparsecc.knee",
    "load": "sparsecc.artifact.load",
    "prune": "sparsecc.pruner",
    "prune_ratios": "sparsecc.pruner",
    "quantize": "sparsecc.quantizer",
    "register_rule": "sparsecc.axes.rules.registry",
    "replay": "sparsecc.pruner",
    "sparsify": "sparsecc.sparsifier",
    "sweep": "sparsecc.sweeper",
    "to_torch": "sparsecc.torch.convert",
    "tune": "sparsecc.tuner",
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
