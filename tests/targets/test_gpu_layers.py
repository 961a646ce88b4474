"""Kernels for GPUs, run on an OpenCL device against ONNX Runtime: all families over many shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gpu_harness import check, needs_opencl, planned
from machine_networks import codes, convolutions, transformer
from networks import PATTERNS, Network

from sparsecc.errors import UnsupportedOpError

pytestmark = needs_opencl


@pytest.mark.parametrize("make", [convolutions, transformer], ids=["convolutions", "transformer"])
def test_networks(make: Callable[[], Network]) -> None:
    plan = check(make())
    assert {step.kind for step in plan.steps} >= {"product", "generic"}


def test_quantised_networks_compute_in_fp32() -> None:
    """Codes may differ by one where a sum in fp32 rounds to the other side: a step of the last scale."""
    check(codes())


@pytest.mark.parametrize("columns", [9, 33, 130])
def test_linear(columns: int) -> None:
    """M and K from one element to more than any tile, whole quads and not, every pattern."""
    net = Network()
    for reduction, rows in ((1, 1), (3, 17), (17, 3), (70, 130)):
        x = net.input(columns, reduction)
        for pattern in ("dense", "unstructured 80", "4x1 80", "2x1 70", "zero", "zero row"):
            net.output(net.linear(x, reduction, rows, pattern=pattern))
    kinds = {layer["kernel"] for layer in check(net).report["layers"]}  # type: ignore[attr-defined]
    assert kinds >= {"dense", "sparse 1x1", "sparse 2x1", "sparse 4x1"}


@pytest.mark.parametrize("columns", [1, 3])
def test_few_columns(columns: int) -> None:
    net = Network()
    x = net.input(columns, 70)
    for pattern in PATTERNS:
        net.output(net.linear(x, 70, 37, pattern=pattern), net.linear(x, 70, 5, pattern=pattern, bits=8))
    check(net)


@pytest.mark.parametrize("columns", [1, 5])
def test_weights_of_4_bits(columns: int) -> None:
    """Groups of 32 columns: all stored, some, whole rows without."""
    net = Network()
    x = net.input(columns, 96)
    for pattern in ("dense", "1x32 50", "zero row", "unstructured 95"):
        y = net.add("Relu", net.linear(x, 96, 37, pattern=pattern, bits=4))
        net.output(net.linear(y, 37, 11), y)
    plan = check(net)
    kinds = {str(layer["kernel"]).partition(",")[0] for layer in plan.report["layers"]}  # type: ignore[attr-defined]
    assert kinds >= {"int4 dense", "int4 sparse 1x32"}


def test_linear_tails() -> None:
    """Bias, residual, activations and constants per row in one kernel; ranks; Gemm with its transposes."""
    net = Network()
    x = net.input(2, 9, 24)
    y = net.add("Add", net.linear(x, 24, 24, pattern="4x1 80"), net.normal(24))
    y = net.add("Add", net.add("Gelu", y), x)
    y = net.add("Mul", net.linear(y, 24, 18, pattern="unstructured 80"), net.normal(18))
    net.output(net.add("HardSwish", y))
    a = net.input(24, 11)
    net.output(net.add("Gemm", a, net.normal(24, 13), net.normal(13), transA=1, alpha=0.5, beta=2.0))
    net.output(net.add("Gemm", a, net.normal(7, 11), transB=1))
    check(net)


@pytest.mark.parametrize("pattern", ["dense", "4x1 80", "unstructured 80"])
def test_convolutions_with_windows(pattern: str) -> None:
    """Kernel sizes, strides, dilations, uneven pads, groups, batches, and planes of no whole quads."""
    net = Network()
    x = net.input(2, 8, 13, 11)
    windows: list[tuple[tuple[int, int], dict[str, Any]]] = [
        ((3, 3), {"pads": [1] * 4}),
        ((5, 5), {"pads": [2, 1, 2, 3], "strides": [2, 2]}),
        ((1, 1), {"strides": [2, 2]}),
        ((3, 3), {"dilations": [2, 2], "pads": [2] * 4}),
        ((2, 3), {"group": 2}),
        ((7, 1), {"pads": [3, 0, 3, 0], "group": 4}),
    ]
    for kernel, more in windows:
        y = net.add("Relu", net.conv(x, 8, 20, kernel, pattern=pattern, **more))
        net.output(net.add("Add", net.conv(y, 20, 20, (1, 1), pattern=pattern), y))
    net.output(net.conv(net.input(1, 5, 30), 5, 12, (3,), pads=[1, 1], pattern=pattern))
    check(net)


def test_depthwise() -> None:
    net = Network()
    x = net.input(2, 12, 17, 10)
    windows: list[tuple[tuple[int, int], dict[str, Any]]] = [
        ((3, 3), {"pads": [1] * 4}),
        ((3, 3), {"pads": [0, 1, 1, 0], "strides": [2, 2]}),
        ((5, 5), {"pads": [2] * 4, "strides": [2, 1]}),
        ((3, 3), {"pads": [2] * 4, "dilations": [2, 2]}),
    ]
    for kernel, more in windows:
        y = net.conv(x, 12, 12, kernel, group=12, **more)
        net.output(net.add("Relu", y))
    net.output(net.conv(x, 12, 24, (3, 3), group=12))
    plan = check(net)
    assert [step.kind for step in plan.steps].count("depthwise") == 5


def test_products_of_activations() -> None:
    """Vectors, matrices, broadcast batches, transposed operands."""
    net = Network()
    a, b = net.input(3, 33, 20), net.input(20, 70)
    c = net.input(2, 1, 17, 5)
    net.output(net.add("MatMul", a, b), net.add("MatMul", c, net.input(3, 5, 9)))
    net.output(net.add("MatMul", net.add("Transpose", c, perm=[0, 1, 3, 2]), net.input(1, 3, 17, 4)))
    net.output(net.add("MatMul", net.input(20), b), net.add("MatMul", a, net.input(20)))
    net.output(net.add("MatMul", net.input(7), net.input(7)))
    check(net)


def test_rows() -> None:
    """Softmax and norms along contiguous and other axes, short and longer than a group of threads."""
    net = Network()
    x = net.input(3, 5, 300)
    for axis in (0, 1, -1):
        net.output(net.add("Softmax", x, axis=axis))
    short = net.input(7, 19)
    net.output(net.add("Softmax", short, axis=-1), net.add("Softmax", short, axis=0))
    net.output(net.add("LayerNormalization", x, net.normal(300), net.normal(300), axis=-1))
    net.output(net.add("LayerNormalization", x, net.normal(5, 300), axis=1, epsilon=1e-3))
    net.output(net.add("RMSNormalization", short, net.normal(19)))
    wide = net.input(40, 6)
    features = net.add("Relu", net.linear(wide, 6, 24))
    net.output(net.add("LayerNormalization", features, net.normal(24), net.normal(24)))
    check(net)


def test_everything_else() -> None:
    """Pools, gathers, concatenations, pads, reductions, comparisons and types, by TVM's legalisation."""
    net = Network()
    x = net.input(2, 4, 9, 9)
    net.output(net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    net.output(net.add("AveragePool", x, kernel_shape=[2, 2]), net.add("GlobalAveragePool", x))
    net.output(net.add("ReduceMean", x, net.constant([1, 3], np.int64), keepdims=0))
    net.output(net.add("Concat", x, net.add("Transpose", x, perm=[0, 1, 3, 2]), axis=1))
    net.output(net.add("Pad", x, net.constant([0, 0, 1, 2, 0, 0, 3, 0], np.int64)))
    indices = net.input(values=np.array([[1, -1, 3], [0, 2, 99]], np.int64))
    net.output(net.add("Gather", net.input(5, 6), indices, axis=0))
    positive = net.add("Greater", x, net.constant(0.0, np.float32))
    net.output(net.add("Where", positive, net.add("Exp", x), net.add("Erf", x)), positive)
    net.output(net.add("Cast", x, to=6), net.add("ArgMax", x, axis=1))
    net.feeds[indices][1, 2] = 4  # what ONNX Runtime takes
    check(net)


def test_dense_only_keeps_zeros() -> None:
    net = Network()
    net.output(net.linear(net.input(20, 64), 64, 64, pattern="4x1 80"))
    plan = check(net, dense_only=True)
    assert [layer["kernel"] for layer in plan.report["layers"]] == ["dense"]  # type: ignore[attr-defined]


def test_refusals() -> None:
    """What a device has no kernel or type for is refused by name."""
    net = Network()
    net.output(*net.add("TopK", net.input(3, 9), net.constant([2], np.int64), outputs=2))
    with pytest.raises(UnsupportedOpError, match=r"TopK node 'topk0' has no kernel for opencl"):
        planned(net.proto())
    wide = Network()
    wide.output(wide.add("Neg", wide.input(values=np.ones(3, np.int64))))
    with pytest.raises(UnsupportedOpError, match="of type int64, which webgpu has not"):
        planned(wide.proto(), "webgpu")
