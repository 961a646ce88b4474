"""Linear layers through the lowering against ONNX Runtime: columns, ranks, Gemm, patterns, tails."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from networks import PATTERNS, Network
from stepping import EVERY, V4, check

COLUMNS = [1, 2, 3, 4, 8, 9, 15, 16, 17, 33, 128]


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("target", EVERY)
def test_columns(columns: int, target: str) -> None:
    """M and K from one element to more than any tile, dense and sparse."""
    net = Network()
    for reduction, rows in ((1, 1), (3, 17), (17, 3), (64, 48), (70, 130)):
        x = net.input(columns, reduction)
        for pattern in ("dense", "unstructured 80", "16x1 75"):
            net.output(net.linear(x, reduction, rows, pattern=pattern))
    check(net, target)


@pytest.mark.parametrize(
    "shape", [(24,), (3, 24), (2, 5, 24), (2, 3, 2, 24), (1, 1, 24), (3, 7, 24), (3, 1, 24)], ids=str
)
def test_ranks(shape: tuple[int, ...]) -> None:
    net = Network()
    x = net.input(*shape)
    y = net.add("Relu", net.add("Add", net.linear(x, 24, 18, pattern="4x1 80"), net.normal(18)))
    net.output(net.linear(y, 18, 24), y)
    net.output(net.add("Add", net.linear(y, 18, 24, pattern="2:4"), x))
    check(net)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("columns", [1, 6, 40])
def test_patterns(pattern: str, columns: int) -> None:
    net = Network()
    x = net.input(columns, 52)
    for rows in (1, 5, 64):
        net.output(net.linear(x, 52, rows, pattern=pattern))
    wide = net.linear(x, 52, 300, pattern=pattern)
    net.output(net.linear(net.add("Relu", wide), 300, 70, pattern=pattern))
    check(net)


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("columns", [1, 5, 8, 9])
@pytest.mark.parametrize("target", EVERY)
def test_weights_of_few_bits(columns: int, bits: int, target: str) -> None:
    """Found in the values, dense and sparse; more columns than 8 take the floats."""
    net = Network()
    x = net.input(columns, 64)
    for pattern in ("dense", "unstructured 80", "16x1 75", "1x32 50", "zero"):
        for rows in (1, 40):
            y = net.add("Add", net.linear(x, 64, rows, pattern=pattern, bits=bits), net.normal(rows))
            net.output(net.add("Relu", y))
    check(net, target)


@pytest.mark.parametrize(("trans_a", "trans_b"), product((0, 1), (0, 1)))
@pytest.mark.parametrize("columns", [2, 13])
def test_gemm(columns: int, trans_a: int, trans_b: int) -> None:
    """C of every shape that broadcasts; with as many columns as rows a column and a row of C look alike."""
    net = Network()
    for rows in (5, columns):
        a = net.input(*((7, columns) if trans_a else (columns, 7)))
        c_shapes: list[tuple[int, ...] | None] = [
            None, (), (1,), (1, 1), (rows,), (1, rows), (columns, 1), (columns, rows)
        ]  # fmt: skip
        for shape in c_shapes:
            b = net.normal(*((rows, 7) if trans_b else (7, rows)), pattern="unstructured 50")
            operands = [a, b, *([] if shape is None else [net.normal(*shape)])]
            options: dict[str, Any] = {"transA": trans_a, "transB": trans_b, "alpha": 0.5, "beta": 2.0}
            net.output(net.add("Relu", net.add("Gemm", *operands, **options)))
        computed = net.add("Neg", net.input(columns, rows))
        weight = net.normal(*((rows, 7) if trans_b else (7, rows)))
        net.output(net.add("Gemm", a, weight, computed, transA=trans_a, transB=trans_b, beta=0.5))
    check(net)


def test_gemm_of_two_activations() -> None:
    net = Network()
    a, b, c = net.input(5, 7), net.input(7, 9), net.input(9)
    net.output(net.add("Relu", net.add("Gemm", a, b, c)), net.add("Gemm", b, a, transA=1, transB=1))
    check(net)


def test_shared_weights() -> None:
    net = Network()
    weight = net.constant(np.random.default_rng(3).standard_normal((20, 20)).astype(np.float32))
    y = net.add("MatMul", net.input(9, 20), weight)
    y = net.add("Relu", net.add("MatMul", net.add("Relu", y), weight))
    net.output(net.add("Gemm", y, weight, transB=1), net.add("MatMul", net.input(2, 20), weight))
    plans = check(net)
    assert all(len(plan.report["layers"]) == 4 for plan in plans.values())  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 12, 16), (3, 13, 16), (1, 128, 16), (3, 1, 16), (7, 16)], ids=str)
@pytest.mark.parametrize("activation", ["Gelu", "Tanh", "HardSwish", "silu"])
def test_feed_forward_with_residual(shape: tuple[int, ...], activation: str) -> None:
    """A block of a transformer; the tokens of a batch of 3 are no whole vectors."""
    net = Network()
    x = net.add("LayerNormalization", net.input(*shape), net.normal(16), net.normal(16))
    y = net.add("Add", net.linear(x, 16, 40, pattern="4x1 80"), net.normal(40))
    y = net.add("Mul", y, net.add("Sigmoid", y)) if activation == "silu" else net.add(activation, y)
    y = net.add("Add", net.linear(y, 40, 16, pattern="2x1 70"), net.normal(16))
    y = net.add("Add", x, y)
    net.output(net.add("LayerNormalization", y, net.normal(16), net.normal(16)), y)
    check(net)


@pytest.mark.parametrize("shape", [(2, 16), (3, 13, 16)], ids=str)
def test_constant_operands_of_a_tail(shape: tuple[int, ...]) -> None:
    """Position embeddings have the whole shape; others lie along the features."""
    net = Network()
    y = net.linear(net.input(*shape), 16, 24)
    y = net.add("Add", y, net.normal(*shape[:-1], 24))
    y = net.add("Mul", y, net.normal(*(1 for _ in shape[:-1]), 24))
    net.output(net.add("Add", y, net.normal(shape[-2], 1)))
    check(net)


def test_constant_first_operand_and_high_ranks() -> None:
    net = Network()
    x = net.input(2, 5, 7)
    net.output(net.add("MatMul", net.normal(9, 5), x), net.add("MatMul", net.normal(2, 9, 5), x))
    net.output(net.add("MatMul", x, net.normal(2, 7, 3)), net.add("MatMul", x, net.normal(1, 7, 3)))
    net.output(net.add("MatMul", x, net.normal(7)), net.add("MatMul", net.normal(5), x))
    check(net)


def test_classifier_behind_a_global_pool() -> None:
    net = Network()
    x = net.conv(net.input(3, 3, 6, 6), 3, 20, (3, 3))
    flat = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.output(
        net.add(
            "Softmax",
            net.add("Gemm", flat, net.normal(10, 20, pattern="unstructured 80"), net.normal(10), transB=1),
        )
    )
    check(net)


def test_double_precision() -> None:
    rng = np.random.default_rng(0)
    net = Network()
    x = net.input(3, 4, values=rng.standard_normal((3, 4)))
    net.output(net.add("MatMul", x, net.constant(rng.standard_normal((4, 5)))))
    check(net, V4)
