"""Small ONNX networks for tests of the lowering, built node by node with seeded weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sparsecc.ir.quantized import BLOCK, quantize_matrix

Array = npt.NDArray[Any]

PATTERNS = (
    "dense", "unstructured 50", "unstructured 80", "unstructured 95", "zero", "zero row", "4x1 80", "2x1 70",
    "8x1 50", "16x1 75", "2:4", "fan-in 75",
)  # fmt: skip


def pruned(matrix: Array, pattern: str, rng: np.random.Generator) -> Array:
    """[M, K] with zeros: `KIND` or `KIND PERCENT` as in `PATTERNS`."""
    kind, _, percent = pattern.partition(" ")
    rows, columns = matrix.shape
    share = int(percent) / 100 if percent.isdigit() else 0.5
    if kind == "dense":
        return matrix
    if kind == "zero":
        keep = np.zeros(matrix.shape, bool)
        if percent == "row":
            keep[:] = rng.random(matrix.shape) < 0.4
            keep[rows // 2] = False
    elif kind == "2:4":
        order = np.argsort(rng.random((rows, -(-columns // 4), 4)), axis=2)
        keep = (order < 2).reshape(rows, -1)[:, :columns]
    elif kind == "fan-in":
        order = np.argsort(rng.random(matrix.shape), axis=1)
        keep = order < max(1, round(columns * (1 - share)))
    else:
        height, width = (1, 1) if kind == "unstructured" else map(int, kind.split("x"))
        blocks = rng.random((-(-rows // height), -(-columns // width))) >= share
        keep = np.repeat(np.repeat(blocks, height, axis=0), width, axis=1)[:rows, :columns]
    return matrix * keep


class Network:
    """A graph under construction; methods return the name of what they add.

    Attributes:
        feeds: an array for every input.
    """

    def __init__(self, seed: int = 0, opset: int = 23) -> None:
        self.rng = np.random.default_rng(seed)
        self.feeds: dict[str, Array] = {}
        self._opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._outputs: list[str] = []

    def input(self, *shape: int, values: Array | None = None) -> str:
        """A graph input, normal numbers where none are given."""
        name = f"x{len(self.feeds)}"
        self.feeds[name] = (
            np.asarray(self.rng.standard_normal(shape), np.float32) if values is None else values
        )
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        """An initializer."""
        name = f"w{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def normal(self, *shape: int, pattern: str = "dense") -> str:
        """An initializer of normal numbers, zeros in the matrix [first dimension, all others]."""
        array = self.rng.standard_normal(shape).astype(np.float32) / np.sqrt(max(1, np.prod(shape[1:])))
        matrix = pruned(array.reshape((*shape, 1, 1)[0], -1), pattern, self.rng)
        return self.constant(matrix.reshape(shape).astype(np.float32))

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """A node; returns its output's name, or a list of them."""
        number = len(self._nodes)
        names = [f"n{number}_{i}" if outputs > 1 else f"n{number}" for i in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=f"{op.lower()}{number}", domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self._nodes.append(node)
        return names if outputs > 1 else names[0]

    def conv(
        self, x: str, channels: int, out: int, kernel: Sequence[int], *, pattern: str = "dense",
        bias: bool = True, group: int = 1, **attributes: Any,
    ) -> str:  # fmt: skip
        """A convolution with weights of its own."""
        weight = self.normal(out, channels // group, *kernel, pattern=pattern)
        operands = [x, weight, *([self.normal(out)] if bias else [])]
        return self.add("Conv", *operands, group=group, **attributes)

    def linear(
        self, x: str, reduction: int, out: int, *, pattern: str = "dense", bits: int | None = None
    ) -> str:
        """MatMul by [reduction, out] weights, on a grid of `bits` where they are given."""
        matrix = self.rng.standard_normal((out, reduction)).astype(np.float32) / np.sqrt(reduction)
        matrix = pruned(matrix, pattern, self.rng).astype(np.float32)
        if bits == 16:
            matrix = matrix.astype(ml_dtypes.bfloat16).astype(np.float32)
        elif bits is not None:
            made = quantize_matrix(matrix, bits)
            scale = np.repeat(made.scale.reshape(out, -1), BLOCK if bits == 4 else reduction, axis=1)
            matrix = (made.codes * scale).astype(np.float32)
        return self.add("MatMul", x, self.constant(np.ascontiguousarray(matrix.T)))

    def coded(self, x: str, scale: float = 2.0**-5, zero: int = 0, *, signed: bool = False) -> str:
        """Through 8 bits and back."""
        dtype = np.int8 if signed else np.uint8
        numbers = [self.constant(scale, np.float32), self.constant(zero, dtype)]
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, *numbers), *numbers)

    def weight8(self, *shape: int, pattern: str = "dense", block: int = 1, signed_byte: bool = False) -> str:
        """Weights [M, ...] of int8 with a power of two per row for scale, so that sums are exact in fp32.

        Args:
            block: neighbouring channels that are zero together.
            signed_byte: the largest magnitude is 128, not 127.
        """
        rows = shape[0]
        codes = self.rng.integers(-127, 128, shape).astype(np.int8)
        blocks = self.rng.standard_normal((rows, -(-shape[1] // block), *shape[2:]))
        kept = pruned(blocks.reshape(rows, -1), pattern, self.rng).reshape(blocks.shape) != 0
        codes *= np.repeat(kept, block, axis=1)[:, : shape[1]]
        matrix = codes.reshape(rows, -1)
        for row in matrix:
            first = np.argmax(row != 0)
            row[first] = (-128 if signed_byte else 127) * (row[first] != 0)
        scales = (2.0 ** self.rng.integers(-13, -9, rows)).astype(np.float32)
        return self.add("DequantizeLinear", self.constant(codes), self.constant(scales), axis=0)

    def bias8(self, rows: int) -> str:
        """An initializer of multiples of 1 / 8."""
        return self.constant(self.rng.integers(-16, 17, rows) / 8, np.float32)

    def output(self, *names: str) -> None:
        """Make values graph outputs."""
        self._outputs += names

    def proto(self) -> onnx.ModelProto:
        """The model."""
        inputs = {
            k: helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in self.feeds.items()
        }
        outputs = [inputs.get(name, onnx.ValueInfoProto(name=name)) for name in self._outputs]
        graph = helper.make_graph(self._nodes, "test", list(inputs.values()), outputs, self._constants)
        opsets = [helper.make_opsetid("", self._opset)]
        opsets += [helper.make_opsetid(d, 1) for d in {n.domain for n in self._nodes} - {""}]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
