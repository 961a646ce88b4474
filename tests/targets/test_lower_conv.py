"""Convolutions through the lowering against ONNX Runtime: geometry, patterns, epilogues, neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import PATTERNS, Network
from stepping import EVERY, V3, V4, check

# kernel and attributes; every one runs on several sizes, behind another convolution and on a graph input
GEOMETRIES: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((1, 1), {}),
    ((1, 1), {"strides": [2, 2]}),
    ((1, 1), {"pads": [1, 2, 0, 1]}),
    ((3, 3), {"pads": [1, 1, 1, 1]}),
    ((3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((3, 3), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    ((3, 3), {"strides": [1, 2], "pads": [1, 0, 1, 1]}),
    ((3, 3), {"strides": [3, 3], "pads": [1, 1, 1, 1]}),
    ((3, 3), {"dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    ((3, 3), {"dilations": [1, 2], "strides": [2, 1], "pads": [1, 2, 1, 2]}),
    ((3, 3), {"pads": [2, 0, 1, 3]}),
    ((3, 3), {"pads": [4, 5, 4, 5]}),
    ((3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((3, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((2, 4), {"auto_pad": "SAME_LOWER"}),
    ((2, 2), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((5, 5), {"pads": [2, 2, 2, 2]}),
    ((5, 5), {"strides": [4, 3], "pads": [2, 2, 2, 2]}),
    ((7, 7), {"strides": [2, 2], "pads": [3, 3, 3, 3]}),
    ((1, 7), {"pads": [0, 3, 0, 3]}),
    ((7, 1), {"pads": [3, 0, 3, 0]}),
    ((4, 4), {"strides": [4, 4]}),
]
SIZES = [(13, 7), (5, 3), (2, 33), (7, 2), (1, 5)]


def fits(size: tuple[int, int], kernel: tuple[int, int], attributes: dict[str, Any]) -> bool:
    """Whether the output has an element."""
    dilations = attributes.get("dilations", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])
    if attributes.get("auto_pad", "").startswith("SAME"):
        return True
    return all(size[d] + pads[d] + pads[d + 2] >= dilations[d] * (kernel[d] - 1) + 1 for d in (0, 1))


@pytest.mark.parametrize(("kernel", "attributes"), GEOMETRIES, ids=str)
def test_geometry(kernel: tuple[int, int], attributes: dict[str, Any]) -> None:
    net = Network()
    for batch, size in zip((1, 3, 1, 2, 1), SIZES, strict=True):
        if fits(size, kernel, attributes):
            x = net.input(batch, 3, *size)
            net.output(net.conv(x, 3, 5, kernel, **attributes))
            inner = net.conv(x, 3, 4, (1, 1))
            net.output(net.conv(inner, 4, 17, kernel, pattern="unstructured 50", **attributes))
    check(net)


@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize(("kernel", "attributes"), GEOMETRIES, ids=str)
def test_depthwise(kernel: tuple[int, int], attributes: dict[str, Any], multiplier: int) -> None:
    net = Network()
    for batch, size in zip((1, 3, 1, 2, 1), SIZES if multiplier == 1 else SIZES[:2], strict=False):
        if fits(size, kernel, attributes):
            x = net.input(batch, 3, *size)
            net.output(net.conv(x, 3, 3 * multiplier, kernel, group=3, **attributes))
    check(net)


def test_depthwise_on_wide_planes() -> None:
    net = Network()
    x = net.input(1, 2, 19, 90)
    for stride, dilation, pads in ((1, 1, [1] * 4), (2, 1, [1] * 4), (2, 1, [0, 0, 1, 1]), (1, 2, [2] * 4)):
        net.output(
            net.conv(x, 2, 2, (3, 3), group=2, strides=[stride] * 2, dilations=[dilation] * 2, pads=pads)
        )
    check(net)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns(pattern: str) -> None:
    net = Network()
    x = net.input(1, 17, 9, 7)
    for rows in (1, 3, 17, 64):
        net.output(net.conv(x, 17, rows, (1, 1), pattern=pattern))
        net.output(net.conv(x, 17, rows, (3, 3), pads=[1] * 4, pattern=pattern))
    wide = net.conv(net.input(3, 1, 14, 14), 1, 40, (1, 1))
    net.output(net.conv(wide, 40, 24, (3, 3), pads=[1] * 4, strides=[2, 2], pattern=pattern))
    check(net)


@pytest.mark.parametrize("pattern", ["dense", "unstructured 80", "4x1 80", "2x1 70"])
def test_long_reductions_in_chunks(pattern: str) -> None:
    net = Network()
    x = net.input(2, 300, 7, 7)
    net.output(net.conv(x, 300, 70, (3, 3), pads=[1] * 4, pattern=pattern))
    net.output(net.conv(x, 300, 70, (1, 1), pattern=pattern))
    check(net)


@pytest.mark.parametrize(
    ("kernel", "pads", "width"),
    [((3, 3), [1, 1, 1, 1], 15), ((3, 3), [1, 1, 1, 1], 31), ((1, 7), [0, 3, 0, 3], 29),
     ((3, 5), [2, 0, 0, 4], 16), ((3, 3), [4, 4, 4, 4], 8), ((5, 2), [0, 0, 0, 1], 15)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 3])
def test_shifted_copies_for_scattered_zeros(
    kernel: tuple[int, int], pads: list[int], width: int, batch: int
) -> None:
    net = Network()
    x = net.input(batch, 24, 9, width)
    inner = net.conv(x, 24, 24, (1, 1))
    for source, groups in ((x, 1), (inner, 1), (inner, 2)):
        net.output(net.conv(source, 24, 40, kernel, pads=pads, group=groups, pattern="unstructured 95"))
    plans = check(net)
    if pads == [1, 1, 1, 1]:
        assert any(step.kind == "shift" for step in plans[V4].steps)


@pytest.mark.parametrize(
    ("groups", "per_group", "rows"), [(2, 5, 3), (3, 4, 6), (4, 1, 3), (32, 4, 4), (5, 2, 1)], ids=str
)
@pytest.mark.parametrize("pattern", ["dense", "unstructured 80", "4x1 80", "zero row"])
def test_groups(groups: int, per_group: int, rows: int, pattern: str) -> None:
    net = Network()
    x = net.input(2, groups * per_group, 6, 5)
    inner = net.conv(x, groups * per_group, groups * per_group, (1, 1))
    for kernel, attributes in (KINDS[0], KINDS[1], KINDS[3]):
        for source in (x, inner):
            net.output(
                net.conv(
                    source,
                    groups * per_group,
                    groups * rows,
                    kernel,
                    group=groups,
                    pattern=pattern,
                    **attributes,
                )
            )
    check(net)


def test_one_dimension() -> None:
    net = Network()
    x = net.input(3, 6, 29)
    cases: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (3, {"pads": [1, 1]}),
        (5, {"strides": [2], "pads": [2, 1]}),
        (3, {"dilations": [4], "pads": [4, 4]}),
        (3, {"strides": [3], "auto_pad": "SAME_LOWER"}),
    ]
    for kernel, attributes in cases:
        inner = net.add("Relu", net.conv(x, 6, 9, (kernel,), pattern="unstructured 50", **attributes))
        net.output(net.add("Add", net.conv(inner, 9, 9, (1,)), inner))
        net.output(net.conv(x, 6, 6, (kernel,), group=6, **attributes))
        net.output(net.conv(x, 6, 4, (kernel,), group=2, **attributes))
    check(net)


ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky": ("LeakyRelu", {"alpha": 0.1}),
    "elu": ("Elu", {"alpha": 0.7}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "hardsigmoid": ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}),
    "hardswish": ("HardSwish", {}),
    "gelu": ("Gelu", {}),
    "gelu-tanh": ("Gelu", {"approximate": "tanh"}),
}
KINDS: list[tuple[tuple[int, int], dict[str, Any]]] = [
    ((1, 1), {}),
    ((3, 3), {"pads": [1] * 4}),
    ((3, 3), {"group": 6, "pads": [1] * 4}),
    ((3, 3), {"strides": [2, 2], "pads": [1] * 4}),
]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "silu", "clip", "relu6-one-side", "none"])
@pytest.mark.parametrize(("kernel", "attributes"), KINDS, ids=str)
def test_epilogue(kernel: tuple[int, int], attributes: dict[str, Any], activation: str) -> None:
    net = Network()
    y = net.conv(net.input(2, 6, 9, 7), 6, 6, kernel, **attributes)
    y = net.add("Add", y, net.normal(6, 1, 1))
    y = net.add("Mul", net.normal(1, 6, 1, 1), y)
    y = net.add("Sub", net.constant(0.25, np.float32), y)
    if activation in ACTIVATIONS:
        op, options = ACTIVATIONS[activation]
        y = net.add(op, y, **options)
    elif activation == "silu":
        y = net.add("Mul", y, net.add("Sigmoid", y))
    elif activation == "clip":
        y = net.add("Clip", y, net.constant(-0.5, np.float32), net.constant(0.75, np.float32))
    elif activation == "relu6-one-side":
        y = net.add("Clip", y, "", net.constant(0.75, np.float32))
    net.output(net.add("Div", y, net.constant(np.arange(1, 7, dtype=np.float32).reshape(6, 1, 1))))
    check(net)


@pytest.mark.parametrize("batch", [1, 3])
def test_residuals_of_every_kind(batch: int) -> None:
    """Both operands computed, a graph input, a constant of the whole shape, and the value itself."""
    net = Network()
    x = net.input(batch, 6, 7, 5)
    skip = net.conv(x, 6, 6, (3, 3), pads=[1] * 4)
    for kernel, attributes in KINDS[:3]:
        y = net.conv(skip, 6, 6, kernel, **attributes)
        net.output(net.add("Relu", net.add("Add", y, skip)))
        net.output(net.add("Add", x, net.conv(skip, 6, 6, kernel, **attributes)))
        net.output(net.add("Mul", net.conv(skip, 6, 6, kernel, **attributes), net.normal(batch, 6, 7, 5)))
        net.output(net.add("Add", net.conv(x, 6, 6, kernel, **attributes), net.normal(7, 5)))
        net.output(net.add("Add", net.conv(x, 6, 6, kernel, **attributes), net.normal(batch, 1, 1, 1)))
    check(net)


@pytest.mark.parametrize("target", EVERY)
def test_residual_chain_of_different_paddings(target: str) -> None:
    net = Network()
    y = net.conv(net.input(1, 3, 11, 9), 3, 8, (3, 3), pads=[1] * 4)
    for kernel in (1, 5, 3, 7, 1):
        z = net.add("Relu", net.conv(y, 8, 8, (kernel, kernel), pads=[kernel // 2] * 4, pattern="4x1 80"))
        z = net.conv(z, 8, 8, (1, 3), pads=[0, 1, 0, 1])
        y = net.add("Relu", net.add("Add", z, y))
    net.output(net.add("GlobalAveragePool", y))
    net.output(y)
    check(net, target)


def test_one_value_feeds_every_kind() -> None:
    net = Network()
    x = net.conv(net.input(2, 3, 10, 6), 3, 8, (3, 3), pads=[1] * 4)
    net.output(
        x,
        net.conv(x, 8, 9, (1, 1)),
        net.conv(x, 8, 9, (3, 3), pads=[1] * 4),
        net.conv(x, 8, 9, (3, 3), pads=[1] * 4, strides=[2, 2]),
        net.conv(x, 8, 8, (3, 3), pads=[1] * 4, group=8),
        net.conv(x, 8, 9, (5, 5)),
        net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
        net.add("Sigmoid", x),
    )
    check(net)


def test_output_that_is_also_read() -> None:
    net = Network()
    x = net.input(1, 4, 5, 5)
    y = net.add("Relu", net.conv(x, 4, 4, (3, 3), pads=[1] * 4))
    net.output(y, x, net.conv(y, 4, 4, (3, 3), pads=[1] * 4))
    check(net)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_concat_between_convolutions(axis: int) -> None:
    net = Network()
    x = net.conv(net.input(2, 3, 6, 6), 3, 8, (3, 3), pads=[1] * 4)
    a, b = net.conv(x, 8, 8, (1, 1)), net.add("Relu", net.conv(x, 8, 8, (3, 3), pads=[1] * 4))
    pooled = net.add("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4)
    y = net.add("Concat", a, b, pooled, x, axis=axis)
    channels = 32 if axis == 1 else 8
    net.output(
        net.conv(y, channels, 5, (3, 3), pads=[1] * 4), net.conv(y, channels, 5, (1, 1), pattern="zero row")
    )
    check(net)


@pytest.mark.parametrize("batch", [1, 3, 11])
def test_flatten_of_planes_keeps_the_order(batch: int) -> None:
    net = Network()
    x = net.conv(net.input(batch, 3, 5, 3), 3, 4, (3, 3), pads=[1] * 4)
    flat = net.add("Flatten", x)
    net.output(net.add("Gemm", flat, net.normal(10, 60, pattern="unstructured 80"), net.normal(10), transB=1))
    shaped = net.add("Reshape", x, net.constant([batch, 60]))
    net.output(net.linear(shaped, 60, 7))
    net.output(net.linear(net.add("Transpose", x, perm=[0, 2, 3, 1]), 4, 9, pattern="4x1 80"))
    check(net)


def test_squeeze_and_excite() -> None:
    net = Network()
    x = net.conv(net.input(2, 3, 9, 9), 3, 16, (3, 3), pads=[1] * 4)
    pooled = net.add("GlobalAveragePool", x)
    gate = net.add("Relu", net.conv(pooled, 16, 4, (1, 1)))
    gate = net.add("HardSigmoid", net.conv(gate, 4, 16, (1, 1)))
    net.output(net.conv(net.add("Mul", x, gate), 16, 8, (1, 1)))
    net.output(net.add("GlobalMaxPool", x), net.add("ReduceMean", x, net.constant([2, 3]), keepdims=0))
    check(net)


def test_pad_slice_resize_between_convolutions() -> None:
    net = Network()
    x = net.conv(net.input(1, 3, 8, 7), 3, 6, (3, 3), pads=[1] * 4)
    padded = net.add("Pad", x, net.constant([0, 0, 1, 2, 0, 0, 1, 0]))
    net.output(net.conv(padded, 6, 5, (3, 3)))
    resized = net.add(
        "Resize", x, "", net.constant([1, 1, 2, 2], np.float32), mode="nearest",
        coordinate_transformation_mode="asymmetric", nearest_mode="floor",
    )  # fmt: skip
    net.output(net.conv(resized, 6, 5, (3, 3), pads=[1] * 4))
    cut = net.add(
        "Slice", x, net.constant([1, 2]), net.constant([7, 6]), net.constant([2, 3]), net.constant([2, 1])
    )
    net.output(net.conv(cut, 6, 5, (3, 3), pads=[1] * 4), net.conv(cut, 6, 5, (1, 1)))
    halves = net.add("Split", x, outputs=2, axis=1, num_outputs=2)
    net.output(net.conv(halves[1], 3, 5, (3, 3), pads=[1] * 4), net.conv(halves[0], 3, 3, (3, 3), group=3))
    check(net)


@pytest.mark.parametrize(("axis", "end"), [(2, 7), (3, 6), (2, 6), (3, 5), (1, 5)])
@pytest.mark.parametrize("target", EVERY)
def test_a_crop_does_not_zero_what_it_was_cut_from(target: str, axis: int, end: int) -> None:
    """The zeros around a cropped view would lie on elements of its source."""
    net = Network()
    x = net.conv(net.input(1, 3, 8, 7), 3, 6, (3, 3), pads=[1] * 4)
    cut = net.add("Slice", x, net.constant([0]), net.constant([end]), net.constant([axis]))
    channels = end if axis == 1 else 6
    net.output(
        net.conv(cut, channels, 4, (3, 3), pads=[1] * 4),
        net.conv(cut, channels, 4, (3, 2), pads=[1, 0, 1, 1]),
        net.conv(x, 6, 4, (3, 3), pads=[1] * 4),
        net.conv(x, 6, 4, (3, 1), pads=[1, 0, 1, 0]),
    )
    check(net, target)


def test_identical_planes_under_other_names() -> None:
    net = Network()
    x = net.conv(net.input(1, 3, 8, 7), 3, 6, (1, 1))
    same = net.add("Reshape", x, net.constant([1, 6, 8, 7]))
    twice = net.add("Expand", x, net.constant([2, 6, 8, 7]))
    net.output(net.conv(same, 6, 4, (3, 3), pads=[1] * 4), net.conv(twice, 6, 4, (3, 3), pads=[1] * 4), x)
    check(net)


def test_computed_weights_and_bias() -> None:
    """Without constant weights there is no layout to choose: TVM's own convolution runs."""
    net = Network()
    x, weight, bias = net.input(1, 4, 6, 5), net.input(6, 4, 3, 3), net.input(6)
    constant = net.normal(6, 4, 3, 3)
    net.output(
        net.add("Relu", net.add("Conv", x, weight, pads=[1] * 4)),
        net.add("Relu", net.add("Conv", x, constant, bias, pads=[1] * 4)),
        net.add("Sigmoid", net.add("Conv", x, constant, net.add("Neg", bias), pads=[1] * 4)),
        net.add("Conv", x, constant, net.add("Neg", net.normal(6)), pads=[1] * 4),
    )
    check(net)


def test_other_ranks_and_transposed_convolutions() -> None:
    net = Network()
    volume = net.input(1, 2, 4, 5, 3)
    net.output(net.add("Relu", net.conv(volume, 2, 3, (3, 3, 3), pads=[1] * 6)))
    x = net.conv(net.input(1, 3, 5, 4), 3, 4, (1, 1))
    up = net.add("ConvTranspose", x, net.normal(4, 3, 2, 2), net.normal(3), strides=[2, 2])
    net.output(net.conv(up, 3, 4, (3, 3), pads=[1] * 4))
    check(net)


def test_double_precision_is_not_taken_for_single() -> None:
    net = Network()
    x = net.input(1, 2, 4, 4, values=np.random.default_rng(1).standard_normal((1, 2, 4, 4)))
    net.output(net.add("Conv", x, net.constant(np.random.default_rng(2).standard_normal((3, 2, 3, 3)))))
    check(net, V4)


@pytest.mark.parametrize("target", [V3, V4])
def test_large_strides(target: str) -> None:
    net = Network()
    x = net.conv(net.input(1, 2, 3, 1300), 2, 2, (1, 1))
    net.output(
        net.conv(x, 2, 2, (1, 3), group=2, strides=[1, 100]),
        net.conv(x, 2, 3, (1, 3), strides=[1, 100]),
        net.conv(x, 2, 3, (3, 16), strides=[1, 16]),
    )
    check(net, target)
