"""The layers of `make bench-kernels` in 8 bits, as tools leave them: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, helper, numpy_helper

from benchmarks.kernel_layers import LAYER, OPSET
from sparsecc.ir.quantized import quantize_matrix

_SCALE = 4.0 / 255  # of inputs, which are magnitudes of normal numbers
_OUT_SCALE = 6.0 / 255


def in_8_bits(proto: ModelProto, weight: np.ndarray) -> ModelProto:
    """A layer of `Shape.model` with these weights: uint8 around it, weights int8 with a scale per output.

    Args:
        proto: Abs, the layer and Relu.
        weight: of the layer's shape, with zeros or without.
    """
    (layer,) = (node for node in proto.graph.node if node.name == LAYER)
    (bias,) = (numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "b")
    made = quantize_matrix(weight.reshape(len(weight), -1), 8)
    constants = {
        "w": made.codes.reshape(weight.shape), "w_scale": made.scale,
        "b": np.rint(bias / (made.scale * _SCALE)).astype(np.int32),
        "b_scale": (made.scale * np.float32(_SCALE)).astype(np.float32),
        "scale": np.float32(_SCALE), "out_scale": np.float32(_OUT_SCALE), "zero": np.uint8(0),
    }  # fmt: skip
    anchor = helper.make_node(layer.op_type, ["da", "dw", "db"], ["c"], LAYER)
    anchor.attribute.extend(layer.attribute)
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["qa"]),
        helper.make_node("DequantizeLinear", ["qa", "scale", "zero"], ["da"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale"], ["dw"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale"], ["db"], axis=0),
        anchor,
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "out_scale", "zero"], ["qr"]),
        helper.make_node("DequantizeLinear", ["qr", "out_scale", "zero"], ["y"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "layer", list(proto.graph.input), list(proto.graph.output), initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def codes_apart(found: np.ndarray, expected: np.ndarray) -> tuple[int, float]:
    """The largest difference of two results in codes, and the share of them that differ."""
    steps = np.rint(np.abs(found - expected) / np.float32(_OUT_SCALE))
    return int(steps.max()), float(np.count_nonzero(steps) / steps.size)
