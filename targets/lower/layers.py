"""What decides the time of a layer with weights, and the keys under which measurements of it are found.

The exact key covers every zero. The similar key has the share of blocks that hold a nonzero instead, by block
height in steps of 5 %, so that measurements of one network serve others with the same shapes.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.ir.encoding import coarser
from sparsecc.targets.kernels.groups import stored_groups
from sparsecc.targets.kernels.quads import Weights
from sparsecc.targets.lower.layer_keys import STEP

BoolArray = npt.NDArray[np.bool_]

_SLAB = 64  # rows at a time: masks of large weights are large
_SPMM_HEIGHTS = (1, 2, 4, 8)
_ROWS_HEIGHTS = (1, 4, 8, 16)


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """A layer as selectors see it.

    Attributes:
        matrix: [M, K] weights; only where they are zero matters.
        from_memory: the network's weights do not stay in the last cache from one run to the next.
    """

    matrix: npt.NDArray[Any]
    from_memory: bool = field(default=False, kw_only=True)

    @property
    @abstractmethod
    def text(self) -> str:
        """Everything but the zeros."""

    @abstractmethod
    def stored(self) -> str:
        """The share of blocks that hold a nonzero, by block, in percent rounded to steps."""

    def exact_key(self) -> str:
        """Digest of everything."""
        digest = hashlib.sha256(self.text.encode())
        for first in range(0, len(self.matrix), _SLAB):
            digest.update(np.packbits(self.matrix[first : first + _SLAB] != 0).data)
        return digest.hexdigest()[:16]

    def similar_key(self) -> str:
        """Everything but where the zeros are."""
        return f"{self.text} stored {self.stored()}"


@dataclass(frozen=True, eq=False)
class SpmmLayer(Layer):
    """A layer with many columns.

    Attributes:
        matrix: floats, or words of four channels of 8 bits.
        vectors: vectors of output positions.
        taps: kernel positions per channel, which share cache lines of X.
        group_rows: output rows that share input channels; R divides it or it is a single group's M.
        batch: repetitions.
        shiftable: blocks of one row may read shifted copies, always whole cache lines.
        words: the weights are words.
    """

    matrix: Weights
    vectors: int
    taps: int
    group_rows: int
    batch: int
    shiftable: bool = False
    words: bool = False

    @property
    def text(self) -> str:
        M, K = self.matrix.shape
        family = "dots" if self.words else "spmm"
        groups = "" if self.group_rows == M else f" in groups of {self.group_rows} rows"
        shift = ", shiftable" if self.shiftable else ""
        return f"{family} {M}x{K} on {self.batch}x{self.vectors} vectors, {self.taps} taps{groups}{shift}"

    def stored(self) -> str:
        masks = block_masks(self.matrix, set(_SPMM_HEIGHTS))
        return _shares({f"{height}x1": masks[height] for height in _SPMM_HEIGHTS})


@dataclass(frozen=True, eq=False)
class RowsLayer(Layer):
    """A layer with few columns.

    Attributes:
        columns: of its input.
        contiguous: the inputs of one column lie one behind the other.
        bits: of a weight; CSR turns 16 and 8 back into 32, and of 4 groups of 32 columns are zero or stored.
    """

    matrix: npt.NDArray[np.float32]
    columns: int
    contiguous: bool = True
    bits: int = 32

    @property
    def text(self) -> str:
        M, K = self.matrix.shape
        more = ("" if self.contiguous else ", strided") + (", from memory" if self.from_memory else "")
        return f"rows {M}x{K} on {self.columns} columns, {self.bits} bits{more}"

    def stored(self) -> str:
        if self.bits == 4:
            return _shares({"1x32": stored_groups(self.matrix != 0)})
        masks = block_masks(self.matrix, set(_ROWS_HEIGHTS))
        return _shares({f"{height}x1": masks[height] for height in _ROWS_HEIGHTS})


def block_masks(matrix: npt.NDArray[Any], heights: set[int]) -> dict[int, BoolArray]:
    """`block_mask` for each height, found from that of the largest height that divides it."""
    masks = {1: matrix != 0}
    for height in sorted(heights):
        divisor = max(done for done in masks if height % done == 0)
        masks[height] = coarser(masks[divisor], height // divisor, 1)
    return masks


def _shares(masks: dict[str, BoolArray]) -> str:
    def percent(mask: BoolArray) -> int:
        return STEP * round(100 * float(mask.mean()) / STEP) if mask.size else 0

    return " ".join(f"{block}:{percent(mask)}" for block, mask in masks.items())
