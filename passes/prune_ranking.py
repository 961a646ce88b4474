"""From scores to an order in which indices go: in steps of a multiple per group, one order for every budget.

local: the share removed of every group grows alike; global: the least score over all groups goes first.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsecc.axes.dims import AxisExpr, Dim, keep_mask, terminals
from sparsecc.axes.groups import Cost, Group, Groups
from sparsecc.axes.kinds import Kind
from sparsecc.errors import Refusal, UsageError

SCOPES = ("local", "global")
UNROUNDED = (
    Kind.CHANNEL_GROUP,
    Kind.HEAD,
    Kind.KEY_VALUE_GROUP,
    Kind.QUERY_GROUP,
    Kind.HEAD_DIMENSION,
    Kind.EXPERT,
)
"""Kinds whose number of indices is no axis of a kernel by itself."""
LEAST_STEPS = 4
"""A group is divided into at least so many steps, even where the multiple would allow fewer."""


@dataclass(frozen=True)
class Selection:
    """Which groups may lose how much.

    Attributes:
        scope: "local" or "global".
        round_to: the number of indices that stay is a multiple of it, halved until a group has four steps.
        largest: share of a group that may go at most.
        bounds: (pattern, share) pairs that say so for groups by name or kind; the first that fits holds.
        only: patterns of names or kinds; if given, other groups stay whole.
        skip: patterns of names or kinds that stay whole.
    """

    scope: str = "local"
    round_to: int = 1
    largest: float = 0.9
    bounds: tuple[tuple[str, float], ...] = ()
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def check(self, groups: Groups) -> None:
        """Refuse options that mean nothing for these groups.

        Raises:
            UsageError: a scope, share or multiple that does not exist, or a pattern that fits no group.
        """
        if self.scope not in SCOPES:
            raise UsageError(f"there is no scope {self.scope!r}; there are {', '.join(SCOPES)}")
        if self.round_to < 1:
            raise UsageError(f"rounding needs a multiple of at least 1, not {self.round_to}")
        for share in (self.largest, *(share for _, share in self.bounds)):
            if not 0 <= share < 1:
                raise UsageError(f"the share that may go of a group is at least 0 and under 1, not {share}")
        for pattern in (*self.only, *self.skip, *(pattern for pattern, _ in self.bounds)):
            if not any(_fits(group, pattern) for group in groups):
                raise UsageError(
                    f"no group has a name or kind like {pattern!r}; `sparsecc groups` lists them"
                )

    def largest_of(self, group: Group) -> float:
        """Share of a group that may go."""
        if (self.only and not any(_fits(group, pattern) for pattern in self.only)) or any(
            _fits(group, pattern) for pattern in self.skip
        ):
            return 0.0
        return next((share for pattern, share in self.bounds if _fits(group, pattern)), self.largest)

    def multiple_of(self, group: Group) -> int:
        """Indices that go at a time."""
        if group.kind in UNROUNDED:
            return 1
        multiple = self.round_to
        while multiple > 1 and multiple * LEAST_STEPS > group.size:
            multiple //= 2
        return multiple


def _fits(group: Group, pattern: str) -> bool:
    return fnmatch.fnmatchcase(group.name, pattern) or group.kind.value == pattern


@dataclass(frozen=True)
class Step:
    """Indices of one group that go together.

    Attributes:
        group: number of the group among the prunable ones.
        indices: of the group.
        rank: steps of low rank go first.
    """

    group: int
    indices: tuple[int, ...]
    rank: float


class Ranking:
    """The order in which indices go.

    Args:
        groups: of the model.
        scores: group name -> [size]; what has the least goes first.
        selection: which groups may lose how much.
        refusals: what the criterion could not say.

    Raises:
        UsageError: a selection that means nothing for these groups.
    """

    def __init__(
        self,
        groups: Groups,
        scores: Mapping[str, np.ndarray],
        selection: Selection,
        refusals: Sequence[Refusal] = (),
    ) -> None:
        selection.check(groups)
        self.groups = groups
        self._refusals = refusals
        self._prunable = groups.prunable
        steps: list[Step] = []
        for number, group in enumerate(self._prunable):
            steps.extend(_steps(number, group, scores[group.name], selection))
        self.steps = sorted(steps, key=lambda step: (step.rank, step.group))
        self._unit_axes = _axes_with_units(groups, self._prunable)

    def masks(self, steps: Sequence[Step]) -> dict[Dim, np.ndarray]:
        """Masks when these steps are taken; every axis keeps at least one index."""
        own = {step.group: np.ones(self._prunable[step.group].size, bool) for step in steps}
        for step in steps:
            own[step.group][list(step.indices)] = False
        kept: dict[Dim, np.ndarray] = {}
        for number, mask in own.items():
            kept.update(self._prunable[number].mask_of(mask))
        for axis in self._unit_axes:
            if not keep_mask(axis, kept).any():
                unit = next(dim for dim in terminals(axis) if dim.size == 1 and dim in kept)
                kept[unit] = np.ones(1, bool)
        return kept

    def cost(self, steps: Sequence[Step]) -> Cost:
        """Cost of the model when these steps are taken."""
        return self.groups.cost({dim: int(mask.sum()) for dim, mask in self.masks(steps).items()})

    def by_ratio(self, ratio: float) -> list[Step]:
        """The steps that remove a share of the indices: of every group if local, of all together if global.

        Raises:
            UsageError: a ratio that is not at least 0 and under 1.
        """
        if not 0 <= ratio < 1:
            raise UsageError(f"a ratio is at least 0 and under 1, not {ratio}")
        return [step for step in self.steps if step.rank <= ratio + 1e-12]

    def refusals(self) -> list[Refusal]:
        """What the criterion could not say, and prunable groups that no step touches."""
        touched = {step.group for step in self.steps}
        return [
            *self._refusals,
            *(
                Refusal(
                    "it was left out, or its size or a bound leaves nothing to remove", group.name, "kept"
                )
                for number, group in enumerate(self._prunable)
                if number not in touched
            ),
        ]


def _steps(number: int, group: Group, scores: np.ndarray, selection: Selection) -> list[Step]:
    """Steps of one group, least scores first; rank is the share that is gone after the step."""
    multiple = selection.multiple_of(group)
    fewest = max(1, int(np.ceil(group.size * (1 - selection.largest_of(group)) - 1e-9)))
    order = np.argsort(scores, kind="stable")
    steps: list[Step] = []
    first = group.size % multiple or multiple
    start, end = 0, first
    highest = -np.inf
    while group.size - end >= fewest:
        indices = order[start:end]
        if selection.scope == "local":
            rank = end / group.size
        else:
            highest = max(highest, float(scores[indices].mean()))
            rank = highest
        steps.append(Step(number, tuple(sorted(indices.tolist())), rank))
        start, end = end, end + multiple
    return steps


def global_ranks(ranking: Ranking) -> Ranking:
    """Replace scores as ranks by the share of all indices that is gone after the step."""
    total = sum(group.size for group in ranking.groups.prunable)
    gone = 0
    ranked: list[Step] = []
    for step in ranking.steps:
        gone += len(step.indices)
        ranked.append(Step(step.group, step.indices, gone / total))
    ranking.steps = ranked
    return ranking


def _axes_with_units(groups: Groups, prunable: Sequence[Group]) -> list[AxisExpr]:
    """Axes that dimensions of one index are part of: only those could become empty."""
    units = {dim for group in prunable if len(group.dims) > 1 or group.size == 1 for dim in group.dims}
    if not units:
        return []
    found: dict[AxisExpr, None] = {}
    for axes in groups.analysis.axes.values():
        for axis in axes:
            if axis not in found and any(dim in units for dim in terminals(axis)):
                found[axis] = None
    return list(found)
