"""Small networks with all kinds of kernels, for machines on which every run is slow."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from networks import Network
from test_lower_attention import attention
from test_lower_codes import conv8

Array = npt.NDArray[Any]


def convolutions() -> Network:
    """All kinds in fp32: dense and sparse, strided, grouped, depthwise, wide and narrow."""
    net = Network()
    x = net.input(1, 3, 33, 33)
    x = net.add("Relu", net.conv(x, 3, 16, (3, 3), strides=[2, 2], pads=[1] * 4))
    x = net.add("Relu", net.conv(x, 16, 16, (3, 3), pads=[1] * 4, group=16))
    x = net.add("Relu", net.conv(x, 16, 32, (1, 1), pattern="4x1 80"))
    x = net.add("HardSwish", net.conv(x, 32, 32, (3, 3), pads=[1] * 4, strides=[2, 2], group=32))
    y = net.conv(x, 32, 32, (3, 3), pads=[1] * 4, pattern="unstructured 80")
    x = net.add("Sigmoid", net.add("Add", x, net.conv(y, 32, 32, (1, 1), pattern="2x1 70")))
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    net.output(net.linear(x, 32, 20, pattern="unstructured 80"), net.linear(x, 32, 16, bits=8))
    net.output(net.linear(net.input(5, 64), 64, 33, bits=4), net.linear(net.input(40, 64), 64, 33))
    return net


def transformer() -> Network:
    """A layer of attention and a feed-forward part."""
    net = Network()
    x = net.input(1, 24, 16)
    x = net.add("Add", attention(net, x, 1, 24, mask="additive", size=8), x)
    scale, bias = net.normal(16), net.normal(16)
    x = net.add("LayerNormalization", x, scale, bias, axis=-1)
    y = net.add("Gelu", net.linear(x, 16, 64, pattern="4x1 80"))
    net.output(net.add("Add", net.linear(y, 64, 16, pattern="unstructured 80"), x))
    return net


def codes() -> Network:
    """Convolutions of 8 bits whose sums are exact nowhere but in int32."""
    net = Network()
    x = net.coded(net.input(1, 6, 17, 19), 0.0371, 100)
    x = net.coded(net.add("Relu", conv8(net, x, 6, 16, (3, 3), pads=[1] * 4)), 0.0913, 3)
    y = net.coded(conv8(net, x, 16, 16, (3, 3), pads=[1] * 4, group=16), 0.1171, 128)
    y = net.coded(conv8(net, y, 16, 16, pattern="4x1 50", block=4), 0.173, 128)
    x = net.coded(net.add("Add", x, y), 0.219, 77)
    x = net.coded(conv8(net, x, 16, 24, (3, 3), strides=[2, 2], pads=[1] * 4), 0.7, 128)
    net.output(conv8(net, x, 24, 10), x)
    return net


def close(found: dict[str, Array], expected: list[Array], tolerance: float = 1e-4) -> None:
    for array, want in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(array, want, rtol=0, atol=tolerance * np.abs(want).max())
