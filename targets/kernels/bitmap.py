"""Sparse matrix times few columns, lanes along a row's columns, a bit for each weight (AVX-512).

Y[n, m] = epilogue(bias[m] + sum_k W[m, k] X[n, k]). A word of 64 bits says which of a row's 64 columns are
stored; the stored weights lie one behind the other and are expanded to their lanes, so that a zero costs one
bit and no row waits for another. Some rows run together and share their inputs. Weights of 8 bits are
multiplied by the 24-bit fixed-point X of digits.py, and their sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.kernels.digits import DIGITS, OFFSET
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import KernelBuilder, Register, const, shuffle, vector_of

LANES = 16
"""Of fp32 and of sums; rows that are finished together."""
WORD = 64
"""Columns of a word of the mask."""
ITEMSIZE = {"float32": 4, "bfloat16": 2, "int8": 1}
"""Bytes of weights as they are stored."""
BITMAP_COLUMNS = 4
"""More of them leave no registers for rows that share their inputs."""
_EXPAND = "llvm.x86.avx512.mask.expand"
_DOT = "llvm.x86.avx512.vpdpbusd.512"
_LINE = 64
_PREFETCH = 4096  # bytes of weights ahead of their use
_PREFETCH_MASK = 1024
_MOST_COLUMNS = 2**16
_REGISTERS = 30  # two are for weights and zeros
_ROWS_OF_CODES, _ROWS_OF_FLOATS = 8, 4  # that run together, at most
_REDUCED = 4  # sums, at most


@dataclass(frozen=True)
class BitmapForm:
    """What a kernel is specialised for.

    Attributes:
        columns: N, all in registers at once.
        stored: the weights are float32, bfloat16, or int8 with a scale per row and X as digits.
        lines: cache lines of weights that the rows that run together have in a word of the mask.
    """

    columns: int
    epilogue: Epilogue
    stored: str = "float32"
    lines: int = 1

    @property
    def step(self) -> int:
        """Weights of a register."""
        return step_columns(self.stored)

    @property
    def rows(self) -> int:
        """Rows that run together."""
        return rows_together(self.columns, self.stored)


def step_columns(stored: str) -> int:
    """Weights of a register."""
    return 4 * LANES // ITEMSIZE[stored]


def rows_together(columns: int, stored: str) -> int:
    """Rows that run together: a power of two, all sums and the inputs of a word in registers."""
    codes = stored == "int8"
    sums, inputs = (DIGITS, DIGITS) if codes else (1, WORD // LANES)
    rows = _ROWS_OF_CODES if codes else _ROWS_OF_FLOATS
    while rows > 1 and columns * (rows * sums + inputs) > _REGISTERS:
        rows //= 2
    return rows


def can_bitmap(reduction: int, stored: str) -> bool:
    """Whether K columns fit: whole words of the mask, or digits, whose sums int32 holds."""
    return reduction <= _MOST_COLUMNS if stored == "int8" else reduction % WORD == 0


def bitmap_kernel(form: BitmapForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: `BitmapTables` in order, [offset, scale, factor], bias, X, Y, then the epilogue's. Scalars:
    words of a row, X's and Y's strides along n, then the epilogue's. Extent: blocks of 16 rows. X and Y
    point at their first element; columns of X lie one behind the other.
    """
    b = KernelBuilder()
    N, S, R = form.columns, form.step, form.rows
    dtype = "uint16" if form.stored == "bfloat16" else form.stored
    zeros, start = b.pointer("zeros", dtype), b.pointer("start", "int32")
    mask, value = b.pointer("mask", "uint64"), b.pointer("value", dtype)
    sums = _CodeSums(b, form) if form.stored == "int8" else _FloatSums(b, form)
    y = b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    words, xn, yn = (b.scalar(n) for n in ("words", "x_n", "y_n"))
    operands.declare_scalars()
    # the instruction waits for what its destination held before: so that is always this
    zero = b.register(zeros.vector(0, S), S, dtype).value
    with b.loop(b.end - b.begin, b.begin) as i:
        at = b.register(tirx.Cast("int64", start[i]), dtype="int64")
        done = [sums.block() for _ in range(N)]
        with b.loop(LANES // R) as group:
            acc = [sums.start() for _ in range(R)]
            first = b.register((i * (LANES // R) + group) * words, dtype="int32").value
            with b.loop(words) as word:
                for line in range(form.lines):
                    ahead = (line * _LINE + _PREFETCH) // np.dtype(dtype).itemsize
                    b.prefetch(value, at.value + const(ahead, "int64"))
                b.prefetch(mask, (first + word) * R + _PREFETCH_MASK // 8)
                xs = sums.inputs(word, xn)
                for r in range(R):
                    bits = b.register(mask[(first + word) * R + r], dtype="uint64").value
                    for part in range(WORD // S):
                        place, kept = at.value, bits
                        if part:
                            before = tirx.shift_left(bits, const(WORD - part * S, "uint64"))
                            place = place + tirx.Cast("int64", tirx.popcount(before))
                            kept = tirx.shift_right(bits, const(part * S, "uint64"))
                        kept = tirx.Cast(f"uint{S}", kept) if S < WORD else kept
                        expanded = tirx.call_llvm_pure_intrin(
                            f"{dtype}x{S}", _EXPAND, value.vector(place, S), zero,
                            tirx.reinterpret(f"int1x{S}", kept),
                        )  # fmt: skip
                        sums.add(acc[r], b.register(expanded, S, dtype).value, xs, part)
                    b.set(at, at.value + tirx.Cast("int64", tirx.popcount(bits)))
            for n in range(N):
                for place, cells in enumerate(zip(*(row[n] for row in acc), strict=True)):
                    for low in range(0, R, _REDUCED):
                        together = cells[low : low + _REDUCED]
                        done[n][place].put(b, group * R + low, lane_sums(b, together), len(together))
        for n in range(N):
            operands.store_rows(y, sums.total(done[n], i, n), i, yn * n, LANES)
    return b.function(symbol)


class _FloatSums:
    """Sums of fp32 products: [columns][1]."""

    def __init__(self, b: KernelBuilder, form: BitmapForm) -> None:
        self._b, self._columns, self._shared = b, form.columns, form.rows > 1
        self._parts = form.step // LANES
        self._bias, self._x = b.pointer("bias"), b.pointer("x")

    def start(self) -> list[list[Register]]:
        zero = vector_of(const(0.0, "float32"), LANES)
        return [[self._b.register(zero, LANES)] for _ in range(self._columns)]

    def inputs(self, word: Any, stride: Any) -> list[list[Any]]:
        """[columns][parts of a word]."""
        loads = [
            [self._x.vector(stride * n + word * WORD + at, LANES) for at in range(0, WORD, LANES)]
            for n in range(self._columns)
        ]
        if not self._shared:
            return loads
        return [[self._b.register(load, LANES).value for load in row] for row in loads]

    def add(self, acc: list[list[Register]], weights: Any, inputs: list[list[Any]], part: int) -> None:
        for at, w in enumerate(self._floats(weights)):
            for (cell,), x in zip(acc, inputs, strict=True):
                self._b.set(cell, cell.value + w * x[part * self._parts + at])

    def _floats(self, weights: Any) -> list[Any]:
        """What was expanded, as vectors of floats."""
        if self._parts == 1:
            return [weights]
        pairs = tirx.reinterpret(f"uint32x{LANES}", weights)
        low = tirx.shift_left(pairs, vector_of(const(16, "uint32"), LANES))
        high = tirx.bitwise_and(pairs, vector_of(const(0xFFFF0000, "uint32"), LANES))
        return [self._b.register(tirx.reinterpret(f"float32x{LANES}", v), LANES).value for v in (low, high)]

    def block(self) -> list[Register]:
        return [self._b.local(LANES)]

    def total(self, done: list[Register], block: Any, column: int) -> Any:
        return done[0].value + self._bias.vector(block * LANES, LANES)


class _CodeSums:
    """Exact sums of codes times digits: [columns][digits]."""

    def __init__(self, b: KernelBuilder, form: BitmapForm) -> None:
        self._b, self._columns, self._shared = b, form.columns, form.rows > 1
        self._offset, self._scale = b.pointer("offset", "int32"), b.pointer("scale")
        self._factor, self._bias = b.pointer("factor"), b.pointer("bias")
        self._x = b.pointer("x", "int8")

    def start(self) -> list[list[Register]]:
        zero = vector_of(const(0), LANES)
        return [[self._b.register(zero, LANES, "int32") for _ in range(DIGITS)] for _ in range(self._columns)]

    def inputs(self, word: Any, stride: Any) -> list[list[Any]]:
        """[columns][digits]."""
        loads = [
            [self._x.vector(stride * n + (word * DIGITS + d) * WORD, WORD) for d in range(DIGITS)]
            for n in range(self._columns)
        ]
        if not self._shared:
            return loads
        return [[self._b.register(load, WORD, "int8").value for load in row] for row in loads]

    def add(self, acc: list[list[Register]], weights: Any, inputs: list[list[Any]], part: int) -> None:
        for cells, digits in zip(acc, inputs, strict=True):
            for cell, x in zip(cells, digits, strict=True):
                added = tirx.call_llvm_pure_intrin(f"int32x{LANES}", _DOT, cell.value, x, weights)
                self._b.set(cell, added)

    def block(self) -> list[Register]:
        return [self._b.local(LANES, "int32") for _ in range(DIGITS)]

    def total(self, done: list[Register], block: Any, column: int) -> Any:
        b, at = self._b, block * LANES
        total = tirx.Cast(f"float32x{LANES}", done[-1].value - self._offset.vector(at, LANES))
        for cell in reversed(done[:-1]):
            step = vector_of(const(256.0, "float32"), LANES)
            total = b.register(total * step + tirx.Cast(f"float32x{LANES}", cell.value), LANES).value
        factor = self._scale.vector(at, LANES) * vector_of(self._factor[column], LANES)
        return total * factor + self._bias.vector(at, LANES)


def lane_sums(b: KernelBuilder, vectors: tuple[Register, ...]) -> Any:
    """The sum of all lanes of each of 1, 2 or 4 vectors of 16, as a vector of so many lanes."""
    dtype, count = vectors[0].dtype, len(vectors)
    merged: list[Any] = [v.value for v in vectors]
    width = 1
    while len(merged) > 1:  # two vectors become one with half of the lanes of each, in quads
        low = [q + lane % 2 * LANES + lane // 2 for q in range(0, LANES, 4) for lane in range(4)]
        if width == 2:
            low = [q + lane % 2 + lane // 2 * LANES for q in range(0, LANES, 4) for lane in range(4)]
        pairs = zip(merged[::2], merged[1::2], strict=True)
        merged = [
            b.register(shuffle([u, v], low) + shuffle([u, v], [at + 2 for at in low]), LANES, dtype).value
            for u, v in pairs
        ]
        width *= 2
    total, lanes = merged[0], LANES
    while lanes > count:
        lanes //= 2
        total = shuffle([total], range(lanes)) + shuffle([total], range(lanes, 2 * lanes))
        total = b.register(total, lanes, dtype).value
    return total


@dataclass(frozen=True)
class BitmapTables:
    """Packed operands: a register of zeros, where the values of each block of 16 rows begin, a bit for each
    weight, lowest first, and the nonzeros. Both go by rows that run together, words of columns, and row."""

    zeros: npt.NDArray[Any]
    start: npt.NDArray[np.int32]
    mask: npt.NDArray[np.uint64]
    value: npt.NDArray[Any]

    def arrays(self) -> list[npt.NDArray[Any]]:
        """In the order of the kernel's pointers."""
        return [self.zeros, self.start, self.mask, self.value]


def pack_bitmap(matrix: npt.NDArray[Any], rows: int) -> BitmapTables:
    """Pack [M, K] weights for `rows` that run together; filled up to whole blocks and words.

    Weights are float32, int8, or uint16 for bfloat16, of which a register is two vectors of floats: columns c
    and c + 16 of 32 are neighbours.
    """
    M, K = matrix.shape
    padded = np.zeros((-(-M // LANES) * LANES, -(-K // WORD) * WORD), matrix.dtype)
    padded[:M, :K] = matrix
    if matrix.dtype == np.uint16:
        padded = padded.reshape(len(padded), -1, 2, LANES).swapaxes(2, 3).reshape(padded.shape)
    ordered = padded.reshape(len(padded) // rows, rows, -1, WORD).transpose(0, 2, 1, 3)
    present = ordered != 0
    counts = np.count_nonzero(present.reshape(len(padded) // LANES, -1), axis=1)
    start = np.append(0, np.cumsum(counts)).astype(np.int32)
    mask = np.packbits(present.reshape(-1, WORD), axis=1, bitorder="little").view("<u8")
    value = np.append(ordered[present], np.zeros(WORD, matrix.dtype))  # a load may reach behind the last
    return BitmapTables(np.zeros(WORD, matrix.dtype), start, mask.astype(np.uint64), value)


def lines_of(matrix: npt.NDArray[Any], rows: int) -> int:
    """Cache lines that the nonzeros of `rows` of [M, K] in a word take on average, rounded up."""
    share = np.count_nonzero(matrix) / max(1, matrix.size)
    return max(1, int(np.ceil(share * rows * WORD * matrix.dtype.itemsize / _LINE)))


def code_offsets(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """What the sums of the highest digits of each row of [M, K] hold too much, for whole blocks of rows."""
    sums = codes.astype(np.int32).sum(axis=1) * OFFSET
    return np.pad(sums, (0, -len(sums) % LANES)).astype(np.int32)
