"""Linear layers with few columns and weights of 4 bits, whose groups of 32 columns are zero or stored.

Y[n, m] = epilogue(bias[m] + sum_g scale[m, g] sum_(k in g) code[m, k] X[n, k]) over the groups g of row m
that hold a nonzero (GQSA, Zeng et al. 2024); dense is all of them. A group is 4 words of 32 bits: column j
has bits 4 (j / 4) and up of word j mod 4, 4 bits are a code plus 8. Four neighbouring threads take the words
of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.ir.quantized import BLOCK as GROUP
from sparsecc.ir.quantized import Quantized
from sparsecc.targets.gpu.kernels.rows import BLOCK, fold_rows
from sparsecc.targets.gpu.tir import GpuBuilder
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import Expr, const

_WORDS = 4  # of a group
_CODES = GROUP // _WORDS  # of a word
_BITS = 4
_OFFSET = 8


@dataclass(frozen=True)
class GroupsForm:
    """What a kernel is specialised for: N columns."""

    columns: int
    epilogue: Epilogue


def groups_kernel(form: GroupsForm, symbol: str) -> tirx.PrimFunc:
    """The PrimFunc of a form.

    Pointers: start, group, words and scale of `pack_groups`, bias, X, Y, then the epilogue's. Scalars: M, X's
    origin and strides along n and k, Y's origin and stride along n, then the epilogue's. Grid: rows.
    """
    b = GpuBuilder(BLOCK)
    (TX, TY), N = BLOCK, form.columns
    start, group = b.pointer("start", "int32"), b.pointer("group", "int32")
    words, scale = b.pointer("words", "uint32"), b.pointer("scale")
    bias, x, y = b.pointer("bias"), b.pointer("x"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    names = ("rows", "x_origin", "x_n", "x_k", "y_origin", "y_n")
    rows, x_origin, x_n, x_k, y_origin, y_n = (b.scalar(n) for n in names)
    operands.declare_scalars()
    mine = b.register(b.group(0) * TY + b.thread(1), dtype="int32").value
    row = b.register(tirx.Min(mine, rows - 1), dtype="int32").value
    word = b.register(tirx.Mod(b.thread(0), const(_WORDS)), dtype="int32").value
    first = b.register(start[row] + tirx.Div(b.thread(0), const(_WORDS)), dtype="int32").value
    together = TX // _WORDS  # groups
    count = b.register(
        tirx.Div(start[row + 1] - first + (together - 1), const(together)), dtype="int32"
    ).value
    sums = [b.register(const(0.0, "float32")) for _ in range(N)]
    with b.loop(count) as i:
        entry = b.register(first + i * together, dtype="int32").value
        bits = b.register(words[entry * _WORDS + word], dtype="uint32").value
        at = b.register(x_origin + (group[entry] * GROUP + word) * x_k, dtype="int32").value
        part = [b.register(const(0.0, "float32")) for _ in range(N)]
        for code in range(_CODES):
            digit = tirx.bitwise_and(
                tirx.shift_right(bits, const(_BITS * code, "uint32")), const(15, "uint32")
            )
            weight = b.register(tirx.Cast("float32", tirx.Cast("int32", digit) - _OFFSET)).value
            for n in range(N):
                value = x[at + n * x_n + (code * _WORDS) * x_k]
                b.set(part[n], part[n].value + weight * value)
        factor = b.register(scale[entry]).value
        for n in range(N):
            b.set(sums[n], sums[n].value + part[n].value * factor)

    def store(total: Expr, row: Expr, n: Expr) -> None:
        index = b.register(y_origin + n * y_n + row, dtype="int32").value
        out = operands.apply(total + bias[row], row=row, index=index, batch=const(0), lanes=1)
        b.store(y, index, out)

    fold_rows(b, [sums], mine, rows, store)
    return b.function(symbol)


def pack_groups(quantized: Quantized, mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[Any]]:
    """Pack the groups [M, K / 32] of `mask`: start, group, words [entries, 4] and scale [entries]."""
    codes, scale = quantized.codes, quantized.scale
    row, group = np.nonzero(mask)
    digits = (codes.reshape(len(codes), -1, GROUP)[row, group] + _OFFSET).astype(np.uint32)
    shifts = _BITS * np.arange(_CODES, dtype=np.uint32)[:, None]
    words = np.bitwise_or.reduce(digits.reshape(-1, _CODES, _WORDS) << shifts, axis=1).astype(np.uint32)
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(codes)))])
    scales = scale[row, group].astype(np.float32)
    if not len(words):  # a buffer of a device has no size 0
        group, words, scales = np.zeros(1), np.zeros((1, _WORDS), np.uint32), np.zeros(1, np.float32)
    return [start.astype(np.int32), group.astype(np.int32), words, scales]
