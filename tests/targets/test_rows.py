"""The kernels for few columns, lanes along output rows and CSR, against numpy in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import Buffer, call, load_kernels
from networks import PATTERNS, Array, pruned

from sparsecc.compiler import generator_version
from sparsecc.ir.quantized import BLOCK, quantize_matrix
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.csr import CsrForm, csr_chains, csr_kernel, csr_rounds, pack_csr
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.kernels.groups import ROWS, GroupsForm, groups_kernel, pack_groups
from sparsecc.targets.kernels.lookup import BUCKET, LookupForm, bucket_steps, lookup_kernel, pack_lookup
from sparsecc.targets.kernels.nibbles import NibblesForm, nibbles_kernel, pack_nibbles
from sparsecc.targets.kernels.rows import RowsForm, choose_chains, pack_rows, rows_kernel
from sparsecc.targets.layout import Layout, round_up

LANES = 16
EPILOGUE = Epilogue(
    (
        EpilogueOp("Mul", (Operand("step", 0), Operand("row", 0))),
        EpilogueOp("Add", (Operand("step", 1), Operand("tensor", 0))),
    ),
    row_pointers=1,
    tensor_pointers=1,
)


def operands(
    matrix: Array, columns: int, *, feature_major: bool
) -> tuple[Buffer, Buffer, Buffer, Array, Array]:
    """X, Y, residual, bias and scale; X may not be read outside its elements, Y has rows of whole vectors."""
    rng = np.random.default_rng(2)
    M, K = matrix.shape
    source = Layout((1, columns) if feature_major else (K, 1), 0, columns * K)
    x = Buffer(source, (columns, K), np.float32, rng.standard_normal((columns, K)))
    width = round_up(M, LANES)
    target = Layout((width, 1), 0, columns * width)
    y, residual = (
        Buffer(target, (columns, M), np.float32, rng.standard_normal((columns, M))) for _ in range(2)
    )
    bias, scale = (rng.standard_normal(width).astype(np.float32) for _ in range(2))
    return x, y, residual, bias, scale


def expected_of(matrix: Array, x: Buffer, residual: Buffer, bias: Array, scale: Array) -> Array:
    M = len(matrix)
    product = x.elements.astype(np.float64) @ matrix.astype(np.float64).T + bias[:M]
    return product * scale[:M] + residual.elements


def matrices(pattern: str) -> list[Array]:
    rng = np.random.default_rng(3)
    sizes = [(1, 1), (17, 3), (40, 24), (64, 37)]
    return [pruned(rng.standard_normal(s), pattern, rng).astype(np.float32) for s in sizes]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("columns", [1, 2, 3, 8])
def test_lanes_on_rows(columns: int, pattern: str) -> None:
    for matrix in matrices(pattern):
        for dense in (True, False):
            chains = choose_chains(columns, matrix.shape[1], dense=dense)
            tables = pack_rows(matrix, LANES, chains, dense=dense)
            form = RowsForm(columns, chains, dense, LANES, EPILOGUE)
            symbol = structural_name("rows", form)
            function = load_kernels({symbol: lambda f=form, s=symbol: rows_kernel(f, s)}, generator_version())
            x, y, residual, bias, scale = operands(matrix, columns, feature_major=dense)
            packed = [tables.value] if dense else [tables.start, tables.column, tables.value]
            xn, xk = x.layout.strides
            scalars = [tables.runs, xk, xn, y.layout.strides[0], 0]
            pointers = [*packed, bias, x, y, scale, residual]
            call(function[symbol], pointers, scalars, -(-len(matrix) // LANES))
            wanted = expected_of(matrix, x, residual, bias, scale)
            np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", [*PATTERNS, "dense", "empty"])
@pytest.mark.parametrize("columns", [1, 2, 3, 8])
def test_lookup(columns: int, pattern: str) -> None:
    """One bucket, whole ones and a last one that overlaps; one row, whole blocks of rows and a part."""
    rng = np.random.default_rng(4)
    for shape in ((1, BUCKET), (17, BUCKET + 1), (48, 3 * BUCKET), (33, 4 * BUCKET - 1)):
        matrix = rng.standard_normal(shape).astype(np.float32) * (pattern != "empty")
        if pattern in PATTERNS:
            matrix = pruned(matrix, pattern, rng).astype(np.float32)
        tables = pack_lookup(matrix)
        assert len(tables.value) == bucket_steps(matrix != 0).sum()
        form = LookupForm(columns, EPILOGUE)
        symbol = structural_name("lookup", form)
        made = load_kernels({symbol: lambda f=form, s=symbol: lookup_kernel(f, s)}, generator_version())
        x, y, residual, bias, scale = operands(matrix, columns, feature_major=False)
        arrays = [tables.first, tables.steps, tables.place, tables.value]
        scalars = [tables.steps.shape[1], shape[1], x.layout.strides[0], y.layout.strides[0], 0]
        call(made[symbol], [*arrays, bias, x, y, scale, residual], scalars, -(-len(matrix) // LANES))
        wanted = expected_of(matrix, x, residual, bias, scale)
        np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_csr(columns: int, pattern: str) -> None:
    for matrix in matrices(pattern):
        chains = csr_chains(columns)
        tables = pack_csr(matrix, LANES, chains)
        assert int(tables.start[-1]) == csr_rounds(matrix, chains)
        form = CsrForm(columns, chains, LANES, EPILOGUE)
        symbol = structural_name("csr", form)
        function = load_kernels({symbol: lambda f=form, s=symbol: csr_kernel(f, s)}, generator_version())
        x, y, residual, bias, scale = operands(matrix, columns, feature_major=False)
        pointers = [tables.start, tables.column, tables.value, bias, x, y, scale, residual]
        call(
            function[symbol], pointers, [1, matrix.shape[1], y.layout.strides[0], 0], -(-len(matrix) // LANES)
        )
        wanted = expected_of(matrix, x, residual, bias, scale)
        np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("kind", ["dense", "blocks", "lookup"])
def test_codes(columns: int, kind: str) -> None:
    """int8 weights with a scale per row: as the floats that they stand for."""
    rng = np.random.default_rng(5)
    for shape in ((1, 32), (37, 70)):
        matrix = pruned(rng.standard_normal(shape), "unstructured 70", rng).astype(np.float32)
        quantized = quantize_matrix(matrix, 8)
        codes, scale = quantized.codes, quantized.scale
        wide = np.pad(scale, (0, round_up(len(scale), LANES) - len(scale)))
        x, y, residual, bias, factor = operands(matrix, columns, feature_major=False)
        xn, xk = x.layout.strides
        if kind == "lookup":
            found = pack_lookup(codes)
            form: LookupForm | RowsForm = LookupForm(columns, EPILOGUE, "int8")
            arrays = [found.first, found.steps, found.place, found.value]
            scalars = [found.steps.shape[1], shape[1], xn]
        else:
            chains = choose_chains(columns, shape[1], dense=kind == "dense")
            tables = pack_rows(codes, LANES, chains, dense=kind == "dense")
            form = RowsForm(columns, chains, kind == "dense", LANES, EPILOGUE, "int8")
            arrays = [tables.value] if kind == "dense" else [tables.start, tables.column, tables.value]
            scalars = [tables.runs, xk, xn]
        symbol = structural_name("codes", form)

        def build(form: LookupForm | RowsForm = form, symbol: str = symbol) -> Any:
            return lookup_kernel(form, symbol) if isinstance(form, LookupForm) else rows_kernel(form, symbol)

        made = load_kernels({symbol: build}, generator_version())
        pointers = [*arrays, wide, bias, x, y, factor, residual]
        call(made[symbol], pointers, [*scalars, y.layout.strides[0], 0], -(-len(matrix) // LANES))
        wanted = expected_of(codes * scale[:, None], x, residual, bias, factor)
        np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("lanes", [8, 16])
def test_nibbles(columns: int, lanes: int) -> None:
    """4-bit codes, all 16 of them, with a scale per 32 columns."""
    rng = np.random.default_rng(6)
    for shape, feature_major in (((1, BLOCK), False), ((37, 3 * BLOCK), True)):
        codes = rng.integers(-8, 8, shape).astype(np.int8)
        scale = rng.uniform(0.5, 2, (shape[0], shape[1] // BLOCK)).astype(np.float32)
        tables = pack_nibbles(codes, scale, lanes)
        form = NibblesForm(columns, lanes, EPILOGUE)
        symbol = structural_name("nibbles", form)
        made = load_kernels({symbol: lambda f=form, s=symbol: nibbles_kernel(f, s)}, generator_version())
        matrix = codes * np.repeat(scale, BLOCK, axis=1)
        x, y, residual, bias, factor = operands(matrix, columns, feature_major=feature_major)
        xn, xk = x.layout.strides
        scalars = [scale.shape[1], xk, xn, y.layout.strides[0], 0]
        pointers = [tables.value, tables.scale, bias, x, y, factor, residual]
        call(made[symbol], pointers, scalars, -(-shape[0] // lanes))
        wanted = expected_of(matrix, x, residual, bias, factor)
        np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("lanes", [8, 16])
def test_groups(columns: int, lanes: int) -> None:
    """4-bit codes with zero groups of 32 columns, rows with none, an odd number and all of them."""
    rng = np.random.default_rng(6)
    for rows, groups in ((1, 1), (37, 5), (150, 4)):
        codes = rng.integers(-8, 8, (rows, groups * BLOCK)).astype(np.int8)
        keep = rng.random((rows, groups)) < 0.5
        keep[0], keep[-1] = False, True
        codes *= np.repeat(keep, BLOCK, axis=1)
        scale = rng.uniform(0.5, 2, (rows, groups)).astype(np.float32)
        tables = pack_groups(codes, scale)
        form = GroupsForm(columns, lanes, EPILOGUE)
        symbol = structural_name("groups", form)
        made = load_kernels({symbol: lambda f=form, s=symbol: groups_kernel(f, s)}, generator_version())
        matrix = codes * np.repeat(scale, BLOCK, axis=1)
        x, y, residual, bias, factor = operands(matrix, columns, feature_major=False)
        scratch = np.full((-(-rows // ROWS), ROWS, columns, lanes), np.nan, np.float32)
        pointers = [tables.start, tables.member, tables.value, scratch, bias, x, y, factor, residual]
        scalars = [groups, -(-rows // 16), x.layout.strides[0], y.layout.strides[0], 0]
        call(made[symbol], pointers, scalars, -(-rows // ROWS))
        wanted = expected_of(matrix, x, residual, bias, factor)
        np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-4)
