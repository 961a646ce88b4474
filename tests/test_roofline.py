"""The rooflines' arithmetic on a layer that can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kernel_layers import FAMILIES, Convolution, Linear
from benchmarks.roofline import draw, least_bytes, points


def test_bytes() -> None:
    assert least_bytes(Linear(8, 16, 3), 0.5) == 4 * (3 * 16 + 3 * 8 + 64)
    strided = Convolution(8, 4, 10, kernel=3, stride=2)
    assert least_bytes(strided, 0.0) == 4 * (4 * 100 + 8 * 25 + 8 * 4 * 9)


def test_points_and_picture(tmp_path: Path) -> None:
    family = FAMILIES[0]
    shape = family.shapes[0]
    layer = {"label": shape.label, "zeros": 0.5, "ours_us": 10.0}
    rows = [{"family": family.name, "pattern": "4x1", "percent": 50, "layers": [layer]}]
    (point,) = points(rows)
    assert point["gflops"] == pytest.approx(shape.flops / 2 / 10e-6 * 1e-9)
    assert point["intensity"] == pytest.approx(shape.flops / 2 / least_bytes(shape, 0.5))
    draw(rows, 200.0, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
