"""Small captured models for tests of groups: from ONNX text with seeded weights, and probes of the zoo."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir

from sparsecc.axes.groups import Group, Groups
from sparsecc.capture import capture
from tests.zoo import MODELS

RESIDUAL = """(float[1,3,8,8] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, stem__weight, stem__bias)
    r = Relu(a)
    b = Conv<pads=[1,1,1,1]>(r, block__conv1__weight)
    n = BatchNormalization(b, block__bn__weight, block__bn__bias, block__bn__mean, block__bn__var)
    s = Relu(n)
    c = Conv<pads=[1,1,1,1]>(s, block__conv2__weight)
    sum = Add(r, c)
    p = GlobalAveragePool(sum)
    f = Flatten(p)
    y = Gemm<transB=1>(f, head__weight, head__bias) }"""
RESIDUAL_WEIGHTS = {
    "stem.weight": (6, 3, 3, 3),
    "stem.bias": (6,),
    "block.conv1.weight": (5, 6, 3, 3),
    "block.bn.weight": (5,),
    "block.bn.bias": (5,),
    "block.bn.mean": (5,),
    "block.bn.var": (5,),
    "block.conv2.weight": (6, 5, 3, 3),
    "head.weight": (4, 6),
    "head.bias": (4,),
}


def from_text(text: str, weights: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """A captured model; `a__b` in the text is `a.b`, nodes are named after their first output."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> test {text}')
    for node in proto.graph.node:
        node.input[:] = [name.replace("__", ".") for name in node.input]
        node.name = f"node_{node.output[0]}"
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, shape in weights.items():
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        array = generator.uniform(0.5, 1.5, shape) if "var" in name else generator.standard_normal(shape)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    return capture(proto)


def residual() -> Groups:
    """Two convolutions with a batch norm between them around a shortcut, and a classifier."""
    return Groups(from_text(RESIDUAL, RESIDUAL_WEIGHTS))


@functools.cache
def probe(name: str) -> tuple[Groups, dict[str, np.ndarray]]:
    """Groups of a network of the zoo, and inputs for it."""
    inputs = MODELS[name].inputs(0)
    return Groups(MODELS[name].build(), inputs), inputs


def one_removed(group: Group, seed: int = 0) -> np.ndarray:
    """A mask that keeps all indices of a group but one."""
    kept = np.ones(group.size, bool)
    kept[np.random.default_rng(seed).integers(group.size)] = False
    return kept
