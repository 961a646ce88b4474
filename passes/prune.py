"""Structured pruning: choose indices of dependency groups by a criterion and delete them.

Whole slices go from every parameter that shares a group; what is left is an ordinary smaller model. Nothing
is trained: pruning without fine-tuning or reconstruction costs accuracy, the more the more goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.axes.dims import Dim
from sparsecc.axes.groups import Cost, Groups
from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.passes.base import Context, Pass, PassResult
from sparsecc.passes.criteria import Calibration, Criterion, group_scores
from sparsecc.passes.prune_budget import Budget, meet
from sparsecc.passes.prune_plan import PrunePlan, prune_with
from sparsecc.passes.prune_ranking import Ranking, Selection, Step, global_ranks


@dataclass(frozen=True)
class Pruned:
    """A pruned copy of a model.

    Attributes:
        model: the copy.
        plan: what stays.
        kept: mask per dimension of the analysis.
        before: cost of the original.
        after: cost of the copy.
    """

    model: ir.Model
    plan: PrunePlan
    kept: Mapping[Dim, np.ndarray]
    before: Cost
    after: Cost


def rank(
    groups: Groups,
    criterion: str | Criterion = "l2",
    selection: Selection | None = None,
    *,
    aggregation: str = "mean",
    normalization: str = "mean",
    calibration: Calibration | None = None,
    seed: int = 0,
) -> Ranking:
    """Order the indices of all groups by how little they matter; one ranking serves every ratio and budget.

    Raises:
        UsageError: options that do not exist, or data that does not fit the model.
        VerificationError: the model has nothing that could be pruned.
    """
    if not groups.prunable:
        raise VerificationError(nothing_text(groups))
    refusals: list[Refusal] = []
    scores = group_scores(
        groups,
        criterion,
        aggregation=aggregation,
        normalization=normalization,
        calibration=calibration,
        seed=seed,
        refusals=refusals,
    )
    chosen = selection or Selection()
    ranking = Ranking(groups, scores, chosen, refusals)
    return global_ranks(ranking) if chosen.scope == "global" else ranking


def apply_steps(ranking: Ranking, steps: Sequence[Step]) -> Pruned:
    """Delete the indices of some steps from a copy of the model."""
    kept = ranking.masks(steps)
    model, plan = prune_with(ranking.groups, kept)
    after = ranking.groups.cost({dim: int(mask.sum()) for dim, mask in kept.items()})
    return Pruned(model, plan, kept, ranking.groups.total, after)


def nothing_text(groups: Groups) -> str:
    """Why nothing of a model can be pruned: the reasons, the most frequent first."""
    counts: dict[str, int] = {}
    for group in groups:
        if group.frozen is not None:
            counts[group.frozen.reason] = counts.get(group.frozen.reason, 0) + 1
    reasons = sorted(counts, key=lambda reason: -counts[reason])
    listed = "; ".join(f"{reason} ({counts[reason]} axes)" for reason in reasons[:4])
    return f"nothing of this model can be pruned: {listed or 'it has no parameters with axes'}"


@dataclass(frozen=True)
class Prune(Pass):
    """Delete the indices of dependency groups that matter least.

    Options:
        ratio: share of each group (local) or of all indices (global) that goes; 0.5 if no budget is given.
        parameters: share of the dense model's parameters that stays, instead of a ratio; met within 2 %.
        flops: share of its FLOPs that stays, likewise.
        bytes: share of the bytes of its parameters that stays, likewise.
        criterion: what says how much an index matters.
        aggregation: how the votes of a group's parameters become one: sum, mean or max.
        normalization: how scores of different groups are made comparable: none, mean, max, sum or l2.
        scope: local or global.
        round_to: the number of indices that stay is a multiple of it.
        largest: share of a group that may go at most.
        only: names or kinds of groups, or globs; if given, all others stay whole.
        skip: names or kinds of groups that stay whole, or globs.
    """

    name: ClassVar[str] = "prune"
    summary: ClassVar[str] = "delete the channels, heads and features that matter least"
    keeps_numbers: ClassVar[bool] = False

    ratio: float = -1.0
    parameters: float = -1.0
    flops: float = -1.0
    bytes: float = -1.0
    criterion: str = "l2"
    aggregation: str = "mean"
    normalization: str = "mean"
    scope: str = "local"
    round_to: int = 1
    largest: float = 0.9
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Prune in place.

        Raises:
            UsageError: options that do not exist or contradict each other.
            VerificationError: nothing can be pruned, or a budget cannot be met.
        """
        shares = {
            quantity: share
            for quantity, share in (
                ("parameters", self.parameters),
                ("flops", self.flops),
                ("bytes", self.bytes),
            )
            if share != -1.0
        }
        if shares and self.ratio != -1.0:
            raise UsageError("give a ratio or a budget, not both")
        groups = Groups(model)
        selection = Selection(self.scope, self.round_to, self.largest, only=self.only, skip=self.skip)
        ranking = rank(
            groups,
            self.criterion,
            selection,
            aggregation=self.aggregation,
            normalization=self.normalization,
            seed=ctx.seed,
        )
        if shares:
            steps = meet(ranking, Budget(shares))
        else:
            steps = ranking.by_ratio(0.5 if self.ratio == -1.0 else self.ratio)
        pruned = apply_steps(ranking, steps)
        model.graph = pruned.model.graph
        refusals = [
            Refusal(group.frozen.reason, group.name, group.frozen.code)
            for group in groups
            if group.frozen is not None and group.frozen.code in ("no-rule", "inexact", "unification")
        ]
        notes = (
            f"{pruned.after.parameters / pruned.before.parameters:.1%} of the parameters and "
            f"{pruned.after.flops / max(pruned.before.flops, 1):.1%} of the FLOPs stay",
        )
        return PassResult(bool(steps), (*refusals, *ranking.refusals()), notes)
