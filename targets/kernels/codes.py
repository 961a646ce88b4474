"""8-bit codes of activations: four channels in a word of 32 bits, so that planes of words are planes of fp32.

A word holds channels 4c, 4c + 1, 4c + 2 and 4c + 3 of one position, the first in its lowest byte, as ONNX
QuantizeLinear-23 makes them: code = clip(round_half_even(x / scale) + zero, 0, 255). Signed codes are stored
with 128 added. Sums of products of codes with signed 8-bit weights are exact in int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.tir import KernelBuilder, Pointer, const, shuffle, vector_of

CHANNELS = 4
"""Of a word."""
LARGEST = 2.0**30
"""In steps: int32 holds it."""
_ROUND = {16: "llvm.x86.avx512.mask.cvtps2dq.512", 8: "llvm.x86.avx.cvt.ps2dq.256"}
_PACK_32 = {16: "llvm.x86.avx512.packssdw.512", 8: "llvm.x86.avx2.packssdw"}
_PACK_16 = {16: "llvm.x86.avx512.packuswb.512", 8: "llvm.x86.avx2.packuswb"}
_SHIFTER = 1.5 * 2.0**23  # floats of this size are integers: adding it rounds half to even


def byte_of(words: Any, byte: int, lanes: int) -> Any:
    """One channel's codes of a vector of words, as fp32."""
    bits = tirx.reinterpret(f"uint32x{lanes}", words)
    if byte:
        bits = tirx.shift_right(bits, vector_of(const(8 * byte, "uint32"), lanes))
    if byte < CHANNELS - 1:
        bits = tirx.bitwise_and(bits, vector_of(const(255, "uint32"), lanes))
    return tirx.Cast(f"float32x{lanes}", tirx.reinterpret(f"int32x{lanes}", bits))


@dataclass(frozen=True)
class Known:
    """What is known of codes when their kernel is built, so that it need not see to it.

    Attributes:
        bounded: no value is as large as `LARGEST`; others are cut there.
        whole: codes end at 0 and 255 only, which conversions to bytes do by themselves.
        at_zero: the zero is 0.
    """

    bounded: bool = False
    whole: bool = False
    at_zero: bool = False

    @staticmethod
    def of(limits: npt.NDArray[np.int32], *, bounded: bool = False) -> Known:
        """From `limits_of`."""
        return Known(bounded, bool((limits[:2] == limits_of(0)[:2]).all()), not limits[2])


class CodeWriter(Protocol):
    """Turns four channels' values, already divided by the scale, into words.

    Values are rounded half to even, the zero is added, and both bounds are kept.
    """

    def words(self, channels: Sequence[Any]) -> Any:
        """A vector of words from four fp32 vectors."""
        ...


def code_writer(builder: KernelBuilder, limits: Pointer, lanes: int, known: Known) -> CodeWriter:
    """The writer for vectors of `lanes`, `limits_of` in three words; 8 and 16 lanes exist on x86 only."""
    if lanes in _ROUND:
        return _PackingWriter(builder, limits, lanes, known)
    return _ShiftingWriter(builder, limits, lanes)


class _PackingWriter:
    """By the instructions of x86 that convert, and that pack integers with saturation."""

    def __init__(self, builder: KernelBuilder, limits: Pointer, lanes: int, known: Known) -> None:
        self._b, self._lanes, self._known = builder, lanes, known
        self._low, self._high = (self._constant(limits[i], 4, "uint8") for i in range(2))
        self._zero = self._constant(limits[2], 2, "int16")

    def words(self, channels: Sequence[Any]) -> Any:
        """A vector of words from four fp32 vectors."""
        n = self._lanes
        codes = [self._rounded(value) for value in channels]
        halves: list[Any] = []
        for pair in (codes[:2], codes[2:]):
            short = self._call(_PACK_32[n], f"int16x{2 * n}", *pair)
            if not self._known.at_zero:
                short = self._call("llvm.sadd.sat", f"int16x{2 * n}", short, self._zero)
            halves.append(self._b.register(short, 2 * n, "int16").value)
        planes = tirx.reinterpret(f"uint8x{4 * n}", self._call(_PACK_16[n], f"int8x{4 * n}", *halves))
        if not self._known.whole:
            planes = tirx.Min(tirx.Max(planes, self._low), self._high)
        by_channel = self._b.register(planes, 4 * n, "uint8").value
        # in every 16 bytes four codes of each channel become four words
        order = [at // 16 * 16 + at % 4 * 4 + at % 16 // 4 for at in range(4 * n)]
        words = tirx.reinterpret(f"int32x{n}", shuffle([by_channel], order))
        return self._b.register(words, n, "int32").value

    def _rounded(self, value: Any) -> Any:
        n = self._lanes
        if not self._known.bounded:
            value = tirx.Min(vector_of(const(LARGEST, "float32"), n), value)
        more = [vector_of(const(0), n), const(-1, "int16"), const(4)] if n == 16 else []
        found = self._call(_ROUND[n], f"int32x{n}", value, *more)
        return self._b.register(found, n, "int32").value

    def _constant(self, word: Any, size: int, dtype: str) -> Any:
        lanes = self._lanes * size
        value = tirx.reinterpret(f"{dtype}x{lanes}", vector_of(word, self._lanes))
        return self._b.register(value, lanes, dtype).value

    def _call(self, intrinsic: str, dtype: str, *arguments: Any) -> Any:
        return tirx.call_llvm_pure_intrin(dtype, intrinsic, *arguments)


class _ShiftingWriter:
    """By arithmetic that every machine has: cut first, since the bounds are integers and rounding keeps
    order; a not-a-number becomes the lower bound, as the x86 conversion has it."""

    def __init__(self, builder: KernelBuilder, limits: Pointer, lanes: int) -> None:
        self._b, self._lanes = builder, lanes
        zero = tirx.bitwise_and(limits[2], const(2**16 - 1))
        low, high = (tirx.bitwise_and(limits[i], const(255)) - zero for i in range(2))
        self._low, self._high = (
            builder.register(vector_of(tirx.Cast("float32", bound), lanes), lanes).value
            for bound in (low, high)
        )
        shifter = int(np.float32(_SHIFTER).view(np.int32))
        self._offset = builder.register(vector_of(zero - const(shifter), lanes), lanes, "int32").value

    def words(self, channels: Sequence[Any]) -> Any:
        """A vector of words from four fp32 vectors."""
        word: Any = None
        for byte, value in enumerate(channels):
            code = self._code(self._b.register(value, self._lanes).value)
            if byte:
                code = tirx.bitwise_or(word, tirx.shift_left(code, vector_of(const(8 * byte), self._lanes)))
            word = self._b.register(code, self._lanes, "int32").value
        return word

    def _code(self, value: Any) -> Any:
        raised = self._b.register(tirx.Select(value > self._low, value, self._low), self._lanes).value
        cut = self._b.register(tirx.Select(raised < self._high, raised, self._high), self._lanes).value
        shifted = self._b.register(
            cut + vector_of(const(_SHIFTER, "float32"), self._lanes), self._lanes
        ).value
        return tirx.reinterpret(f"int32x{self._lanes}", shifted) + self._offset


def limits_of(zero: int, low: int = 0, high: int = 255) -> npt.NDArray[np.int32]:
    """What a `code_writer` reads, from the zero and the least and the largest code."""
    codes = np.array([[low] * CHANNELS, [high] * CHANNELS], np.uint8).view("<i4").reshape(-1)
    return np.append(codes, np.array([zero, zero], np.int16).view("<i4")).astype(np.int32)
