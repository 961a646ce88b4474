"""Where the elements of a value lie: one stride per dimension, so that most shape ops move nothing.

element(i0, i1, ...) = origin + sum_d i_d * strides[d]. Three makers cover all kernels:
`rows` (row-major, the graph's edges), `features` (the last dimension outermost, the others contiguous: a
[K, columns] matrix for linear layers) and `planes` (NCHW with a row pitch, a channel pitch and zeros around).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

ROW_SLACK = 7  # rows behind the last that a kernel's last block of up to 8 rows may write


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def odd_lines(elements: int, lanes: int = 16) -> int:
    """`elements` rounded up to an odd number of 64-byte lines, against cache-set conflicts."""
    lines = -(-elements // 16)
    return 16 * (lines + (lines % 2 == 0))


@dataclass(frozen=True)
class Layout:
    """An affine layout.

    Attributes:
        strides: elements between neighbours, per logical dimension (0 repeats one element).
        origin: element index of (0, 0, ...) in the buffer.
        size: elements of the buffer, padding included.
    """

    strides: tuple[int, ...]
    origin: int
    size: int

    @staticmethod
    def rows(shape: Sequence[int]) -> Layout:
        strides = [prod(shape[d + 1 :]) for d in range(len(shape))]
        return Layout(tuple(strides), 0, max(1, prod(shape)))

    @staticmethod
    def features(shape: Sequence[int], lanes: int) -> Layout:
        """[..., K] as K rows of the flattened leading dimensions, each row padded to whole vectors."""
        columns = prod(shape[:-1])
        pitch = odd_lines(round_up(columns, lanes)) if columns > 1 else 1
        strides = [prod(shape[d + 1 : -1]) for d in range(len(shape) - 1)]
        return Layout((*strides, pitch), 0, pitch * (shape[-1] + ROW_SLACK) + 16)

    def transpose(self, perm: Sequence[int]) -> Layout:
        return replace(self, strides=tuple(self.strides[p] for p in perm))

    def reshape(self, shape: Sequence[int], new_shape: Sequence[int]) -> Layout | None:
        """The same elements under `new_shape`, or None where no strides can say so."""
        groups = _matching_groups(shape, new_shape)
        strides: list[int] = []
        for old, new in groups:
            run = [(shape[d], self.strides[d]) for d in old if shape[d] != 1]
            for (_, outer), (size, inner) in pairwise(run):
                if outer != size * inner:
                    return None
            step = run[-1][1] if run else 1
            inner_strides: list[int] = []
            for d in reversed(new):
                inner_strides.append(step)
                step *= new_shape[d]
            strides += reversed(inner_strides)
        return replace(self, strides=tuple(strides))

    def narrow(self, axis: int, start: int, step: int = 1) -> Layout:
        """The layout of a slice that begins at `start` of `axis`."""
        strides = list(self.strides)
        origin = self.origin + start * strides[axis]
        strides[axis] *= step
        return Layout(tuple(strides), origin, self.size)

    def same_elements(self, other: Layout, shape: Sequence[int]) -> bool:
        """Whether both put every element of `shape` at the same index."""
        return self.origin == other.origin and all(
            a == b for a, b, n in zip(self.strides, other.strides, shape, strict=True) if n != 1
        )


@dataclass(frozen=True)
class PlaneSpec:
    """How the planes [N, C, H, W] of one region are stored.

    Attributes:
        row_pitch: elements between rows: W and the zero columns shared by neighbouring rows.
        top, bottom: zero rows above and below each plane.
        zero: whether the zero columns and rows must hold zeros (a convolution reads them).
    """

    row_pitch: int
    top: int
    bottom: int
    left: int
    zero: bool

    def positions(self, height: int) -> int:
        """Flattened positions of a plane, zero columns included."""
        return height * self.row_pitch

    def layout(self, shape: Sequence[int], lanes: int) -> Layout:
        n, c, h, _ = shape
        lead = round_up(self.top * self.row_pitch + self.left, lanes) if self.top or self.left else 0
        behind = self.bottom * self.row_pitch + self.left
        body = round_up(max(self.positions(h), (h - 1) * self.row_pitch + lanes), lanes)
        pitch = odd_lines(lead + max(body, self.positions(h) + behind))
        channels = c + ROW_SLACK
        return Layout((channels * pitch, pitch, self.row_pitch, 1), lead, n * channels * pitch + 16)


def _matching_groups(shape: Sequence[int], new_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Shortest runs of old and new dimensions with equal products, in order."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(new_shape):
        old, new = [], []
        a = b = 1
        if i < len(shape):
            old, a, i = [i], shape[i], i + 1
        if j < len(new_shape):
            new, b, j = [j], new_shape[j], j + 1
        while a != b:
            if a < b:
                old.append(i)
                a *= shape[i]
                i += 1
            else:
                new.append(j)
                b *= new_shape[j]
                j += 1
        groups.append((old, new))
    return groups
