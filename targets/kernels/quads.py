"""Packed columns of the spmm kernel: four 16-bit offsets in a word, four columns' weights in a vector.

A core loads two operands per cycle however short they are. Where every multiply-add reads its input from
memory, a load saved is a multiply-add won: one word brings four offsets, and with AVX-512 one vector brings
the weights of four columns, spread by permutations, which use other ports.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.tir import (
    PERMUTED_LANES,
    KernelBuilder,
    Pointer,
    Register,
    broadcasts,
    const,
    permute,
    shuffle,
    vector_of,
)

Weights = npt.NDArray[np.float32 | np.int32]

_LOG_COLUMNS = 2
COLUMNS = 1 << _LOG_COLUMNS
"""Of a word."""
_PERMUTED_ROWS = 2  # taller blocks have work enough for each load, and too many weights to spread
_IN_FLIGHT = 8  # multiply-adds that two units with a latency of 4 cycles can work on
_BITS = 16
_LARGEST_UNIT = 64


def emit_quads(
    b: KernelBuilder,
    acc: list[list[Register]],
    x: Pointer,
    tables: tuple[Pointer, Pointer],
    at: tuple[Any, Any, Any],
    ahead: Register,
    lanes: tuple[list[Any], int],
    unit: int,
    *,
    by_lane: bool,
) -> None:
    """Add the columns of one block to its R x J accumulators.

    Args:
        acc: R rows of J vectors.
        tables: words of offsets, and R weights for each column.
        at: element of X that offset 0 stands for, the block's first word, its number of columns.
        ahead: the block's first word; afterwards the word behind its last one. A word that is fetched only
            when its columns are due delays them by two loads one after the other.
        lanes: vectors of 0, 1, ... that the compiler does not see through (see `spread`), and their length.
        unit: elements that one step of an offset stands for.
        by_lane: as `broadcasts` has it.
    """
    word, value = tables
    origin, start, columns = at
    indices, V = lanes
    R, J = len(acc), len(acc[0])
    zero = vector_of(const(0.0, "float32"), V)
    more = [[[b.register(zero, V) for _ in range(J)] for _ in range(R)] for _ in range(chains(R, J) - 1)]
    sums = [acc, *more]
    base = b.register(tirx.Cast("int64", origin), dtype="int64").value

    def columns_of(k: Any, count: int) -> None:
        packed = b.register(ahead.value, dtype="uint64").value
        b.set(ahead, word[k + 1])
        first = b.register(k * (COLUMNS * R), dtype="int32").value
        spread_weights: Any = None
        if indices:
            loaded = b.register(value.vector(first, COLUMNS * R), COLUMNS * R).value
            copies = V // (COLUMNS * R)
            spread_weights = b.register(shuffle([loaded] * copies, list(range(V))), V).value
        weights = [] if indices else broadcasts(b, value, first, COLUMNS * R, V, by_lane=by_lane)
        for u in range(count):
            bits = tirx.shift_right(packed, const(u * _BITS, "uint64"))
            step = tirx.bitwise_and(bits, const(2**_BITS - 1, "uint64"))
            o = b.register(base + tirx.Cast("int64", step) * const(unit, "int64"), dtype="int64").value
            xs = [x.vector(o + const(j * V, "int64"), V) for j in range(J)]
            if R > 1:
                xs = [b.register(vector, V).value for vector in xs]
            for r, row in enumerate(sums[u % len(sums)]):
                weight = permute(spread_weights, indices[u * R + r]) if indices else weights[u * R + r]
                w = b.register(weight, V).value
                for cell, vector in zip(row, xs, strict=True):
                    b.set(cell, cell.value + w * vector)

    whole = b.register(tirx.shift_right(columns, const(_LOG_COLUMNS)), dtype="int32").value
    with b.loop(whole, start) as k:
        columns_of(k, COLUMNS)
    rest = b.register(tirx.bitwise_and(columns, const(COLUMNS - 1)), dtype="int32").value
    for count in range(1, COLUMNS):
        with b.branch(rest == count):
            columns_of(start + whole, count)
    for part in more:
        for row, added in zip(acc, part, strict=True):
            for cell, other in zip(row, added, strict=True):
                b.set(cell, cell.value + other.value)


def chains(rows: int, width: int) -> int:
    """Sums kept apart for each of the R x J accumulators, so that about 8 additions are under way."""
    return next(
        count for count in (1, 2, COLUMNS) if count == COLUMNS or count * rows * width > _IN_FLIGHT - 2
    )


def worth_packing(rows: int, width: int) -> bool:
    """Whether a tile of R x J is bound by loads or by the latency of additions."""
    return rows <= _PERMUTED_ROWS or rows * width < _IN_FLIGHT


def spread(b: KernelBuilder, zero: Any, rows: int, lanes: int) -> list[Any]:
    """Index vectors 0, 1, ... for `emit_quads`, one per weight of a word; none where they do not help.

    Args:
        zero: an element of a table that always is 0: constants would be folded back into loads.
    """
    if lanes != PERMUTED_LANES or rows > _PERMUTED_ROWS:
        return []
    return [b.register(vector_of(zero + i, lanes), lanes, "int32").value for i in range(COLUMNS * rows)]


def words_of(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Words that each block's offsets fill."""
    return -(-counts // COLUMNS)


def words_in(count: Any) -> Any:
    """The same as an expression."""
    return tirx.shift_right(count + (COLUMNS - 1), const(_LOG_COLUMNS))


def pack_quads(
    counts: npt.NDArray[np.int64], steps: npt.NDArray[np.integer[Any]], value: Weights
) -> tuple[npt.NDArray[np.uint64], Weights]:
    """Pack the columns of consecutive blocks, each from a word of its own on.

    Args:
        counts: columns of each block.
        steps: offsets of all columns in units, from 0 to 65535.
        value: [columns, R].

    Returns:
        [words] and [4 words, R].
    """
    length = words_of(counts) * COLUMNS
    shift = np.concatenate([[0], np.cumsum(length)[:-1]]) - np.concatenate([[0], np.cumsum(counts)[:-1]])
    place = np.arange(len(steps)) + np.repeat(shift, counts)
    source = np.zeros(int(length.sum()), np.int64)
    source[place] = np.arange(len(steps))
    source = np.maximum.accumulate(source)  # a column of weight 0 is read where the block's last one lies
    weights = np.zeros((len(source), value.shape[1]), value.dtype)
    weights[place] = value
    return steps[source].astype("<u2").view("<u8").astype(np.uint64), weights


def unit_of(offset: npt.NDArray[np.integer[Any]], chunks: list[slice]) -> int:
    """The largest power of two, up to 64 elements, that divides all distances between `offset`s.

    0 where there are none, or those of a chunk do not lie within 16 bits of such units.
    """
    if not len(offset):
        return 0
    common = int(np.gcd.reduce(offset - offset[0]))
    unit = min(common & -common, _LARGEST_UNIT) if common else _LARGEST_UNIT
    return unit if all(int(np.ptp(offset[chunk])) // unit < 2**_BITS for chunk in chunks) else 0
