"""Noise in place of data, for models that come without any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError
from sparsecc.ir.shapes import value_text
from sparsecc.passes.criteria.leaves import TEXTURES, cover

VIEW_OPS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Ops through which indices keep their values."""

STEEPNESS = (0.5, 2.0)
"""Range of a in the amplitude 1 / f^a of a texture's spatial frequencies; photographs have about 1."""

CONTRAST = (0.2, 1.0)
"""Range of a texture's standard deviation."""
BRIGHTNESS = 0.7
TINT = 0.25
"""Standard deviations of a surface's colour: of what the channels share, and of what each has of its own."""
COLORS = (0.05, 0.35)
"""Range of what the channels of a texture have of their own, beside 1 that they share."""
MAX_COLORS = 4
"""More channels are no colours: they share nothing."""


def noise_input(
    value: ir.Value, shape: tuple[int, ...], rows: int | None, generator: np.random.Generator
) -> np.ndarray:
    """Noise for one input.

    Floats are of mean 0 and standard deviation about 1: those of 4 and more axes pictures of noise, others
    normal without any order. Integers are uniform over `rows`, or 1 where that is None, and booleans True, as
    masks that keep everything.

    Args:
        value: the input.
        shape: of the array.
        rows: of the table that it looks up rows of (`table_rows`).
        generator: of the noise.

    Raises:
        UsageError: an input of strings or of unknown type.
    """
    if value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(
            f"input {value.name} is {value_text(value)}, for which no noise can be made; give data"
        )
    dtype = value.dtype.numpy()
    if value.dtype.is_floating_point():
        if len(shape) >= 4:
            return pictures(shape, generator).astype(dtype)
        return generator.standard_normal(shape, dtype=np.float32).astype(dtype)
    if rows is not None:
        return generator.integers(0, rows, shape).astype(dtype)
    return np.ones(shape, dtype)


def pictures(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Noise with the statistics of photographs: float32 [batch, channels, ...] or [batch, ..., channels].

    Textures whose amplitudes fall with the frequency (Field 1987), in colours, brightness and contrast that
    differ; where there are two axes besides batch and channels, shapes with other textures lie in front
    (`leaves`). Networks trained on such noise see photographs nearly as well as those trained on other
    images, and ones trained on white noise do not (Baradad et al. 2021, "Learning to see by looking at
    noise").

    Args:
        shape: at least 4 axes; channels are last if they are at most 4 and the second axis is longer.
        generator: of the noise.
    """
    last = shape[-1] <= MAX_COLORS < shape[1]
    batch, channels, *sizes = (shape[0], shape[-1], *shape[1:-1]) if last else shape
    texture = partial(_texture, channels, tuple(sizes), _radius(sizes), generator)
    colour = partial(_colour, channels, len(sizes), generator)
    found = np.empty((batch, channels, *sizes), np.float32)
    for picture in found:
        picture[:] = texture() + colour()
        if len(sizes) == 2:
            cover(picture, [texture() for _ in range(TEXTURES)], colour, generator)
    return np.moveaxis(found, 1, -1) if last else found


def _colour(channels: int, axes: int, generator: np.random.Generator) -> np.ndarray:
    """One value for each channel: [channels, 1, ...]."""
    shared, own = (BRIGHTNESS, TINT) if channels <= MAX_COLORS else (0, math.hypot(BRIGHTNESS, TINT))
    return generator.normal(0, shared) + generator.normal(0, own, (channels, *[1] * axes))


def _radius(sizes: Sequence[int]) -> np.ndarray:
    """Distance of each frequency of `np.fft.rfftn` from 0, which itself gets 1."""
    frequencies = [
        np.abs(np.fft.fftfreq(size) if axis < len(sizes) else np.fft.rfftfreq(size)) * size
        for axis, size in enumerate(sizes, 1)
    ]
    radius = np.sqrt(sum(np.square(part) for part in np.meshgrid(*frequencies, indexing="ij")))
    radius.flat[0] = 1
    return radius


def _texture(
    channels: int, sizes: tuple[int, ...], radius: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """A field of mean 0: [channels, ...]."""
    axes = tuple(range(1, 1 + len(sizes)))
    white = np.fft.rfftn(generator.standard_normal((1 + channels, *sizes)), axes=axes)
    fields = np.fft.irfftn(white * radius ** -generator.uniform(*STEEPNESS), s=sizes, axes=axes)
    fields -= fields.mean(axes, keepdims=True)
    fields /= np.maximum(fields.std(axes, keepdims=True), 1e-12)
    shared, own = (1, generator.uniform(*COLORS)) if channels <= MAX_COLORS else (0, 1)
    mixed = (shared * fields[:1] + own * fields[1:]) / math.hypot(shared, own)
    return mixed * generator.uniform(*CONTRAST)


def table_rows(value: ir.Value) -> int | None:
    """The fewest rows of the initializers that an input indexes, or None where it indexes none."""
    found: list[int] = []
    for node, number in value.uses():
        table = node.inputs[0]
        if node.op_type == "Gather" and number == 1 and table is not None and table.const_value is not None:
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
            found.append(int(table.const_value.shape.numpy()[axis]))
        elif node.op_type in VIEW_OPS and number == 0:
            rows = table_rows(node.outputs[0])
            found.extend([] if rows is None else [rows])
    return min(found, default=None)
