"""Operands of layers with weights that go with their output rows, and tensors stored as their output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.ir.edit import constant_of
from sparsecc.targets.layout import ROW_SLACK, Layout, round_up
from sparsecc.targets.lower.call import Tail
from sparsecc.targets.lower.state import Lowering, Pointer, Stored

FloatArray = npt.NDArray[np.float32]


def padded_rows_of(rows: int) -> int:
    """Length of a per-row constant that kernels may read beyond the last row: a block, or whole vectors."""
    return round_up(rows + ROW_SLACK, 16)


def padded_bias(value: Any, tail: Tail, rows: int) -> FloatArray:
    """Bias and leading constant additions, with room for a kernel's last block of rows."""
    bias = np.zeros(padded_rows_of(rows), np.float32)
    given = constant_of(value)
    if given is not None:
        bias[:rows] += given.reshape(-1)
    if tail.bias is not None:
        bias[:rows] += tail.bias
    return bias


def row_operand_pointers(low: Lowering, arrays: Iterable[FloatArray]) -> list[Pointer]:
    """Per-row constants, padded as the bias is."""
    return [p for a in arrays for p in low.pack(np.pad(a, (0, padded_rows_of(a.size) - a.size)))]


def residuals(low: Lowering, tail: Tail, layout: Layout) -> list[Stored]:
    """The tail's tensors, each in exactly the output's layout; constants are packed in it."""

    def residual(value: ir.Value) -> Stored:
        array = constant_of(value)
        if array is not None:
            return low.constant_in(np.broadcast_to(array, tail.shape), layout)
        return low.require(
            value, lambda s: not s.exact and s.layout.same_elements(layout, tail.shape), lambda: layout
        )

    return [residual(value) for value in tail.tensors]
