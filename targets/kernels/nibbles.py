"""Dense matrix of 4-bit weights times few columns, lanes along output rows: decoding that memory limits.

Y[n, m] = epilogue(bias[m] + sum_g scale[m, g] sum_(k in g) code[m, k] X[n, k]) for groups g of 32 columns.
A word holds 8 columns of a row, 4 bits each, the first in the lowest; 4 bits are a code plus 8. With AVX-512
a permutation of the 16 floats -8 ... 7 turns the codes of 16 rows into floats, and ignores all higher bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.ir.quantized import BLOCK
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import PERMUTED_LANES, KernelBuilder, const, permute, ramp, vector_of

_OFFSET = 8
_PREFETCH = 2048  # words ahead
_COLUMNS = 8  # of a word
_BITS = 4
_IN_FLIGHT = 8  # sums that are kept apart, to hide the latency of additions


@dataclass(frozen=True)
class NibblesForm:
    """What a kernel is specialised for: N columns, all in registers at once."""

    columns: int
    lanes: int
    epilogue: Epilogue


def nibbles_kernel(form: NibblesForm, symbol: str) -> Any:
    """The PrimFunc of a form.

    Pointers: value (words), scale [row blocks, groups, lanes], bias, X, Y, then the epilogue's. Scalars:
    groups, X's strides along k and n, Y's stride along n, then the epilogue's. Extent: row blocks. X and Y
    point at their first element.
    """
    b = KernelBuilder()
    V, N = form.lanes, form.columns
    value, scale, bias = b.pointer("value", "uint32"), b.pointer("scale"), b.pointer("bias")
    x, y = b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    groups, xk, xn, yn = (b.scalar(n) for n in ("groups", "x_k", "x_n", "y_n"))
    operands.declare_scalars()
    zero = vector_of(const(0.0, "float32"), V)
    chains = max(2, _IN_FLIGHT // N)
    floats = tirx.Cast(f"float32x{V}", ramp(-_OFFSET, V))
    table = b.register(floats, V).value if V == PERMUTED_LANES else None

    def decoded(words: Any, column: int) -> Any:
        shift = vector_of(const(_BITS * column, "uint32"), V)
        bits = tirx.Cast(f"int32x{V}", tirx.shift_right(words, shift) if column else words)
        if table is not None:
            return permute(table, bits)
        code = tirx.bitwise_and(bits, vector_of(const(15), V)) - vector_of(const(_OFFSET), V)
        return tirx.Cast(f"float32x{V}", code)

    with b.loop(b.end - b.begin, b.begin) as i:
        acc = [b.register(bias.vector(i * V, V), V) for _ in range(N)]
        with b.loop(groups) as g:
            group = b.register(i * groups + g, dtype="int32").value
            sums = [[b.register(zero, V) for _ in range(chains)] for _ in range(N)]
            at = b.register(g * (BLOCK * xk), dtype="int32").value
            with b.loop(BLOCK // _COLUMNS) as run:
                word = b.register((group * (BLOCK // _COLUMNS) + run) * V, dtype="int32").value
                b.prefetch(value, word + _PREFETCH)
                words = b.register(value.vector(word, V), V, "uint32").value
                for column in range(_COLUMNS):
                    w = b.register(decoded(words, column), V).value
                    k = b.register(at + (run * _COLUMNS + column) * xk, dtype="int32").value
                    for n, row in enumerate(sums):
                        cell = row[column % chains]
                        b.set(cell, cell.value + vector_of(x[k + xn * n], V) * w)
            factor = b.register(scale.vector(group * V, V), V).value
            for total, row in zip(acc, sums, strict=True):
                of_group = row[0].value
                for other in row[1:]:
                    of_group = of_group + other.value
                b.set(total, total.value + of_group * factor)
        for n in range(N):
            operands.store_rows(y, acc[n].value, i, yn * n, V)
    return b.function(symbol)


@dataclass(frozen=True)
class NibblesTables:
    """Packed operands: `value` is [row blocks, groups, 4, lanes], `scale` [row blocks, groups, lanes]."""

    value: npt.NDArray[np.uint32]
    scale: npt.NDArray[np.float32]


def pack_nibbles(codes: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], lanes: int) -> NibblesTables:
    """Pack [M, K] codes from -8 to 7 and [M, K / 32] scales; missing rows of the last block are zeros."""
    M, K = codes.shape
    blocks = -(-M // lanes)
    digits = np.full((blocks * lanes, K), _OFFSET, np.uint8)
    digits[:M] = codes + _OFFSET
    pairs = digits[:, 0::2] | digits[:, 1::2] << _BITS
    words = pairs.view("<u4").astype(np.uint32).reshape(blocks, lanes, K // BLOCK, BLOCK // _COLUMNS)
    wide = np.zeros((blocks * lanes, K // BLOCK), np.float32)
    wide[:M] = scale
    value = np.ascontiguousarray(words.transpose(0, 2, 3, 1))
    return NibblesTables(value, np.ascontiguousarray(wide.reshape(blocks, lanes, -1).transpose(0, 2, 1)))
