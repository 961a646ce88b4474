"""Budgets: how many steps of a ranking meet a number of parameters, FLOPs, bytes or seconds, within 2 %."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sparsecc.axes.groups import Cost
from sparsecc.errors import UsageError, VerificationError
from sparsecc.passes.prune_ranking import Ranking, Step

QUANTITIES = ("parameters", "flops", "bytes")
TOLERANCE = 0.02
LATENCY_TOLERANCE = 0.1


@dataclass(frozen=True)
class Budget:
    """Shares of the dense model that a pruned one may have.

    Attributes:
        shares: quantity ("parameters", "flops" or "bytes") -> share over 0 and under 1; all of them hold, and
            the one that binds is met within 2 %.
    """

    shares: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse what is no budget.

        Raises:
            UsageError: an unknown quantity or a share out of range.
        """
        for quantity, share in self.shares.items():
            if quantity not in QUANTITIES:
                raise UsageError(f"there is no budget of {quantity!r}; there are {', '.join(QUANTITIES)}")
            check_share(quantity, share)

    def excess(self, cost: Cost, total: Cost) -> float:
        """Largest cost / budget over the quantities: 1 is met exactly."""
        return max(
            getattr(cost, quantity) / (share * getattr(total, quantity))
            for quantity, share in self.shares.items()
        )


def check_share(quantity: str, share: float) -> None:
    """Refuse a share of the dense model that is not over 0 and under 1.

    Raises:
        UsageError: it is not.
    """
    if not 0 < share < 1:
        raise UsageError(
            f"a budget of {quantity} is a share of the dense model, over 0 and under 1, not {share}"
        )


def meet(ranking: Ranking, budget: Budget, *, exactly: bool = True) -> list[Step]:
    """The steps that bring the model to its budget.

    Args:
        ranking: the order in which indices go.
        budget: what may stay.
        exactly: refuse what cannot be met within 2 %, else come as near as possible.

    Raises:
        VerificationError: it cannot be met within 2 %; the nearest value is named.
    """
    total = ranking.groups.total

    def excess(steps: Sequence[Step]) -> float:
        return budget.excess(ranking.cost(steps), total)

    steps = nearest(ranking.steps, excess)
    found = excess(steps)
    if exactly and abs(found - 1) > TOLERANCE:
        raise VerificationError(refusal_text(budget, ranking, steps))
    return steps


def nearest(steps: Sequence[Step], excess: Callable[[Sequence[Step]], float], trials: int = 64) -> list[Step]:
    """The run of first steps that lands nearest to the budget; later steps may fill what is left above it.

    Args:
        steps: in the order in which they go.
        excess: cost / budget of a set of steps, falling as steps are added.
        trials: later steps that are tried in place of the last one.
    """
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        if excess(steps[:middle]) <= 1:
            high = middle
        else:
            low = middle + 1
    chosen = list(steps[:low])
    if low == 0 or excess(chosen) > 1 or 1 - excess(chosen) <= TOLERANCE / 4:
        return chosen
    # The last step overshoots: fill what is left above the budget with later steps that are smaller.
    best, distance = chosen, 1 - excess(chosen)
    current = list(steps[: low - 1])
    if excess(current) - 1 < distance:
        best, distance = current, excess(current) - 1
    for step in steps[low : low + trials]:
        if distance <= TOLERANCE / 4:
            break
        if not _follows(step, steps, current):
            continue
        trial = [*current, step]
        value = excess(trial)
        if abs(value - 1) < distance:
            best, distance = trial, abs(value - 1)
        if value > 1:
            current = trial
    if trials and distance > TOLERANCE / 2:
        best = _exchanged(steps, best, excess)
    return best


def _exchanged(
    steps: Sequence[Step], taken: list[Step], excess: Callable[[Sequence[Step]], float]
) -> list[Step]:
    """Give back the last step of a group for further ones of others, while that lands nearer.

    Groups whose next step is nearest to the border of the ranking are tried.
    """
    best, distance = taken, abs(excess(taken) - 1)
    near = sorted({step.group for step in steps}, key=lambda group: _border(group, steps, taken))[:EXCHANGED]
    for _ in range(EXCHANGED):
        trials: list[list[Step]] = []
        for group in near:
            last = _last_of(group, best)
            fewer = [step for step in best if step is not last]
            trials.extend(_filled(steps, fewer, group, excess))
        found = min(trials, key=lambda trial: abs(excess(trial) - 1), default=best)
        value = abs(excess(found) - 1)
        if value >= distance:
            break
        distance, best = value, found
        if distance <= TOLERANCE / 2:
            break
    return best


EXCHANGED = 8
"""Groups between which steps are exchanged."""


def _filled(
    steps: Sequence[Step], taken: list[Step], avoided: int, excess: Callable[[Sequence[Step]], float]
) -> list[list[Step]]:
    """The sets just over and just under budget when steps of other groups follow in their order."""
    current = taken
    while excess(current) > 1:
        ahead = [
            step
            for group in {step.group for step in steps} - {avoided}
            if (step := _next_of(group, steps, current)) is not None
        ]
        if not ahead:
            return [current]
        following = [*current, min(ahead, key=lambda step: (step.rank, step.group))]
        if excess(following) <= 1:
            return [current, following]
        current = following
    return [current]


def _border(group: int, steps: Sequence[Step], taken: Sequence[Step]) -> float:
    """How far the rank of a group's next step is from the last one taken."""
    following = _next_of(group, steps, taken)
    last = max((step.rank for step in taken), default=0.0)
    return abs(following.rank - last) if following is not None else float("inf")


def _next_of(group: int, steps: Sequence[Step], taken: Sequence[Step]) -> Step | None:
    done = sum(step.group == group for step in taken)
    own = [step for step in steps if step.group == group]
    return own[done] if done < len(own) else None


def _last_of(group: int, taken: Sequence[Step]) -> Step | None:
    return max((step for step in taken if step.group == group), key=lambda step: step.rank, default=None)


def _follows(step: Step, steps: Sequence[Step], taken: Sequence[Step]) -> bool:
    """Whether a step is the next one of its group after those taken."""
    before = [other for other in steps if other.group == step.group]
    place = before.index(step)
    return place == 0 or before[place - 1] in taken


def refusal_text(budget: Budget, ranking: Ranking, steps: Sequence[Step]) -> str:
    """The nearest reachable value, for a message."""
    total, cost = ranking.groups.total, ranking.cost(steps)
    wanted = ", ".join(f"{share:.3g} of the {quantity}" for quantity, share in budget.shares.items())
    reached = ", ".join(
        f"{getattr(cost, quantity) / getattr(total, quantity):.3g} of the {quantity}"
        for quantity in budget.shares
    )
    return (
        f"a budget of {wanted} cannot be met within {TOLERANCE:.0%}: the nearest that can be reached is "
        f"{reached}; allow more to be removed of each group, a smaller multiple, or ask for that"
    )
