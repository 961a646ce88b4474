"""The layers of `make bench-kernels`: single convolutions and linear layers as networks have them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

OPSET = 20
LAYER = "layer"
"""Name of the node that is timed."""


@dataclass(frozen=True)
class Convolution:
    """`outputs` filters of `inputs` / `groups` channels, on square planes.

    Attributes:
        size: height and width of the input planes.
        kernel, stride: alike in both directions; padding keeps the planes' size at stride 1.
    """

    outputs: int
    inputs: int
    size: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @property
    def label(self) -> str:
        """As in the results."""
        shape = f"{self.outputs}x{self.inputs // self.groups}x{self.kernel}x{self.kernel}"
        return f"{shape} s{self.stride} @{self.size}"

    @property
    def flops(self) -> int:
        """Of the dense layer, a multiplication and an addition each."""
        positions = (-(-self.size // self.stride)) ** 2
        return 2 * self.outputs * self.inputs // self.groups * self.kernel**2 * positions

    def model(self) -> ModelProto:
        """Abs, the convolution and Relu: neither side gets the layer's input from outside."""
        rng = np.random.default_rng(0)
        shape = (self.outputs, self.inputs // self.groups, self.kernel, self.kernel)
        pad = self.kernel // 2
        node = helper.make_node(
            "Conv", ["a", "w", "b"], ["c"], LAYER,
            kernel_shape=[self.kernel] * 2, strides=[self.stride] * 2, pads=[pad] * 4, group=self.groups,
        )  # fmt: skip
        out = -(-self.size // self.stride)
        x, y = (1, self.inputs, self.size, self.size), (1, self.outputs, out, out)
        return _network(node, rng.standard_normal(shape), self.outputs, x, y)


@dataclass(frozen=True)
class Linear:
    """[tokens, inputs] to [tokens, outputs]."""

    outputs: int
    inputs: int
    tokens: int

    @property
    def label(self) -> str:
        """As in the results."""
        return f"{self.outputs}x{self.inputs} T={self.tokens}"

    @property
    def flops(self) -> int:
        """Of the dense layer, a multiplication and an addition each."""
        return 2 * self.outputs * self.inputs * self.tokens

    def model(self) -> ModelProto:
        """Abs, the layer and Relu."""
        rng = np.random.default_rng(0)
        node = helper.make_node("Gemm", ["a", "w", "b"], ["c"], LAYER, transB=1)
        weight = rng.standard_normal((self.outputs, self.inputs))
        return _network(node, weight, self.outputs, (self.tokens, self.inputs), (self.tokens, self.outputs))


Shape = Convolution | Linear


def _network(
    node: NodeProto, weight: np.ndarray, outputs: int, x: tuple[int, ...], y: tuple[int, ...]
) -> ModelProto:
    weights = [
        numpy_helper.from_array((weight / np.sqrt(weight[0].size)).astype(np.float32), "w"),
        numpy_helper.from_array(np.linspace(-1, 1, outputs, dtype=np.float32), "b"),
    ]
    nodes = [helper.make_node("Abs", ["x"], ["a"]), node, helper.make_node("Relu", ["c"], ["y"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    results = [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)]
    graph = helper.make_graph(nodes, "layer", inputs, results, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


@dataclass(frozen=True)
class Family:
    """Layers that make one row of the table together.

    Attributes:
        name: of the row.
        shapes: the layers.
        goals: pattern -> sparsity in percent -> times faster than ONNX Runtime's kernel that are asked for.
        bits: of activations and weights on both sides: 32 (float) or 8.
    """

    name: str
    shapes: tuple[Shape, ...]
    goals: dict[str, dict[int, float]]
    bits: int = 32


def _goals(values: str, sparsities: tuple[int, ...] = (50, 70, 80, 90, 95)) -> dict[int, float]:
    return dict(zip(sparsities, map(float, values.split()), strict=False))


_DENSE = {0: 0.97}
_MOBILENETS = (
    Convolution(128, 64, 56), Convolution(256, 128, 28), Convolution(512, 256, 14), Convolution(512, 512, 14),
    Convolution(144, 24, 56), Convolution(24, 144, 56), Convolution(192, 32, 28), Convolution(32, 192, 28),
    Convolution(384, 64, 14), Convolution(96, 384, 14), Convolution(576, 96, 14),
)  # fmt: skip
_RESNET = (
    Convolution(256, 64, 56), Convolution(64, 256, 56), Convolution(512, 128, 28), Convolution(128, 512, 28),
    Convolution(1024, 256, 14), Convolution(256, 1024, 14),
)  # fmt: skip
_BERT = tuple(
    Linear(outputs, inputs, tokens)
    for outputs, inputs in ((768, 768), (3072, 768), (768, 3072))
    for tokens in (16, 128)
)
FAMILIES = (
    Family(
        "1x1 convolution, linear T >= 16",
        (*_MOBILENETS, *_RESNET, *_BERT),
        {
            "4x1": _goals("1.8 3.0 4.5 8.5 15"),
            "2x1": _goals("1.6 2.8 4.2 8.0 14"),
            "unstructured": _goals("1.3 2.2 3.2 6.0 11"),
            "2:4": {50: 1.3},
            "dense": _DENSE,
        },
    ),
    Family(
        "3x3 stride 1",
        (Convolution(64, 64, 56, 3), Convolution(128, 128, 28, 3), Convolution(256, 256, 14, 3)),
        {
            "4x1": _goals("1.75 2.9 4.4 8.5"),
            "unstructured": _goals("1.1 1.8 2.6 4.8"),
            "dense": _DENSE,
        },
    ),
    Family(
        "3x3 stride 2",
        (Convolution(128, 128, 56, 3, 2), Convolution(256, 256, 28, 3, 2), Convolution(512, 512, 14, 3, 2)),
        {"4x1": {80: 3.5, 90: 7.0}, "dense": _DENSE},
    ),
    Family(
        "7x7 planes, T = 2..8",
        (
            Convolution(1024, 1024, 7), Convolution(2048, 512, 7), Convolution(512, 2048, 7),
            *(Linear(outputs, 768, tokens) for outputs in (768, 3072) for tokens in (2, 4, 8)),
        ),
        {"16x1": _goals("1.9 3.2 4.7 8.8"), "dense": _DENSE},
    ),
    Family(
        "decode T = 1, weights beyond L3",
        (Linear(4096, 4096, 1), Linear(8192, 4096, 1)),
        {
            "16x1": _goals("1.85 3.0 4.5 9.0"),
            "unstructured": _goals("1.7 2.4 3.0 5.0"),
            "dense": _DENSE,
        },
    ),
    Family(
        "depthwise 3x3 stride 1",
        (
            Convolution(32, 32, 112, 3, 1, 32), Convolution(128, 128, 56, 3, 1, 128),
            Convolution(256, 256, 28, 3, 1, 256), Convolution(512, 512, 14, 3, 1, 512),
            Convolution(1024, 1024, 7, 3, 1, 1024),
        ),
        {"dense": {0: 2.0}},
    ),
    Family(
        "depthwise 3x3 stride 2",
        (
            Convolution(64, 64, 112, 3, 2, 64), Convolution(128, 128, 56, 3, 2, 128),
            Convolution(256, 256, 28, 3, 2, 256), Convolution(512, 512, 14, 3, 2, 512),
        ),
        {"dense": {0: 1.3}},
    ),
    Family(
        "depthwise 5x5",
        (Convolution(144, 144, 56, 5, 2, 144), Convolution(240, 240, 28, 5, 1, 240),
         Convolution(672, 672, 14, 5, 1, 672)),
        {"dense": {0: 1.3}},
    ),
    Family(
        "int8: convolution",
        (*_MOBILENETS, *_RESNET,
         Convolution(64, 64, 56, 3), Convolution(128, 128, 28, 3), Convolution(256, 256, 14, 3)),
        {"4x4": _goals("1.9 3.2 4.6 8.8"), "dense": _DENSE},
        bits=8,
    ),
    Family(
        "int8: linear T >= 16", _BERT, {"4x4": _goals("1.9 3.2 4.6 8.8"), "dense": _DENSE}, bits=8
    ),
    Family(
        "int8: depthwise",
        (Convolution(128, 128, 56, 3, 1, 128), Convolution(512, 512, 14, 3, 1, 512),
         Convolution(128, 128, 56, 3, 2, 128), Convolution(240, 240, 28, 5, 1, 240)),
        {"dense": _DENSE},
        bits=8,
    ),
)  # fmt: skip
