"""Math calls of TIR on scalars and vectors: polynomials for the hot ones, LLVM intrinsics for the rest.

log: mantissa and exponent by bits, then the degree-9 polynomial of Cephes logf, relative error < 2e-7.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from sparsecc.targets.kernels import vector_math
from sparsecc.targets.tir import KernelBuilder, const, vector_of

_LLVM = {"sin", "cos", "sqrt", "floor", "ceil", "trunc", "nearbyint", "pow", "exp", "log", "log2", "log10"}
_BITS = {"shift_left", "shift_right", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not"}
_OWN = {"rsqrt", "round", "fabs", "abs", "isnan", "erf", "tanh", "sigmoid"}
VECTOR_CALLS = _LLVM | _BITS | _OWN  # any other call makes its kernel scalar


def typed(dtype: str, lanes: int) -> str:
    """The TIR dtype of a vector."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def number(value: float, dtype: str, lanes: int) -> Any:
    """`value` in every lane."""
    scalar = const(value, dtype)
    return scalar if lanes == 1 else vector_of(scalar, lanes)


def cast(x: Any, source: str, target: str, lanes: int) -> Any:
    """`x` of dtype `source` as `target`; bool is 0 and 1, and true for anything but 0."""
    if source == "bool":
        return tirx.Select(x, number(1, target, lanes), number(0, target, lanes))
    if target == "bool":
        return tirx.NE(x, number(0, source, lanes))
    return tirx.Cast(typed(target, lanes), x)


def _horner(x: Any, coefficients: tuple[float, ...], lanes: int) -> Any:
    result = number(coefficients[0], "float32", lanes)
    for c in coefficients[1:]:
        result = result * x + number(c, "float32", lanes)
    return result


def log(b: KernelBuilder, x: Any, lanes: int) -> Any:
    """The natural logarithm: -inf at 0, NaN below; denormal numbers count as the smallest normal one."""
    x = b.register(x, lanes).value
    normal = b.register(tirx.Max(x, number(1.17549435e-38, "float32", lanes)), lanes).value
    bits = b.register(tirx.reinterpret(typed("int32", lanes), normal), lanes, "int32").value
    exponent = tirx.shift_right(bits, number(23, "int32", lanes)) - number(126, "int32", lanes)
    mantissa = tirx.bitwise_or(
        tirx.bitwise_and(bits, number(0x007FFFFF, "int32", lanes)), number(0x3F000000, "int32", lanes)
    )
    m = b.register(tirx.reinterpret(typed("float32", lanes), mantissa), lanes).value  # in [0.5, 1)
    e = b.register(tirx.Cast(typed("float32", lanes), exponent), lanes).value
    one, zero = number(1.0, "float32", lanes), number(0.0, "float32", lanes)
    small = m < number(0.70710678, "float32", lanes)
    r = b.register(tirx.Select(small, m + m, m) - one, lanes).value
    e = b.register(tirx.Select(small, e - one, e), lanes).value
    p = _horner(
        r,
        (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
         -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1), lanes,
    )  # fmt: skip
    z = b.register(r * r, lanes).value
    y = p * r * z + e * number(-2.12194440e-4, "float32", lanes) - number(0.5, "float32", lanes) * z
    y = b.register(r + y + e * number(0.693359375, "float32", lanes), lanes).value
    y = tirx.Select(x < zero, number(float("nan"), "float32", lanes), y)
    y = tirx.Select(tirx.EQ(x, zero), number(float("-inf"), "float32", lanes), y)
    return tirx.Select(x < number(float("inf"), "float32", lanes), y, x)


def call(b: KernelBuilder, name: str, dtype: str, args: list[Any], constant: float | None, lanes: int) -> Any:
    """The intrinsic `name` of `args` (all with `lanes` lanes); `constant`: the last argument if it is one."""
    x = args[0]
    polynomials: dict[str, Any] = {
        "exp": vector_math.exp, "erf": vector_math.erf, "tanh": vector_math.tanh,
        "sigmoid": vector_math.sigmoid, "log": log,
    }  # fmt: skip
    if dtype == "float32" and name in polynomials:
        return polynomials[name](b, x, lanes)
    if name == "pow" and constant in (2.0, 3.0, 4.0):
        square = b.register(x * x, lanes, dtype).value
        return {2.0: square, 3.0: square * x, 4.0: square * square}[constant]
    if name == "pow" and constant == 0.5:
        return tirx.sqrt(x)
    if name == "rsqrt":
        return number(1.0, dtype, lanes) / tirx.sqrt(x)
    if name == "round":
        return tirx.nearbyint(x)
    if name in ("fabs", "abs"):
        zero = number(0, dtype, lanes)
        return tirx.Select(tirx.LT(x, zero), tirx.Sub(zero, x), x)
    if name == "isnan":
        return tirx.NE(x, x)
    if name == "sigmoid":
        one = number(1.0, dtype, lanes)
        return one / (one + tirx.exp(tirx.Sub(number(0.0, dtype, lanes), x)))
    return getattr(tirx, name)(*args)
