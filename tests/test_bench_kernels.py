"""The benchmark of single layers: what it runs is right, whatever the time."""

from __future__ import annotations

import pytest

from benchmarks.kernel_layers import FAMILIES, Convolution, Linear, Shape
from benchmarks.kernels import TOLERANCE, as_table, measure


@pytest.mark.parametrize(
    ("shape", "pattern", "percent", "bits"),
    [
        (Convolution(32, 16, 9, 3, 2), "4x1", 80, 32),
        (Convolution(16, 16, 10, 5, 1, 16), "dense", 0, 32),
        (Linear(48, 32, 20), "unstructured", 70, 32),
        (Linear(48, 32, 4), "16x1", 50, 32),
        (Linear(48, 32, 16), "2:4", 50, 32),
        (Convolution(32, 16, 9, 3, 2), "4x4", 80, 8),
        (Convolution(16, 16, 10, 5, 1, 16), "dense", 0, 8),
        (Linear(48, 32, 20), "4x4", 50, 8),
    ],
)
def test_layer(shape: Shape, pattern: str, percent: int, bits: int) -> None:
    row = measure(shape, pattern, percent, peak=1e11, bits=bits)
    assert row["kernel"].startswith("int8") == (bits == 8)
    assert row["difference"] <= TOLERANCE
    assert row["zeros"] == pytest.approx(percent / 100, abs=0.03)
    assert row["label"] == shape.label


def test_flops() -> None:
    assert Convolution(8, 4, 7, 3, 2).flops == 2 * 8 * 4 * 9 * 16
    assert Convolution(8, 8, 7, 3, 1, 8).flops == 2 * 8 * 9 * 49
    assert Linear(3, 5, 7).flops == 210


def test_table() -> None:
    rows = [
        {"family": "a", "pattern": "4x1", "percent": 50, "median": 1.234, "goal": 1.5},
        {"family": "a", "pattern": "4x1", "percent": 90, "median": 8.0, "goal": 7.0},
        {"family": "b", "pattern": "dense", "percent": 0, "median": 1.0, "goal": 0.97},
    ]
    assert as_table(rows).splitlines()[2:] == [
        "| a | 4x1 |  | 1.23 (1.5) | 8.00 (7) |",
        "| b | dense | 1.00 (0.97) |  |  |",
    ]


def test_rows_have_different_names() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert len({shape.label for shape in family.shapes}) == len(family.shapes)
