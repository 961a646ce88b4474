"""The step of a product whose lanes lie along the positions: convolutions and layers with many columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsecc.targets.kernels.epilogue import Epilogue
from sparsecc.targets.kernels.quads import worth_packing
from sparsecc.targets.kernels.spmm import SpmmForm, pack_spmm, spmm_kernel, tile_classes
from sparsecc.targets.lower.rowwise import row_operand_pointers
from sparsecc.targets.lower.select import STREAMED, SpmmChoice, parts_of
from sparsecc.targets.lower.state import Lowering, Stored, base

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class After:
    """What happens to sums before they are stored.

    Attributes:
        row_operands: [M] arrays that the epilogue reads.
        tensors: stored as the result is.
    """

    epilogue: Epilogue
    row_operands: Sequence[FloatArray]
    tensors: Sequence[Stored]


def spmm_step(
    low: Lowering,
    name: str,
    weights: tuple[FloatArray, FloatArray],
    offsets: npt.NDArray[np.int64],
    choice: SpmmChoice,
    after: After,
    *,
    vectors: int,
    batch: int,
    x: Stored,
    y: Stored,
    strides: tuple[int, int, int],
) -> int:
    """Emit the product; returns its step.

    Args:
        weights: matrix [M, K], and what its rows' sums start with, with room for a last block of rows.
        offsets: of K's elements in X.
        strides: Y's between rows, X's and Y's between batches.
    """
    matrix, bias = weights
    widths, (first, second) = tile_classes(vectors, choice.width)
    tiles = (first + second) * batch
    parts = parts_of(tiles, matrix.shape[0], choice.rows)
    packed = worth_packing(choice.rows, max(widths)) and not choice.dense
    tables = pack_spmm(
        matrix, offsets, choice.rows, chunk=choice.chunk, parts=parts, dense=choice.dense, packed=packed
    )
    stream = choice.rows >= 4 and tables.value.nbytes >= STREAMED
    form = SpmmForm(
        choice.rows,
        widths,
        low.machine.lanes,
        stream,
        tables.chunked,
        after.epilogue,
        tables.unit,
        low.machine.by_lane,
    )
    symbol = low.kernel("spmm", form, lambda s: spmm_kernel(form, s))
    pitch, x_batch, y_batch = strides
    return low.step(
        name, "spmm", symbol,
        [*low.pack(*tables.arrays(), bias), base(x), base(y),
         *row_operand_pointers(low, after.row_operands), *map(base, after.tensors)],
        [first, second, parts, pitch, y.layout.origin, x_batch, y_batch, *(y_batch for _ in after.tensors)],
        tiles * parts,
    )  # fmt: skip
