"""Noise in place of data, for models that come without any."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError
from sparsecc.ir.shapes import value_text

VIEW_OPS = ("Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze")
"""Ops through which indices keep their values."""

STEEPNESS = (0.5, 2.0)
"""Range of a in the amplitude 1 / f^a of a picture's spatial frequencies; photographs have about 1."""

CONTRAST = (0.4, 1.2)
"""Range of a picture's standard deviation before its brightness and tint, whose own stand below."""
BRIGHTNESS = 0.6
TINT = 0.2
COLORS = (0.05, 0.35)
"""Range of what the channels of a picture have of their own, beside 1 that they share."""
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

    Amplitudes fall with the frequency (Field 1987), channels go together, and brightness, tint and contrast
    differ from picture to picture. Networks trained on such noise see photographs nearly as well as those
    trained on other images, which ones trained on white noise do not (Baradad et al. 2021, "Learning to see
    by looking at noise", spectrum and colour models).

    Args:
        shape: at least 4 axes; channels are last if they are at most 4 and the second axis is longer.
        generator: of the noise.
    """
    last = shape[-1] <= MAX_COLORS < shape[1]
    batch, channels, *sizes = (shape[0], shape[-1], *shape[1:-1]) if last else shape
    axes = tuple(range(1, 1 + len(sizes)))
    frequencies = [
        np.abs(np.fft.fftfreq(size) if axis < len(sizes) else np.fft.rfftfreq(size)) * size
        for axis, size in enumerate(sizes, 1)
    ]
    radius = np.sqrt(sum(np.square(part) for part in np.meshgrid(*frequencies, indexing="ij")))
    radius.flat[0] = 1
    found = np.empty((batch, channels, *sizes), np.float32)
    for picture in found:
        white = np.fft.rfftn(generator.standard_normal((1 + channels, *sizes)), axes=axes)
        fields = np.fft.irfftn(white * radius ** -generator.uniform(*STEEPNESS), s=sizes, axes=axes)
        fields -= fields.mean(axes, keepdims=True)
        fields /= np.maximum(fields.std(axes, keepdims=True), 1e-12)
        shared, own = (1, generator.uniform(*COLORS)) if channels <= MAX_COLORS else (0, 1)
        mixed = (shared * fields[:1] + own * fields[1:]) / math.hypot(shared, own)
        tint = generator.normal(0, TINT, (channels, *(1 for _ in sizes)))
        picture[:] = mixed * generator.uniform(*CONTRAST) + generator.normal(0, BRIGHTNESS) + tint
    return np.moveaxis(found, 1, -1) if last else found


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
