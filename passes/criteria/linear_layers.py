"""Linear layers as matrices: Y = W X with W [outputs, columns] and each row of X one input patch.

Conv: one matrix per convolution group, columns = input channels of the group x kernel positions; Gemm and
MatMul: columns = input features. Each layer is one weight with all nodes that use it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import (
    attribute_float,
    attribute_int,
    attribute_ints,
    constant_tensor,
    only_consumer,
    operand_other_than,
)
from sparsecc.ir.weights import WeightUse, weight_uses

CHUNK_ELEMENTS = 1 << 22
"""Elements of X in memory at once, about 32 MB in float64."""


@dataclass(frozen=True)
class LinearLayer:
    """A weight and all nodes that multiply by it.

    Attributes:
        value: the initializer.
        uses: one per node, in graph order, alike in axis and groups.
        bias: the initializer [outputs] that is added to the product and has no other reader, or None.
        bias_sign: 1, or -1 where `bias` is the mean that a batch normalisation right behind subtracts.
    """

    value: ir.Value
    uses: tuple[WeightUse, ...]
    bias: ir.Value | None
    bias_sign: int

    @property
    def name(self) -> str:
        """Name of the initializer."""
        return self.value.name or ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the initializer."""
        assert self.value.const_value is not None
        return tuple(self.value.const_value.shape.numpy())

    @property
    def axis(self) -> int:
        """The output axis of the initializer."""
        return self.uses[0].axis

    @property
    def input_axis(self) -> int:
        """The axis of the initializer along which input channels or features lie."""
        return 1 - self.axis

    @property
    def groups(self) -> int:
        """Convolution groups, else 1."""
        return self.uses[0].groups

    @property
    def window(self) -> int:
        """Kernel positions, else 1."""
        return math.prod(self.shape[2:])

    @property
    def columns(self) -> int:
        """Columns of the matrix of one convolution group."""
        return self.shape[self.input_axis] * self.window

    @property
    def matrix(self) -> np.ndarray:
        """[groups, outputs of a group, columns] in float64; columns are channels and in each its window."""
        assert self.value.const_value is not None
        moved = np.moveaxis(self.value.const_value.numpy(), self.axis, 0)
        return moved.astype(np.float64).reshape(self.groups, -1, self.columns)

    def array_of(self, matrix: np.ndarray) -> np.ndarray:
        """The weight of the layer's shape from [outputs, columns]."""
        rest = self.shape[: self.axis] + self.shape[self.axis + 1 :]
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(-1, *rest), 0, self.axis))

    @property
    def input_names(self) -> list[str]:
        """Names of the values that the nodes multiply, in graph order."""
        return [_data(use).name or "" for use in self.uses]


def linear_layers(model: ir.Model) -> tuple[list[LinearLayer], list[Refusal]]:
    """All weights that only linear layers read, in the order of their first use, and why others are left out.

    A refusal has the code `shared` (other ops read the weight too, or its uses differ) or `subgraph`.
    """
    by_weight: dict[ir.Value, list[WeightUse]] = {}
    for use in weight_uses(model):
        by_weight.setdefault(use.value, []).append(use)
    layers: list[LinearLayer] = []
    refusals: list[Refusal] = []
    for value, uses in by_weight.items():
        name = value.name or ""
        if any(use.shared for use in uses):
            why = "is also read by other ops, such as an embedding"
            refusals.append(Refusal(f"{name} {why}", name, "shared"))
        elif len({(use.axis, use.groups, use.anchor.op_type == "Conv") for use in uses}) > 1:
            refusals.append(Refusal(f"{name} is used along different axes or groups", name, "shared"))
        elif any(use.node.graph is not model.graph for use in uses):
            refusals.append(Refusal(f"{name} is used inside a subgraph", name, "subgraph"))
        elif all(constant_tensor(_data(use)) is None for use in uses):
            layers.append(LinearLayer(value, tuple(uses), *_bias(uses)))
    return layers, refusals


def patches(
    use: WeightUse,
    array: np.ndarray,
    window: tuple[int, ...],
    every: int = 1,
    dtype: type[np.floating] = np.float64,
) -> Iterator[np.ndarray]:
    """Rows that a node multiplies by its weight.

    Args:
        use: the node.
        array: its data input.
        window: kernel size of a convolution, else empty.
        every: every n-th row, of a convolution in each sample, from another one on in each.
        dtype: of the rows.

    Yields:
        [groups, rows, columns], a bounded number of rows at a time.
    """
    if use.anchor.op_type != "Conv":
        if use.anchor.op_type == "Gemm" and attribute_int(use.anchor, "transA", 0):
            array = array.T
        rows = array.reshape(-1, array.shape[-1])[::every]
        step = max(1, CHUNK_ELEMENTS // max(1, rows.shape[1]))
        for start in range(0, len(rows), step):
            yield rows[None, start : start + step].astype(dtype)
        return
    rank = len(window)
    strides = attribute_ints(use.anchor, "strides") or (1,) * rank
    dilations = attribute_ints(use.anchor, "dilations") or (1,) * rank
    reach = tuple((size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True))
    pads = _padding(use.anchor, array.shape[2:], reach, strides)
    for number, sample in enumerate(array):
        padded = np.pad(sample, ((0, 0), *pads))
        views = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(1, rank + 1)))
        views = views[(slice(None), *(slice(None, None, step) for step in strides))]
        views = views[(..., *(slice(None, None, step) for step in dilations))]
        if every > 1:
            sizes = views.shape[1 : rank + 1]
            places = np.arange(number % every, math.prod(sizes), every)
            views = views[(slice(None), *np.unravel_index(places, sizes))]
        channels, lines = views.shape[:2]
        step = max(1, CHUNK_ELEMENTS // max(1, views[:, :1].size))
        for start in range(0, lines, step):
            part = views[:, start : start + step].astype(dtype)
            part = part.reshape(use.groups, channels // use.groups, -1, math.prod(window))
            yield part.transpose(0, 2, 1, 3).reshape(use.groups, part.shape[2], -1)


def _data(use: WeightUse) -> ir.Value:
    value = use.node.inputs[0]
    assert value is not None
    return value


def _padding(
    node: ir.Node, sizes: tuple[int, ...], reach: tuple[int, ...], strides: tuple[int, ...]
) -> list[tuple[int, int]]:
    """(before, after) of each spatial axis, as ONNX's Conv says."""
    rank = len(sizes)
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if mode == "VALID":
        return [(0, 0)] * rank
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        found: list[tuple[int, int]] = []
        for size, window, stride in zip(sizes, reach, strides, strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + window - size, 0)
            small, large = total // 2, total - total // 2
            found.append((small, large) if mode == "SAME_UPPER" else (large, small))
        return found
    pads = attribute_ints(node, "pads") or (0,) * (2 * rank)
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _bias(uses: list[WeightUse]) -> tuple[ir.Value | None, int]:
    """The bias of all uses and its sign, if it is one initializer that nothing else reads."""
    found = {_bias_of(use) for use in uses}
    bias, sign = found.pop()
    if found or bias is None or not bias.is_initializer() or bias.is_graph_input() or bias.is_graph_output():
        return None, 1
    tensor, weight = bias.const_value, uses[0].value.const_value
    if tensor is None or weight is None or len(bias.uses()) != len(uses):
        return None, 1
    fits = tuple(tensor.shape.numpy()) == (weight.shape[uses[0].axis],)
    return (bias, sign) if fits else (None, 1)


def _bias_of(use: WeightUse) -> tuple[ir.Value | None, int]:
    node = use.node
    if use.anchor.op_type != "MatMul" and len(node.inputs) > 2 and node.inputs[2] is not None:
        scales = [attribute_float(node, name, 1) for name in ("alpha", "beta")]
        return (node.inputs[2], 1) if scales == [1, 1] else (None, 1)
    behind = only_consumer(node.outputs[0])
    if behind is None or behind.domain != "":
        return None, 1
    if use.anchor.op_type == "Conv" and behind.op_type == "BatchNormalization":
        return behind.inputs[3], -1
    if use.anchor.op_type == "MatMul" and behind.op_type == "Add":
        return operand_other_than(behind, node.outputs[0]), 1
    return None, 1
