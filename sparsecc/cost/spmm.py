"""A cycle model of the kernels with lanes along positions, `spmm` and `dots`: one formula, constants of each.

    tiles (blocks block + entries entry + tile) + weights + inputs + outputs + call

where a block takes its products and loads of X, or the latency of an addition; loads slow down gradually as a
chunk's columns outgrow L1, and everything that is read or written once per run slows down beyond L2.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from sparsecc.cost.constants import SpmmConstants
from sparsecc.cost.model import FITTED, VectorMachine

_L2_CENTER, _L2_WIDTH = 0.7, 0.2  # of L2: the rest holds what the layers before left


@dataclass(frozen=True)
class SpmmShape:
    """One layer in one form of the kernel.

    Attributes:
        rows: R of the register tile.
        width: J, the mean over all tiles.
        tiles: of columns, in one repetition.
        entries: row blocks, summed over chunks.
        blocks: stored blocks of R x 1.
        outputs: vectors of Y in one repetition.
        inputs: vectors of X that are read in one repetition, counting each once.
        input_bytes: X, in one repetition.
        weight_bytes: values and offsets.
        chunk_bytes: of X, what the columns of a chunk add to a tile's footprint.
        unaligned: whether most vectors of X straddle two cache lines.
        chunked: whether partial sums wait in memory between chunks.
        chains: sums that are kept apart for each accumulator.
        words: the weights are words of four 8-bit channels.
        batch: repetitions.
    """

    rows: int
    width: float
    tiles: int
    entries: int
    blocks: int
    outputs: int
    inputs: float
    input_bytes: float
    weight_bytes: int
    chunk_bytes: float
    unaligned: bool
    chunked: bool
    chains: int
    words: bool = False
    batch: int = 1


def spmm_seconds(shape: SpmmShape, machine: VectorMachine) -> float:
    """Predicted time of one call."""
    c = machine.constants.dots if shape.words else machine.constants.spmm
    sums = shape.rows * shape.width
    block = _block(shape, c, sums, machine)
    entry = c.entry + (c.entry_sum + (c.chunk_sum if shape.chunked else 0.0)) * sums
    tiles = shape.tiles * (shape.blocks * block + shape.entries * entry + c.tile)
    inputs = shape.inputs * c.far_input * _beyond(shape.input_bytes, machine.l2_bytes)
    output_bytes = shape.outputs * machine.lanes * 4
    outputs = shape.outputs * (c.output + c.far_output * _beyond(output_bytes, machine.l2_bytes))
    cycles = shape.batch * (tiles + inputs + outputs) + shape.weight_bytes * c.weight_byte + c.call
    return cycles / machine.clock


def _block(shape: SpmmShape, c: SpmmConstants, sums: float, machine: VectorMachine) -> float:
    """Cycles of one block of R x 1 for one tile."""
    load = c.load + c.miss * _step(shape.chunk_bytes / machine.l1_bytes, c.miss_center, c.miss_width)
    load *= FITTED / machine.loads
    if shape.unaligned:
        load *= c.unaligned
    work = c.block + c.product * FITTED / machine.fma * sums + load * shape.width
    return float((work**4 + (c.latency / shape.chains) ** 4) ** 0.25)  # nearly the larger


def _beyond(size: float, cache: int) -> float:
    return _step(size / cache, _L2_CENTER, _L2_WIDTH)


def _step(x: float, center: float, width: float) -> float:
    """From 0 to 1 around `center`."""
    return 1.0 / (1.0 + exp(min(60.0, (center - x) / width)))
