"""Weights of 8 and 4 bits: made, and found again in the floats that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.ir.quantized import BLOCK, quantize_matrix, quantized_of


def normal(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def test_error_is_half_a_step() -> None:
    matrix = normal(9, 50)
    matrix[3] = 0
    matrix[4, 1:] = 0
    found = quantize_matrix(matrix, 8)
    codes, scale = found.codes, found.scale
    assert codes.dtype == np.int8 and np.abs(codes).max(axis=1).tolist() == [127] * 3 + [0] + [127] * 5
    assert np.all(np.abs(codes * scale[:, None] - matrix) <= scale[:, None] * 0.5001)
    assert np.array_equal(codes[4, 1:], np.zeros(49)), "zeros stay zeros"


def floats(codes: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    wide = scale[:, None] if bits == 8 else np.repeat(scale, BLOCK, axis=1)
    return codes * wide


@pytest.mark.parametrize("factor", [1.0, 0.37, 1e-20, -3.0])
@pytest.mark.parametrize("bits", [8, 4])
def test_found_again(factor: float, bits: int) -> None:
    """Also where a batch normalisation has multiplied the rows."""
    made = quantize_matrix(normal(9, 3 * BLOCK), bits)
    matrix = floats(made.codes, made.scale, bits) * np.float32(factor)
    found = quantized_of(matrix)
    assert found is not None and found.bits == bits
    assert np.array_equal(found.codes, made.codes * np.sign(factor))
    np.testing.assert_allclose(floats(found.codes, found.scale, bits), matrix, rtol=1e-6)


def test_four_bits() -> None:
    """Each 32 columns of a row on a grid of their own."""
    matrix = normal(5, 2 * BLOCK)
    matrix[1, BLOCK:] = 0
    found = quantize_matrix(matrix, 4)
    assert found.scale.shape == (5, 2)
    assert np.abs(found.codes).reshape(5, 2, BLOCK).max(axis=2).tolist() == [[7, 7], [7, 0]] + [[7, 7]] * 3
    error = np.abs(floats(found.codes, found.scale, 4) - matrix).reshape(5, 2, BLOCK)
    assert np.all(error <= found.scale[:, :, None] * 0.5001)


def test_other_conventions() -> None:
    """-128 as the largest, one scale for the whole tensor, rows that are all zero."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-100, 100, (6, 40)).astype(np.int8)
    codes[2] = 0
    codes[0, 0] = 127
    one = quantized_of(codes * np.float32(0.013))
    assert one is not None and np.array_equal(one.codes, codes)
    codes[[0, 1, 3, 4, 5], 1] = -128
    rows = quantized_of(codes * rng.uniform(0.1, 2, (6, 1)).astype(np.float32))
    assert rows is not None and np.array_equal(rows.codes, codes)


@pytest.mark.parametrize(
    "matrix", [normal(4, 30), np.zeros((0, 4), np.float32), np.zeros((3, 0), np.float32)]
)
def test_plain_weights_are_not_codes(matrix: np.ndarray) -> None:
    assert quantized_of(matrix) is None


def test_one_row_off_the_grid() -> None:
    for bits in (8, 4):
        made = quantize_matrix(normal(5, BLOCK), bits)
        matrix = floats(made.codes, made.scale, bits)
        matrix[3, 7] *= 1.01
        assert quantized_of(matrix) is None
