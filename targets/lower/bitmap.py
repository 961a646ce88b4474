"""Sparse linear layers on few columns with a bit for each weight; for 8-bit ones X becomes digits first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.ir.quantized import Quantized
from sparsecc.targets.kernels.bitmap import (
    WORD,
    BitmapForm,
    bitmap_kernel,
    code_offsets,
    lines_of,
    pack_bitmap,
    rows_together,
)
from sparsecc.targets.kernels.digits import DIGITS, DigitsForm, digits_kernel
from sparsecc.targets.kernels.epilogue import Epilogue
from sparsecc.targets.layout import Layout, round_up
from sparsecc.targets.lower.rowwise import padded_rows_of
from sparsecc.targets.lower.state import Lowering, Pointer, Stored, at_origin, base

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class BitmapCall:
    """What a step needs: its kernel, pointers up to X, scalars up to X's stride along n, and steps before."""

    symbol: str
    pointers: list[Pointer]
    scalars: list[int]
    steps: list[int]


@dataclass(frozen=True)
class Columns:
    """X [N, K] as it is stored: the strides along n and k count elements from its origin."""

    stored: Stored
    shape: tuple[int, int]
    strides: tuple[int, int]


def stored_weights(matrix: Floats, quantized: Quantized | None, stored: str) -> npt.NDArray[Any]:
    """[M, K] weights as kernels read them; bfloat16 as uint16."""
    if quantized is not None:
        return quantized.codes
    if stored == "bfloat16":
        return (matrix.view(np.uint32) >> 16).astype(np.uint16)
    return matrix


def bitmap_call(
    low: Lowering,
    label: str,
    matrix: Floats,
    quantized: Quantized | None,
    stored: str,
    bias: Floats,
    x: Columns,
    epilogue: Epilogue,
) -> BitmapCall:
    """The kernel for [M, K] weights."""
    rows = rows_together(x.shape[0], stored)
    weights = stored_weights(matrix, quantized, stored)
    form = BitmapForm(x.shape[0], epilogue, stored, lines_of(weights, rows))
    symbol = low.kernel("bitmap", form, lambda s: bitmap_kernel(form, s))
    tables = pack_bitmap(weights, rows)
    words = -(-matrix.shape[1] // WORD)
    # the mask first and the values last: fetching ahead of a layer's last values brings the next one's mask
    mask, zeros, start = low.pack(tables.mask, tables.zeros, tables.start)
    if stored != "float32":
        low.use(low.machine.expand)
    if quantized is None:
        biases, value = low.pack(bias, tables.value)
        pointers = [zeros, start, mask, value, biases, at_origin(x.stored)]
        return BitmapCall(symbol, pointers, [words, x.strides[0]], [])
    low.use(low.machine.dot)
    scale = np.pad(quantized.scale, (0, padded_rows_of(len(matrix)) - len(matrix)))
    offset, scales, biases, value = low.pack(code_offsets(quantized.codes), scale, bias, tables.value)
    found, steps = _digits(low, label, x)
    pointers = [zeros, start, mask, value, offset, scales, base(found.factor), biases, base(found.digits)]
    return BitmapCall(symbol, pointers, [words, words * WORD * DIGITS], steps)


@dataclass(frozen=True)
class _Digits:
    digits: Stored
    factor: Stored


def _digits(low: Lowering, label: str, x: Columns) -> tuple[_Digits, list[int]]:
    """X as digits, and the step that makes them where none has."""
    columns, reduction = x.shape
    before = len(low.steps)

    def make() -> _Digits:
        form = DigitsForm(reduction, x.strides[1] == 1)
        symbol = low.kernel("digits", form, lambda s: digits_kernel(form, s))
        layout = Layout.rows((columns, round_up(reduction, WORD) * DIGITS))
        made = _Digits(
            low.buffer(layout, "uint8", f"{label}.digits"),
            low.buffer(Layout.rows((columns,)), "float32", f"{label}.factor"),
        )
        pointers = [at_origin(x.stored), base(made.digits), base(made.factor)]
        low.step(f"{label}.digits", "digits", symbol, pointers, [x.strides[1], x.strides[0]], columns)
        return made

    found = low.once(("digits", id(x.stored.buffer), x.stored.layout, x.shape, x.strides), make)
    return found, list(range(before, len(low.steps)))
