"""Activations of 8 bits through the lowering, on every kind of machine, equal to ONNX Runtime in every code.

Scales are powers of two and biases lie on their grid, so all sums are exact in fp32 and rounding is the same.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from networks import Network
from stepping import EVERY, V3, V4, check, lowered
from test_lower_conv import GEOMETRIES, SIZES, fits

MACHINES = [*EVERY, f"{V3}+vnni", f"{V4}+vnni"]
EXACT = 1e-7


def conv8(
    net: Network, x: str, channels: int, out: int, kernel: tuple[int, int] = (1, 1), *, group: int = 1,
    pattern: str = "dense", block: int = 1, **attributes: Any,
) -> str:  # fmt: skip
    weight = net.weight8(out, channels // group, *kernel, pattern=pattern, block=block)
    return net.add("Conv", x, weight, net.bias8(out), group=group, **attributes)


def kinds(net: Network, target: str) -> list[str]:
    """Kinds of the steps."""
    return [step.kind for step in lowered(net.proto(), target)[1].steps]


def convolved(
    kernel: tuple[int, int], attributes: dict[str, Any], patterns: tuple[str, str], block: int = 1
) -> Network:
    """A geometry on a graph input, whose code of zero fills the padding, and behind a convolution.

    Args:
        patterns: of the weights in either place.
        block: of those in the second.
    """
    net = Network()
    for batch, size in zip((1, 3, 1, 2, 1), SIZES, strict=True):
        if fits(size, kernel, attributes):
            x = net.coded(net.input(batch, 3, *size), zero=100)
            net.output(conv8(net, x, 3, 5, kernel, pattern=patterns[0], **attributes))
            inner = net.coded(net.add("Relu", conv8(net, x, 3, 6)), 2.0**-4)
            outer = conv8(net, inner, 6, 17, kernel, pattern=patterns[1], block=block, **attributes)
            net.output(net.coded(outer, 2.0**-4, 90))
    return net


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize(("kernel", "attributes"), GEOMETRIES, ids=str)
def test_geometry(kernel: tuple[int, int], attributes: dict[str, Any], target: str) -> None:
    check(convolved(kernel, attributes, ("dense", "4x1 50"), 4), target, tolerance=EXACT)


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize(("kernel", "attributes"), GEOMETRIES, ids=str)
def test_depthwise(kernel: tuple[int, int], attributes: dict[str, Any], target: str) -> None:
    net = Network()
    for batch, size in zip((1, 3, 1, 2, 1), SIZES, strict=True):
        if fits(size, kernel, attributes):
            x = net.coded(net.input(batch, 6, *size), zero=100)
            y = conv8(net, x, 6, 6, kernel, group=6, **attributes)
            net.output(net.coded(net.add("Relu", y), 2.0**-4, 3))
    check(net, target, tolerance=EXACT)


def test_depthwise_on_wide_planes() -> None:
    net = Network()
    x = net.coded(net.input(1, 5, 19, 90), zero=7)
    for stride, dilation, pads in ((1, 1, [1] * 4), (2, 1, [1] * 4), (2, 1, [0, 0, 1, 1]), (1, 2, [2] * 4)):
        y = conv8(net, x, 5, 5, (3, 3), group=5, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads)
        net.output(net.coded(y, 2.0**-4, 128))
    plans = check(net, *MACHINES, tolerance=EXACT)
    assert [s.kind for s in plans[V4].steps].count("depthwise") == 4


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize(
    "pattern", ["dense", "4x1 50", "4x1 80", "8x1 50", "unstructured 50", "zero", "zero row"]
)
def test_patterns(pattern: str, target: str) -> None:
    net = Network()
    x = net.coded(net.input(2, 18, 9, 7), zero=128)
    for rows in (1, 3, 17, 64):
        net.output(conv8(net, x, 18, rows, pattern=pattern, block=4))
        y = conv8(net, x, 18, rows, (3, 3), pads=[1] * 4, pattern=pattern, block=4)
        net.output(net.coded(y, 2.0**-3, 128))
    tokens = net.coded(net.input(2, 11, 24), zero=128)
    for rows in (3, 40):
        weight = net.weight8(rows, 24, pattern=pattern, block=4)
        transposed = net.add("Transpose", weight, perm=[1, 0])
        y = net.add("Add", net.add("MatMul", tokens, transposed), net.bias8(rows))
        net.output(y, net.coded(y, 2.0**-3, 128))
    check(net, target, tolerance=EXACT)


def largest_sums() -> Network:
    """Codes of 255 and of 0, and weights of -128, -127 and 127: 16 bits would overflow."""
    net = Network()
    full, empty = (np.full((1, 64, 3, 5), real, np.float32) for real in (9.0, 0.0))
    for values, value in product((full, empty), (-128, -127, 127)):
        x = net.coded(net.input(1, 64, 3, 5, values=values))
        weight = net.constant(np.full((8, 64, 1, 1), value, np.int8))
        scale = net.constant(np.full(8, 2.0**-12), np.float32)
        net.output(net.add("Conv", x, net.add("DequantizeLinear", weight, scale, axis=0)))
        weight = net.constant(np.full((64, 1, 3, 3), value, np.int8))
        scale = net.constant(np.full(64, 2.0**-10), np.float32)
        y = net.add("Conv", x, net.add("DequantizeLinear", weight, scale, axis=0), group=64, pads=[1] * 4)
        net.output(net.coded(y, 2.0**-1, 128))
    return net


@pytest.mark.parametrize("target", MACHINES)
def test_largest_sums(target: str) -> None:
    check(largest_sums(), target, tolerance=EXACT)


@pytest.mark.parametrize("target", MACHINES)
def test_epilogues(target: str) -> None:
    """Activations folded into the limits of codes or not, residuals in codes or fp32 on either side."""
    net = Network()
    raw = net.input(1, 8, 6, 10)
    x = net.coded(raw, zero=120)
    limits = [net.constant(v, np.float32) for v in (-0.5, 1.5)]
    for op in (["Relu"], ["Clip", *limits], ["LeakyRelu"], ["Neg"]):
        net.output(net.coded(net.add(op[0], conv8(net, x, 8, 12), *op[1:]), 2.0**-4, 30))
    shortcut = net.coded(conv8(net, x, 8, 12), 2.0**-4, 77)
    plain = net.add("Conv", raw, net.constant(np.ones((12, 8, 1, 1)) / 8, np.float32))
    for residual in (shortcut, plain):
        for swap in (False, True):
            y = conv8(net, x, 8, 12, (3, 3), pads=[1] * 4, pattern="4x1 50", block=4)
            total = net.add("Add", *((residual, y) if swap else (y, residual)))
            net.output(net.coded(net.add("Relu", total), 2.0**-3, 5), net.add("Mul", total, total))
    scaled = net.add(
        "Mul", conv8(net, x, 8, 12), net.constant(2.0 ** np.arange(-6, 6).reshape(12, 1, 1), np.float32)
    )
    net.output(net.coded(scaled, 2.0**-3, 128))
    net.output(net.coded(net.add("Mul", shortcut, conv8(net, x, 8, 12)), 2.0**-3, 128))
    depthwise = conv8(net, x, 8, 8, (3, 3), group=8, pads=[1] * 4)
    net.output(net.coded(net.add("Add", depthwise, x), 2.0**-3, 128))
    check(net, target, tolerance=2e-6)


@pytest.mark.parametrize("target", MACHINES)
def test_groups(target: str) -> None:
    """Words must not mix groups: of 4 or 8 channels they do not, of 6 they would."""
    net = Network()
    for channels, out, group in ((16, 16, 2), (16, 24, 2), (12, 12, 2), (8, 8, 2), (32, 8, 2)):
        x = net.coded(net.input(1, channels, 5, 9), zero=60)
        y = conv8(net, x, channels, out, (3, 3), group=group, pads=[1] * 4)
        net.output(net.coded(y, 2.0**-3, 128))
    check(net, target, tolerance=EXACT)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("target", MACHINES)
def test_readers(target: str, signed: bool) -> None:
    """Pools, sums, reshapes and products read what codes stand for; signed codes are shifted."""
    net = Network()
    x = net.coded(net.input(2, 10, 8, 9), zero=-20 if signed else 100, signed=signed)
    net.output(net.add("MaxPool", x, kernel_shape=[2, 2]), net.add("GlobalAveragePool", x))
    net.output(net.add("Add", x, x), net.add("Transpose", x, perm=[0, 2, 3, 1]))
    y = net.coded(conv8(net, x, 10, 6, (3, 3), pads=[1] * 4), 2.0**-3, 4, signed=signed)
    net.output(net.add("Flatten", y), net.add("Concat", y, y, axis=1), y)
    flat = net.add("Reshape", y, net.constant([2, 6, 72], np.int64))
    net.output(net.add("MatMul", flat, net.add("Transpose", flat, perm=[0, 2, 1])))
    check(net, target, tolerance=2e-6)


def test_weights_of_other_tools() -> None:
    """128 for the largest code, or one scale for all rows: the codes are found."""
    net = Network()
    x = net.coded(net.input(1, 8, 6, 10), zero=120)
    net.output(net.add("Conv", x, net.weight8(12, 8, 1, 1, signed_byte=True)))
    codes = net.rng.integers(-100, 101, (12, 8, 1, 1)).astype(np.int8)
    codes[3, 2] = 127
    tensor = net.add("DequantizeLinear", net.constant(codes), net.constant(2.0**-9, np.float32))
    net.output(net.add("Conv", x, tensor))
    assert kinds(net, V4).count("dots") == 2
    check(net, tolerance=EXACT)


@pytest.mark.parametrize(
    "case", ["float weights", "two scales", "read as codes", "one dimension", "per channel", "few columns"]
)
def test_what_stays_fp32(case: str) -> None:
    """Right, but with no product of codes."""
    net = Network()
    if case == "one dimension":
        x = net.coded(net.input(1, 8, 30), zero=9)
        net.output(net.add("Conv", x, net.weight8(8, 8, 3)))
    elif case == "few columns":
        x = net.coded(net.input(3, 16), zero=9)
        y = net.add("MatMul", x, net.add("Transpose", net.weight8(8, 16), perm=[1, 0]))
        net.output(net.coded(net.add("Relu", y), zero=9))
    else:
        source = net.input(1, 8, 6, 10)
        scale, zero = net.constant(2.0**-5, np.float32), net.constant(9, np.uint8)
        if case == "per channel":
            scale, zero = (
                net.constant(2.0 ** np.arange(-9, -1), np.float32),
                net.constant(np.arange(8), np.uint8),
            )
        q = net.add("QuantizeLinear", source, scale, zero, axis=1)
        other = net.constant(2.0**-4, np.float32) if case == "two scales" else scale
        x = net.add("DequantizeLinear", q, other, zero, axis=1)
        if case == "read as codes":
            net.output(q)
        if case == "float weights":
            net.output(net.coded(net.conv(x, 8, 8, (1, 1)), 2.0**-4, 128))
            assert "dots" not in kinds(net, V4)
            return
        net.output(conv8(net, x, 8, 8))
    assert "dots" not in kinds(net, V4)
    check(net, tolerance=2e-6)


def test_vnni_is_needed_only_where_it_is_used() -> None:
    net = Network()
    x = net.input(1, 8, 6, 10)
    net.output(net.conv(x, 8, 8, (1, 1)))
    assert "avx512_vnni" not in lowered(net.proto(), f"{V4}+vnni")[1].features
    net.output(conv8(net, net.coded(x), 8, 8))
    assert "avx512_vnni" in lowered(net.proto(), f"{V4}+vnni")[1].features
    assert "avx512_vnni" not in lowered(net.proto(), V4)[1].features


def test_values_beyond_int32_end_at_the_largest_code() -> None:
    """From outside, from large scales, and behind an activation."""
    net = Network()
    values = np.array([1e30, -1e30, np.inf, -np.inf, 3e9, -3e9, 1.0, 0.0] * 4, np.float32).reshape(1, 8, 1, 4)
    x = net.coded(net.input(1, 8, 1, 4, values=values), zero=10)
    net.output(x)
    weight = net.constant(np.full((4, 8, 1, 1), 127, np.int8))
    scale = net.constant(np.full(4, 2.0**40), np.float32)
    y = net.add("Conv", x, net.add("DequantizeLinear", weight, scale, axis=0))
    net.output(net.coded(y, zero=3), net.coded(net.add("LeakyRelu", y), zero=3))
    weight = net.constant(np.full((8, 1, 1, 3), 127, np.int8))
    scale = net.constant(np.full(8, 2.0**40), np.float32)
    y = net.add("Conv", x, net.add("DequantizeLinear", weight, scale, axis=0), group=8, pads=[0, 1, 0, 1])
    net.output(net.coded(y, zero=3))
    check(net, *MACHINES, tolerance=EXACT)


@pytest.mark.parametrize("target", MACHINES)
def test_max_pool_of_codes(target: str) -> None:
    """Between equal codes; where the scale differs, or somebody reads floats, in fp32."""
    net = Network()
    windows: list[dict[str, Any]] = [
        {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
        {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [3, 2], "dilations": [2, 1], "pads": [1, 0, 1, 1]},
        {"kernel_shape": [5, 5], "auto_pad": "SAME_UPPER"},
    ]
    for size in ((13, 7), (6, 40)):
        x = net.coded(net.input(2, 6, *size), zero=100)
        for options in windows:
            pooled = net.add("MaxPool", x, **options)
            net.output(net.coded(pooled, zero=100))
    assert kinds(net, target).count("pool") == 8 and "generic" not in kinds(net, target)
    net.output(net.coded(net.add("MaxPool", x, kernel_shape=[2, 2]), zero=90))
    pooled = net.add("MaxPool", x, kernel_shape=[2, 2])
    net.output(pooled, net.coded(pooled, zero=100))
    check(net, target, tolerance=EXACT)
