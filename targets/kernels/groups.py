"""Matrix of 4-bit weights with zero groups times few columns, lanes along the 32 columns of a row's group.

Y[n, m] = epilogue(bias[m] + sum_g scale[m, g] sum_(k in g) code[m, k] X[n, k]) over the groups g of row m
that hold a nonzero, as GQSA (Zeng et al. 2024) prunes them. A group is 4 words of 32 bits: column j has bits
4 (j / 4) and up of word j mod 4, 4 bits are a code plus 8. So one load brings all words to all lanes, and a
shift of its own each lane its column. Of 64 rows all that hold the same columns run together: X stays in
registers, no sum waits for the one before, and the inner loop is long. Sums by lane wait in a scratch buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.ir.quantized import BLOCK
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import (
    PERMUTED_LANES,
    KernelBuilder,
    const,
    permute,
    ramp,
    shuffle,
    vector_of,
)

ROWS = 64
"""Of a parallel unit."""
_STORED = 16  # rows that are finished together
_OFFSET = 8
_WORDS = 4  # of a group
_ENTRY = _WORDS + 1  # words of a group and its scale
_BITS = 4
_PREFETCH = 512  # groups ahead


@dataclass(frozen=True)
class GroupsForm:
    """What a kernel is specialised for: N columns, all in registers at once."""

    columns: int
    lanes: int
    epilogue: Epilogue


def groups_kernel(form: GroupsForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: `GroupsTables` in order, scratch [row blocks, 64, N, lanes], bias, X, Y, then the epilogue's.
    Scalars: groups of a row, blocks of 16 rows, X's and Y's strides along n, then the epilogue's. Extent:
    blocks of 64 rows. X and Y point at their first element; columns of X lie one behind the other.
    """
    b = KernelBuilder()
    V, N = form.lanes, form.columns
    start, member = b.pointer("start", "int32"), b.pointer("member", "uint8")
    value = b.pointer("value", "uint32")
    scratch, bias, x, y = (b.pointer(n) for n in ("scratch", "bias", "x", "y"))
    operands = EpilogueOperands(b, form.epilogue)
    groups, blocks, xn, yn = (b.scalar(n) for n in ("groups", "blocks", "x_n", "y_n"))
    operands.declare_scalars()
    zero = vector_of(const(0.0, "float32"), V)
    floats = tirx.Cast(f"float32x{V}", ramp(-_OFFSET, V))
    table = b.register(floats, V).value if V == PERMUTED_LANES else None
    # lane i is word i mod 4; in the first vector its column i is bits 4 (i / 4) and up
    steps = tirx.truncdiv(ramp(0, V), vector_of(const(_WORDS), V)) * vector_of(const(_BITS), V)
    shift = b.register(tirx.Cast(f"uint32x{V}", steps), V, "uint32").value

    def decoded(words: Any, first: int) -> Any:
        further = shift + vector_of(const(first // _WORDS * _BITS, "uint32"), V) if first else shift
        bits = tirx.Cast(f"int32x{V}", tirx.shift_right(words, further))
        if table is not None:
            return permute(table, bits)
        code = tirx.bitwise_and(bits, vector_of(const(15), V)) - vector_of(const(_OFFSET), V)
        return tirx.Cast(f"float32x{V}", code)

    with b.loop(b.end - b.begin, b.begin) as i:
        base = b.register(i * (ROWS * N * V), dtype="int32").value
        with b.loop(ROWS * N) as r:
            b.store(scratch, base + r * V, zero, V)
        with b.loop(groups) as g:
            inputs = [
                [b.register(x.vector(g * BLOCK + (first + xn * n), V), V).value for n in range(N)]
                for first in range(0, BLOCK, V)
            ]
            at = b.register(i * groups + g, dtype="int32").value
            low = b.register(start[at], dtype="int32").value
            with b.loop(start[at + 1] - low, low) as e:
                entry = b.register(e * _ENTRY, dtype="int32").value
                b.prefetch(value, entry + _PREFETCH * _ENTRY)
                loaded = b.register(value.vector(entry, _WORDS), _WORDS, "uint32").value
                words = b.register(shuffle([loaded] * (V // _WORDS), range(V)), V, "uint32").value
                weights = [b.register(decoded(words, first), V).value for first in range(0, BLOCK, V)]
                scale = tirx.reinterpret("float32", value[entry + _WORDS])
                factor = b.register(vector_of(scale, V), V).value
                row = b.register(base + tirx.Cast("int32", member[e]) * (N * V), dtype="int32").value
                for n in range(N):
                    total = inputs[0][n] * weights[0]
                    for vectors, w in zip(inputs[1:], weights[1:], strict=True):
                        total = b.register(total, V).value + vectors[n] * w
                    added = b.register(total, V).value * factor + scratch.vector(row + n * V, V)
                    b.store(scratch, row + n * V, added, V)
        first_block = b.register(i * (ROWS // _STORED), dtype="int32").value
        with b.loop(tirx.Min(blocks - first_block, const(ROWS // _STORED))) as part:
            block = b.register(first_block + part, dtype="int32").value
            for n in range(N):
                done = b.local(_STORED)
                with b.loop(_STORED) as r:
                    place = base + ((part * _STORED + r) * N + n) * V
                    done.put(b, r, _across(b, scratch.vector(place, V), V))
                total = done.value + bias.vector(block * _STORED, _STORED)
                operands.store_rows(y, total, block, yn * n, _STORED)
    return b.function(symbol)


def _across(b: KernelBuilder, vector: Any, lanes: int) -> Any:
    """The sum of all lanes."""
    while lanes > 1:
        whole = b.register(vector, lanes).value
        lanes //= 2
        vector = shuffle([whole], range(lanes)) + shuffle([whole], range(lanes, 2 * lanes))
    return vector


@dataclass(frozen=True)
class GroupsTables:
    """Packed operands: where the stored groups of each block of 64 rows and each 32 columns begin, and of
    each stored group the row in its block, and 4 words of codes with the bits of the scale behind."""

    start: npt.NDArray[np.int32]
    member: npt.NDArray[np.uint8]
    value: npt.NDArray[np.uint32]


def stored_groups(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.bool_]:
    """[M, K / 32]: which groups of [M, K] codes hold a nonzero."""
    return codes.reshape(len(codes), -1, BLOCK).any(axis=2)


def pack_groups(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float32]) -> GroupsTables:
    """Pack [M, K] codes from -8 to 7 and [M, K / 32] scales."""
    stored = stored_groups(codes)
    padded = np.zeros((-(-len(codes) // ROWS) * ROWS, stored.shape[1]), np.bool_)
    padded[: len(codes)] = stored
    unit, group, member = np.nonzero(padded.reshape(-1, ROWS, stored.shape[1]).transpose(0, 2, 1))
    counts = np.bincount(unit * stored.shape[1] + group, minlength=padded.size // ROWS)
    row = unit * ROWS + member
    digits = (codes.reshape(len(codes), -1, BLOCK)[row, group] + _OFFSET).astype(np.uint32)
    bits = _BITS * np.arange(BLOCK // _WORDS, dtype=np.uint32)[:, None]
    value = np.bitwise_or.reduce(digits.reshape(-1, BLOCK // _WORDS, _WORDS) << bits, axis=1)
    start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    entries = np.column_stack([value.astype(np.uint32), scale[row, group].view(np.uint32)])
    return GroupsTables(start, member.astype(np.uint8), entries)
