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
from sparsecc.targets.kernels.quads import chains, worth_packing
from sparsecc.targets.kernels.spmm import SpmmForm, pack_spmm, spmm_kernel, tile_classes
from sparsecc.targets.layout import ROW_SLACK, Layout, odd_lines, round_up

LANES = 16
TALL = [(8, 3), (6, 4), (8, 2), (4, 4), (4, 3), (4, 1)]
FORMS = [*TALL, (2, 6), (2, 4), (2, 1), (1, 7), (1, 5), (1, 4), (1, 2)]
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
    packed: bool = False,
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
    tables = pack_spmm(matrix, offset, rows, chunk=chunk or K, parts=parts, dense=dense, packed=packed)
    widths, (one, two) = tile_classes(-(-columns // LANES), width)
    form = SpmmForm(rows, widths, LANES, stream, tables.chunked, epilogue, tables.unit)
    extra = [scale, residual] if epilogue.ops else []
    scalars = [one, two, parts, pitch, target.origin, source.strides[0], target.strides[0]]
    scalars += [target.strides[0]] * bool(extra)
    call(kernel(form), [*tables.arrays(), bias, x, y, *extra], scalars, batch * (one + two) * parts)
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
            for dense, packed in ((False, False), (True, False), (False, worth_packing(rows, width))):
                found, expected = run(
                    weights(M, 40), rows, width, columns=columns, batch=2, dense=dense, packed=packed,
                    epilogue=EPILOGUE,
                )  # fmt: skip
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("chunk", [7, 16, 39, 40])
def test_chunks(pattern: str, chunk: int) -> None:
    """First, middle and last chunks; blocks without a nonzero in some or all of them."""
    for rows, width, packed in (
        (4, 4, False),
        (1, 4, False),
        (1, 4, True),
        (2, 6, True),
        (1, 1, True),
        (4, 1, True),
    ):
        for parts in (1, 2, 4):
            for stream in (False, True):
                found, expected = run(
                    weights(37, 40, pattern), rows, width, columns=50, chunk=chunk, parts=parts,
                    stream=stream, packed=packed,
                )  # fmt: skip
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("groups", "per_group", "rows"), [(3, 4, 4), (3, 8, 2), (5, 3, 1), (2, 12, 4)])
def test_groups(groups: int, per_group: int, rows: int) -> None:
    found, expected = run(weights(groups * per_group, 9), rows, 4, columns=33, groups=groups, batch=2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_packed_offsets() -> None:
    """Words hold four offsets, in units from the chunk's first; each block's last word is filled up."""
    matrix = np.zeros((3, 9), np.float32)
    matrix[0, [1, 2, 4, 6, 8]], matrix[1, [0, 5, 7]], matrix[2, 3] = 1.0, 2.0, 3.0
    offset = 1000 + 48 * np.arange(9)
    tables = pack_spmm(matrix, offset, 1, chunk=9, parts=1, packed=True)
    assert tables.unit == 16
    assert tables.group_count.tolist() == [1, 3, 5]
    assert tables.group_base.tolist() == [0, 1, 2]
    assert tables.group_origin.tolist() == [1000, 1000, 1000]
    steps = tables.offset.astype("<u8").view("<u2").reshape(-1, 4)
    assert steps.tolist() == [[9] * 4, [0, 15, 21, 21], [3, 6, 12, 18], [24] * 4, [0] * 4]
    assert tables.value.reshape(-1, 4)[1].tolist() == [2, 2, 2, 0]


def test_chains() -> None:
    """Narrow tiles keep several sums, so that none waits for the one before."""
    assert [chains(1, width) for width in (1, 2, 3, 4, 5, 6, 7, 8)] == [4, 4, 4, 2, 2, 2, 1, 1]
    assert [chains(rows, 1) for rows in (2, 4, 8)] == [4, 2, 1]
    assert [worth_packing(rows, width) for rows, width in ((2, 6), (4, 1), (4, 2), (8, 1))] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("offset", "chunk", "unit"),
    [
        ([0, 64, 64 * 65536], 3, 0),  # one step too far
        ([0, 64, 64 * 65535], 3, 64),
        ([0, 64, 64 * 65536], 2, 64),  # the last is in a chunk of its own
        ([5, 6, 70000], 3, 0),
        ([[0, 1, 2], [3, 4, 5]], 3, 0),  # rows read from different places
    ],
)
def test_offsets_that_cannot_be_packed(offset: Any, chunk: int, unit: int) -> None:
    tables = pack_spmm(np.ones((2, 3), np.float32), np.array(offset), 1, chunk=chunk, parts=1, packed=True)
    assert tables.unit == unit
    assert len(tables.arrays()) == (8 if unit else 7)


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
