"""The spmm kernel in every tile that selection may choose, against numpy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import Buffer, call, load_kernels
from networks import PATTERNS, Array, pruned

from sparsecc.compiler import generator_version
from sparsecc.errors import LoweringError
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.kernels.spmm import SpmmForm, pack_spmm, spmm_kernel, tile_classes
from sparsecc.targets.layout import ROW_SLACK, Layout, odd_lines, round_up

LANES = 16
FORMS = [(8, 3), (6, 4), (8, 2), (4, 4), (2, 6), (1, 7), (4, 3), (2, 4), (1, 4)]
PLAIN = Epilogue()
# bias + x * scale[row], then + residual
EPILOGUE = Epilogue(
    (
        EpilogueOp("Mul", (Operand("step", 0), Operand("row", 0))),
        EpilogueOp("Add", (Operand("step", 1), Operand("tensor", 0))),
        EpilogueOp("Relu", (Operand("step", 2),)),
    ),
    row_pointers=1,
    tensor_pointers=1,
)


def kernel(form: SpmmForm) -> Any:
    symbol = structural_name("spmm", form)
    return load_kernels({symbol: lambda: spmm_kernel(form, symbol)}, generator_version())[symbol]


def run(
    matrix: Array, rows: int, width: int, *, columns: int, batch: int = 1, chunk: int = 0, parts: int = 1,
    stream: bool = False, dense: bool = False, groups: int = 1, epilogue: Epilogue = PLAIN,
) -> tuple[Array, Array]:  # fmt: skip
    """(ours, expected) of a product with [K, columns] features, K given by the groups."""
    rng = np.random.default_rng(1)
    M, K = matrix.shape
    pitch = odd_lines(round_up(columns, LANES))
    source = Layout((groups * K * pitch, pitch, 1), 0, batch * groups * K * pitch + 16 * width)
    target = Layout(((M + ROW_SLACK) * pitch, pitch, 1), 16, batch * (M + ROW_SLACK) * pitch + 32)
    x = Buffer(
        source, (batch, groups * K, columns), np.float32, rng.standard_normal((batch, groups * K, columns))
    )
    y = Buffer(target, (batch, M, columns), np.float32)
    residual = Buffer(target, y.shape, np.float32, rng.standard_normal(y.shape))
    bias, scale = (rng.standard_normal(round_up(M + ROW_SLACK, 16)).astype(np.float32) for _ in range(2))
    offset = np.arange(K, dtype=np.int64) * pitch
    if groups > 1:
        first = np.arange(-(-M // rows)) * rows // (M // groups)
        offset = offset[None, :] + (first * K * pitch)[:, None]
    tables = pack_spmm(matrix, offset, rows, chunk=chunk or K, parts=parts, dense=dense)
    widths, (one, two) = tile_classes(-(-columns // LANES), width)
    form = SpmmForm(rows, widths, LANES, stream, tables.chunked, epilogue)
    packed = [
        tables.parts,
        tables.group_rows,
        tables.group_count,
        tables.group_base,
        tables.row,
        tables.offset,
    ]
    extra = [scale, residual] if epilogue.ops else []
    scalars = [one, two, parts, pitch, target.origin, source.strides[0], target.strides[0]]
    scalars += [target.strides[0]] * bool(extra)
    call(kernel(form), [*packed, tables.value, bias, x, y, *extra], scalars, batch * (one + two) * parts)
    wide = matrix.astype(np.float64)
    per_group = np.split(x.elements.astype(np.float64), groups, axis=1)
    rows_of = np.split(wide, groups, axis=0)
    expected = np.concatenate([w @ v for w, v in zip(rows_of, per_group, strict=True)], axis=1)
    expected += bias[None, :M, None]
    if epilogue.ops:
        expected = np.maximum(expected * scale[None, :M, None] + residual.elements, 0)
    return y.elements, expected


def weights(rows: int, columns: int, pattern: str = "unstructured 80") -> Array:
    rng = np.random.default_rng(7)
    return pruned(rng.standard_normal((rows, columns)).astype(np.float32), pattern, rng).astype(np.float32)


@pytest.mark.parametrize(("rows", "width"), FORMS)
def test_tiles(rows: int, width: int) -> None:
    """All rows of the last block or one, equal tiles or two widths, with all of the epilogue's operands."""
    for columns in (LANES * width, LANES * width + 1, LANES * (2 * width - 1)):
        for M in (rows, 2 * rows + 1):
            for dense in (False, True):
                found, expected = run(
                    weights(M, 40), rows, width, columns=columns, batch=2, dense=dense, epilogue=EPILOGUE
                )
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("chunk", [7, 16, 39, 40])
def test_chunks(pattern: str, chunk: int) -> None:
    """First, middle and last chunks; blocks without a nonzero in some or all of them."""
    for rows, width in ((4, 4), (1, 4)):
        for parts in (1, 2, 4):
            for stream in (False, True):
                found, expected = run(
                    weights(37, 40, pattern), rows, width, columns=50, chunk=chunk, parts=parts, stream=stream
                )
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("groups", "per_group", "rows"), [(3, 4, 4), (3, 8, 2), (5, 3, 1), (2, 12, 4)])
def test_groups(groups: int, per_group: int, rows: int) -> None:
    found, expected = run(weights(groups * per_group, 9), rows, 4, columns=33, groups=groups, batch=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_tile_classes() -> None:
    assert tile_classes(13, 4) == ((4, 3), (1, 3))
    for vectors in range(1, 60):
        for widest in range(1, 9):
            widths, counts = tile_classes(vectors, widest)
            assert sum(w * n for w, n in zip(widths, counts, strict=False)) == vectors
            assert max(widths) <= widest and min(widths) >= 1 and counts[0] >= 1


def test_offsets_beyond_32_bits_are_refused() -> None:
    with pytest.raises(LoweringError, match="32 bits"):
        pack_spmm(weights(4, 3), np.array([0, 5, 2**31]), 4, chunk=3, parts=1)
