"""Elementwise ONNX ops on vectors of fp32: exponentials and the error function without calls to libm.

exp: Cody-Waite reduction and a degree-6 polynomial (Cephes expf), relative error < 2e-7.
erf: rational approximation (Eigen); tanh: Cephes tanhf. Absolute errors < 3e-7.
Not-a-numbers stay: Max(c, x) and Min(c, x) give x where the comparison with it is false.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx

from sparsecc.targets.tir import KernelBuilder, const, vector_of

Attributes = dict[str, float]
_QUAD = 4


def _f(value: float, lanes: int) -> Any:
    return vector_of(const(value, "float32"), lanes) if lanes > 1 else const(value, "float32")


def _horner(x: Any, coefficients: tuple[float, ...], lanes: int) -> Any:
    result = _f(coefficients[0], lanes)
    for c in coefficients[1:]:
        result = result * x + _f(c, lanes)
    return result


def _typed(base: str, lanes: int) -> str:
    return base if lanes == 1 else f"{base}x{lanes}"


def exp(b: KernelBuilder, x: Any, lanes: int) -> Any:
    """e ** x; overflow gives inf, underflow 0 (below -87.3)."""
    x = b.register(x, lanes).value
    clipped = b.register(tirx.Max(_f(-87.3, lanes), tirx.Min(_f(88.7228, lanes), x)), lanes).value
    n = b.register(tirx.floor(clipped * _f(1.44269504088896341, lanes) + _f(0.5, lanes)), lanes).value
    r = b.register(clipped - n * _f(0.693359375, lanes) - n * _f(-2.12194440e-4, lanes), lanes).value
    poly = _horner(
        r,
        (
            1.9875691500e-4,
            1.3981999507e-3,
            8.3334519073e-3,
            4.1665795894e-2,
            1.6666665459e-1,
            5.0000001201e-1,
        ),
        lanes,
    )
    y = b.register(poly * r * r + r + _f(1.0, lanes), lanes).value
    half = tirx.Cast(_typed("int32", lanes), n)
    # 2 ** n in two factors, so that n = 128 does not overflow before the product does
    first = tirx.shift_right(half, vector_of(const(1), lanes) if lanes > 1 else const(1))
    first = b.register(first, lanes, "int32").value
    second = b.register(half - first, lanes, "int32").value
    scaled = y * _power_of_two(first, lanes) * _power_of_two(second, lanes)
    return tirx.Select(
        x < _f(-87.3, lanes),
        _f(0.0, lanes),
        tirx.Select(x > _f(88.7228, lanes), _f(float("inf"), lanes), scaled),
    )


def _power_of_two(n: Any, lanes: int) -> Any:
    broadcast = (lambda v: vector_of(const(v), lanes)) if lanes > 1 else const
    return tirx.reinterpret(_typed("float32", lanes), tirx.shift_left(n + broadcast(127), broadcast(23)))


def maximum(bound: Any, x: Any, lanes: int) -> Any:
    """The larger one; a not-a-number x stays. One instruction on ARM and in WebAssembly, whose vectors have
    four lanes; on x86 comparing is less work."""
    if lanes == _QUAD:
        return tirx.call_llvm_pure_intrin(_typed("float32", lanes), "llvm.maximum", bound, x)
    return tirx.Max(bound, x)


def minimum(bound: Any, x: Any, lanes: int) -> Any:
    """The smaller one, likewise."""
    if lanes == _QUAD:
        return tirx.call_llvm_pure_intrin(_typed("float32", lanes), "llvm.minimum", bound, x)
    return tirx.Min(bound, x)


def multiply_add(a: Any, b: Any, c: Any, lanes: int, *, fused: bool) -> Any:
    """a * b + c of fp32 vectors, rounded once.

    Args:
        fused: the machine has an instruction for it. Without, the product is exact in float64.
    """
    if fused:
        return a * b + c
    wide = f"float64x{lanes}"
    product = tirx.Cast(wide, a) * tirx.Cast(wide, b)
    return tirx.Cast(f"float32x{lanes}", product + tirx.Cast(wide, c))


def sigmoid(b: KernelBuilder, x: Any, lanes: int) -> Any:
    return _f(1.0, lanes) / (_f(1.0, lanes) + exp(b, _f(0.0, lanes) - x, lanes))


def tanh(b: KernelBuilder, x: Any, lanes: int) -> Any:
    """1 - 2 / (exp(2x) + 1), and the odd polynomial of Cephes below 0.625 where that cancels."""
    x = b.register(x, lanes).value
    z = b.register(x * x, lanes).value
    small = (
        _horner(
            z,
            (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1),
            lanes,
        )
        * z
        * x
        + x
    )
    large = _f(1.0, lanes) - _f(2.0, lanes) / (exp(b, x + x, lanes) + _f(1.0, lanes))
    limit = _f(0.625, lanes)
    return tirx.Select(
        tirx.And(x < limit, x > _f(-0.625, lanes)),
        b.register(small, lanes).value,
        b.register(large, lanes).value,
    )


def erf(b: KernelBuilder, x: Any, lanes: int) -> Any:
    """The error function: Eigen's rational approximation of degree 13 / 8 on [-4, 4] (the source of
    TensorFlow's and TVM's fast erf), absolute error < 3e-7."""
    x = b.register(
        tirx.Max(_f(-3.925724783138660, lanes), tirx.Min(_f(3.925724783138660, lanes), x)), lanes
    ).value
    z = b.register(x * x, lanes).value
    p = _horner(
        z,
        (
            -2.72614225801306e-10,
            2.77068142495902e-08,
            -2.10102402082508e-06,
            -5.69250639462346e-05,
            -7.34990630326855e-04,
            -2.95459980854025e-03,
            -1.60960333262415e-02,
        ),
        lanes,
    )
    q = _horner(
        z,
        (
            -1.45660718464996e-05,
            -2.13374055278905e-04,
            -1.68282697438203e-03,
            -7.37332916720468e-03,
            -1.42647390514189e-02,
        ),
        lanes,
    )
    return x * p / q


def _clip(b: KernelBuilder, a: list[Any], attributes: Attributes, lanes: int) -> Any:
    value = a[0]
    if "min" in attributes:
        value = maximum(_f(attributes["min"], lanes), value, lanes)
    if "max" in attributes:
        value = minimum(_f(attributes["max"], lanes), value, lanes)
    return value


def _gelu(b: KernelBuilder, a: list[Any], attributes: Attributes, lanes: int) -> Any:
    x = a[0]
    if attributes.get("tanh", 0.0):
        inner = _f(0.7978845608028654, lanes) * (x + _f(0.044715, lanes) * x * x * x)
        return _f(0.5, lanes) * x * (_f(1.0, lanes) + tanh(b, inner, lanes))
    return _f(0.5, lanes) * x * (_f(1.0, lanes) + erf(b, x * _f(0.7071067811865476, lanes), lanes))


def _hard_sigmoid(b: KernelBuilder, a: list[Any], attributes: Attributes, lanes: int) -> Any:
    line = _f(attributes.get("alpha", 0.2), lanes) * a[0] + _f(attributes.get("beta", 0.5), lanes)
    return maximum(_f(0.0, lanes), minimum(_f(1.0, lanes), line, lanes), lanes)


def _hard_swish(b: KernelBuilder, a: list[Any], attributes: Attributes, lanes: int) -> Any:
    return a[0] * _hard_sigmoid(b, a, {"alpha": 1 / 6, "beta": 0.5}, lanes)


def _negative_branch(x: Any, negative: Any, lanes: int) -> Any:
    return tirx.Select(x < _f(0.0, lanes), negative, x)


OPS: dict[str, Callable[[KernelBuilder, list[Any], Attributes, int], Any]] = {
    "Add": lambda b, a, at, n: a[0] + a[1],
    "Sub": lambda b, a, at, n: a[0] - a[1],
    "Mul": lambda b, a, at, n: a[0] * a[1],
    "Div": lambda b, a, at, n: a[0] / a[1],
    "MulAdd": lambda b, a, at, n: multiply_add(a[0], a[1], a[2], n, fused=bool(at["fused"])),
    "Min": lambda b, a, at, n: tirx.Min(a[0], a[1]),
    "Max": lambda b, a, at, n: tirx.Max(a[0], a[1]),
    "Relu": lambda b, a, at, n: maximum(_f(0.0, n), a[0], n),
    "Clip": _clip,
    "LeakyRelu": lambda b, a, at, n: _negative_branch(a[0], a[0] * _f(at.get("alpha", 0.01), n), n),
    "Elu": lambda b, a, at, n: _negative_branch(
        a[0], _f(at.get("alpha", 1.0), n) * (exp(b, tirx.Min(a[0], _f(0.0, n)), n) - _f(1.0, n)), n
    ),
    "Sigmoid": lambda b, a, at, n: sigmoid(b, a[0], n),
    "Tanh": lambda b, a, at, n: tanh(b, a[0], n),
    "Exp": lambda b, a, at, n: exp(b, a[0], n),
    "Erf": lambda b, a, at, n: erf(b, a[0], n),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
}
