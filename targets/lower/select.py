"""Which kernel form a layer with weights gets: every candidate is priced on the zeros that are there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsecc.cost import (
    SpmmShape,
    VectorMachine,
    csr_seconds,
    groups_seconds,
    lookup_seconds,
    nibbles_seconds,
    rows_seconds,
    spmm_seconds,
)
from sparsecc.ir.encoding import coarser
from sparsecc.targets.kernels.codes import CHANNELS
from sparsecc.targets.kernels.csr import MAX_COLUMN, csr_chains, csr_rounds
from sparsecc.targets.kernels.groups import ROWS, stored_groups
from sparsecc.targets.kernels.lookup import BUCKET, LANES, bucket_steps
from sparsecc.targets.kernels.quads import Weights, chains, side_loads
from sparsecc.targets.kernels.spmm import block_mask, tile_classes
from sparsecc.targets.machine import Machine

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

STREAMED = 128 * 1024
"""Bytes of weights from which fetching ahead pays."""
# (R, J) register tiles by lanes and vector registers; J is the widest tile. Dense uses them too.
_TILES: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (16, 32): ((8, 3), (6, 4), (8, 2), (4, 4), (2, 6), (1, 7), (1, 4)),
    (8, 16): ((4, 3), (6, 2), (4, 2), (2, 4), (1, 6), (1, 4)),
    (4, 32): ((4, 5), (4, 4), (8, 2), (2, 8), (1, 8)),
    (4, 16): ((4, 2), (6, 2), (2, 4), (1, 6), (1, 4)),
    (4, 8): ((4, 1), (2, 2), (1, 3)),
}


@dataclass(frozen=True)
class SpmmChoice:
    """A form for a layer and why.

    Attributes:
        rows, width: R and the widest J.
        chunk: columns of a chunk.
        dense: all columns are kept.
        words: a column is a word of four channels of 8 bits.
        seconds, dense_seconds: predictions for this form and the best dense one.
    """

    rows: int
    width: int
    chunk: int
    dense: bool
    seconds: float
    dense_seconds: float
    words: bool = False

    @property
    def label(self) -> str:
        kind = "dense" if self.dense else "sparse"
        block = f"int8 {kind} {self.rows}x4" if self.words else f"{kind} {self.rows}x1"
        return f"{block} tile {self.rows}x{self.width}"

    @property
    def reason(self) -> str:
        if not self.dense:
            return f"predicted {self.dense_seconds / self.seconds:.2f} times as fast as dense"
        return "dense is predicted fastest for these zeros"


def vector_machine(machine: Machine) -> VectorMachine:
    return VectorMachine(
        machine.lanes, machine.fma, machine.loads, l1_bytes=machine.l1_bytes, l2_bytes=machine.l2_bytes
    )


def choose_spmm(
    matrix: Weights,
    vectors: int,
    taps: int,
    machine: Machine,
    *,
    group_rows: int,
    batch: int,
    dense_only: bool,
    shiftable: bool = False,
    words: bool = False,
) -> SpmmChoice:
    """The cheapest form for [M, K] weights over `vectors` vectors of positions.

    Args:
        taps: kernel positions per channel, which share cache lines of X.
        shiftable: blocks of one row may read shifted copies, always whole cache lines.
        dense_only: consider dense forms only.
        group_rows: output rows that share input channels; R divides it or it is a single group's M.
        words: the weights are words of four channels, whose products are an instruction as well; blocks are
            as high as a word of the output is, or twice that, and there is one chunk.
    """
    model = vector_machine(machine)
    M, K = matrix.shape
    candidates: list[SpmmChoice] = []
    tiles = [
        (R, J) for R, J in _TILES[machine.lanes, machine.registers] if group_rows == M or group_rows % R == 0
    ]
    if words:
        tiles = [(R, J) for R, J in tiles if R % CHANNELS == 0]
    masks = {} if dense_only else block_masks(matrix, {R for R, _ in tiles})
    for R, J in tiles:
        widths, _ = tile_classes(vectors, J)
        width = widths[0]
        # neighbouring taps of a channel read overlapping vectors
        column_bytes = width * machine.lanes * 4 * (1.0 if taps == 1 else 0.4)
        unaligned = taps > 1 and not (shiftable and R == 1)
        rows = -(-M // R)
        for dense in (True,) if dense_only else (False, True):
            stored, read = (rows * K, 1.0) if dense else _stored_and_read(masks[R])
            for chunk in [K] if words else _chunks(K):
                columns = -(-K // -(-K // chunk))
                entries = rows * -(-K // columns)
                used = int(columns * read)
                shape = SpmmShape(
                    R, width, entries, stored, vectors, used, column_bytes, unaligned, columns < K,
                    chains(R, width), side_loads(R, machine.lanes, by_lane=machine.by_lane), batch,
                )  # fmt: skip
                candidates.append(SpmmChoice(R, J, columns, dense, spmm_seconds(shape, model), 0.0))
    dense_seconds = min((c.seconds for c in candidates if c.dense), default=0.0)
    best = min(candidates, key=lambda c: (c.seconds, not c.dense))
    if not best.dense and best.seconds > 0.97 * dense_seconds:
        best = min((c for c in candidates if c.dense), key=lambda c: c.seconds)
    return replace(best, dense_seconds=dense_seconds, words=words)


def parts_of(tiles: int, rows: int, height: int) -> int:
    """Sets of row blocks of a kernel, so that threads have something to share where column tiles are few."""
    parts = 1 if tiles >= 8 or tiles % 2 == 0 else 4 if tiles < 3 else 2
    return min(parts, max(1, rows // (4 * height)))


def _chunks(columns: int) -> list[int]:
    """Chunk lengths worth pricing."""
    return [columns, *(c for c in (512, 256, 192, 128, 96, 64) if c < columns)]


def block_masks(matrix: Weights, heights: set[int]) -> dict[int, BoolArray]:
    """`block_mask` for each height, found from that of the largest height that divides it."""
    masks = {1: matrix != 0}
    for height in sorted(heights):
        divisor = max(done for done in masks if height % done == 0)
        masks[height] = coarser(masks[divisor], height // divisor, 1)
    return masks


def _stored_and_read(mask: BoolArray) -> tuple[int, float]:
    """Blocks that hold a nonzero, and the share of columns that any of them reads, nearly always 1."""
    return int(np.count_nonzero(mask)), float(mask.any(axis=0).mean())


@dataclass(frozen=True)
class RowsChoice:
    """How a layer with few columns runs: "dense", "blocks" of `rows` x 1, "lookup", "csr", "nibbles" or
    "groups"."""

    kind: str
    rows: int
    seconds: float
    dense_seconds: float

    @property
    def reason(self) -> str:
        if self.kind == "nibbles":
            return "weights of 4 bits stream fastest as they are"
        if self.kind == "dense":
            return "dense streams the weights fastest for these zeros"
        if self.seconds == 0.0:
            return "all weights are zero"
        return f"predicted {self.dense_seconds / self.seconds:.2f} times as fast as dense"


def choose_rows(
    matrix: FloatArray,
    columns: int,
    machine: Machine,
    *,
    dense_only: bool,
    contiguous: bool = True,
    bits: int = 32,
) -> RowsChoice:
    """The cheapest form for few columns, on the nonzeros that are there.

    Args:
        contiguous: the inputs of one column lie one behind the other.
        bits: of a weight; CSR turns 8 back into 32, and of 4 groups of 32 columns are zero or stored.
    """
    model = vector_machine(machine)
    lanes = machine.lanes
    rows, reduction = matrix.shape
    if bits == 4:
        nibbles = nibbles_seconds(rows * reduction, columns, model)
        stored = int(stored_groups(matrix != 0).sum())
        groups = groups_seconds(stored, rows, columns, model)
        if contiguous and not dense_only and groups < 0.97 * nibbles:
            return RowsChoice("groups", ROWS, groups, nibbles)
        return RowsChoice("nibbles", lanes, nibbles, nibbles)
    value_bytes = bits // 8
    heights = [height for height in (lanes, lanes // 2, lanes // 4) if height >= 4]

    def seconds(stored: int, height: int, *, dense: bool) -> float:
        return rows_seconds(stored, columns, height, model, dense=dense, value_bytes=value_bytes)

    dense_by_height = {h: seconds(-(-rows // h) * reduction, h, dense=True) for h in heights}
    dense_height = min(heights, key=dense_by_height.__getitem__)  # of equals the first, whole vectors
    dense = dense_by_height[dense_height]
    if dense_only:
        return RowsChoice("dense", dense_height, dense, dense)
    candidates = [RowsChoice("dense", dense_height, dense * 0.97, dense)]
    for height in heights:
        stored = int(block_mask(matrix, height).sum())
        candidates.append(RowsChoice("blocks", height, seconds(stored, height, dense=False), dense))
    if contiguous and lanes == LANES and reduction >= BUCKET:
        steps = bucket_steps(matrix != 0)
        looked_up = lookup_seconds(int(steps.sum()), steps.size, columns, model, value_bytes)
        candidates.append(RowsChoice("lookup", lanes, looked_up, dense))
    if reduction <= MAX_COLUMN:
        chains = csr_chains(columns)
        csr = csr_seconds(csr_rounds(matrix, chains), rows, columns, chains, model)
        candidates.append(RowsChoice("csr", lanes, csr, dense))
    best = min(candidates, key=lambda choice: choice.seconds)
    return replace(best, seconds=dense) if best.kind == "dense" else best
