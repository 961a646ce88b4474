"""Which slices of a network matter: scores for pruning groups, one family of criteria a file."""

from __future__ import annotations

from sparsecc.passes.criteria.base import Criterion, Evidence, Vote
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.registry import criterion_names, get_criterion, register_criterion
from sparsecc.passes.criteria.scoring import group_scores

__all__ = [
    "Calibration",
    "Criterion",
    "Evidence",
    "Vote",
    "criterion_names",
    "get_criterion",
    "group_scores",
    "register_criterion",
]
