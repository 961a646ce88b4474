"""Attention through the lowering against ONNX Runtime: heads, masks, grouped queries, odd token counts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from networks import Network
from stepping import EVERY, check

SHAPES = [(1, 16), (1, 13), (3, 7), (3, 16), (2, 1), (1, 35)]  # batch, tokens


def heads_of(net: Network, x: str, batch: int, tokens: int, heads: int, size: int, perm: list[int]) -> str:
    """[batch, tokens, heads * size] with the heads apart, transposed."""
    return net.add("Transpose", net.add("Reshape", x, net.constant([batch, tokens, heads, size])), perm=perm)


def attention(
    net: Network, x: str, batch: int, tokens: int, *, mask: str = "none", heads: int = 2, size: int = 5,
    pattern: str = "4x1 80",
) -> str:  # fmt: skip
    """Softmax(Q K^T / sqrt(size) + mask) V with its projections."""
    width = heads * size
    q, k, v = (
        net.add("Add", net.linear(x, width, width, pattern=pattern), net.normal(width)) for _ in range(3)
    )
    q = heads_of(net, q, batch, tokens, heads, size, [0, 2, 1, 3])
    k = heads_of(net, k, batch, tokens, heads, size, [0, 2, 3, 1])
    v = heads_of(net, v, batch, tokens, heads, size, [0, 2, 1, 3])
    scores = net.add("Mul", net.add("MatMul", q, k), net.constant(size**-0.5, np.float32))
    visible = net.rng.random((batch, 1, 1, tokens)) < 0.7
    visible[..., 0] = True
    if mask == "additive":
        scores = net.add(
            "Add", scores, net.input(*visible.shape, values=np.where(visible, 0, -1e4).astype(np.float32))
        )
    elif mask == "boolean":
        given = net.input(*visible.shape, values=visible)
        scores = net.add("Where", given, scores, net.constant(-1e4, np.float32))
    elif mask == "causal":
        scores = net.add("Add", scores, net.constant(np.triu(np.full((tokens, tokens), -1e4, np.float32), 1)))
    elif mask == "whole":
        scores = net.add("Add", scores, net.input(batch, heads, tokens, tokens))
    y = net.add("MatMul", net.add("Softmax", scores, axis=-1), v)
    y = net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.constant([batch, tokens, width]))
    return net.linear(y, width, width, pattern=pattern)


@pytest.mark.parametrize("mask", ["none", "additive", "boolean", "causal", "whole"])
@pytest.mark.parametrize(("batch", "tokens"), SHAPES)
def test_attention(batch: int, tokens: int, mask: str) -> None:
    net = Network()
    x = net.input(batch, tokens, 10)
    net.output(net.add("Add", attention(net, x, batch, tokens, mask=mask), x))
    check(net)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 16), (3, 7)])
@pytest.mark.parametrize("target", EVERY)
def test_encoder_of_two_blocks(target: str, batch: int, tokens: int) -> None:
    net = Network()
    x = net.add("LayerNormalization", net.input(batch, tokens, 16), net.normal(16), net.normal(16))
    for _ in range(2):
        y = net.add("Add", attention(net, x, batch, tokens, heads=4, size=4, pattern="unstructured 80"), x)
        x = net.add("LayerNormalization", y, net.normal(16), net.normal(16))
        y = net.add("Gelu", net.add("Add", net.linear(x, 16, 40, pattern="2:4"), net.normal(40)))
        y = net.add("Add", net.add("Add", net.linear(y, 40, 16, pattern="2x1 70"), net.normal(16)), x)
        x = net.add("LayerNormalization", y, net.normal(16), net.normal(16))
    net.output(x, net.add("Tanh", net.linear(net.add("Gather", x, net.constant(0), axis=1), 16, 16)))
    check(net, target)


@pytest.mark.parametrize(("batch", "tokens"), [(1, 9), (2, 16)])
def test_grouped_queries(batch: int, tokens: int) -> None:
    """Two query heads share each of two key heads, by Unsqueeze, Expand and Reshape."""
    net = Network()
    x = net.input(batch, tokens, 12)
    q = heads_of(net, net.linear(x, 12, 24), batch, tokens, 4, 6, [0, 2, 1, 3])
    k, v = (heads_of(net, net.linear(x, 12, 12), batch, tokens, 2, 6, [0, 2, 1, 3]) for _ in range(2))

    def repeated(value: str) -> str:
        value = net.add("Unsqueeze", value, net.constant([2]))
        value = net.add("Expand", value, net.constant([batch, 2, 2, tokens, 6]))
        return net.add("Reshape", value, net.constant([batch, 4, tokens, 6]))

    scores = net.add("MatMul", q, net.add("Transpose", repeated(k), perm=[0, 1, 3, 2]))
    y = net.add("MatMul", net.add("Softmax", scores), repeated(v))
    net.output(
        net.add("Reshape", net.add("Transpose", y, perm=[0, 2, 1, 3]), net.constant([batch, tokens, 24]))
    )
    check(net)


def test_shapes_of_products() -> None:
    net = Network()
    a, b = net.input(2, 3, 5, 7), net.input(2, 3, 7, 4)
    row, column = net.input(7), net.input(5)
    one, wide = net.input(1, 3, 7, 17), net.input(3, 1, 4, 33)
    net.output(net.add("MatMul", a, b), net.add("MatMul", a, row), net.add("MatMul", column, a))
    net.output(
        net.add("MatMul", a, one), net.add("MatMul", b, net.add("Gather", wide, net.constant([0, 1]), axis=0))
    )
    net.output(net.add("MatMul", row, net.input(7)), net.add("MatMul", net.input(9, 1), net.input(1, 18)))
    net.output(
        net.add("MatMul", net.input(1, 40), net.input(40, 50)),
        net.add("MatMul", net.input(3, 2, 6), net.input(6, 5)),
    )
    square = net.add("Sigmoid", net.input(19, 19))
    net.output(
        net.add("MatMul", square, square),
        net.add("MatMul", square, net.add("Transpose", square, perm=[1, 0])),
    )
    check(net)


@pytest.mark.parametrize("sizes", product((1, 4, 17), (1, 16, 30)), ids=str)
def test_feature_major_products(sizes: tuple[int, int]) -> None:
    """Operands as linear layers leave them, either way round."""
    net = Network()
    m, n = sizes
    a, b = (net.linear(net.input(size, 6), 6, 20) for size in (m, n))
    net.output(net.add("MatMul", a, net.add("Transpose", b, perm=[1, 0])))
    net.output(net.add("MatMul", net.add("Transpose", a, perm=[1, 0]), net.input(m, 3)))
    check(net)


def test_tails_of_products() -> None:
    """Scalars, constants along the last axis, tensors, gates, and a result without a row dimension."""
    net = Network()
    a, b = net.input(2, 9, 6), net.input(2, 6, 18)
    y = net.add("MatMul", a, b)
    y = net.add("Add", net.add("Mul", y, net.constant(0.5, np.float32)), net.normal(18))
    y = net.add("Mul", y, net.add("Sigmoid", y))
    net.output(net.add("Add", y, net.add("MatMul", a, b)))
    row = net.add("MatMul", net.input(6), b)
    net.output(net.add("Relu", net.add("Add", row, net.input(2, 18))))
    net.output(net.add("Add", net.add("MatMul", a, net.input(6)), net.normal(2, 9)))
    net.output(net.add("Add", net.add("MatMul", a, b), net.normal(2, 9, 18)))
    check(net)
