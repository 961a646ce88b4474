"""Real photographs that come inside packages, as inputs of EfficientNet-lite0.

Twenty with labels of ImageNet classes (foolbox 3.3.4; the label is the last number of the file name) and
thirteen without (scikit-image 0.26.0). They are read by path: neither package is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 224
UNLABELLED = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "moon.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg",
)  # fmt: skip


@dataclass(frozen=True)
class Photograph:
    """A picture as float32 [1, 3, 224, 224], and its ImageNet class where that is known."""

    name: str
    pixels: np.ndarray
    label: int | None


def photographs() -> list[Photograph]:
    """All of them, the labelled ones first."""
    labelled = sorted(data_folder("foolbox").glob("imagenet_*.jpg"))
    found = [_read(path, int(path.stem.rpartition("_")[2])) for path in labelled]
    return found + [_read(data_folder("skimage") / name, None) for name in UNLABELLED]


def data_folder(package: str) -> Path:
    """Where an installed package keeps its data.

    Raises:
        SystemExit: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"the package {package} is not installed: run `make env`")
    return Path(spec.submodule_search_locations[0]) / "data"


def _read(path: Path, label: int | None) -> Photograph:
    """The centre square, resized; (x - 127) / 128 is what the network was trained with."""
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    pixels = (np.asarray(image, dtype=np.float32) - 127.0) / 128.0
    return Photograph(path.name, np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]), label)
