"""One score per index of each prunable group: votes combined, then scaled so that groups can be compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from sparsecc.axes.groups import Groups
from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.passes.criteria.base import Criterion, Evidence, Vote
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.registry import get_criterion

AGGREGATIONS = ("sum", "mean", "max")

NORMALIZATIONS: Mapping[str, Callable[[np.ndarray], float]] = {
    "none": lambda _: 1.0,
    # Of magnitudes, so that scores of both signs keep their order.
    "mean": lambda scores: float(np.abs(scores).mean()),
    "max": lambda scores: float(np.abs(scores).max()),
    "sum": lambda scores: float(np.abs(scores).sum()),
    "l2": lambda scores: float(np.linalg.norm(scores)),
}
"""What the scores of a group are divided by."""


class Ballot:
    """The votes of one group so far, combined."""

    def __init__(self, size: int, aggregation: str) -> None:
        self._aggregation = aggregation
        self._scores = np.full(size, -np.inf) if aggregation == "max" else np.zeros(size)
        self.count = 0

    def add(self, vote: Vote) -> None:
        """Count a vote."""
        self.count += 1
        if self._aggregation == "max":
            np.maximum(self._scores, vote.scores, out=self._scores)
        else:
            self._scores += vote.scores

    def result(self) -> np.ndarray:
        """Scores [size]; zeros without votes."""
        if self.count == 0:
            return np.zeros(len(self._scores))
        return self._scores / self.count if self._aggregation == "mean" else self._scores


def group_scores(
    groups: Groups,
    criterion: str | Criterion = "l2",
    *,
    aggregation: str = "mean",
    normalization: str = "mean",
    calibration: Calibration | None = None,
    seed: int = 0,
    refusals: list[Refusal] | None = None,
) -> dict[str, np.ndarray]:
    """Score every index of every group that can be pruned.

    Each axis of each parameter that a group slices gives a vote; votes are combined within the group, as in
    SPA (arXiv 2403.18955), and divided by one number per group so that groups of different width and scale
    can be ranked together. A group on which the criterion has nothing to say, or all zeros, is scored by l2
    instead.

    Args:
        groups: of the model.
        criterion: a name of `criterion_names()`, or a criterion with options of its own.
        aggregation: sum, mean or max of the votes.
        normalization: mean, max, sum or l2 norm of the group's magnitudes to divide by, or none.
        calibration: data for criteria that need them.
        seed: of every random choice.
        refusals: gets one entry (code `no-vote`) for each group that was scored by l2 instead.

    Returns:
        Name of the group -> [size] float64, larger for what should stay.

    Raises:
        UsageError: an unknown name, or data that are missing or do not fit the model.
        VerificationError: scores that are not finite.
    """
    if aggregation not in AGGREGATIONS:
        raise UsageError(f"aggregation is one of {', '.join(AGGREGATIONS)}, not {aggregation!r}")
    if normalization not in NORMALIZATIONS:
        raise UsageError(f"normalization is one of {', '.join(NORMALIZATIONS)}, not {normalization!r}")
    chosen = get_criterion(criterion)() if isinstance(criterion, str) else criterion
    ballots = {group.name: Ballot(group.size, aggregation) for group in groups.prunable}
    if not ballots:
        return {}
    for vote in chosen.votes(Evidence(groups, calibration, seed)):
        ballots[vote.group].add(vote)
    silent = frozenset(name for name, ballot in ballots.items() if not ballot.result().any())
    if silent:
        ballots |= {name: Ballot(groups[name].size, aggregation) for name in silent}
        for vote in get_criterion("l2")().votes(Evidence(groups, seed=seed, only=silent)):
            ballots[vote.group].add(vote)
        if refusals is not None:
            why = f"criterion {chosen.name} says nothing about it, so it was scored by l2"
            refusals.extend(Refusal(f"{name}: {why}", name, "no-vote") for name in ballots if name in silent)
    return {
        name: _normalized(name, chosen, ballot.result(), normalization) for name, ballot in ballots.items()
    }


def _normalized(name: str, criterion: Criterion, scores: np.ndarray, normalization: str) -> np.ndarray:
    if not np.isfinite(scores).all():
        raise VerificationError(
            f"criterion {criterion.name} gave scores of group {name} that are not finite; "
            f"check its weights and the calibration data for NaN and infinity"
        )
    scale = NORMALIZATIONS[normalization](scores)
    return scores / scale if scale > 0 else scores
