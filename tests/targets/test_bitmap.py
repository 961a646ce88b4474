"""The kernel with a bit for each weight and the fixed-point inputs of 8-bit weights, against float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from harness import Buffer, call, load_kernels
from networks import Array, Network, pruned
from stepping import V4, check, lowered
from test_rows import EPILOGUE, expected_of, operands

from sparsecc.compiler import generator_version
from sparsecc.host import host_features
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.bitmap import (
    LANES,
    WORD,
    BitmapForm,
    bitmap_kernel,
    code_offsets,
    lines_of,
    pack_bitmap,
    rows_together,
)
from sparsecc.targets.kernels.digits import DIGITS, DigitsForm, digits_kernel
from sparsecc.targets.lower.bitmap import stored_weights
from sparsecc.targets.lower.layers import RowsLayer
from sparsecc.targets.lower.select import choose_rows
from sparsecc.targets.registry import MACHINES

AVX2 = "x86-64-v3"
VBMI2 = f"{V4}+vnni+vbmi2"
needs_vbmi2 = pytest.mark.skipif(
    not host_features().issuperset(MACHINES[VBMI2].all_features), reason="this machine has no VBMI2"
)
PATTERNS = ["unstructured 50", "unstructured 95", "dense", "zero", "16x1 75"]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@pytest.mark.parametrize("stored", ["float32", pytest.param("bfloat16", marks=needs_vbmi2)])
def test_floats(stored: str, columns: int, pattern: str) -> None:
    """Rows that fill no block, one word and more; nothing but the elements of X is read."""
    rng = np.random.default_rng(5)
    for rows, reduction in ((1, 64), (16, 192), (39, 320)):
        matrix = pruned(rng.standard_normal((rows, reduction)), pattern, rng).astype(np.float32)
        if stored == "bfloat16":
            matrix = matrix.astype(ml_dtypes.bfloat16).astype(np.float32)
        weights = stored_weights(matrix, None, stored)
        together = rows_together(columns, stored)
        tables = pack_bitmap(weights, together)
        form = BitmapForm(columns, EPILOGUE, stored, lines_of(weights, together))
        symbol = structural_name("bitmap", form)
        made = load_kernels({symbol: lambda f=form, s=symbol: bitmap_kernel(f, s)}, generator_version())
        x, y, residual, bias, factor = operands(matrix, columns, feature_major=False)
        pointers = [*tables.arrays(), bias, x, y, factor, residual]
        scalars = [reduction // WORD, x.layout.strides[0], y.layout.strides[0], 0]
        call(made[symbol], pointers, scalars, -(-rows // LANES))
        wanted = expected_of(matrix, x, residual, bias, factor)
        np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-5)


def as_digits(x: Buffer) -> tuple[Array, Array, Array]:
    """(digits, factors, the values that they stand for, in float64) of X [N, K]."""
    columns, reduction = x.shape
    xn, xk = x.layout.strides
    form = DigitsForm(reduction, xk == 1)
    symbol = structural_name("digits", form)
    made = load_kernels({symbol: lambda: digits_kernel(form, symbol)}, generator_version())
    digits = np.full((columns, -(-reduction // WORD), DIGITS, WORD), 99, np.uint8)
    factor = np.zeros(columns, np.float32)
    call(made[symbol], [x, digits, factor], [xk, xn], columns)
    weights = np.array([1, 1 << 8, 1 << 16])[:, None]
    whole = (digits.astype(np.int64) * weights).sum(axis=2).reshape(columns, -1) - (1 << 23)
    return digits, factor, whole[:, :reduction] * factor[:, None].astype(np.float64)


@pytest.mark.parametrize("feature_major", [False, True])
@pytest.mark.parametrize("reduction", [1, 15, 16, 64, 100, 127, 192])
def test_digits_keep_24_bits(reduction: int, feature_major: bool) -> None:
    for scale in (1.0, 1e-20, 1e30):
        x, *_ = operands(np.zeros((1, reduction), np.float32), 3, feature_major=feature_major)
        x.elements[...] *= np.float32(scale)
        x.elements[1] = 0
        x.elements[2, 0] = np.abs(x.elements[2]).max()  # the largest code
        _, _, values = as_digits(x)
        largest = np.abs(x.elements).max(axis=1, keepdims=True).astype(np.float64)
        assert (np.abs(values - x.elements) <= 2.0**-23 * largest).all()
        assert not values[1].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 70, 99])
def test_digits_of_no_number(value: float, place: int) -> None:
    """A column with NaN or an infinity has a factor that is none either."""
    x, *_ = operands(np.zeros((1, 100), np.float32), 2, feature_major=False)
    x.elements[1, place] = value
    _, factor, _ = as_digits(x)
    assert np.isfinite(factor[0]) and not np.isfinite(factor[1])


@needs_vbmi2
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_codes(columns: int, pattern: str) -> None:
    """Sums are exact: what is left is the rounding of X and of the result."""
    rng = np.random.default_rng(6)
    for rows, reduction in ((1, 64), (16, 100), (39, 320)):
        keep = pruned(np.ones((rows, reduction)), pattern, rng) != 0
        codes = np.where(keep, rng.integers(-128, 128, (rows, reduction)), 0).astype(np.int8)
        together = rows_together(columns, "int8")
        tables = pack_bitmap(codes, together)
        form = BitmapForm(columns, EPILOGUE, "int8", lines_of(codes, together))
        symbol = structural_name("bitmap", form)
        made = load_kernels({symbol: lambda f=form, s=symbol: bitmap_kernel(f, s)}, generator_version())
        x, y, residual, bias, factor = operands(codes.astype(np.float32), columns, feature_major=True)
        digits, step, values = as_digits(x)
        scale = rng.uniform(0.5, 2, len(bias)).astype(np.float32)
        offsets = np.pad(code_offsets(codes), (0, LANES))
        pointers = [*tables.arrays(), offsets, scale, step, bias, digits, y, factor, residual]
        words = -(-reduction // WORD)
        call(
            made[symbol], pointers, [words, words * WORD * DIGITS, y.layout.strides[0], 0], -(-rows // LANES)
        )
        matrix = codes * scale[:rows, None].astype(np.float64)
        wanted = (values @ matrix.T + bias[:rows]) * factor[:rows] + residual.elements
        np.testing.assert_allclose(y.elements, wanted, rtol=2e-6, atol=2e-6 * np.abs(wanted).max())


@needs_vbmi2
@pytest.mark.parametrize("pattern", ["unstructured 70", "unstructured 95", "zero"])
@pytest.mark.parametrize("columns", [1, 3, 4, 5])
@pytest.mark.parametrize("bits", [16, 8, None])
def test_networks(columns: int, bits: int | None, pattern: str) -> None:
    """Layers that share their inputs, with tails, and rows that fill no block."""
    net = Network()
    x = net.input(columns, 192)
    for rows in (5, 64):
        y = net.add("Add", net.linear(x, 192, rows, pattern=pattern, bits=bits), net.normal(rows))
        net.output(net.add("Relu", y))
    net.output(net.linear(net.add("Relu", x), 192, 33, pattern=pattern, bits=bits))
    check(net, VBMI2)


@needs_vbmi2
def test_inputs_become_digits_once() -> None:
    net = Network()
    x = net.input(1, 512)
    for _ in range(3):
        net.output(net.linear(x, 512, 512, pattern="unstructured 70", bits=8))
    _, plan = lowered(net.proto(), VBMI2)
    assert [step.kind for step in plan.steps].count("digits") == 1
    assert [step.kind for step in plan.steps].count("bitmap") == 3
    assert {"avx512_vnni", "avx512_vbmi2"} <= set(plan.features)


def test_machines_without_the_instruction() -> None:
    """8-bit weights need VBMI2, floats AVX-512, and few columns are needed."""
    matrix = pruned(np.ones((512, 512)), "unstructured 70", np.random.default_rng(0)).astype(np.float32)

    def kind(target: str, columns: int, bits: int) -> str:
        machine = MACHINES[target]
        layer = RowsLayer(matrix, columns, bits=bits, from_memory=True)
        return choose_rows(layer, machine, dense_only=False).kind

    assert kind(VBMI2, 1, 8) == kind(VBMI2, 1, 16) == kind(V4, 1, 32) == "bitmap"
    assert "bitmap" not in (kind(V4, 1, 8), kind(f"{V4}+vnni", 1, 8), kind(V4, 1, 16), kind(AVX2, 1, 32))
    assert "bitmap" not in (kind(VBMI2, 5, 8), kind(V4, 5, 32))
