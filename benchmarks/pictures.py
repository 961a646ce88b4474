"""Photographs and cut-out things that Debian packages carry, for calibration; none has a class.

`gcompris-qt-data` has some 250 photographs of animals, tools, monuments and landscapes, as WebP files inside
Qt's resource files, which store them as they are. `tuxpaint-stamps-default` has some 180 photographs of
animals, plants and things with nothing around them, to be put in front of others.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

GCOMPRIS = Path("/usr/share/gcompris-qt/rcc")
STAMPS = Path("/usr/share/tuxpaint/stamps")
_ACTIVITIES = ("categorization", "details", "erase", "explore_*")
_DRAWN = ("cartoon", "symbols")  # folders
_LEAST_SIDE = 200
_LEAST_STAMP = 100
_SOLID = 200  # least opacity of a pixel that counts
_LEAST_PIXELS = 5000
_COLOURS = 10.0
"""Colours, in steps of four, over the root of the number of pixels: photographs have more, drawings fewer."""


@cache
def photographs() -> list[Image.Image]:
    """Of GCompris.

    Raises:
        SystemExit: they are not installed.
    """
    _installed(GCOMPRIS, "gcompris-qt-data")
    paths = sorted(path for name in _ACTIVITIES for path in GCOMPRIS.glob(f"{name}.rcc"))
    images = (image for path in paths for image in _webp_in(path.read_bytes()))
    return [image.convert("RGB") for image in images if min(image.size) >= _LEAST_SIDE]


@cache
def stamps() -> list[Image.Image]:
    """Of Tux Paint, with transparency.

    Raises:
        SystemExit: they are not installed.
    """
    _installed(STAMPS, "tuxpaint-stamps-default")
    paths = (p for p in sorted(STAMPS.rglob("*.png")) if not any(word in str(p) for word in _DRAWN))
    images = (Image.open(path).convert("RGBA") for path in paths)
    return [image for image in images if min(image.size) >= _LEAST_STAMP and _is_photograph(image)]


def _installed(folder: Path, package: str) -> None:
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: apt install --no-install-recommends {package}")


def _webp_in(data: bytes) -> Iterator[Image.Image]:
    """All pictures in a file that holds them as they are (RIFF: four bytes, length, kind)."""
    at = data.find(b"RIFF")
    while at >= 0:
        if data[at + 8 : at + 12] == b"WEBP":
            size = 8 + struct.unpack_from("<I", data, at + 4)[0]
            yield Image.open(io.BytesIO(data[at : at + size]))
        at = data.find(b"RIFF", at + 4)


def _is_photograph(image: Image.Image) -> bool:
    pixels = np.asarray(image)
    solid = pixels[pixels[..., 3] > _SOLID][:, :3].astype(np.int64) // 4
    colours = np.unique(solid @ np.array([4096, 64, 1]))
    return len(solid) >= _LEAST_PIXELS and len(colours) > _COLOURS * len(solid) ** 0.5
