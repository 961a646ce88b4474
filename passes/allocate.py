"""Which pattern, share of zeros and bits each layer gets, so that all layers together stay within a budget.

min sum_l error[l, o(l)]  such that  sum_l cost[l, o(l)] <= budget      (SPDY, Frantar and Alistarh 2022)

Errors of single layers are taken to add up. The dynamic programme is exact but for the grid of costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import UsageError
from sparsecc.passes.sparsify import Sparsify

Table = NDArray[np.float64]

STEPS = 20_000
"""Parts of the budget to which costs are rounded."""


@dataclass(frozen=True)
class Option:
    """What a layer may become: a pattern and its share of zeros, or dense, and the bits of its weights."""

    pattern: str = "dense"
    sparsity: float = 0.0
    bits: int = 32

    def __str__(self) -> str:
        """Such as `4x1 80 %`, and `dense in 8 bits`."""
        zeros = self.pattern if self.dense else f"{self.pattern} {self.sparsity:.0%}".replace("%", " %")
        return zeros if self.bits == 32 else f"{zeros} in {self.bits} bits"

    @property
    def dense(self) -> bool:
        """Whether the layer gets no zeros; it may get fewer bits."""
        return self.pattern == "dense"

    def item(self, names: tuple[str, ...] = (), skip: tuple[str, ...] = (), min_size: int = 0) -> Sparsify:
        """The pass that gives layers this; all that it can, where no names are given."""
        return Sparsify(self.pattern, self.sparsity, skip=skip, min_size=min_size, only=names)


def allocate(errors: Table, costs: Table, budget: float) -> list[int]:
    """The option of each layer with the least sum of errors within the budget.

    Args:
        errors: [layers, options], at least 0; infinite where a layer cannot have an option.
        costs: [layers, options], at least 0.
        budget: of all layers together, in the same unit.

    Returns:
        The index of an option for each layer.

    Raises:
        UsageError: the cheapest options cost more than the budget.
    """
    cheapest = float(np.where(np.isfinite(errors), costs, np.inf).min(axis=1).sum())
    if cheapest > budget:
        raise UsageError(f"the layers cost at least {cheapest:.3g}, more than the budget of {budget:.3g}")
    # a hair's breadth above the budget, so that what just fits is not lost to rounding
    steps = np.rint(costs / budget * STEPS).astype(np.int64)
    room = STEPS + len(errors)
    best = np.zeros(room + 1)
    picked = np.zeros((len(errors), room + 1), np.int16)
    for layer, (error, step) in enumerate(zip(errors, steps, strict=True)):
        found = np.full(room + 1, np.inf)
        for option in np.flatnonzero(np.isfinite(error) & (step <= room)):
            reached = np.full(room + 1, np.inf)
            reached[step[option] :] = best[: room + 1 - step[option]] + error[option]
            better = reached < found
            found[better] = reached[better]
            picked[layer, better] = option
        best = found
    places = np.flatnonzero(np.isfinite(best))
    for place in reversed(places):
        chosen = _trace(picked, steps, int(place))
        total = float(costs[np.arange(len(chosen)), chosen].sum())
        if total <= budget * (1 + 1e-9) or place == places[0]:
            return chosen
    raise AssertionError("the cheapest options fit")


def _trace(picked: NDArray[np.int16], steps: NDArray[np.int64], place: int) -> list[int]:
    """The options that lead to a place of the last layer."""
    chosen: list[int] = []
    for layer in range(len(picked) - 1, -1, -1):
        option = int(picked[layer, place])
        chosen.append(option)
        place -= int(steps[layer, option])
    return chosen[::-1]
