"""Shapes in front of each other, whose edges and flat surfaces make noise look like photographs.

This is the dead leaves model (Lee, Mumford and Huang 2001): shapes of random places, sizes, colours and
textures, each hiding what it covers. Photographs owe their statistics to such occlusion, and networks learn
edges from it that no field of noise has (Baradad et al. 2021, "Learning to see by looking at noise").
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

TEXTURES = 4
"""Of a picture, which its shapes share."""
SHAPES = (5, 40)
"""Range of the number of shapes in a picture."""
RADII = (0.08, 0.8)
"""Range of their sizes over the shorter side of the picture, of density r^-3 as things in photographs."""
ASPECT = 0.8
"""Largest natural logarithm of length over width."""
SHADE = 0.3
"""Standard deviation of how much brighter one end of a shape is than its middle."""
_REACH = 1.5
"""Largest distance from the middle, in multiples of the radius along that axis."""


def cover(
    picture: np.ndarray,
    textures: list[np.ndarray],
    colour: Callable[[], np.ndarray],
    generator: np.random.Generator,
) -> None:
    """Paint shapes over a picture.

    Args:
        picture: [channels, height, width], changed in place.
        textures: of the same shape, of mean 0.
        colour: gives the colour of one shape, [channels, 1, 1].
        generator: of everything else.
    """
    sizes = picture.shape[1:]
    smallest, largest = (1 / limit**2 for limit in RADII)
    for _ in range(generator.integers(*SHAPES)):
        share = generator.random()
        radius = min(sizes) / math.sqrt(share * smallest + (1 - share) * largest)
        stretch = math.exp(generator.uniform(-ASPECT, ASPECT) / 2)
        middle = generator.uniform(0, sizes)
        reach = _REACH * radius * max(stretch, 1 / stretch)
        low = [max(0, math.floor(at - reach)) for at in middle]
        high = [min(size, math.ceil(at + reach) + 1) for at, size in zip(middle, sizes, strict=True)]
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        angle = generator.uniform(0, math.pi)
        down, right = (y - middle[0]) / radius, (x - middle[1]) / radius
        along = (math.cos(angle) * right + math.sin(angle) * down) / stretch
        across = (math.cos(angle) * down - math.sin(angle) * right) * stretch
        inside = _OUTLINES[generator.integers(len(_OUTLINES))](along, across, generator)
        place = np.s_[:, low[0] : high[0], low[1] : high[1]]
        shade = generator.normal(0, SHADE) * along + generator.normal(0, SHADE) * across
        surface = colour() + textures[generator.integers(len(textures))][place] + shade
        picture[place] = np.where(inside, surface, picture[place])


# Each says which points lie inside, in multiples of the radius along two axes.


def _ellipse(along: np.ndarray, across: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    del generator
    return along**2 + across**2 < 1


def _rectangle(along: np.ndarray, across: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    del generator
    return np.maximum(np.abs(along), np.abs(across)) < 1


def _triangle(along: np.ndarray, across: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    del generator
    return (across > -0.7) & (across < 1.4 - 2 * np.abs(along))


def _star(along: np.ndarray, across: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """With 2 to 6 rounded points."""
    points = generator.integers(2, 7)
    waves = np.sin(points * np.arctan2(across, along) + generator.uniform(0, 2 * math.pi))
    return np.hypot(along, across) < 0.8 + 0.3 * waves


_OUTLINES = (_ellipse, _rectangle, _triangle, _star)
