"""`allocate` against all choices, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparsecc.errors import UsageError
from sparsecc.passes.allocate import Option, allocate


def every_choice(errors: np.ndarray, costs: np.ndarray, budget: float) -> float:
    """The least error of all choices within the budget."""
    rows = range(len(errors))
    return min(
        sum(errors[row, option] for row, option in zip(rows, choice, strict=True))
        for choice in itertools.product(range(errors.shape[1]), repeat=len(errors))
        if sum(costs[row, option] for row, option in zip(rows, choice, strict=True)) <= budget
    )


@pytest.mark.parametrize("seed", range(20))
def test_finds_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, costs = rng.random((5, 4)), rng.random((5, 4)) * 10.0 ** rng.integers(-6, 2)
    errors[rng.random((5, 4)) < 0.1] = np.inf
    errors[:, 0] = rng.random(5)
    allowed = np.where(np.isfinite(errors), costs, np.inf)
    low, high = allowed.min(axis=1).sum(), costs[:, 0].sum()
    budget = low + rng.random() * abs(high - low) + 1e-9
    chosen = allocate(errors, costs, budget)
    rows = np.arange(5)
    assert costs[rows, chosen].sum() <= budget * (1 + 1e-9)
    assert errors[rows, chosen].sum() == pytest.approx(every_choice(errors, costs, budget), rel=1e-3)


def test_keeps_everything_where_there_is_room() -> None:
    errors, costs = np.array([[0.0, 0.5], [0.0, 0.1]]), np.array([[3.0, 1.0], [2.0, 1.0]])
    assert allocate(errors, costs, 5.0) == [0, 0]
    assert allocate(errors, costs, 4.0) == [0, 1]
    assert allocate(errors, costs, 3.0) == [1, 0]
    assert allocate(errors, costs, 2.0) == [1, 1]


def test_refuses_less_than_the_cheapest_cost() -> None:
    errors, costs = np.array([[0.0, 0.5, np.inf]]), np.array([[3.0, 1.0, 0.1]])
    with pytest.raises(UsageError, match="at least 1,"):
        allocate(errors, costs, 0.99)


def test_options_say_what_they_are() -> None:
    assert [str(option) for option in (Option(), Option("4x1", 0.8), Option("2:4", 0.5))] == [
        "dense", "4x1 80 %", "2:4 50 %",
    ]  # fmt: skip
    assert str(Option("4x4", 0.8, 8)) == "4x4 80 % in 8 bits"
    assert str(Option(bits=8)) == "dense in 8 bits"
    assert Option("4x1", 0.8).item(("a",)).only == ("a",)
