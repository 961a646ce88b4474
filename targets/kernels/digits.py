"""fp32 columns as 24-bit fixed point, in three digits of 8 bits, for exact products with 8-bit weights.

q[k] = round(x[k] / factor) + 2^23, where factor is the least power of two that leaves max |x| / factor below
2^23: nothing but q is rounded, by at most 2^-23 max |x|. A NaN or an infinity makes the factor NaN. Digit d
of the 64 columns from k on lies at (k / 64 * 3 + d) * 64; columns behind the last are 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sparsecc.targets.tir import KernelBuilder, const, ramp, shuffle, vector_of

DIGITS = 3
COLUMNS = 64
"""Of a step."""
OFFSET = 128
"""Of the highest digit."""
_LANES = 16
_LARGEST = 2**23 - 1
_MANTISSA = 23  # bits
_NO_NUMBER = 255  # the biased exponent of infinities and NaNs
_SMALLEST = 2.0**-100  # the largest magnitude counts as no less
_MAGNITUDE = 0x7FFFFFFF


@dataclass(frozen=True)
class DigitsForm:
    """What a kernel is specialised for: N columns of K elements that lie one behind the other, or not."""

    reduction: int
    contiguous: bool


def digits_kernel(form: DigitsForm, symbol: str) -> Any:
    """Pointers: X, digits [N, steps, 3, 64], factor [N]. Scalars: X's strides along k and n. Extent: N."""
    b = KernelBuilder()
    x, digits, factor = b.pointer("x"), b.pointer("digits", "uint8"), b.pointer("factor")
    xk, xn = b.scalar("x_k"), b.scalar("x_n")
    K, V = form.reduction, _LANES
    steps = -(-K // COLUMNS)

    def loaded(n: Any, k: Any, *, whole: bool) -> Any:
        """16 elements from k on, 0 behind the last; `whole`: there are so many."""
        if whole and form.contiguous:
            return x.vector(n * xn + k, V)
        lanes = ramp(k, V)
        place = tirx.Min(lanes, vector_of(const(K - 1), V)) * vector_of(xk, V) + vector_of(n * xn, V)
        return tirx.Select(lanes < vector_of(const(K), V), x[place], vector_of(const(0.0, "float32"), V))

    def magnitude(value: Any) -> Any:
        """As an integer, which compares as the magnitude does, a NaN above all others."""
        return tirx.bitwise_and(tirx.reinterpret(f"int32x{V}", value), vector_of(const(_MAGNITUDE), V))

    def write(n: Any, step: Any, inverse: Any, wholes: int) -> None:
        quarters: list[Any] = []
        for quarter in range(COLUMNS // V):
            value = loaded(n, step * COLUMNS + quarter * V, whole=quarter < wholes)
            rounded = tirx.Cast(f"int32x{V}", tirx.nearbyint(value * vector_of(inverse, V)))
            bounded = tirx.Min(rounded, vector_of(const(_LARGEST), V))
            quarters.append(b.register(bounded + vector_of(const(OFFSET << 16), V), V, "int32").value)
        for d in range(DIGITS):
            for index, quarter in enumerate(quarters):
                digit = tirx.shift_right(quarter, vector_of(const(8 * d), V)) if d else quarter
                byte = tirx.Cast(f"uint8x{V}", tirx.bitwise_and(digit, vector_of(const(255), V)))
                b.store(digits, ((n * steps + step) * DIGITS + d) * COLUMNS + index * V, byte, V)

    def power(exponent: Any) -> Any:
        """Of two, from its biased exponent."""
        return tirx.reinterpret("float32", tirx.shift_left(exponent, const(_MANTISSA)))

    with b.loop(b.end - b.begin, b.begin) as n:
        most = b.register(vector_of(const(0), V), V, "int32")
        with b.loop(K // V) as v:
            b.set(most, tirx.Max(most.value, magnitude(loaded(n, v * V, whole=True))))
        if K % V:
            b.set(most, tirx.Max(most.value, magnitude(loaded(n, const(K // V * V), whole=False))))
        lanes, largest = V, most.value
        while lanes > 1:
            half = b.register(largest, lanes, "int32").value
            lanes //= 2
            largest = tirx.Max(shuffle([half], range(lanes)), shuffle([half], range(lanes, 2 * lanes)))
        found = b.register(tirx.reinterpret("float32", b.register(largest, 1, "int32").value)).value
        smallest = const(_SMALLEST, "float32")
        found = b.register(tirx.Select(found < smallest, smallest, found)).value
        exponent = tirx.shift_right(tirx.reinterpret("int32", found), const(_MANTISSA))
        exponent = b.register(exponent, dtype="int32").value
        nan = const(float("nan"), "float32")
        b.store(factor, n, tirx.Select(exponent < const(_NO_NUMBER), power(exponent - 22), nan))
        inverse = b.register(power(const(2 * 127 + 22) - exponent)).value
        with b.loop(K // COLUMNS) as step:
            write(n, step, inverse, COLUMNS // V)
        if K % COLUMNS:
            write(n, const(K // COLUMNS), inverse, K % COLUMNS // V)
    return b.function(symbol)
