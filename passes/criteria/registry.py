"""Names of criteria and where they live; a criterion's module is imported when it is first asked for."""

from __future__ import annotations

import importlib

from sparsecc.errors import UsageError
from sparsecc.passes.criteria.base import Criterion

BUILT_IN: dict[str, str] = {
    "bn-scale": "magnitude:BatchNormScale",
    "crop": "gradients:CroP",
    "fisher": "gradients:Fisher",
    "fpgm": "magnitude:GeometricMedian",
    "grasp": "gradients:GraSP",
    "hessian-diagonal": "gradients:HessianDiagonal",
    "l1": "magnitude:L1",
    "l2": "magnitude:L2",
    "obspa": "obspa:StructuredOBS",
    "random": "magnitude:Random",
    "snip": "gradients:SNIP",
    "taylor": "gradients:Taylor",
    "taylor-second": "gradients:TaylorSecond",
}

_registered: dict[str, type[Criterion]] = {}


def criterion_names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted({*BUILT_IN, *_registered}))


def get_criterion(name: str) -> type[Criterion]:
    """The class of a criterion.

    Raises:
        UsageError: no criterion has this name.
    """
    if name in _registered:
        return _registered[name]
    if name not in BUILT_IN:
        raise UsageError(f"there is no criterion {name!r}; criteria are {', '.join(criterion_names())}")
    module, _, attribute = BUILT_IN[name].partition(":")
    found: type[Criterion] = getattr(importlib.import_module(f"sparsecc.passes.criteria.{module}"), attribute)
    return found


def register_criterion(name: str, criterion: type[Criterion]) -> None:
    """Make a criterion of your own known by name.

    Args:
        name: under which `group_scores` and `prune` find it.
        criterion: a subclass of `Criterion` that can be made without arguments.

    Raises:
        UsageError: the name is taken, or the class is no criterion.
    """
    if name in BUILT_IN or _registered.get(name, criterion) is not criterion:
        raise UsageError(
            f"the criterion name {name!r} is taken; choose one besides {', '.join(criterion_names())}"
        )
    if not (isinstance(criterion, type) and issubclass(criterion, Criterion)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"criterion {name!r} must be a subclass of sparsecc.passes.criteria.Criterion, not {criterion!r}"
        )
    _registered[name] = criterion
