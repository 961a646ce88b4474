"""Lifetime-based placement of buffers in one arena: largest first, each at the lowest offset that is free.

Greedy by size as in Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference" (2020).
"""

from __future__ import annotations

from collections.abc import Iterable

from sparsecc.targets.layout import round_up
from sparsecc.targets.plan import ALIGNMENT, Ref


class Buffer:
    """A piece of memory that lives from its first to its last step, or a fixed place outside the arena."""

    def __init__(self, name: str, nbytes: int) -> None:
        self.name = name
        self.nbytes = nbytes
        self.first: int | None = None
        self.last = -1
        self.fixed: Ref | None = None
        self.offset = 0

    @staticmethod
    def at(ref: Ref, nbytes: int) -> Buffer:
        buffer = Buffer("", nbytes)
        buffer.fixed = ref
        return buffer

    def touch(self, step: int) -> None:
        """The step reads or writes this buffer."""
        self.first = step if self.first is None else self.first
        self.last = max(self.last, step)

    def ref(self, offset: int) -> Ref:
        if self.fixed is not None:
            return Ref(self.fixed.space, self.fixed.index, self.fixed.offset + offset)
        return Ref("arena", 0, self.offset + offset)


def place(buffers: Iterable[Buffer], alignment: int = ALIGNMENT) -> int:
    """Set the offset of every arena buffer; returns the arena's size in bytes."""
    placed: list[Buffer] = []
    total = 0
    live = [b for b in buffers if b.fixed is None and b.first is not None]
    for buffer in sorted(live, key=lambda b: (-b.nbytes, b.first or 0)):
        assert buffer.first is not None
        overlapping = sorted(
            (b for b in placed if b.first is not None and b.first <= buffer.last and buffer.first <= b.last),
            key=lambda b: b.offset,
        )
        offset = 0
        for other in overlapping:
            if other.offset - offset >= buffer.nbytes:
                break
            offset = max(offset, round_up(other.offset + other.nbytes, alignment))
        buffer.offset = offset
        placed.append(buffer)
        total = max(total, offset + round_up(buffer.nbytes, alignment))
    return total
