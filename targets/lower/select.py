"""Which kernel form a layer with weights gets: candidates are enumerated, priced on the zeros that are there
by the cost model, and chosen between; a selector, such as a database of measurements, is asked first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from sparsecc.cost import (
    SpmmShape,
    VectorMachine,
    bitmap_seconds,
    constants_for,
    csr_seconds,
    groups_seconds,
    lookup_seconds,
    nibbles_seconds,
    rows_seconds,
    spmm_seconds,
)
from sparsecc.ir.quantized import BITS
from sparsecc.targets.kernels.bitmap import BITMAP_COLUMNS, can_bitmap
from sparsecc.targets.kernels.codes import CHANNELS
from sparsecc.targets.kernels.csr import MAX_COLUMN, csr_chains, csr_rounds
from sparsecc.targets.kernels.groups import ROWS, stored_groups
from sparsecc.targets.kernels.lookup import BUCKET, LANES, bucket_steps
from sparsecc.targets.kernels.quads import chains, worth_packing
from sparsecc.targets.kernels.spmm import block_mask, tile_classes
from sparsecc.targets.lower.layers import BoolArray, Layer, RowsLayer, SpmmLayer, block_masks
from sparsecc.targets.machine import Machine

STREAMED = 128 * 1024
"""Bytes of weights from which fetching ahead pays."""
# (R, J) register tiles by lanes and vector registers; J is the widest tile. Dense uses them too.
_TILES: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {
    (16, 32): ((8, 3), (6, 4), (8, 2), (4, 4), (2, 6), (1, 7), (1, 5), (1, 4)),
    (8, 16): ((4, 3), (6, 2), (4, 2), (2, 4), (1, 6), (1, 4)),
    (4, 32): ((4, 5), (4, 4), (8, 2), (2, 8), (1, 12), (1, 8)),
    (4, 16): ((4, 2), (6, 2), (2, 4), (1, 6), (1, 4)),
    (4, 8): ((4, 1), (2, 2), (1, 3)),
}


Cost = Callable[[VectorMachine], float]
"""Predicted seconds on a machine."""


@dataclass(frozen=True)
class SpmmChoice:
    """A form for a layer and why.

    Attributes:
        rows, width: R and the widest J.
        chunk: columns of a chunk.
        dense: all columns are kept.
        words: a column is a word of four channels of 8 bits.
        cost: prices this form.
        seconds, dense_seconds: predictions for this form and the best dense one.
        note: why a selector wants this form; empty where the cost model chose.
    """

    rows: int
    width: int
    chunk: int
    dense: bool
    words: bool
    cost: Cost = field(compare=False, repr=False)
    seconds: float = 0.0
    dense_seconds: float = 0.0
    note: str = ""

    @property
    def form(self) -> str:
        """Its name among the layer's candidates, the kernel family first."""
        family, kind = "dots" if self.words else "spmm", "dense " if self.dense else ""
        return f"{family} {kind}{self.rows}x{self.width}/{self.chunk}"

    @property
    def label(self) -> str:
        kind = "dense" if self.dense else "sparse"
        block = f"int8 {kind} {self.rows}x4" if self.words else f"{kind} {self.rows}x1"
        return f"{block} tile {self.rows}x{self.width}"

    @property
    def reason(self) -> str:
        if self.note:
            return self.note
        if not self.dense:
            return f"predicted {self.dense_seconds / self.seconds:.2f} times as fast as dense"
        return "dense is predicted fastest for these zeros"


@dataclass(frozen=True)
class RowsChoice:
    """How a layer with few columns runs: "dense", "blocks" of `rows` x 1, "lookup", "bitmap", "csr",
    "nibbles" or "groups"; the rest as `SpmmChoice` has it."""

    kind: str
    rows: int
    cost: Cost = field(compare=False, repr=False)
    seconds: float = 0.0
    dense_seconds: float = 0.0
    note: str = ""

    @property
    def dense(self) -> bool:
        """Whether it computes with all weights."""
        return self.kind in ("dense", "nibbles")

    @property
    def form(self) -> str:
        """Its name among the layer's candidates, the kernel family first."""
        if self.kind in ("dense", "blocks"):
            return f"rows {'dense ' if self.dense else ''}{self.rows}x1"
        return self.kind

    @property
    def reason(self) -> str:
        if self.note:
            return self.note
        if self.kind == "nibbles":
            return "weights of 4 bits stream fastest as they are"
        if self.kind == "dense":
            return "dense streams the weights fastest for these zeros"
        return f"predicted {self.dense_seconds / self.seconds:.2f} times as fast as dense"


Choice = TypeVar("Choice", SpmmChoice, RowsChoice)
Select = Callable[[Layer, Mapping[str, float], str], tuple[str, str] | None]
"""`Selector.select` for one node."""


def vector_machine(machine: Machine, *, from_memory: bool = False) -> VectorMachine:
    return VectorMachine(
        machine.lanes,
        machine.fma,
        machine.loads,
        l1_bytes=machine.l1_bytes,
        l2_bytes=machine.l2_bytes,
        from_memory=from_memory,
        constants=constants_for(machine.family),
    )


def choose_spmm(
    layer: SpmmLayer, machine: Machine, *, dense_only: bool, select: Select | None = None
) -> SpmmChoice:
    """The form for a layer with many columns; `dense_only` considers dense forms only."""
    return choose(layer, spmm_candidates(layer, machine, dense_only=dense_only), machine, select)


def choose_rows(
    layer: RowsLayer, machine: Machine, *, dense_only: bool, select: Select | None = None
) -> RowsChoice:
    """The form for a layer with few columns; `dense_only` considers dense forms only."""
    return choose(layer, rows_candidates(layer, machine, dense_only=dense_only), machine, select)


def choose(
    layer: Layer, candidates: Sequence[Choice], machine: Machine, select: Select | None = None
) -> Choice:
    """What `select` wants, else the cheapest; dense where nothing is cheaper by 3 %."""
    found = priced(candidates, vector_machine(machine, from_memory=layer.from_memory))
    best = cheapest(found)
    if select is None or len(found) == 1:
        return best
    wanted = select(layer, {choice.form: choice.seconds for choice in found}, best.form)
    if wanted is None:
        return best
    form, why = wanted
    return replace(next(choice for choice in found if choice.form == form), note=why)


def priced(candidates: Sequence[Choice], model: VectorMachine) -> list[Choice]:
    """The candidates with their predictions."""
    seconds = [choice.cost(model) for choice in candidates]
    dense = min((s for s, choice in zip(seconds, candidates, strict=True) if choice.dense), default=0.0)
    return [
        replace(choice, seconds=s, dense_seconds=dense) for s, choice in zip(seconds, candidates, strict=True)
    ]


def cheapest(candidates: Sequence[Choice]) -> Choice:
    """Of priced candidates, dense where nothing is cheaper by 3 %; of equals the first."""
    best = min(candidates, key=lambda choice: choice.seconds)
    if best.dense or best.seconds < 0.97 * best.dense_seconds:
        return best
    return min((choice for choice in candidates if choice.dense), key=lambda choice: choice.seconds)


def spmm_candidates(layer: SpmmLayer, machine: Machine, *, dense_only: bool) -> list[SpmmChoice]:
    """All forms for a layer with many columns, not priced; of those that run alike the first.

    Without zeros there are dense ones only.

    With words the products are an instruction as well: blocks are as high as a word of the output is, or
    twice that, and there is one chunk.
    """
    M, K = layer.matrix.shape
    dense_only = dense_only or bool(layer.matrix.all())
    tiles = _TILES[machine.lanes, machine.registers]
    tiles = [(R, J) for R, J in tiles if layer.group_rows == M or layer.group_rows % R == 0]
    if layer.words:
        tiles = [(R, J) for R, J in tiles if R % CHANNELS == 0]
    masks = {} if dense_only else block_masks(layer.matrix, {R for R, _ in tiles})
    found: dict[tuple[object, ...], SpmmChoice] = {}
    for R, J in tiles:
        widths, tiles_of = tile_classes(layer.vectors, J)
        # neighbouring taps of a channel read overlapping vectors
        shared = 1.0 if layer.taps == 1 else 0.4
        rows, vector = -(-M // R), machine.lanes * 4
        for dense in (True,) if dense_only else (False, True):
            stored, read = (rows * K, 1.0) if dense else _stored_and_read(masks[R])
            packed = not (dense or layer.words) and worth_packing(R, max(widths))
            for chunk in [K] if layer.words else _chunks(K):
                columns = -(-K // -(-K // chunk))
                shape = SpmmShape(
                    rows=R,
                    width=layer.vectors / sum(tiles_of),
                    tiles=sum(tiles_of),
                    entries=rows * -(-K // columns),
                    blocks=stored,
                    outputs=M * layer.vectors,
                    inputs=K * read * layer.vectors / (1.0 if layer.taps == 1 else 0.6 * layer.taps),
                    input_bytes=K / layer.taps * layer.vectors * vector,
                    weight_bytes=stored * (R * 4 + (2 if packed else 4)),
                    chunk_bytes=columns * read * widths[0] * vector * shared,
                    unaligned=layer.taps > 1 and not (layer.shiftable and R == 1),
                    chunked=columns < K,
                    chains=chains(R, widths[0]) if packed else 1,
                    words=layer.words,
                    batch=layer.batch,
                )
                choice = SpmmChoice(R, J, columns, dense, layer.words, partial(spmm_seconds, shape))
                found.setdefault((R, widths, columns, dense), choice)
    return list(found.values())


def rows_candidates(layer: RowsLayer, machine: Machine, *, dense_only: bool) -> list[RowsChoice]:
    """All forms for a layer with few columns, not priced; without zeros dense ones only."""
    matrix, columns, lanes = layer.matrix, layer.columns, machine.lanes
    rows, reduction = matrix.shape
    if layer.bits == 4:
        nibbles = RowsChoice("nibbles", lanes, partial(nibbles_seconds, rows * reduction, columns))
        if dense_only or not layer.contiguous:
            return [nibbles]
        stored = int(stored_groups(matrix != 0).sum())
        return [nibbles, RowsChoice("groups", ROWS, partial(groups_seconds, stored, rows, columns))]
    value_bytes = layer.bits // 8
    heights = [height for height in (lanes, lanes // 2, lanes // 4) if height >= 4]

    def blocks(kind: str, stored: int, height: int) -> RowsChoice:
        cost = partial(rows_seconds, stored, columns, height, dense=kind == "dense", value_bytes=value_bytes)
        return RowsChoice(kind, height, cost)

    # of equals the first, whole vectors
    candidates = [blocks("dense", -(-rows // height) * reduction, height) for height in heights]
    if dense_only or matrix.all():
        return candidates
    # one mask at a time: each has a quarter of the weights' bytes
    candidates += [
        blocks("blocks", int(np.count_nonzero(block_mask(matrix, height))), height) for height in heights
    ]
    if layer.contiguous and lanes == LANES and reduction >= BUCKET and layer.bits != 16:
        steps = bucket_steps(matrix != 0)
        cost = partial(lookup_seconds, int(steps.sum()), steps.size, columns, value_bytes=value_bytes)
        candidates.append(RowsChoice("lookup", lanes, cost))
    stored = next(name for name, bits in BITS.items() if bits == layer.bits)
    needed = {32: True, 16: machine.expand, 8: machine.expand and machine.dot}[layer.bits]
    fits = lanes == LANES and columns <= BITMAP_COLUMNS and can_bitmap(reduction, stored)
    if needed and fits and (layer.contiguous or layer.bits == 8):
        nonzeros = int(np.count_nonzero(matrix))
        cost = partial(bitmap_seconds, matrix.size, nonzeros, columns, value_bytes=value_bytes)
        candidates.append(RowsChoice("bitmap", lanes, cost))
    if reduction <= MAX_COLUMN:
        count = csr_chains(columns)
        cost = partial(csr_seconds, csr_rounds(matrix, count), rows, columns, count)
        candidates.append(RowsChoice("csr", lanes, cost))
    return candidates


def parts_of(tiles: int, rows: int, height: int) -> int:
    """Sets of row blocks of a kernel, so that threads have something to share where column tiles are few."""
    parts = 1 if tiles >= 8 or tiles % 2 == 0 else 4 if tiles < 3 else 2
    return min(parts, max(1, rows // (4 * height)))


def _chunks(columns: int) -> list[int]:
    """Chunk lengths worth pricing."""
    return [columns, *(c for c in (512, 256, 192, 128, 96, 64) if c < columns)]


def _stored_and_read(mask: BoolArray) -> tuple[int, float]:
    """Blocks that hold a nonzero, and the share of columns that any of them reads, nearly always 1."""
    return int(np.count_nonzero(mask)), float(mask.any(axis=0).mean())
