"""Published CNNs that ship with the onnx package, without weights: nodes generate constants in their place.

Each generator becomes an initializer with seeded random values of the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

import sparsecc
from sparsecc.ir import evaluate

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"

FILES: dict[str, str] = {
    "AlexNet": "light_bvlc_alexnet.onnx",
    "DenseNet-121": "light_densenet121.onnx",
    "Inception v1": "light_inception_v1.onnx",
    "Inception v2": "light_inception_v2.onnx",
    "ResNet-50": "light_resnet50.onnx",
    "ShuffleNet": "light_shufflenet.onnx",
    "SqueezeNet": "light_squeezenet.onnx",
    "VGG-19": "light_vgg19.onnx",
    "ZFNet": "light_zfnet512.onnx",
}


def build(name: str) -> ir.Model:
    """The network `name` with weights; its input is one image (1, 3, 224, 224)."""
    model = sparsecc.capture(FOLDER / FILES[name])
    generator = np.random.default_rng(0)
    for node in list(model.graph):
        if node.op_type == "ConstantOfShape":
            _become_weight(model.graph, node, generator)
    _calibrate(model, inputs(name, 0), generator)
    return model


def inputs(name: str, seed: int) -> dict[str, np.ndarray]:
    """A standard normal image under the network's input name."""
    proto = onnx.load(FOLDER / FILES[name])
    weights = {initializer.name for initializer in proto.graph.initializer}
    (image,) = [value.name for value in proto.graph.input if value.name not in weights]
    return {image: np.random.default_rng(seed).standard_normal((1, 3, 224, 224), dtype=np.float32)}


def _become_weight(graph: ir.Graph, node: ir.Node, generator: np.random.Generator) -> None:
    shape_value, output = node.inputs[0], node.outputs[0]
    assert shape_value is not None and shape_value.const_value is not None
    shape = tuple(int(size) for size in shape_value.const_value.numpy())
    array = _drawn(output, shape, generator)
    weight = ir.Value(
        name=output.name,
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(shape),
        const_value=ir.tensor(array, name=output.name),
    )
    ir.convenience.replace_all_uses_with(output, weight)
    graph.remove(node, safe=True)
    graph.register_initializer(weight)
    if not shape_value.uses() and shape_value.name is not None:
        del graph.initializers[shape_value.name]


def _drawn(output: ir.Value, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Matrices keep the variance of rectified signals (He et al. 2015), scales and variances are around 1."""
    if len(shape) > 1:
        gain = math.sqrt(2 / math.prod(shape[1:]))
        return gain * generator.standard_normal(shape, dtype=np.float32)
    user, index = _reader(output)
    if (user.op_type, index) in {("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)}:
        return generator.uniform(0.6, 1.4, shape).astype(np.float32)
    return 0.1 * generator.standard_normal(shape, dtype=np.float32)


def _reader(value: ir.Value) -> tuple[ir.Node, int]:
    """The node that computes with a vector, past an Unsqueeze that lays it along the channels."""
    use = next(iter(value.uses()))
    return _reader(use.node.outputs[0]) if use.node.op_type == "Unsqueeze" else (use.node, use.idx)


def _calibrate(model: ir.Model, image: Mapping[str, np.ndarray], generator: np.random.Generator) -> None:
    """Set the statistics of batch norms near those of one image, so that signals neither vanish nor grow.

    For one image a batch norm in training mode is an instance norm, so one run finds all statistics.
    """
    probe = model.clone()
    read: dict[str, str] = {}
    for node in [node for node in probe.graph if node.op_type == "BatchNormalization"]:
        data, scale, bias = node.inputs[:3]
        assert data is not None and data.name is not None
        norm = ir.node("InstanceNormalization", [data, scale, bias])
        probe.graph.insert_before(node, norm)
        ir.convenience.replace_all_uses_with(node.outputs[0], norm.outputs[0])
        probe.graph.remove(node, safe=True)
        probe.graph.outputs.append(data)
        read[node.name or ""] = data.name
    values = evaluate(probe, image)
    for node in model.graph:
        if node.op_type == "BatchNormalization":
            data = values[read[node.name or ""]]
            variance = data.var((0, 2, 3)) + 0.05
            noise = generator.standard_normal((2, variance.size))
            _set(node.inputs[3], data.mean((0, 2, 3)) + 0.2 * np.sqrt(variance) * noise[0])
            _set(node.inputs[4], variance * np.exp(0.2 * noise[1]))


def _set(weight: ir.Value | None, array: np.ndarray) -> None:
    assert weight is not None
    weight.const_value = ir.tensor(array.astype(np.float32), name=weight.name)
