"""Views, chains and the remaining ops in the middle of a graph, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import Network
from stepping import V4, check, lowered

from sparsecc.errors import LoweringError, SparseccError, UnsupportedOpError
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.state import LARGEST_INDEX, Lowering
from sparsecc.targets.registry import machine_for


def test_views_of_views() -> None:
    net = Network()
    x = net.linear(net.input(2, 12, 10), 10, 24)
    y = net.add("Transpose", net.add("Reshape", x, net.constant([2, 12, 4, 6])), perm=[0, 2, 1, 3])
    parts = net.add("Split", y, net.constant([1, 3]), outputs=2, axis=1)
    cut = net.add(
        "Slice",
        parts[1],
        net.constant([1, -5]),
        net.constant([3, 100]),
        net.constant([1, 2]),
        net.constant([1, 2]),
    )
    back = net.add(
        "Slice", parts[1], net.constant([-1]), net.constant([-100]), net.constant([2]), net.constant([-1])
    )
    net.output(parts[0], cut, back, net.add("Squeeze", parts[0], net.constant([1])))
    net.output(net.add("Expand", net.add("Unsqueeze", cut, net.constant([0])), net.constant([3, 1, 1, 1, 6])))
    net.output(
        net.add("Flatten", y, axis=2), net.add("Relu", net.add("Expand", cut, net.constant([2, 2, 3, 6])))
    )
    net.output(net.linear(net.add("Reshape", y, net.constant([-1, 6])), 6, 9), net.linear(cut, 6, 5))
    check(net)


@pytest.mark.parametrize("op", ["Reshape", "Transpose", "Expand", "Slice", "Split", "Identity", "Squeeze"])
def test_views_of_inputs_and_constants(op: str) -> None:
    """A graph input may not be read outside its elements, nor written."""
    net = Network()
    operands: list[str] = {
        "Reshape": [net.constant([3, 1, 8])],
        "Expand": [net.constant([2, 1, 3, 8])],
        "Slice": [net.constant([1]), net.constant([3]), net.constant([1])],
        "Squeeze": [net.constant([0])],
    }.get(op, [])
    attributes: dict[str, Any] = {"axis": 2, "num_outputs": 2} if op == "Split" else {}
    for source in (net.input(1, 3, 8), net.normal(1, 3, 8)):
        if op == "Split":
            net.output(*net.add(op, source, outputs=2, **attributes))
        else:
            y = net.add(op, source, *operands, **attributes)
            net.output(y, net.add("Add", y, net.input(1)))
    check(net)


def test_long_and_branching_chains() -> None:
    net = Network()
    x = y = net.input(3, 5, 7)
    for number in range(40):
        y = net.add(("Sin", "Sigmoid", "Abs")[number % 3], net.add("Add", y, x))
    side = net.add("Mul", y, y)
    net.output(net.add("Sub", net.add("Exp", side), net.add("Neg", side)), side)
    net.output(net.add("Where", net.add("Greater", x, net.constant(0.0, np.float32)), y, x))
    check(net)


def test_embedding_and_integers() -> None:
    net = Network()
    ids = net.input(values=np.array([[3, 1, 0], [5, 2, 2]], np.int64))
    x = net.add("Gather", net.normal(7, 16), ids)
    x = net.add("Add", x, net.normal(3, 16))
    x = net.add("LayerNormalization", x, net.normal(16), net.normal(16))
    mask = net.add("Cast", net.add("Not", net.add("Equal", ids, net.constant(0))), to=1)
    net.output(
        net.add("Mul", net.linear(x, 16, 20), net.add("Unsqueeze", mask, net.constant([2]))),
        net.add("Add", ids, ids),
    )
    net.output(
        net.add("ArgMax", x, axis=-1),
        net.add("ReduceSum", x, net.constant([1])),
        net.add("CumSum", x, net.constant(1)),
    )
    check(net)


def test_outputs_that_nothing_computes() -> None:
    net = Network()
    net.output(net.input(3, 5), net.add("Identity", net.normal(2, 2)))
    net.output(net.add("ConstantOfShape", net.constant([2, 3])))
    check(net)


def test_outputs_that_nobody_reads() -> None:
    net = Network()
    x = net.input(3, 9)
    values, _ = net.add("TopK", x, net.constant([2]), outputs=2)
    _, places = net.add("TopK", x, net.constant([3]), outputs=2, largest=0)
    first, _ = net.add("Split", x, net.constant([4, 5]), outputs=2, axis=1)
    net.output(values, places, first)
    check(net)


def test_scalars_and_ones() -> None:
    net = Network()
    x = net.input(1, 1, 1, 1)
    net.output(
        net.conv(x, 1, 1, (1, 1)), net.conv(x, 1, 1, (3, 3), pads=[1] * 4), net.add("Relu", net.input())
    )
    net.output(net.add("Softmax", x), net.add("ReduceMean", x, net.constant([0, 1, 2, 3]), keepdims=0))
    net.output(net.linear(net.input(1), 1, 1), net.linear(net.input(1, 1), 1, 1))
    check(net)


@pytest.mark.parametrize(
    ("op", "domain", "error"),
    [("Mystery", "com.example", UnsupportedOpError), ("NonZero", "", SparseccError)],
)
def test_refusals_name_op_and_node(op: str, domain: str, error: type[Exception]) -> None:
    net = Network()
    net.output(net.add("Relu", net.add(op, net.add("Relu", net.input(2, 3)), domain=domain)))
    with pytest.raises(error, match=op):
        lowered(net.proto())


def test_a_value_beyond_32_bit_indices_is_refused() -> None:
    net = Network()
    x = net.input(1, 4)
    wide = net.add("Expand", net.add("Unsqueeze", x, net.constant([2])), net.constant([2**15, 4, 2**15]))
    net.output(net.add("ReduceSum", net.add("Softmax", wide), net.constant([0, 1, 2])))
    with pytest.raises(LoweringError, match="smaller batch"):
        lowered(net.proto())


def test_indices_are_checked_everywhere() -> None:
    net = Network()
    net.output(net.add("Relu", net.input(2)))
    lowering, _ = lowered(net.proto())
    low = Lowering(lowering.model, machine_for(V4))
    too_far = LARGEST_INDEX + 1
    with pytest.raises(LoweringError, match="'a value' needs element index"):
        low.buffer(Layout((1,), 0, too_far), "float32", "'a value'")
    with pytest.raises(LoweringError, match="layer needs element index"):
        low.step("layer", "spmm", "k", [], [too_far], 1)
    with pytest.raises(LoweringError, match="constant"):
        low.constant(np.broadcast_to(np.float32(0), (too_far,)))
    with pytest.raises(LoweringError, match="weight"):
        low.pack(np.broadcast_to(np.float32(0), (too_far,)))
