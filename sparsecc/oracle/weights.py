"""What a weight is for, and random values that suit it.

Weights as initialised hide mistakes: zero biases, unit scales and tiny embeddings look the same whichever
slice was taken. Enlarged values differ everywhere and keep activations of order one.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Mapping
from enum import IntEnum

import numpy as np
from onnx import NodeProto, TensorProto

from sparsecc.oracle.network import Network, attribute, is_float, is_weight, read_names
from sparsecc.oracle.plan import Kept, take

Consumers = Mapping[str, list[tuple[NodeProto, int]]]
Shape = tuple[int, ...]


class Role(IntEnum):
    """What a weight is used as; the larger of several uses decides."""

    SHIFT = 1
    TABLE = 2
    SCALE = 3
    MATRIX = 4
    POSITIVE = 5


LARGEST = 1e4
"""Magnitude from which on a constant is taken to be a stand-in for infinity, as in attention masks."""

ROLES = {
    **{(op, 1): Role.SCALE for op in ("LayerNormalization", "RMSNormalization", "InstanceNormalization")},
    **{(op, 1): Role.SCALE for op in ("GroupNormalization", "BatchNormalization")},
    **{(op, 2): Role.SHIFT for op in ("LayerNormalization", "InstanceNormalization", "GroupNormalization")},
    **{("BatchNormalization", index): Role.SHIFT for index in (2, 3)},
    ("BatchNormalization", 4): Role.POSITIVE,
    **{(op, 2): Role.SHIFT for op in ("Conv", "ConvTranspose", "Gemm")},
    **{(op, index): Role.SHIFT for op in ("LSTM", "GRU", "RNN") for index in (3, 5, 6, 7)},
    **{(op, index): Role.MATRIX for op in ("LSTM", "GRU", "RNN") for index in (1, 2)},
    **{(op, index): Role.MATRIX for op in ("MatMul", "Gemm") for index in (0, 1)},
    **{(op, 1): Role.MATRIX for op in ("Conv", "ConvTranspose")},
    **{("Mul", index): Role.SCALE for index in (0, 1)},
    **{(op, index): Role.SHIFT for op in ("Add", "Sub") for index in (0, 1)},
    **{("Where", index): Role.SHIFT for index in (1, 2)},
    ("PRelu", 1): Role.SHIFT,
    ("Gather", 0): Role.TABLE,
    ("GatherND", 0): Role.TABLE,
    ("Div", 0): Role.SCALE,
    ("Div", 1): Role.POSITIVE,
    **{(op, 0): Role.POSITIVE for op in ("Sqrt", "Log", "Reciprocal")},
}
"""By op and input position; Einsum and Concat have any number of alike inputs."""

ROLES_OF_ALL = {"Einsum": Role.MATRIX, "Concat": Role.TABLE}

MOVES = {
    *("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity", "Cast", "CastLike", "Expand"),
    *("Slice", "Split", "SplitToSequence", "SequenceAt", "Gather"),
}
"""Ops whose result holds elements of their first input only."""


def consumers(network: Network) -> dict[str, list[tuple[NodeProto, int]]]:
    """Nodes and input positions that read each value; position -1 stands for a body of the node."""
    result: dict[str, list[tuple[NodeProto, int]]] = {}
    for node in network.proto.graph.node:
        for index, name in enumerate(node.input):
            result.setdefault(name, []).append((node, index))
        for name in set(read_names(node)) - set(node.input):
            result.setdefault(name, []).append((node, -1))
    return result


class WeightRoles:
    """Roles of the tensors of a network."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._consumers = consumers(network)
        self._static = network.static()

    def role(self, name: str) -> tuple[Role, int] | None:
        """The role and, for a matrix, the number of products that are summed; None if it is unknown."""
        start = self._network.tensors[name].shape
        best: tuple[Role, int] | None = None
        seen = {name}
        queue: list[tuple[str, Shape | None]] = [(name, start)]
        while queue:
            value, shape = queue.pop()
            for node, index in self._consumers.get(value, []):
                if _as_integers(node):
                    return None
                found = ROLES_OF_ALL.get(node.op_type, ROLES.get((node.op_type, index)))
                if found is not None and (best is None or found > best[0]):
                    summed = _fan(node, index, shape) if found == Role.MATRIX else 1
                    best = (found, summed or math.prod(start[1:]) or 1)
                if self._passes(node, index):
                    after = _moved(node, shape)
                    queue += [(out, after) for out in node.output if out not in seen]
                    seen.update(node.output)
        return best

    def _passes(self, node: NodeProto, index: int) -> bool:
        """Whether elements of this input reach the output as they are, but for a scalar added."""
        if node.op_type in MOVES:
            return index == 0
        if node.op_type == "Add":
            other = self._network.tensors.get(node.input[1 - index])
            return other is not None and other.size == 1
        return node.op_type == "Concat" and node.output[0] in self._static


def enlarged(
    original: Network, pruned: Network, sliced: Mapping[str, Kept], seed: int, fixed: Container[str] = ()
) -> dict[str, np.ndarray]:
    """New values for the weights that both models carry, by name, in the original's shapes.

    Matrices are N(0, 2 / fan in), which holds the variance through a ReLU (He et al. 2015), scales
    1 + 0.3 N, shifts 0.3 N, tables N, divisors and variances 0.5 + |N|. Tensors without a known role keep
    their values, as do those of which the pruned model has computed something in advance, because values
    computed from the old ones would contradict.

    Args:
        original: weights are drawn in its shapes.
        pruned: weights missing here are left alone.
        sliced: by name, what the plan keeps.
        seed: with the name, it decides the values, whatever else the models hold.
        fixed: names of tensors that are no weights.
    """
    roles = WeightRoles(original)
    remaining = {name for node in pruned.proto.graph.node for name in node.output}
    read_by = consumers(original)
    result: dict[str, np.ndarray] = {}
    for name, array in original.tensors.items():
        other = pruned.tensors.get(name)
        if other is None or name in fixed or not is_weight(array) or not is_float(other):
            continue
        planned = name in sliced
        if not planned and not all(node.output[0] in remaining for node, _ in read_by.get(name, [])):
            continue
        role = None if _is_mask(array, planned) else roles.role(name)
        if role is not None:
            result[name] = _draw(array, *role, np.random.default_rng([seed, zlib.crc32(name.encode())]))
    return result


def sliced_alike(values: Mapping[str, np.ndarray], sliced: Mapping[str, Kept]) -> dict[str, np.ndarray]:
    """The same values for the pruned model."""
    return {name: take(array, sliced.get(name, {})) for name, array in values.items()}


def _is_mask(array: np.ndarray, planned: bool) -> bool:
    if not np.isfinite(array).all() or np.abs(array).max() > LARGEST:
        return True
    binary = bool(np.isin(array, (0, 1)).all() and np.any(array == 0) and np.any(array == 1))
    return binary and not planned


def _draw(array: np.ndarray, role: Role, fan: int, generator: np.random.Generator) -> np.ndarray:
    normal = generator.standard_normal(array.shape)
    match role:
        case Role.MATRIX:
            normal *= math.sqrt(2 / fan)
        case Role.SCALE:
            normal = 1 + 0.3 * normal
        case Role.SHIFT:
            normal *= 0.3
        case Role.POSITIVE:
            normal = 0.5 + np.abs(normal)
        case Role.TABLE:
            pass
    return normal.astype(array.dtype)


def _as_integers(node: NodeProto) -> bool:
    if node.op_type != "Cast":
        return False
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    return attribute(node, "to", 0) not in floats


def _moved(node: NodeProto, shape: Shape | None) -> Shape | None:
    """The shape after a move, where that is known without evaluating the graph."""
    if shape is None or node.op_type in ("Identity", "Cast", "CastLike", "Add"):
        return shape
    if node.op_type == "Transpose":
        order = attribute(node, "perm", None)
        axes = [int(axis) for axis in order] if isinstance(order, list) else list(range(len(shape)))[::-1]
        return tuple(shape[axis] for axis in axes)
    return None


def _fan(node: NodeProto, index: int, shape: Shape | None) -> int | None:
    """Number of products that are summed for one output, or None where the shape does not tell."""
    if shape is None or not shape:
        return None
    match node.op_type:
        case "MatMul":
            return shape[-1] if index == 0 or len(shape) == 1 else shape[-2]
        case "Gemm":
            turned = bool(attribute(node, "transB" if index else "transA", 0))
            return shape[1] if turned == bool(index) else shape[0]
        case "Conv":
            return math.prod(shape[1:])
        case "ConvTranspose":
            group = attribute(node, "group", 1)
            return shape[0] * math.prod(shape[2:]) // (group if isinstance(group, int) else 1)
        case "LSTM" | "GRU" | "RNN":
            return shape[-1]
        case "Einsum":
            return _einsum_fan(node, index, shape)
        case _:
            return None


def _einsum_fan(node: NodeProto, index: int, shape: Shape) -> int | None:
    equation = attribute(node, "equation", b"")
    terms, arrow, result = (equation.decode() if isinstance(equation, bytes) else "").partition("->")
    letters = terms.split(",")[index].replace(" ", "")
    if not arrow or "." in letters:
        return None
    sizes = zip(letters, shape, strict=True)
    return math.prod(size for letter, size in sizes if letter not in result)
