"""`prune`: delete channels, heads and features down to a ratio or a budget, with a plan that replays.

analyse -> rank -> choose steps under the budget -> delete -> (verify with the oracle)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
import onnx_ir as ir

from sparsecc.axes.groups import Cost, Groups
from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.ir.evaluate import evaluate
from sparsecc.ir.verify import verify as find_violations
from sparsecc.oracle import OracleResult
from sparsecc.oracle import check as check_oracle
from sparsecc.passes.criteria import Calibration, Criterion
from sparsecc.passes.criteria.obspa import StructuredOBS
from sparsecc.passes.prune import Pruned, apply_steps, rank
from sparsecc.passes.prune_budget import LATENCY_TOLERANCE, Budget, check_share, meet, nearest
from sparsecc.passes.prune_plan import PrunedGroup, PrunePlan, compose, masks_of, prune_with
from sparsecc.passes.prune_ranking import Ranking, Selection, Step
from sparsecc.passes.reconstruct import reconstruct

if TYPE_CHECKING:
    import onnx
    from torch import nn

    from sparsecc.latency import Latency

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""

Between = Callable[[ir.Model], ir.Model]
"""What happens between the steps of an iterative schedule: fine-tuning, which must keep names and shapes."""

LARGEST_PROVED = 250_000_000
"""Bytes of parameters up to which results are checked without being asked for: it takes memory and time."""

LATENCIES = ("latency", "predicted-latency")
TOLERANCE = 1e-4
"""Largest relative difference between pruned and masked that `verify` accepts in fp32."""


@dataclass(frozen=True)
class PruneResult:
    """A pruned copy of a model.

    Attributes:
        model: the copy, an ordinary smaller graph.
        plan: what stays; replays on a model of the same architecture.
        before: parameters, FLOPs and bytes of the original.
        after: of the copy.
        refusals: groups that stayed whole, and why.
        latency_share: measured or predicted time over that of the original, if that was the budget.
        fitted: the weights that stay are not those of the original: they were fitted or trained.
        checked: what the oracle found, or None where it was not asked.
    """

    model: ir.Model
    plan: PrunePlan
    before: Cost
    after: Cost
    refusals: tuple[Refusal, ...] = ()
    latency_share: float | None = None
    fitted: bool = False
    checked: OracleResult | None = None

    @property
    def groups(self) -> tuple[PrunedGroup, ...]:
        """The groups that lost indices."""
        return self.plan.groups

    def apply_to(self, module: nn.Module, inputs: Mapping[str, Any] | Sequence[Any]) -> None:
        """Slice the parameters of the PyTorch module that the model was captured from, in place.

        Args:
            module: changed only if its forward works with the new sizes and computes what the pruned model
                does.
            inputs: tensors or arrays of one call, positional or by keyword, in the order of the graph inputs.

        Raises:
            UsageError: another module, or inputs that do not fit.
            VerificationError: the forward does not work with the new sizes; says what must change.
        """
        import torch

        from sparsecc.torch.apply import apply_plan

        given = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        names = [value.name or "" for value in self.model.graph.inputs]
        if len(given) != len(names):
            raise UsageError(f"the model has the inputs {', '.join(names)}, but {len(given)} were given")
        arrays = {name: np.asarray(item) for name, item in zip(names, given, strict=True)}
        expected = list(evaluate(self.model, arrays).values())
        tensors = [torch.as_tensor(item) for item in given]
        call = dict(zip(inputs, tensors, strict=True)) if isinstance(inputs, Mapping) else tensors
        apply_plan(module, self.plan.kept, call, expected)


class PruneOptions(TypedDict, total=False):
    """How indices are chosen: keyword arguments of `prune` and `prune_ratios`.

    Attributes:
        criterion: name of a criterion ("l2" by default), or one of your own.
        aggregation: how the votes of a group's parameters become one: "mean" (default), "sum" or "max".
        normalization: how scores of groups are made comparable: "mean" (default), "none", "max", "sum", "l2".
        scope: "local" (default): the same share of every group goes; "global": the least scores of all.
        round_to: the number of indices that stay is a multiple of it (1 by default; the number of lanes of
            the target's vectors makes the fastest widths), halved for small groups.
        largest: share of a group that may go at most (0.9).
        bounds: (pattern, share) pairs that say so for groups by name, glob or kind; the first fit holds.
        only: names, globs or kinds of groups; if given, all others stay whole.
        skip: names, globs or kinds of groups that stay whole.
        data: batches for criteria that need them.
        seed: of every random choice (0).
        reconstruct: after pruning, fit the weights that read what is left to the outputs of the dense model,
            without training (OBSPA): "id" on `data` like the training data, "ood" on other `data`, which the
            criterion "obspa" takes for such too (its option `adapt`), "noise" on none; "none" by default.
        regress: fit layer by layer to the pruned model's own inputs, which repairs the error of earlier
            layers too and takes longer (False).
        batch_norm: estimate the statistics of batch normalisations anew, with "id" only (False).
    """

    criterion: str | Criterion
    aggregation: str
    normalization: str
    scope: str
    round_to: int
    largest: float
    bounds: Sequence[tuple[str, float]]
    only: Sequence[str]
    skip: Sequence[str]
    data: Calibration | None
    seed: int
    reconstruct: str
    regress: bool
    batch_norm: bool


def _rank(groups: Groups, options: PruneOptions) -> Ranking:
    """The order in which indices go."""
    selection = Selection(
        scope=options.get("scope", "local"),
        round_to=options.get("round_to", 1),
        largest=options.get("largest", 0.9),
        bounds=tuple(options.get("bounds", ())),
        only=tuple(options.get("only", ())),
        skip=tuple(options.get("skip", ())),
    )
    criterion = options.get("criterion", "l2")
    if criterion == StructuredOBS.name and options.get("reconstruct") == "ood":
        criterion = StructuredOBS(adapt=True)
    return rank(
        groups,
        criterion,
        selection,
        aggregation=options.get("aggregation", "mean"),
        normalization=options.get("normalization", "mean"),
        calibration=options.get("data"),
        seed=options.get("seed", 0),
    )


def prune(
    model: ir.Model,
    ratio: float | None = None,
    *,
    target: Mapping[str, float] | None = None,
    iterations: int = 1,
    between: Between | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    machine: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
    proof: bool | None = None,
    exactly: bool = True,
    **options: Unpack[PruneOptions],
) -> PruneResult:
    """Delete the indices of dependency groups that matter least from a copy of a model.

    Nothing is trained unless `between` does it. The result is checked by the oracle, which runs the original
    and the pruned model once on random weights.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        ratio: share of each group (scope local) or of all indices (global) that goes, at least 0, under 1;
            0.5 if neither it nor a target is given.
        target: share of the dense model that stays: "parameters", "flops", "bytes" (met within 2 %), or
            "latency" (measured on this machine) or "predicted-latency" (cost model), met within 10 %.
        iterations: of an iterative schedule; the scores are computed anew after each.
        between: called with the pruned model after each iteration but the last.
        inputs: arrays for all graph inputs, where random ones would not run.
        machine: the compile target of a latency.
        shapes: input name -> dims for a latency, where inputs have symbolic dimensions.
        progress: told about every phase.
        proof: check that pruned equals masked; None: of models with up to 250 MB of parameters and without
            ops that ONNX Runtime does not know.
        exactly: refuse parameters, FLOPs or bytes that cannot be met within 2 %, else come near.
        **options: criterion, scope, rounding, what is left out; see `PruneOptions`.

    Raises:
        UsageError: arguments that do not exist or contradict each other, or data that does not fit.
        VerificationError: nothing can be pruned, a budget cannot be met (the nearest value is named), or the
            check failed.
    """
    goal = _Goal.make(ratio, target)
    if iterations < 1:
        raise UsageError(f"a schedule has at least one iteration, not {iterations}")
    tell = progress or _silent
    tell("analyse", 0, 1)
    first = Groups(model, inputs)
    if iterations == 1:
        result = _prune_once(first, goal, options, machine, shapes, tell, exactly=exactly)
        return _proved(model, result, inputs, tell, proof)
    if goal.latency is not None:
        raise UsageError("a latency is met in one iteration; give parameters, flops or bytes, or a ratio")
    current, plan, result = first, None, None
    for number in range(iterations):
        tell("prune", number, iterations)
        part = goal.part((number + 1) / iterations, first, current)
        last = number == iterations - 1
        result = _prune_once(current, part, options, machine, shapes, tell, exactly=last and exactly)
        plan = result.plan if plan is None else compose(plan, result.plan, first)
        if not last:
            left = between(result.model) if between is not None else result.model
            current = Groups(left, inputs)
    assert plan is not None
    assert result is not None
    result = replace(result, plan=plan, before=first.total, fitted=result.fitted or between is not None)
    return _proved(model, result, inputs, tell, proof)


def prune_ratios(
    model: ir.Model,
    ratios: Sequence[float],
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    proof: bool | None = None,
    **options: Unpack[PruneOptions],
) -> list[PruneResult]:
    """Prune to several ratios with one analysis and one ranking; see `prune`.

    Raises:
        UsageError: a ratio or option that does not exist.
        VerificationError: nothing can be pruned.
    """
    ranking = _rank(Groups(model, inputs), options)
    results = [_result(apply_steps(ranking, ranking.by_ratio(ratio)), ranking, options) for ratio in ratios]
    return [_proved(model, result, inputs, _silent, proof) for result in results]


def replay(
    model: ir.Model,
    plan: PrunePlan,
    inputs: Mapping[str, np.ndarray] | None = None,
    *,
    proof: bool | None = None,
) -> PruneResult:
    """Prune a model of the same architecture, whatever its weights, as a plan says.

    Raises:
        VerificationError: another architecture (the first difference is named), a damaged plan, or the check
            failed.
    """
    groups = Groups(model, inputs)
    masks = masks_of(groups, plan)
    pruned, found = prune_with(groups, masks)
    after = groups.cost({dim: int(mask.sum()) for dim, mask in masks.items()})
    result = PruneResult(pruned, found, groups.total, after)
    return _proved(model, result, inputs, _silent, proof)


def verify(
    model: ir.Model,
    result: PruneResult,
    inputs: Mapping[str, np.ndarray] | None = None,
    tolerance: float = TOLERANCE,
) -> OracleResult:
    """Check with the oracle that a pruned model equals the original with the same slices zeroed.

    A model that was fitted or trained has other weights on purpose; there the plan is replayed and checked.

    Args:
        model: the original.
        result: of `prune`.
        inputs: arrays for all graph inputs; random ones if None.
        tolerance: largest relative difference.

    Raises:
        VerificationError: it does not.
    """
    pruned = replay(model, result.plan, inputs, proof=False).model if result.fitted else result.model
    found = check_oracle(_in_memory(model), _in_memory(pruned), result.plan.to_json(), inputs)
    if not found.passed(tolerance, vacuous=not result.plan.kept):
        reasons = "; ".join(found.problems) or f"the outputs differ by {found.difference:.2g} (relative)"
        raise VerificationError(f"the pruned model is not the original with those slices zeroed: {reasons}")
    return found


def _proved(
    model: ir.Model,
    result: PruneResult,
    inputs: Mapping[str, np.ndarray] | None,
    tell: Progress,
    proof: bool | None,
) -> PruneResult:
    """The result with what the oracle found, where it is to look."""
    if proof is False:
        return result
    if proof is None:
        foreign = any(violation.rule == "domains" for violation in find_violations(model))
        if foreign or result.before.bytes > LARGEST_PROVED:
            return result
    tell("check against the original", 0, 1)
    return replace(result, checked=verify(model, result, inputs))


def _in_memory(model: ir.Model) -> onnx.ModelProto:
    """The model as the oracle takes it, no weight in a file."""
    copy = model.clone()
    for value in copy.graph.initializers.values():
        if isinstance(value.const_value, ir.ExternalTensor):
            value.const_value = ir.Tensor(value.const_value.numpy(), name=value.name)
    return ir.to_proto(copy)


def _silent(phase: str, done: int, total: int) -> None:
    """No progress shown."""


@dataclass(frozen=True)
class _Goal:
    """A ratio, a budget of costs or a budget of time."""

    ratio: float | None = None
    budget: Budget | None = None
    latency: tuple[str, float] | None = None

    @classmethod
    def make(cls, ratio: float | None, target: Mapping[str, float] | None) -> _Goal:
        """From the arguments of `prune`.

        Raises:
            UsageError: they contradict each other.
        """
        if target is None or not target:
            return cls(ratio=0.5 if ratio is None else ratio)
        if ratio is not None:
            raise UsageError("give a ratio or a target, not both: a target decides how much goes")
        times = [name for name in target if name in LATENCIES]
        if times and len(target) > 1:
            raise UsageError(f"give {times[0]} as the only target; other targets would contradict it")
        if times:
            check_share(times[0], target[times[0]])
            return cls(latency=(times[0], target[times[0]]))
        return cls(budget=Budget(dict(target)))

    def part(self, progress: float, first: Groups, current: Groups) -> _Goal:
        """What is left to do at a share of the schedule: what stays falls geometrically.

        Args:
            progress: 1 at the last iteration.
            first: of the original model.
            current: of the model as it is now.
        """
        if self.budget is not None:
            shares = {
                name: share**progress * getattr(first.total, name) / getattr(current.total, name)
                for name, share in self.budget.shares.items()
            }
            return _Goal(budget=Budget({name: min(share, 1 - 1e-9) for name, share in shares.items()}))
        assert self.ratio is not None
        size, left = (sum(group.size for group in groups.prunable) for groups in (first, current))
        return _Goal(ratio=max(0.0, 1 - (1 - self.ratio) ** progress * size / left))


def _prune_once(
    groups: Groups,
    goal: _Goal,
    options: PruneOptions,
    machine: str,
    shapes: Mapping[str, Sequence[int]] | None,
    tell: Progress,
    *,
    exactly: bool = True,
) -> PruneResult:
    tell("score", 0, 1)
    ranking = _rank(groups, options)
    tell("choose", 0, 1)
    if goal.latency is not None:
        return _within_latency(ranking, goal.latency, options, machine, shapes, tell)
    if goal.budget is not None:
        steps = meet(ranking, goal.budget, exactly=exactly)
    else:
        steps = ranking.by_ratio(goal.ratio or 0.0)
    tell("prune", 0, 1)
    return _result(apply_steps(ranking, steps), ranking, options)


def _within_latency(
    ranking: Ranking,
    goal: tuple[str, float],
    options: PruneOptions,
    machine: str,
    shapes: Mapping[str, Sequence[int]] | None,
    tell: Progress,
) -> PruneResult:
    from sparsecc.latency import MeasuredLatency, PredictedLatency

    quantity, share = goal
    model = ranking.groups.model
    kind = MeasuredLatency if quantity == "latency" else PredictedLatency
    with kind(model, machine, shapes) as clock:
        return _meet_latency(ranking, clock, share, options, tell)


def _meet_latency(
    ranking: Ranking,
    clock: Latency,
    share: float,
    options: PruneOptions,
    tell: Progress,
) -> PruneResult:
    seen: dict[int, float] = {}
    most = max(len(ranking.steps).bit_length(), 1)

    def excess(steps: Sequence[Step]) -> float:
        if len(steps) not in seen:
            tell("time pruned models", min(len(seen), most), most)
            seen[len(steps)] = clock.share(apply_steps(ranking, steps).model)
        return seen[len(steps)] / share

    steps = nearest(ranking.steps, excess, trials=0)
    found = excess(steps)
    if abs(found - 1) > LATENCY_TOLERANCE:
        raise VerificationError(
            f"a latency of {share:.3g} of the dense model cannot be met within {LATENCY_TOLERANCE:.0%}: the "
            f"nearest that was reached is {found * share:.3g}; allow more to be removed or ask for that"
        )
    return replace(_result(apply_steps(ranking, steps), ranking, options), latency_share=found * share)


def _full_reason(why: Refusal) -> str:
    """The reason with its node, for the refusal itself is about the group."""
    return f"{why.reason} ({why.where})" if why.where else why.reason


def _result(pruned: Pruned, ranking: Ranking, options: PruneOptions) -> PruneResult:
    refusals: list[Refusal] = []
    model = pruned.model
    mode = options.get("reconstruct", "none")
    if mode != "none":
        model = reconstruct(
            ranking.groups.model,
            pruned.model,
            ranking.groups,
            pruned.kept,
            options.get("data"),
            mode=mode,
            regress=options.get("regress", False),
            batch_norm=options.get("batch_norm", False),
            seed=options.get("seed", 0),
            refusals=refusals,
        )
    frozen = [
        Refusal(_full_reason(group.frozen), group.name, group.frozen.code)
        for group in ranking.groups
        if group.frozen is not None
    ]
    return PruneResult(
        model,
        pruned.plan,
        pruned.before,
        pruned.after,
        (*frozen, *ranking.refusals(), *refusals),
        fitted=mode != "none",
    )
