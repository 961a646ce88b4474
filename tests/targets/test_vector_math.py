"""Elementwise functions on vectors and scalars, against numpy in double precision, over the whole range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from harness import call, load_kernels
from networks import Array

from sparsecc.compiler import generator_version
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels import vector_math
from sparsecc.targets.tir import KernelBuilder

SPECIAL = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1e-5,
    -1e-5,
    0.625,
    -0.625,
    87.0,
    -87.0,
    88.7,
    -103.0,
    1e4,
    -1e4,
    np.inf,
    -np.inf,
]
POINTS = np.concatenate([np.linspace(-12, 12, 4000 - len(SPECIAL)), SPECIAL]).astype(np.float32)
FINITE = POINTS[np.isfinite(POINTS)]


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


def sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


# name: attributes, reference in float64, points, absolute error, relative error
Case = tuple[dict[str, float], Callable[[Array], Array], Array, float, float]
CASES: dict[str, Case] = {
    "Exp": ({}, np.exp, POINTS, 2e-38, 3e-7),
    "Sigmoid": ({}, sigmoid, POINTS, 1e-38, 3e-6),
    "Tanh": ({}, np.tanh, POINTS, 3e-7, 3e-7),
    "Erf": ({}, erf, POINTS, 4e-7, 4e-7),
    "Gelu": ({}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))), FINITE, 2e-6, 1e-6),
    "Gelu tanh": (
        {"tanh": 1.0},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        FINITE, 2e-6, 1e-6,
    ),
    "HardSigmoid": ({"alpha": 0.3, "beta": 0.4}, lambda x: np.clip(0.3 * x + 0.4, 0, 1), POINTS, 1e-6, 0),
    "HardSwish": ({}, lambda x: x * np.clip(x / 6 + 0.5, 0, 1), FINITE, 1e-6, 1e-6),
    "LeakyRelu": ({"alpha": 0.2}, lambda x: np.where(x < 0, 0.2 * x, x), POINTS, 1e-37, 1e-6),
    "Elu": (
        {"alpha": 0.7}, lambda x: np.where(x < 0, 0.7 * np.expm1(np.minimum(x, 0)), x), POINTS, 2e-7, 1e-6
    ),
    "Relu": ({}, lambda x: np.maximum(x, 0), POINTS, 0, 0),
    "Clip": ({"min": -1.5, "max": 2.0}, lambda x: np.clip(x, -1.5, 2), POINTS, 0, 0),
    "Clip max": ({"max": 2.0}, lambda x: np.minimum(x, 2), POINTS, 0, 0),
}  # fmt: skip


def evaluate(op: str, attributes: dict[str, float], lanes: int, *arrays: Array) -> Array:
    """The op on arrays of a multiple of `lanes` elements."""

    def make() -> Any:
        b = KernelBuilder()
        x = [b.pointer(f"x{i}") for i in range(len(arrays))]
        y = b.pointer("y")
        with b.loop(b.end - b.begin, b.begin) as i:
            values = [b.register(p.vector(i * lanes, lanes), lanes).value for p in x]
            b.store(y, i * lanes, vector_math.OPS[op](b, values, attributes, lanes), lanes)
        return b.function(symbol)

    symbol = structural_name("math", (op, sorted(attributes.items()), lanes, len(arrays)))
    result = np.empty_like(arrays[0])
    call(
        load_kernels({symbol: make}, generator_version())[symbol], [*arrays, result], [], len(result) // lanes
    )
    return result


@pytest.mark.parametrize("lanes", [1, 8, 16])
@pytest.mark.parametrize("name", CASES)
def test_unary(name: str, lanes: int) -> None:
    attributes, reference, points, absolute, relative = CASES[name]
    x = points[: len(points) // 16 * 16].copy()
    found = evaluate(name.split(maxsplit=1)[0], attributes, lanes, x)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = reference(x.astype(np.float64))
        rounded = expected.astype(np.float32)
    infinite = np.isinf(rounded)
    np.testing.assert_array_equal(found[infinite], rounded[infinite])
    np.testing.assert_allclose(found[~infinite], expected[~infinite], rtol=relative, atol=absolute)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Min", "Max"])
def test_binary(op: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(64).astype(np.float32) for _ in range(2))
    reference = {
        "Add": np.add,
        "Sub": np.subtract,
        "Mul": np.multiply,
        "Div": np.divide,
        "Min": np.minimum,
        "Max": np.maximum,
    }
    np.testing.assert_array_equal(evaluate(op, {}, 16, a, b), reference[op](a, b))


def test_a_nan_is_not_hidden() -> None:
    """A not-a-number comes out of everything that computes with it."""
    x = np.full(16, np.nan, np.float32)
    for name, (attributes, *_) in CASES.items():
        assert np.isnan(evaluate(name.split(maxsplit=1)[0], attributes, 16, x)).all(), name
