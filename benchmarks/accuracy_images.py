"""Images for calibration and scores: Fashion-MNIST and photographs, from packages of apt and pip."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import pictures
from benchmarks.photographs import SIZE, UNLABELLED, data_folder

FASHION = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 5000
"""The last images of the Fashion-MNIST training set, which no weight is trained on."""
MEAN, DEVIATION = 0.2860, 0.3530
"""Of the pixels of Fashion-MNIST between 0 and 1."""
STAMPED = 0.5
"""Share of the photographs with a thing in front."""
PASTED = 0.3
"""Share of the cut-outs with a piece of another picture in them."""
STAGE = 320
"""Pixels of the sides of a photograph behind a thing."""
MORE = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
    ("skimage", "data/color.png"),
    ("skimage", "data/hubble_deep_field.jpg"),
    ("skimage", "data/ihc.png"),
    ("skimage", "data/retina.jpg"),
)
"""Package and path of pictures that are less like those of ImageNet."""
VIEW = 0.875
"""Side of a cut-out over the side of the photograph."""


@dataclass(frozen=True)
class Images:
    """Normalised images float32 [n, 1, 28, 28] and classes int64 [n]."""

    pixels: np.ndarray
    classes: np.ndarray

    def part(self, indices: np.ndarray | slice) -> Images:
        """Some of them."""
        return Images(self.pixels[indices], self.classes[indices])


@cache
def fashion(part: str) -> Images:
    """Fashion-MNIST: "train" (55,000), "held-out" (5,000 more of the training set) or "test" (10,000).

    Raises:
        SystemExit: the files are not installed.
    """
    if not FASHION.is_dir():
        raise SystemExit(f"{FASHION} is missing: apt install dataset-fashion-mnist")
    name = "t10k" if part == "test" else "train"
    with gzip.open(FASHION / f"{name}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(FASHION / f"{name}-labels-idx1-ubyte.gz") as file:
        classes = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int64)
    chosen = {"train": slice(None, -HELD_OUT), "held-out": slice(-HELD_OUT, None), "test": slice(None)}[part]
    normal = (pixels[chosen] / np.float32(255) - np.float32(MEAN)) / np.float32(DEVIATION)
    return Images(normal, classes[chosen])


def grey_patches(count: int, seed: int) -> np.ndarray:
    """Pieces of photographs in the format of Fashion-MNIST: [count, 1, 28, 28], 84 pixels wide before."""
    generator = np.random.default_rng(seed)
    found: list[np.ndarray] = []
    for number in generator.integers(0, len(UNLABELLED), count):
        image = _unlabelled()[number].convert("L")
        left, top = (int(generator.integers(0, size - 84 + 1)) for size in image.size)
        piece = image.crop((left, top, left + 84, top + 84)).resize((28, 28), Image.Resampling.BICUBIC)
        found.append((np.asarray(piece, np.float32)[None] / 255 - MEAN) / DEVIATION)
    return np.stack(found).astype(np.float32)


def calibration_pieces(count: int, seed: int) -> np.ndarray:
    """Random cut-outs of some 280 photographs without labels: [count, 3, 224, 224], half of them mirrored.

    The area is 25 to 100 % of the photograph and the ratio of the sides 3:4 to 4:3 (Szegedy et al. 2015).
    Half of the photographs have a thing cut out of another in front of them, and 30 % of the cut-outs a
    rectangle of another pasted in (CutMix, Yun et al. 2019): few pictures make many inputs.
    """
    generator = np.random.default_rng(seed)
    images = [*pictures.photographs(), *_unlabelled(), *_more()]
    found: list[np.ndarray] = []
    for number in range(count):
        image = images[number % len(images)]
        if generator.random() < STAMPED:
            image = _stamped(image, generator)
        piece = np.array(_piece(image, generator))
        if generator.random() < PASTED:
            other = _piece(images[generator.integers(len(images))], generator)
            height, width = generator.integers(60, 200, 2)
            top, left = generator.integers(0, SIZE - height), generator.integers(0, SIZE - width)
            place = np.s_[:, top : top + height, left : left + width]
            piece[place] = other[place]
        found.append(piece)
    return np.stack(found)


def labelled_pieces(count: int, seed: int) -> np.ndarray:
    """Random cut-outs of each of the twenty labelled photographs: [20, count, 3, 224, 224].

    Plain ones, of the sizes of `calibration_pieces`.
    """
    generator = np.random.default_rng(seed)
    paths = sorted(data_folder("foolbox").glob("imagenet_*.jpg"))
    images = [Image.open(path).convert("RGB") for path in paths]
    return np.stack([[_piece(image, generator) for _ in range(count)] for image in images])


def fashion_as_photographs(count: int, seed: int) -> np.ndarray:
    """Fashion-MNIST enlarged to [count, 3, 224, 224], grey."""
    images = fashion("train").pixels
    chosen = images[np.random.default_rng(seed).choice(len(images), count, replace=False), 0]
    bytes_ = np.clip((chosen * DEVIATION + MEAN) * 255, 0, 255).astype(np.uint8)
    return np.stack([_pixels(Image.fromarray(image).convert("RGB")) for image in bytes_])


def labelled_views() -> tuple[np.ndarray, np.ndarray]:
    """Five views of each of the twenty labelled photographs: [20, 5, 3, 224, 224], and classes [20].

    The centre square and its four corners, 7/8 as wide.
    """
    views: list[np.ndarray] = []
    classes: list[int] = []
    for path in sorted(data_folder("foolbox").glob("imagenet_*.jpg")):
        image = Image.open(path).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        small = round(side * VIEW)
        corners = [(left + x, top + y, small) for x in (0, side - small) for y in (0, side - small)]
        boxes = [(left, top, side), *corners]
        views.append(np.stack([_pixels(image.crop((x, y, x + size, y + size))) for x, y, size in boxes]))
        classes.append(int(path.stem.rpartition("_")[2]))
    return np.stack(views), np.array(classes)


@cache
def _more() -> list[Image.Image]:
    paths = [(data_folder(package).parent / path) for package, path in MORE]
    return [Image.open(path).convert("RGB") for path in paths]


@cache
def _unlabelled() -> list[Image.Image]:
    return [Image.open(data_folder("skimage") / name).convert("RGB") for name in UNLABELLED]


def _stamped(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """[STAGE, STAGE], with a thing somewhere in front that is half as long to as long."""
    things = pictures.stamps()
    thing = things[generator.integers(len(things))]
    scale = generator.uniform(0.5, 1.0) * STAGE / max(thing.size)
    width, height = (max(1, round(side * scale)) for side in thing.size)
    small = thing.resize((width, height))
    behind = image.resize((STAGE, STAGE))
    left, top = (int(generator.integers(0, STAGE - side + 1)) for side in small.size)
    behind.paste(small, (left, top), small)
    return behind


def _piece(image: Image.Image, generator: np.random.Generator) -> np.ndarray:
    """[3, 224, 224], mirrored or not."""
    area = image.width * image.height * generator.uniform(0.25, 1)
    shape = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
    width = min(image.width, round((area * shape) ** 0.5))
    height = min(image.height, round((area / shape) ** 0.5))
    left = int(generator.integers(0, image.width - width + 1))
    top = int(generator.integers(0, image.height - height + 1))
    pixels = _pixels(image.crop((left, top, left + width, top + height)))
    return pixels[:, :, ::-1] if generator.random() < 0.5 else pixels


def _pixels(image: Image.Image) -> np.ndarray:
    """[3, 224, 224]; (x - 127) / 128 is what EfficientNet-lite was trained with."""
    resized = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return ((np.asarray(resized, np.float32) - 127) / 128).transpose(2, 0, 1)
