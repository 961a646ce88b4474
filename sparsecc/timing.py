"""Timing side by side: runs alternate in short blocks on fixed CPUs, and medians are compared."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

BLOCK = 10
"""Timed runs in a row."""

WARM_UP = 5
"""Runs before them: so many until a network of a millisecond is back in the caches (3 % above its limit)."""

PAUSE = 0.005
"""Seconds between blocks, for the other side's threads to stop spinning."""


@dataclass(frozen=True)
class Timing:
    """Wall-clock times of one side, in seconds.

    Attributes:
        median: of all runs.
        fastest: the least.
        spread: the 90th percentile minus the 10th.
        runs: how many were timed.
    """

    median: float
    fastest: float
    spread: float
    runs: int

    @staticmethod
    def of(times: list[float]) -> Timing:
        """Summarise at least one time."""
        ordered = sorted(times)
        tenth = len(ordered) // 10
        return Timing(
            statistics.median(ordered), ordered[0], ordered[-1 - tenth] - ordered[tenth], len(ordered)
        )


@runtime_checkable
class Side(Protocol):
    """What times its own runs: in another process, for one."""

    def block(self, warm_up: int, runs: int) -> list[float]:
        """Seconds of `runs` runs, after `warm_up` ones."""
        ...


def block(run: Callable[[], object], warm_up: int = WARM_UP, runs: int = BLOCK) -> list[float]:
    """Seconds of `runs` runs in a row, after `warm_up` ones."""
    for _ in range(warm_up):
        run()
    times: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times


def interleave(sides: Mapping[str, Callable[[], object] | Side], runs: int) -> dict[str, Timing]:
    """Time each side at least `runs` times, in alternating blocks."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(-(-runs // BLOCK)):
        for name, side in sides.items():
            time.sleep(PAUSE)
            times[name] += side.block(WARM_UP, BLOCK) if isinstance(side, Side) else block(side)
    return {name: Timing.of(found) for name, found in times.items()}


@contextmanager
def pinned(threads: int) -> Generator[tuple[int, ...]]:
    """Keep this process, and threads started inside, on the last `threads` of the CPUs it may use.

    Yields:
        The CPUs, or nothing where the system cannot pin or has fewer.
    """
    if not hasattr(os, "sched_getaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    if len(before) < threads:
        yield ()
        return
    chosen = tuple(sorted(before)[-threads:])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, before)
