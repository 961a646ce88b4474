"""`Encoding`: how the zeros of a weight are arranged, found from the zeros or set by a pass.

A weight is seen as a matrix: rows are its output axis, columns all other axes. Input channels are innermost:
neighbouring columns of a convolution are channels at one position of the kernel.
    block RxC    R rows by C columns are zero or stored together
    n:m          at most n of m consecutive columns of a row are not zero
    fan-in       every row has the same number of values
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import UsageError

ENCODING_KEY = "sparsecc.encoding"
PATTERNS = ("dense", "unstructured", "n:m", "block", "fan-in")
BLOCK_SIDES = (1, 2, 4, 8, 16)
GROUP_SIZES = (4, 8, 16)
MIN_ZEROS = 0.05
MIN_FILL = 0.95
MIN_EXPLAINED = 0.75
MIN_GROUP_USE = 0.9
_COPIED = 16  # columns of a transposing copy: elements of 4 bytes fill a line

Mask = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Encoding:
    """How one initializer is stored.

    Attributes:
        pattern: one of `PATTERNS`.
        n: values kept of every m, for pattern n:m.
        m: group size, for pattern n:m.
        rows: block height, along the output axis, for pattern block.
        columns: block width, along all other axes, for pattern block.
        value_type: element type of the stored values.
    """

    pattern: str = "dense"
    n: int = 0
    m: int = 0
    rows: int = 0
    columns: int = 0
    value_type: str = "float32"

    def __post_init__(self) -> None:
        if self.pattern not in PATTERNS:
            raise UsageError(f"pattern {self.pattern!r} is not one of {', '.join(PATTERNS)}")
        if self.pattern == "n:m" and not 0 < self.n < self.m:
            raise UsageError(f"pattern {self.n}:{self.m} needs 0 < n < m")
        if self.pattern == "block" and (min(self.rows, self.columns) < 1 or self.rows * self.columns < 2):
            raise UsageError(f"block {self.rows}x{self.columns} needs at least two elements")
        if not re.fullmatch(r"[a-z]+\d*", self.value_type):
            raise UsageError(f"value type {self.value_type!r} is not a word such as float32 or int8")

    def __str__(self) -> str:
        """Text such as `4x1`, `2:4` or, for other than float32, `2:4/int8`; `parse` reads it back."""
        text = self.pattern
        if self.pattern == "n:m":
            text = f"{self.n}:{self.m}"
        elif self.pattern == "block":
            text = f"{self.rows}x{self.columns}"
        return text if self.value_type == "float32" else f"{text}/{self.value_type}"

    @staticmethod
    def parse(text: str) -> Encoding:
        """Read `dense`, `unstructured`, `fan-in`, `N:M` or `RxC`, optionally with `/value_type`.

        Raises:
            UsageError: the text is none of these.
        """
        pattern, _, value_type = text.partition("/")
        value_type = value_type or "float32"
        if pattern in ("dense", "unstructured", "fan-in"):
            return Encoding(pattern, value_type=value_type)
        if match := re.fullmatch(r"(\d{1,4}):(\d{1,4})", pattern):
            return Encoding("n:m", n=int(match[1]), m=int(match[2]), value_type=value_type)
        if match := re.fullmatch(r"(\d{1,4})x(\d{1,4})", pattern):
            return Encoding("block", rows=int(match[1]), columns=int(match[2]), value_type=value_type)
        raise UsageError(
            f"{text!r} is not a pattern; write dense, unstructured, fan-in, N:M (as 2:4) or RxC (as 4x1)"
        )


DENSE = Encoding("dense")
UNSTRUCTURED = Encoding("unstructured")


def as_matrix(array: NDArray[T], axis: int = 0) -> NDArray[T]:
    """`array` as [rows = axis, columns = all other axes in order, but the first of them innermost]."""
    if array.ndim == 0:
        return array.reshape(1, 1)
    columns = math.prod(array.shape[:axis] + array.shape[axis + 1 :])
    moved = np.moveaxis(array, axis, 0)
    return (np.moveaxis(moved, 1, -1) if array.ndim > 2 else moved).reshape(array.shape[axis], columns)


def from_matrix(matrix: NDArray[T], shape: tuple[int, ...], axis: int = 0) -> NDArray[T]:
    """Inverse of `as_matrix`: an array of `shape`."""
    if not shape:
        return matrix.reshape(shape)
    rest = shape[:axis] + shape[axis + 1 :]
    moved = matrix.reshape(shape[axis], *rest[1:], *rest[:1])
    return row_major(np.moveaxis(np.moveaxis(moved, -1, min(1, moved.ndim - 1)), 0, axis))


def row_major(array: NDArray[T]) -> NDArray[T]:
    """The array in row-major memory, copied only where it is not; a transposed matrix by lines of memory."""
    if array.ndim != 2 or array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    made = np.empty(array.shape, array.dtype)
    for start in range(0, array.shape[1], _COPIED):
        made[:, start : start + _COPIED] = array[:, start : start + _COPIED]
    return made


def coarser(mask: Mask, rows: int, columns: int) -> Mask:
    """Which RxC blocks hold anything of `mask`; the last row and column of blocks may be smaller."""
    found = mask
    for axis, side in enumerate((rows, columns)):
        if side > 1 and found.size:
            found = _any_of(found, side) if axis == 0 else _any_of(found.T, side).T
    return found


def _any_of(mask: Mask, side: int) -> Mask:
    """Of each `side` rows, whether any holds something."""
    found = mask[::side].copy()
    for row in range(1, side):
        others = mask[row::side]
        found[: len(others)] |= others
    return found


def encoding_of(array: np.ndarray, axis: int = 0, value_type: str = "float32") -> Encoding:
    """Find the most structured pattern that the zeros of `array` follow.

    In order: under 5 % zeros is dense; the largest block with at least 95 % of its stored elements not zero;
    N:M with exact groups; equal counts per row; else unstructured.

    Args:
        array: a weight of any rank.
        axis: its output axis.
        value_type: recorded in the result.
    """
    mask: Mask = as_matrix(np.asarray(array), axis) != 0
    found = _pattern_of(mask)
    return Encoding(found.pattern, found.n, found.m, found.rows, found.columns, value_type)


def fits(array: np.ndarray, encoding: Encoding, axis: int = 0) -> bool:
    """Whether the zeros of `array` agree with `encoding`, so that storing it so is exact and worthwhile."""
    mask: Mask = as_matrix(np.asarray(array), axis) != 0
    if encoding.pattern == "dense":
        return _zeros(mask) < MIN_ZEROS
    if encoding.pattern == "unstructured":
        return not mask.all()
    if encoding.pattern == "block":
        rows, columns = encoding.rows, encoding.columns
        return not mask.size or _fill(mask, coarser(mask, rows, columns), rows, columns)[0] >= MIN_FILL
    if encoding.pattern == "n:m":
        most = _group_maximum(mask, encoding.m)
        return most is not None and most <= encoding.n
    counts = np.count_nonzero(mask, axis=1)
    return bool((counts == counts[:1]).all())


def set_encoding(value: ir.Value, encoding: Encoding) -> None:
    """Tag an initializer with an encoding; it survives saving and loading."""
    value.metadata_props[ENCODING_KEY] = str(encoding)


def tagged_encoding(value: ir.Value) -> Encoding | None:
    """The encoding that a pass set, whether or not the zeros agree."""
    text = value.metadata_props.get(ENCODING_KEY)
    return None if text is None else Encoding.parse(text)


def get_encoding(value: ir.Value, axis: int = 0) -> Encoding:
    """Encoding of an initializer: its tag where the zeros agree with it, else found from the zeros.

    Raises:
        UsageError: the value holds no constant.
    """
    if value.const_value is None:
        raise UsageError(f"{value.name} is no initializer, so it has no encoding")
    array = value.const_value.numpy()
    tag = tagged_encoding(value)
    if tag is not None and fits(array, tag, axis):
        return tag
    return encoding_of(array, axis, value.const_value.dtype.numpy().name)


def _pattern_of(mask: Mask) -> Encoding:
    if _zeros(mask) < MIN_ZEROS:
        return DENSE
    if not mask.any():
        return UNSTRUCTURED
    block = _largest_block(mask)
    if block is not None:
        return block
    group = _group_pattern(mask)
    if group is not None:
        return group
    counts = np.count_nonzero(mask, axis=1)
    if len(counts) > 1 and (counts == counts[0]).all():
        return Encoding("fan-in")
    return UNSTRUCTURED


def _zeros(mask: Mask) -> float:
    return 1.0 - np.count_nonzero(mask) / mask.size if mask.size else 0.0


def _fill(mask: Mask, occupied: Mask, rows: int, columns: int) -> tuple[float, float]:
    """Share of stored elements that are not zero, and share of all zeros that lie in empty blocks.

    Args:
        occupied: which RxC blocks of `mask` hold anything.
    """
    heights = _sides(mask.shape[0], rows)
    widths = _sides(mask.shape[1], columns)
    stored = int(heights @ np.count_nonzero(occupied[:, :-1], axis=1)) * columns
    stored += int(heights @ occupied[:, -1]) * int(widths[-1])
    values = np.count_nonzero(mask)
    zeros = mask.size - values
    fill = values / stored if stored else 1.0
    return fill, (mask.size - stored) / zeros if zeros else 1.0


def _sides(length: int, side: int) -> NDArray[np.int64]:
    """Lengths of the blocks that an axis is cut into."""
    return np.diff(np.append(np.arange(0, length, side), length))


def _largest_block(mask: Mask) -> Encoding | None:
    """Grow from single elements: a block is a candidate only if a half of it was one (fill only falls)."""
    sides = [(r, c) for r in BLOCK_SIDES for c in BLOCK_SIDES if r <= mask.shape[0] and c <= mask.shape[1]]
    good = {(1, 1): mask}
    for rows, columns in sorted(sides, key=lambda side: side[0] * side[1]):
        if (rows // 2, columns) in good:
            occupied = coarser(good[rows // 2, columns], 2, 1)
        elif (rows, columns // 2) in good:
            occupied = coarser(good[rows, columns // 2], 1, 2)
        else:
            continue
        fill, explained = _fill(mask, occupied, rows, columns)
        if fill >= MIN_FILL and explained >= MIN_EXPLAINED:
            good[rows, columns] = occupied
    rows, columns = max(good, key=lambda side: (side[0] * side[1], side[0]))
    return None if rows * columns == 1 else Encoding("block", rows=rows, columns=columns)


def _group_maximum(mask: Mask, m: int) -> int | None:
    """Largest count in any group of m columns; None where the columns do not divide into groups."""
    if mask.size == 0 or mask.shape[1] % m:
        return None
    counts = mask[:, ::m].astype(np.uint16)
    for column in range(1, m):
        counts += mask[:, column::m]
    return int(counts.max())


def _group_pattern(mask: Mask) -> Encoding | None:
    """The smallest group whose exact N:M is nearly used up, so that storing N per group wastes little."""
    density = np.count_nonzero(mask) / mask.size
    for m in GROUP_SIZES:
        n = _group_maximum(mask, m)
        if n is not None and n < m and density >= MIN_GROUP_USE * n / m:
            return Encoding("n:m", n=n, m=m)
    return None
