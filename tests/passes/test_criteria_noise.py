"""Noise in place of pictures."""

import numpy as np
import pytest

from sparsecc.passes.criteria.noise import MAX_COLORS, pictures


def spectrum(field: np.ndarray) -> np.ndarray:
    """Mean amplitude at each whole frequency from 1 to a third of the size, fields [n, size, size]."""
    size = field.shape[-1]
    amplitude = np.abs(np.fft.fft2(field))
    steps = np.abs(np.fft.fftfreq(size) * size)
    radius = np.rint(np.hypot(*np.meshgrid(steps, steps)))
    return np.array([amplitude[:, radius == step].mean() for step in range(1, size // 3)])


def test_amplitudes_fall_with_the_frequency_by_a_power() -> None:
    found = pictures((64, 1, 48, 48), np.random.default_rng(0))
    amplitudes = spectrum(found[:, 0])
    slope = np.polyfit(np.log(np.arange(1, 1 + len(amplitudes))), np.log(amplitudes), 1)[0]
    assert -1.7 < slope < -0.7


def test_they_have_the_scale_of_normalized_inputs() -> None:
    found = pictures((256, 3, 16, 16), np.random.default_rng(0))
    assert found.dtype == np.float32
    assert abs(found.mean()) < 0.15
    assert 0.8 < found.std() < 1.3


def test_colours_go_together_and_other_channels_do_not() -> None:
    def correlation(channels: int) -> float:
        found = pictures((64, channels, 16, 16), np.random.default_rng(0))
        centered = found - found.mean((2, 3), keepdims=True)
        pairs = [np.corrcoef(picture[0].ravel(), picture[1].ravel())[0, 1] for picture in centered]
        return float(np.mean(pairs))

    assert correlation(MAX_COLORS) > 0.8
    assert abs(correlation(MAX_COLORS + 1)) < 0.3


@pytest.mark.parametrize("shape", [(2, 3, 8, 10), (2, 8, 10, 3), (1, 2, 5, 6, 7), (3, 1, 1, 1)])
def test_any_sizes(shape: tuple[int, ...]) -> None:
    found = pictures(shape, np.random.default_rng(0))
    assert found.shape == shape
    assert np.isfinite(found).all()
    assert (found == pictures(shape, np.random.default_rng(0))).all()
    assert (found != pictures(shape, np.random.default_rng(1))).all()


def test_channels_last_is_the_same_turned() -> None:
    last = pictures((2, 9, 9, 3), np.random.default_rng(5))
    assert (np.moveaxis(last, -1, 1) == pictures((2, 3, 9, 9), np.random.default_rng(5))).all()
