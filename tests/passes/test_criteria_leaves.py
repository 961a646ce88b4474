"""Shapes that hide what lies behind them."""

import numpy as np
import pytest

from sparsecc.passes.criteria import leaves
from sparsecc.passes.criteria.leaves import SHAPES, cover


def painted(count: int, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> np.ndarray:
    """[1, *size] of zeros, with `count` shapes of colours 1, 2, ... without texture or shade."""
    monkeypatch.setattr(leaves, "SHAPES", (count, count + 1))
    monkeypatch.setattr(leaves, "SHADE", 0.0)
    picture = np.zeros((1, *size), np.float32)
    colours = iter(range(1, count + 1))
    texture = np.zeros((1, *size), np.float32)
    cover(picture, [texture], lambda: np.full((1, 1, 1), next(colours)), np.random.default_rng(seed))
    return picture


def test_each_hides_what_lies_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shape more changes nothing but what that shape covers, and that is all of its colour."""
    for count in range(1, 12):
        before, after = (painted(number, (40, 60), monkeypatch) for number in (count, count + 1))
        changed = before != after
        assert (after[changed] == count + 1).all()
        assert set(np.unique(after)) <= set(range(count + 2))


def test_sizes_lie_within_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Radii of 8 to 40 pixels, small ones most often; some shapes lie across the border."""
    monkeypatch.setattr(leaves, "RADII", (0.02, 0.1))
    areas = np.array([(painted(1, (400, 400), monkeypatch, seed) > 0).sum() for seed in range(100)])
    assert areas.max() <= 4.2 * 40**2
    assert np.quantile(areas, 0.1) > 8**2
    assert np.median(areas) < 4 * 20**2


def test_all_outlines_are_solid_and_of_a_size() -> None:
    y, x = np.ogrid[-2:2:401j, -2:2:401j]
    for outline in leaves._OUTLINES:
        inside = outline(x, y, np.random.default_rng(0))
        area = inside.mean() * 16
        assert inside[200, 200] and 1.5 < area < 4.5
        assert not (inside & ((np.abs(x) > 1.5) | (np.abs(y) > 1.5))).any()


def test_textures_and_colours_are_seen() -> None:
    generator = np.random.default_rng(1)
    picture = np.zeros((3, 32, 32), np.float32)
    textures = [np.full((3, 32, 32), 5.0), np.full((3, 32, 32), 7.0)]
    cover(picture, textures, lambda: np.array([0.0, 10.0, 20.0])[:, None, None], generator)
    hit = picture[0] != 0
    assert hit.any() and SHAPES[0] >= 1
    assert np.allclose(picture[1, hit] - picture[0, hit], 10, atol=1e-4)
    assert np.allclose(picture[2, hit] - picture[0, hit], 20, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 200), (33, 17)])
def test_any_sizes(size: tuple[int, int]) -> None:
    picture = np.zeros((2, *size), np.float32)
    cover(picture, [np.ones((2, *size))], lambda: np.ones((2, 1, 1)), np.random.default_rng(0))
    assert np.isfinite(picture).all()
