"""8-bit weights: made, and found again in the floats that they stand for, whoever quantised them."""

from __future__ import annotations

import numpy as np
import pytest

from sparsecc.ir.quantized import codes_of, quantize_rows


def normal(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)


def test_error_is_half_a_step() -> None:
    matrix = normal(9, 50)
    matrix[3] = 0
    matrix[4, 1:] = 0
    codes, scale = quantize_rows(matrix)
    assert codes.dtype == np.int8 and np.abs(codes).max(axis=1).tolist() == [127] * 3 + [0] + [127] * 5
    assert np.all(np.abs(codes * scale[:, None] - matrix) <= scale[:, None] * 0.5001)
    assert np.array_equal(codes[4, 1:], np.zeros(49)), "zeros stay zeros"


@pytest.mark.parametrize("factor", [1.0, 0.37, 1e-20, -3.0])
def test_found_again(factor: float) -> None:
    """Also where a batch normalisation has multiplied the rows."""
    codes, scale = quantize_rows(normal(9, 50))
    floats = codes * scale[:, None] * np.float32(factor)
    found = codes_of(floats)
    assert found is not None
    assert np.array_equal(found[0], codes * np.sign(factor))
    np.testing.assert_allclose(found[0] * found[1][:, None], floats, rtol=1e-6)


def test_other_conventions() -> None:
    """-128 as the largest, one scale for the whole tensor, rows that are all zero."""
    rng = np.random.default_rng(1)
    codes = rng.integers(-100, 100, (6, 40)).astype(np.int8)
    codes[2] = 0
    codes[0, 0] = 127
    one = codes_of(codes * np.float32(0.013))
    assert one is not None and np.array_equal(one[0], codes)
    codes[[0, 1, 3, 4, 5], 1] = -128
    rows = codes_of(codes * rng.uniform(0.1, 2, (6, 1)).astype(np.float32))
    assert rows is not None and np.array_equal(rows[0], codes)


@pytest.mark.parametrize(
    "matrix", [normal(4, 30), np.zeros((0, 4), np.float32), np.zeros((3, 0), np.float32)]
)
def test_plain_weights_are_not_codes(matrix: np.ndarray) -> None:
    assert codes_of(matrix) is None


def test_one_row_off_the_grid() -> None:
    codes, scale = quantize_rows(normal(5, 30))
    floats = codes * scale[:, None]
    floats[3, 7] *= 1.01
    assert codes_of(floats) is None
