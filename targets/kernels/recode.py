"""Planes of fp32 <-> planes of words of 8-bit codes (ONNX QuantizeLinear-23 and DequantizeLinear-23).

encode: code = clip(round_half_even(x * (1 / scale)) + zero, low, high).  decode: x = (code - zero) * scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.codes import CHANNELS, Known, byte_of, code_writer
from sparsecc.targets.tir import KernelBuilder, const, vector_of


@dataclass(frozen=True)
class RecodeForm:
    """What both kernels are specialised for.

    Attributes:
        size: rows and columns of a plane.
        pitches: elements between rows of the source and of the result.
        lanes: of a vector.
    """

    size: tuple[int, int]
    pitches: tuple[int, int]
    lanes: int


def encode_kernel(form: RecodeForm, symbol: str) -> Any:
    """The PrimFunc.

    Pointers: limits, [1 / scale], X fp32, Y words. Scalars: channels, then channel pitch, origin
    and batch stride of X and of Y (word channels). Extent: batch x word channels. Reads, and where rows are
    shorter than a vector writes, up to a vector behind a row.
    """
    b = KernelBuilder()
    limits, numbers = b.pointer("limits", "int32"), b.pointer("numbers")
    x, y = b.pointer("x"), b.pointer("y", "int32")
    channels = b.scalar("channels")
    x_pitch, x_origin, x_batch, y_pitch, y_origin, y_batch = _scalars(b)
    V = form.lanes
    writer = code_writer(b, limits, V, Known())
    factor = b.register(vector_of(numbers[0], V), V).value
    with b.loop(b.end - b.begin, b.begin) as u:
        batch, word = _split(b, u, channels)
        first = b.register(word * CHANNELS, dtype="int32").value
        rows = [
            b.register(
                batch * x_batch + tirx.Min(first + i, channels - 1) * x_pitch + x_origin, dtype="int32"
            ).value
            for i in range(CHANNELS)
        ]
        to = b.register(batch * y_batch + word * y_pitch + y_origin, dtype="int32").value

        def vector(source: Any, target: Any) -> None:
            values = [x.vector(row + source, V) * factor for row in rows]
            b.store(y, to + target, writer.words(values), V)

        _vectors(b, form, vector)
    return b.function(symbol)


def decode_kernel(form: RecodeForm, symbol: str) -> Any:
    """The PrimFunc.

    Pointers: [scale, zero], X words, Y fp32. Scalars and extent as `encode_kernel`. Writes whole words: up
    to 3 channels behind the last one, and up to a vector behind rows that are shorter than one.
    """
    b = KernelBuilder()
    numbers, x, y = b.pointer("numbers"), b.pointer("x", "int32"), b.pointer("y")
    channels = b.scalar("channels")
    x_pitch, x_origin, x_batch, y_pitch, y_origin, y_batch = _scalars(b)
    V = form.lanes
    scale, zero = (b.register(vector_of(numbers[i], V), V).value for i in range(2))
    with b.loop(b.end - b.begin, b.begin) as u:
        batch, word = _split(b, u, channels)
        at = b.register(batch * x_batch + word * x_pitch + x_origin, dtype="int32").value
        to = b.register(batch * y_batch + word * CHANNELS * y_pitch + y_origin, dtype="int32").value

        def vector(source: Any, target: Any) -> None:
            words = b.register(x.vector(at + source, V), V, "int32").value
            for i in range(CHANNELS):
                b.store(y, to + i * y_pitch + target, (byte_of(words, i, V) - zero) * scale, V)

        _vectors(b, form, vector)
    return b.function(symbol)


def _scalars(b: KernelBuilder) -> list[Any]:
    return [b.scalar(f"{side}_{name}") for side in "xy" for name in ("pitch", "origin", "batch")]


def _split(b: KernelBuilder, unit: Any, channels: Any) -> tuple[Any, Any]:
    """(batch, word channel) of a parallel unit."""
    words = b.register(tirx.truncdiv(channels + (CHANNELS - 1), const(CHANNELS)), dtype="int32").value
    batch = b.register(tirx.truncdiv(unit, words), dtype="int32").value
    return batch, b.register(unit - batch * words, dtype="int32").value


def _vectors(b: KernelBuilder, form: RecodeForm, vector: Callable[[Any, Any], None]) -> None:
    """Call `vector` with the place of each in both sides' planes; a row's last one may overlap another."""
    height, width = form.size
    V = form.lanes
    with b.loop(height) as row:
        source = b.register(row * form.pitches[0], dtype="int32").value
        target = b.register(row * form.pitches[1], dtype="int32").value
        if width >= V:
            with b.loop(width // V) as i:
                vector(source + i * V, target + i * V)
        if width % V:
            last = max(width - V, 0)
            vector(source + last, target + last)
