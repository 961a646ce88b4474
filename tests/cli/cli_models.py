"""Small ONNX files for the command line, good and bad, written with the onnx package only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _weights(name: str, *shape: int) -> onnx.TensorProto:
    values = np.random.default_rng(len(name)).standard_normal(shape) * 0.1
    return numpy_helper.from_array(values.astype(np.float32), name)


def network(batch: int | str = 1) -> onnx.ModelProto:
    """Two convolutions, pooling and a classifier: x [batch, 8, 12, 12] -> y [batch, 10]."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "second"),
        helper.make_node("GlobalAveragePool", ["c2"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "head", transB=1),
    ]
    weights = [
        _weights("w1", 32, 8, 3, 3),
        _weights("b1", 32),
        _weights("w2", 64, 32, 1, 1),
        _weights("w3", 10, 64),
        _weights("b3", 10),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 8, 12, 12])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])
    return model(nodes, [x], [y], weights)


def model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("my.domain", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def _vector(name: str, *dims: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(dims))


def truncated(folder: Path) -> Path:
    path = save(network(), folder / "truncated.onnx")
    path.write_bytes(path.read_bytes()[:3000])
    return path


def corrupt(folder: Path) -> Path:
    path = folder / "corrupt.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    return path


def missing_external_data(folder: Path) -> Path:
    path = folder / "external.onnx"
    onnx.save(network(), str(path), save_as_external_data=True, location="external.data", size_threshold=0)
    (folder / "external.data").unlink()
    return path


def unknown_op(folder: Path) -> Path:
    nodes = [helper.make_node("Frobnicate", ["x"], ["y"], "odd")]
    return save(model(nodes, [_vector("x", 4)], [_vector("y", 4)], []), folder / "op.onnx")


def unknown_domain(folder: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "odd", domain="my.domain")]
    return save(model(nodes, [_vector("x", 4)], [_vector("y", 4)], []), folder / "domain.onnx")


def cycle(folder: Path) -> Path:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], "one"),
        helper.make_node("Relu", ["a"], ["b"], "two"),
        helper.make_node("Relu", ["b"], ["y"], "three"),
    ]
    return save(model(nodes, [_vector("x", 4)], [_vector("y", 4)], []), folder / "cycle.onnx")


def nan_weights(folder: Path) -> Path:
    proto = network()
    values = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    values[1, 2, 0, 0] = np.nan
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w1"))
    return save(proto, folder / "nan.onnx")


def zero_size(folder: Path) -> Path:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    return save(model(nodes, [_vector("x", 0, 4)], [_vector("y", 0, 4)], []), folder / "zero.onnx")


def symbolic(folder: Path) -> Path:
    return save(network("n"), folder / "symbolic.onnx")
