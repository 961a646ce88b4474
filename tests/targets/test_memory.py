"""The memory planner on random lifetimes: nothing that lives together overlaps, and little is wasted."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.targets.lower.memory import Buffer, place
from sparsecc.targets.plan import ALIGNMENT, Ref

LIFETIMES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12), st.integers(1, 5000)), max_size=40)


def buffers_of(lifetimes: list[tuple[int, int, int]]) -> list[Buffer]:
    """A buffer per (first step, steps more, bytes)."""
    made: list[Buffer] = []
    for number, (first, more, nbytes) in enumerate(lifetimes):
        made.append(Buffer(f"b{number}", nbytes))
        made[-1].touch(first)
        made[-1].touch(first + more)
    return made


def live(buffers: list[Buffer], step: int) -> list[Buffer]:
    return [b for b in buffers if b.first is not None and b.first <= step <= b.last]


@settings(max_examples=200, deadline=None)
@given(LIFETIMES)
def test_placement(lifetimes: list[tuple[int, int, int]]) -> None:
    buffers = buffers_of(lifetimes)
    total = place(buffers)
    lower_bound = 0
    for step in range(50):
        together = sorted(live(buffers, step), key=lambda b: b.offset)
        lower_bound = max(lower_bound, sum(b.nbytes for b in together))
        for before, after in pairwise(together):
            assert before.offset + before.nbytes <= after.offset
    assert all(b.offset % ALIGNMENT == 0 and b.offset + b.nbytes <= total for b in buffers)
    assert lower_bound <= total <= sum(b.nbytes + ALIGNMENT for b in buffers)
    again = buffers_of(lifetimes)
    assert place(again) == total and [b.offset for b in again] == [b.offset for b in buffers]


def test_a_chain_needs_two_neighbours_only() -> None:
    buffers = buffers_of([(step, 1, 640) for step in range(20)])
    assert place(buffers) == 2 * 640


def test_fixed_and_untouched_buffers_take_no_memory() -> None:
    fixed = Buffer.at(Ref("input", 1, 8), 4096)
    fixed.touch(3)
    assert place([fixed, Buffer("never used", 100)]) == 0
    assert fixed.ref(16) == Ref("input", 1, 24)
