"""8-bit codes of activations: four channels in a word of 32 bits, so that planes of words are planes of fp32.

A word holds channels 4c, 4c + 1, 4c + 2 and 4c + 3 of one position, the first in its lowest byte, as ONNX
QuantizeLinear-23 makes them: code = clip(round_half_even(x / scale) + zero, 0, 255). Signed codes are stored
with 128 added. Sums of products of codes with signed 8-bit weights are exact in int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import tirx

from sparsecc.targets.tir import KernelBuilder, Pointer, const, vector_of

CHANNELS = 4
"""Of a word."""
DOT_FEATURES = {"avx512_vnni": 16, "avx_vnni": 8}
"""CPU features with an instruction for `dot`, and the fp32 lanes of the machine that it is used on."""
_DOTS = {
    "avx512_vnni": "llvm.x86.avx512.vpdpbusd.512",
    "avx_vnni": "llvm.x86.avx512.vpdpbusd.256",
}
_PAIRS = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_MAGIC = 1.5 * 2.0**23  # added to a small number it leaves that, rounded half to even, in the lowest bits


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

    Pointer: fp32 limits of the rounded values and the zero that is added to them (`limits_of`).
    """

    def __init__(self, builder: KernelBuilder, limits: Pointer, lanes: int) -> None:
        self._b, self._lanes = builder, lanes
        self._low, self._high = (builder.register(vector_of(limits[i], lanes), lanes).value for i in range(2))
        zero = builder.register(tirx.Cast("int32", limits[2]) * const(0x01010101), dtype="int32").value
        self._zero = builder.register(vector_of(zero, lanes), lanes, "int32").value

    def words(self, channels: Sequence[Any]) -> Any:
        """A vector of words from four fp32 vectors."""
        lanes, bits = self._lanes, []
        for value in channels:
            bounded = tirx.Min(tirx.Max(value, self._low), self._high)
            shifted = self._b.register(bounded + vector_of(const(_MAGIC, "float32"), lanes), lanes).value
            bits.append(tirx.reinterpret(f"int32x{lanes}", shifted))

        def beside(low: Any, high: Any, width: int) -> Any:
            """The lowest `width` bits of both."""
            mask = 2**width - 1
            first = tirx.bitwise_and(low, vector_of(const(mask), lanes))
            moved = tirx.shift_left(high, vector_of(const(width), lanes))
            both = tirx.bitwise_or(first, tirx.bitwise_and(moved, vector_of(const(-1 - mask), lanes)))
            return self._b.register(both, lanes, "int32").value

        word = beside(beside(bits[0], bits[1], 8), beside(bits[2], bits[3], 8), 16)
        bytes_type = f"int8x{CHANNELS * lanes}"  # modulo 256, as the rounded values are so far
        total = tirx.reinterpret(bytes_type, word) + tirx.reinterpret(bytes_type, self._zero)
        return self._b.register(tirx.reinterpret(f"int32x{lanes}", total), lanes, "int32").value


def limits_of(zero: int, low: float = 0.0, high: float = 255.0) -> list[float]:
    """What a `CodeWriter` reads, from the zero and the least and the largest code."""
    return [low - zero, high - zero, float(zero)]
