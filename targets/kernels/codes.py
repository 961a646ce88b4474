"""8-bit codes of activations: four channels in a word of 32 bits, so that planes of words are planes of fp32.

A word holds channels 4c, 4c + 1, 4c + 2 and 4c + 3 of one position, the first in its lowest byte, as ONNX
QuantizeLinear-23 makes them: code = clip(round_half_even(x / scale) + zero, 0, 255). Signed codes are stored
with 128 added. Sums of products of codes with signed 8-bit weights are exact in int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx

from sparsecc.targets.tir import KernelBuilder, Pointer, const, shuffle, vector_of

CHANNELS = 4
"""Of a word."""
_DOTS = {
    "avx512_vnni": "llvm.x86.avx512.vpdpbusd.512",
    "avx_vnni": "llvm.x86.avx512.vpdpbusd.256",
}
_PAIRS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
LARGEST = 2.0**30
"""In steps: int32 holds it."""
_ROUND = {16: "llvm.x86.avx512.mask.cvtps2dq.512", 8: "llvm.x86.avx.cvt.ps2dq.256"}
_PACK_32 = {16: "llvm.x86.avx512.packssdw.512", 8: "llvm.x86.avx2.packssdw"}
_PACK_16 = {16: "llvm.x86.avx512.packuswb.512", 8: "llvm.x86.avx2.packuswb"}


class Dot:
    """Products of words: sum + x0 w0 + x1 w1 + x2 w2 + x3 w3 for unsigned bytes x and signed bytes w.

    With VNNI one instruction; else bytes become 16 bits wide, since the instruction for bytes saturates.
    """

    def __init__(self, builder: KernelBuilder, feature: str, lanes: int) -> None:
        self._b, self._feature, self._lanes = builder, feature, lanes

    def weights(self, words: Any) -> list[Any]:
        """A vector of words of weights as `add` takes it."""
        if self._feature:
            return [self._b.register(words, self._lanes, "int32").value]
        wide = tirx.reinterpret(f"int16x{2 * self._lanes}", words)
        eight = vector_of(const(8, "int16"), 2 * self._lanes)
        even = tirx.shift_right(tirx.shift_left(wide, eight), eight)
        return [self._pairs(half) for half in (even, tirx.shift_right(wide, eight))]

    def inputs(self, words: Any) -> list[Any]:
        """A vector of words of activations as `add` takes it."""
        if self._feature:
            return [self._b.register(words, self._lanes, "int32").value]
        wide = tirx.reinterpret(f"uint16x{2 * self._lanes}", words)
        low = tirx.bitwise_and(wide, vector_of(const(255, "uint16"), 2 * self._lanes))
        high = tirx.shift_right(wide, vector_of(const(8, "uint16"), 2 * self._lanes))
        return [self._pairs(tirx.reinterpret(f"int16x{2 * self._lanes}", half)) for half in (low, high)]

    def add(self, total: Any, inputs: list[Any], weights: list[Any]) -> Any:
        """The sums with the products added."""
        if self._feature:
            wide = f"int8x{4 * self._lanes}"
            x, w = tirx.reinterpret(wide, inputs[0]), tirx.reinterpret(wide, weights[0])
            return self._call(_DOTS[self._feature], total, x, w)
        for x, w in zip(inputs, weights, strict=True):
            total = total + self._call(_PAIRS[self._lanes], x, w)
        return total

    def _pairs(self, half: Any) -> Any:
        return self._b.register(half, 2 * self._lanes, "int16").value

    def _call(self, intrinsic: str, *arguments: Any) -> Any:
        return tirx.call_llvm_pure_intrin(f"int32x{self._lanes}", intrinsic, *arguments)


def byte_of(words: Any, byte: int, lanes: int) -> Any:
    """One channel's codes of a vector of words, as fp32."""
    bits = tirx.reinterpret(f"uint32x{lanes}", words)
    if byte:
        bits = tirx.shift_right(bits, vector_of(const(8 * byte, "uint32"), lanes))
    if byte < CHANNELS - 1:
        bits = tirx.bitwise_and(bits, vector_of(const(255, "uint32"), lanes))
    return tirx.Cast(f"float32x{lanes}", tirx.reinterpret(f"int32x{lanes}", bits))


class CodeWriter:
    """Turns four channels' values, already divided by the scale, into words.

    Values are rounded half to even, the zero is added, and both bounds are kept. Pointer: `limits_of`, three
    words.

    Args:
        bounded: no value is as large as `LARGEST`; others are cut there.
    """

    def __init__(self, builder: KernelBuilder, limits: Pointer, lanes: int, *, bounded: bool = False) -> None:
        self._b, self._lanes, self._bounded = builder, lanes, bounded
        self._low, self._high = (self._constant(limits[i], 4, "uint8") for i in range(2))
        self._zero = self._constant(limits[2], 2, "int16")

    def words(self, channels: Sequence[Any]) -> Any:
        """A vector of words from four fp32 vectors."""
        n = self._lanes
        codes = [self._rounded(value) for value in channels]
        halves: list[Any] = []
        for pair in (codes[:2], codes[2:]):
            short = self._call(_PACK_32[n], f"int16x{2 * n}", *pair)
            added = self._call("llvm.sadd.sat", f"int16x{2 * n}", short, self._zero)
            halves.append(self._b.register(added, 2 * n, "int16").value)
        planes = tirx.reinterpret(f"uint8x{4 * n}", self._call(_PACK_16[n], f"int8x{4 * n}", *halves))
        bounded = self._b.register(tirx.Min(tirx.Max(planes, self._low), self._high), 4 * n, "uint8").value
        # in every 16 bytes four codes of each channel become four words
        order = [at // 16 * 16 + at % 4 * 4 + at % 16 // 4 for at in range(4 * n)]
        words = tirx.reinterpret(f"int32x{n}", shuffle([bounded], order))
        return self._b.register(words, n, "int32").value

    def _rounded(self, value: Any) -> Any:
        n = self._lanes
        if not self._bounded:
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


def limits_of(zero: int, low: int = 0, high: int = 255) -> npt.NDArray[np.int32]:
    """What a `CodeWriter` reads, from the zero and the least and the largest code."""
    codes = np.array([[low] * CHANNELS, [high] * CHANNELS], np.uint8).view("<i4").reshape(-1)
    return np.append(codes, np.array([zero, zero], np.int16).view("<i4")).astype(np.int32)
