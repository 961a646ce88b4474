"""Products of words of four 8-bit codes: sum + x0 w0 + x1 w1 + x2 w2 + x3 w3, exact in int32.

x are unsigned bytes and w signed ones. One instruction does all of that (x86 VNNI, ARM USDOT), or takes
signed bytes (ARM SDOT: x - 128, and sums start with 128 (w0 + w1 + w2 + w3)), or multiplies pairs of 16 bits,
which bytes become then (x86 PMADDWD, WebAssembly's dot); else each byte becomes a lane of 32 bits. `asimd`
takes what SDOT takes, for ARM without it: products of 16 bits, added in pairs.
"""

from __future__ import annotations

from typing import Any, Protocol

from tvm import tirx

from sparsecc.targets.tir import KernelBuilder, const, shuffle, vector_of

_WHOLE = {
    "avx512_vnni": "llvm.x86.avx512.vpdpbusd.512",
    "avx_vnni": "llvm.x86.avx512.vpdpbusd.256",
    "i8mm": "llvm.aarch64.neon.usdot",
}
_PAIRS = {
    ("", 16): "llvm.x86.avx512.pmaddw.d.512",
    ("", 8): "llvm.x86.avx2.pmadd.wd",
    ("simd128", 4): "llvm.wasm.dot",
}
_SIGNED = {"asimddp": "llvm.aarch64.neon.sdot"}
_WIDENED = {"asimd": "llvm.aarch64.neon.saddlp"}
_BYTES = 4  # of a word
HALF = 128
"""The least weight is minus that, as is the least signed byte."""
_FLIP = -0x7F7F7F80  # the bits 0x80808080


class Dot(Protocol):
    """Products of words on one machine, in parts that are added one after the other.

    Attributes:
        passes: parts that are computed together for a whole tile, so that their inputs fit the registers.
    """

    passes: tuple[tuple[int, ...], ...]

    def weights(self, word: Any, parts: tuple[int, ...]) -> list[Any]:
        """A word of weights for all lanes, as `add` takes it."""
        ...

    def inputs(self, words: Any, parts: tuple[int, ...]) -> list[Any]:
        """A vector of words of activations as `add` takes it."""
        ...

    def add(self, total: Any, inputs: list[Any], weights: list[Any]) -> Any:
        """The sums with the products added."""
        ...


def transposing_pays(feature: str, lanes: int) -> bool:
    """Whether bytes are worth arranging so that one product takes four of them."""
    return feature in _WHOLE or feature in _SIGNED or ("", lanes) in _PAIRS


def instructions(feature: str, lanes: int) -> int:
    """Of a product of a vector of words, sum included, without what prepares its operands."""
    if feature in _WHOLE or feature in _SIGNED:
        return 1
    if feature in _WIDENED:
        return 3
    return 2 * (2 if (feature, lanes) in _PAIRS else _BYTES)


def taken_away(feature: str) -> int:
    """What `inputs` takes away from each byte: sums start with that times the sum of all weights."""
    return HALF if feature in _SIGNED or feature in _WIDENED else 0


def dot_of(builder: KernelBuilder, feature: str, lanes: int, *, narrow: bool = False) -> Dot:
    """The products that a machine has with vectors of `lanes` words and the CPU feature `feature`, or "".

    Args:
        narrow: no weight is -128.
    """
    if feature in _WHOLE:
        return _Whole(builder, _WHOLE[feature], lanes)
    if feature in _SIGNED:
        return _Signed(builder, _SIGNED[feature], lanes)
    if feature in _WIDENED:
        return _Widened(builder, _WIDENED[feature], lanes, ((0, 1),) if narrow else ((0,), (1,)))
    if (feature, lanes) in _PAIRS:
        return _Pairs(builder, _PAIRS[feature, lanes], lanes)
    return _Lanes(builder, lanes)


class _Whole:
    """One instruction."""

    passes = ((0,),)

    def __init__(self, builder: KernelBuilder, intrinsic: str, lanes: int) -> None:
        self._b, self._intrinsic, self._lanes = builder, intrinsic, lanes

    def weights(self, word: Any, parts: tuple[int, ...]) -> list[Any]:
        return [self._b.register(vector_of(word, self._lanes), self._lanes, "int32").value for _ in parts]

    def inputs(self, words: Any, parts: tuple[int, ...]) -> list[Any]:
        return [self._b.register(words, self._lanes, "int32").value for _ in parts]

    def add(self, total: Any, inputs: list[Any], weights: list[Any]) -> Any:
        wide = f"int8x{_BYTES * self._lanes}"
        x, w = tirx.reinterpret(wide, inputs[0]), tirx.reinterpret(wide, weights[0])
        return tirx.call_llvm_pure_intrin(f"int32x{self._lanes}", self._intrinsic, total, x, w)


class _Signed(_Whole):
    """One instruction for signed bytes: with its highest bit flipped a byte is 128 less."""

    def inputs(self, words: Any, parts: tuple[int, ...]) -> list[Any]:
        flipped = tirx.bitwise_xor(words, vector_of(const(_FLIP), self._lanes))
        return super().inputs(flipped, parts)


class _Pairs:
    """Even and odd bytes apart, 16 bits wide."""

    def __init__(
        self,
        builder: KernelBuilder,
        intrinsic: str,
        lanes: int,
        passes: tuple[tuple[int, ...], ...] = ((0, 1),),
    ) -> None:
        self.passes = passes
        self._b, self._intrinsic, self._lanes = builder, intrinsic, lanes

    def weights(self, word: Any, parts: tuple[int, ...]) -> list[Any]:
        wide = tirx.reinterpret(f"int16x{2 * self._lanes}", vector_of(word, self._lanes))
        eight = vector_of(const(8, "int16"), 2 * self._lanes)
        even = tirx.shift_right(tirx.shift_left(wide, eight), eight)
        halves = (even, tirx.shift_right(wide, eight))
        return [self._half(halves[part]) for part in parts]

    def inputs(self, words: Any, parts: tuple[int, ...]) -> list[Any]:
        wide = tirx.reinterpret(f"uint16x{2 * self._lanes}", words)
        even = tirx.bitwise_and(wide, vector_of(const(255, "uint16"), 2 * self._lanes))
        halves = (even, tirx.shift_right(wide, vector_of(const(8, "uint16"), 2 * self._lanes)))
        return [self._half(tirx.reinterpret(f"int16x{2 * self._lanes}", halves[part])) for part in parts]

    def add(self, total: Any, inputs: list[Any], weights: list[Any]) -> Any:
        for x, w in zip(inputs, weights, strict=True):
            total = total + tirx.call_llvm_pure_intrin(f"int32x{self._lanes}", self._intrinsic, x, w)
        return total

    def _half(self, half: Any) -> Any:
        return self._b.register(half, 2 * self._lanes, "int16").value


class _Widened(_Pairs):
    """The same of signed bytes: a product is at most 2^14, and two fit 16 bits if no weight is -128."""

    def weights(self, word: Any, parts: tuple[int, ...]) -> list[Any]:
        return [self._part(vector_of(word, self._lanes), part) for part in parts]

    def inputs(self, words: Any, parts: tuple[int, ...]) -> list[Any]:
        flipped = tirx.bitwise_xor(words, vector_of(const(_FLIP), self._lanes))
        return [self._part(flipped, part) for part in parts]

    def add(self, total: Any, inputs: list[Any], weights: list[Any]) -> Any:
        products = inputs[0] * weights[0]
        for x, w in zip(inputs[1:], weights[1:], strict=True):
            products = products + x * w
        return total + tirx.call_llvm_pure_intrin(f"int32x{self._lanes}", self._intrinsic, products)

    def _part(self, words: Any, part: int) -> Any:
        wide = tirx.reinterpret(f"int16x{2 * self._lanes}", words)
        eight = vector_of(const(8, "int16"), 2 * self._lanes)
        return self._half(tirx.shift_right(wide if part else tirx.shift_left(wide, eight), eight))


class _Lanes:
    """Each byte in 32 bits: as many multiply-adds as with 16 bits that do not meet in pairs."""

    passes = tuple((part,) for part in range(_BYTES))

    def __init__(self, builder: KernelBuilder, lanes: int) -> None:
        self._b, self._lanes = builder, lanes

    def weights(self, word: Any, parts: tuple[int, ...]) -> list[Any]:
        loaded = tirx.Cast(f"int32x{_BYTES}", tirx.reinterpret(f"int8x{_BYTES}", word))
        wide = self._b.register(loaded, _BYTES, "int32").value
        return [shuffle([wide], [part] * self._lanes) for part in parts]

    def inputs(self, words: Any, parts: tuple[int, ...]) -> list[Any]:
        found: list[Any] = []
        for part in parts:
            bits = tirx.reinterpret(f"uint32x{self._lanes}", words)
            moved = tirx.shift_right(bits, vector_of(const(8 * part, "uint32"), self._lanes))
            code = tirx.bitwise_and(moved, vector_of(const(255, "uint32"), self._lanes))
            signed = tirx.reinterpret(f"int32x{self._lanes}", code)
            found.append(self._b.register(signed, self._lanes, "int32").value)
        return found

    def add(self, total: Any, inputs: list[Any], weights: list[Any]) -> Any:
        for x, w in zip(inputs, weights, strict=True):
            total = total + x * w
        return total
