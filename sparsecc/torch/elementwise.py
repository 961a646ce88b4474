"""Elementwise ops: where torch's own function differs from ONNX in name or detail, and their table."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.op import Op


def div(a: Tensor, b: Tensor) -> Tensor:
    """Quotient; integers are truncated towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def power(base: Tensor, exponent: Tensor | float) -> Tensor:
    """Power of the base's type, whatever the exponent's."""
    if isinstance(exponent, Tensor) and not base.is_floating_point() and exponent.is_floating_point():
        return torch.pow(base.to(exponent.dtype), exponent).to(base.dtype)
    return torch.pow(base, exponent).to(base.dtype)


def mod(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    """Remainder with the sign of the divisor, or of the dividend where `fmod` is set."""
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def bit_shift(a: Tensor, b: Tensor, *, direction: str) -> Tensor:
    """Shift of unsigned integers to the LEFT or RIGHT."""
    shift = torch.bitwise_left_shift if direction == "LEFT" else torch.bitwise_right_shift
    return shift(a, b)


def maximum(*tensors: Tensor) -> Tensor:
    """Largest of any number of tensors."""
    return reduce(torch.maximum, tensors)


def minimum(*tensors: Tensor) -> Tensor:
    """Smallest of any number of tensors."""
    return reduce(torch.minimum, tensors)


def add_all(*tensors: Tensor) -> Tensor:
    """Sum of any number of tensors."""
    return reduce(torch.add, tensors)


def average(*tensors: Tensor) -> Tensor:
    """Mean of any number of tensors."""
    return reduce(torch.add, tensors) / len(tensors)


def clip(x: Tensor, low: Tensor | float | None = None, high: Tensor | float | None = None) -> Tensor:
    """Limit to [low, high]; where low is over high, everything is high."""
    if isinstance(low, float) and isinstance(high, float) and low <= high:
        # The form of it that is exported as one Clip.
        return functional.hardtanh(x, low, high)
    x = x if low is None else torch.clamp(x, min=low)
    return x if high is None else torch.clamp(x, max=high)


def cast(x: Tensor, *, to: torch.dtype, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """Another element type; the two options are about types of 8 bits that torch does not compute in."""
    return x.to(to)


def cast_like(x: Tensor, like: Tensor, *, saturate: int = 1, round_mode: str = "up") -> Tensor:
    """The element type of another tensor."""
    return x.to(like.dtype)


def is_inf(x: Tensor, *, detect_negative: int = 1, detect_positive: int = 1) -> Tensor:
    """Where infinite, of the chosen signs."""
    if detect_negative and detect_positive:
        return torch.isinf(x)
    if detect_negative:
        return torch.isneginf(x)
    return torch.isposinf(x) if detect_positive else torch.zeros_like(x, dtype=torch.bool)


def identity(x: Tensor) -> Tensor:
    """The input."""
    return x


def celu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1))."""
    return functional.celu(x, alpha)


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x, or alpha * (exp(x) - 1) below zero."""
    return functional.elu(x, alpha)


def selu(
    x: Tensor, *, alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875
) -> Tensor:
    """gamma * elu(x, alpha)."""
    return gamma * functional.elu(x, alpha)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    """x times the normal distribution function, or its tanh approximation."""
    return functional.gelu(x, approximate=approximate)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """alpha * x + beta within [0, 1]."""
    return torch.clamp(alpha * x + beta, 0, 1)


def leaky_relu(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    """x, or alpha * x below zero."""
    return functional.leaky_relu(x, alpha)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """x, or slope * x below zero; the slope broadcasts as in numpy."""
    return torch.where(x < 0, slope * x, x)


def thresholded_relu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    """x above alpha, else zero."""
    return torch.where(x > alpha, x, torch.zeros_like(x))


def shrink(x: Tensor, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    """x + bias below -lambd, x - bias above lambd, zero between."""
    outside = torch.where(x < -lambd, x + bias, x - bias)
    return torch.where(x.abs() > lambd, outside, torch.zeros_like(x)).to(x.dtype)


OPS = {
    "Abs": Op(torch.abs),
    "Acos": Op(torch.acos),
    "Acosh": Op(torch.acosh),
    "Add": Op(torch.add),
    "And": Op(torch.logical_and),
    "Asin": Op(torch.asin),
    "Asinh": Op(torch.asinh),
    "Atan": Op(torch.atan),
    "Atanh": Op(torch.atanh),
    "BitShift": Op(bit_shift),
    "BitwiseAnd": Op(torch.bitwise_and),
    "BitwiseNot": Op(torch.bitwise_not),
    "BitwiseOr": Op(torch.bitwise_or),
    "BitwiseXor": Op(torch.bitwise_xor),
    "Cast": Op(cast),
    "CastLike": Op(cast_like),
    "Ceil": Op(torch.ceil),
    "Celu": Op(celu),
    "Clip": Op(clip, constants=(1, 2)),
    "Cos": Op(torch.cos),
    "Cosh": Op(torch.cosh),
    "Div": Op(div),
    "Elu": Op(elu),
    "Equal": Op(torch.eq),
    "Erf": Op(torch.erf),
    "Exp": Op(torch.exp),
    "Floor": Op(torch.floor),
    "Gelu": Op(gelu),
    "Greater": Op(torch.gt),
    "GreaterOrEqual": Op(torch.ge),
    "HardSigmoid": Op(hard_sigmoid),
    "HardSwish": Op(functional.hardswish),
    "Identity": Op(identity),
    "IsInf": Op(is_inf),
    "IsNaN": Op(torch.isnan),
    "LeakyRelu": Op(leaky_relu),
    "Less": Op(torch.lt),
    "LessOrEqual": Op(torch.le),
    "Log": Op(torch.log),
    "Max": Op(maximum),
    "Mean": Op(average),
    "Min": Op(minimum),
    "Mish": Op(functional.mish),
    "Mod": Op(mod),
    "Mul": Op(torch.mul),
    "Neg": Op(torch.neg),
    "Not": Op(torch.logical_not),
    "Or": Op(torch.logical_or),
    "PRelu": Op(prelu),
    "Pow": Op(power, constants=(1,)),
    "Reciprocal": Op(torch.reciprocal),
    "Relu": Op(torch.relu),
    "Round": Op(torch.round),
    "Selu": Op(selu),
    "Shrink": Op(shrink),
    "Sigmoid": Op(torch.sigmoid),
    "Sign": Op(torch.sign),
    "Sin": Op(torch.sin),
    "Sinh": Op(torch.sinh),
    "Softplus": Op(functional.softplus),
    "Softsign": Op(functional.softsign),
    "Sqrt": Op(torch.sqrt),
    "Sub": Op(torch.sub),
    "Sum": Op(add_all),
    "Tan": Op(torch.tan),
    "Tanh": Op(torch.tanh),
    "ThresholdedRelu": Op(thresholded_relu),
    "Where": Op(torch.where),
    "Xor": Op(torch.logical_xor),
}
