"""Fold per-channel scales and shifts into the weights before them.

s * (W x + b) + t  =  (s W) x + (s b + t);   batch norm has s = gamma / sqrt(var + eps), t = beta - s mean
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import (
    add_initializer,
    attribute_float,
    attribute_int,
    bypass,
    constant_of,
    fresh_name,
    only_consumer,
    operand_other_than,
    owner_graph,
    replace_constant,
    used_names,
)
from sparsecc.ir.provenance import inherit, record
from sparsecc.ir.shapes import static_shape
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult

ANCHORS = ("Conv", "ConvTranspose", "Gemm", "BatchNormalization")


class NotFoldableError(Exception):
    """Why an affine node cannot be folded, as (code, sentence)."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Affine:
    """y = scale * x + shift per channel; arrays of shape [channels] in float64."""

    scale: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold affine nodes into the Conv, ConvTranspose or Gemm that alone feeds them.

    1. BatchNormalization with constant statistics
    2. Mul or Div by a per-channel or scalar constant
    3. Add or Sub of a per-channel or scalar constant
    4. Mul, Div, Add or Sub after a BatchNormalization that stays
    5. a BatchNormalization that stays becomes Mul and Add

    Weights that other nodes use too are left alone, with a refusal.
    """

    name: ClassVar[str] = "fold-batch-norm"
    summary: ClassVar[str] = "fold batch norm and per-channel scales into weights"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Fold every affine node that follows an anchor, nearest first."""
        taken = used_names(model)
        refusals: list[Refusal] = []
        folded = 0
        for anchor in [
            node for node in model.graph.all_nodes() if node.domain == "" and node.op_type in ANCHORS
        ]:
            while (node := only_consumer(anchor.outputs[0])) is not None:
                try:
                    affine = _affine(node, anchor.outputs[0])
                    if affine is None:
                        break
                    _absorb(anchor, affine, taken)
                except NotFoldableError as reason:
                    refusals.append(
                        Refusal(f"{node_text(node)} stays: {reason}", node.name or node.op_type, reason.code)
                    )
                    break
                if not bypass(node, anchor.outputs[0]):
                    break
                folded += 1
        split = 0
        for node in [node for node in model.graph.all_nodes() if node.domain == ""]:
            if node.op_type == "BatchNormalization":
                try:
                    _split(node, taken)
                    split += 1
                except NotFoldableError as reason:
                    refusals.append(
                        Refusal(f"{node_text(node)} stays: {reason}", node.name or node.op_type, reason.code)
                    )
        notes = (f"folded {folded} nodes into weights, split {split}",) if folded or split else ()
        return PassResult(bool(notes), tuple(refusals), notes)


def _affine(node: ir.Node, value: ir.Value) -> Affine | None:
    """The per-channel map that `node` applies to `value`; None for any other op.

    Raises:
        NotFoldableError: a batch norm whose statistics are not constant.
    """
    channels, axis, rank = _channels(value)
    if node.domain != "" or channels is None:
        return None
    if node.op_type == "BatchNormalization" and node.inputs[0] is value:
        if rank == 2 or axis == 1:
            return _batch_norm(node)
        return None
    if node.op_type not in ("Mul", "Div", "Add", "Sub"):
        return None
    other = operand_other_than(node, value)
    constant = constant_of(other)
    if constant is None or (node.op_type in ("Div", "Sub") and node.inputs[0] is not value):
        return None
    vector = per_channel(constant, channels, axis, rank)
    if vector is None:
        return None
    ones, zeros = np.ones(channels), np.zeros(channels)
    if node.op_type == "Mul":
        return Affine(vector, zeros)
    if node.op_type == "Div":
        return Affine(1.0 / vector, zeros) if vector.all() else None
    return Affine(ones, vector if node.op_type == "Add" else -vector)


def per_channel(array: np.ndarray, channels: int, axis: int, rank: int) -> np.ndarray | None:
    """`array` as a vector [channels] where it broadcasts along `axis` only, else None."""
    if array.ndim > rank or not np.issubdtype(array.dtype, np.floating):
        return None
    dims = (1,) * (rank - array.ndim) + array.shape
    if any(dim != 1 for index, dim in enumerate(dims) if index != axis) or dims[axis] not in (1, channels):
        return None
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,)).copy()


def _channels(value: ir.Value) -> tuple[int | None, int, int]:
    """Channel count, channel axis and rank of an anchor's output."""
    if value.shape is None or len(value.shape) < 2:
        return None, 1, 0
    dim = value.shape[1]
    return (dim if isinstance(dim, int) else None), 1, len(value.shape)


def _batch_norm(node: ir.Node) -> Affine:
    arrays = [constant_of(value) for value in node.inputs[1:5]]
    gamma, beta, mean, variance = (None if a is None else a.astype(np.float64) for a in arrays)
    if gamma is None or beta is None or mean is None or variance is None:
        raise NotFoldableError("not-constant", "its scale, bias, mean or variance is not constant")
    if len(node.outputs) > 1 and any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise NotFoldableError("training", "its running statistics are used")
    scale = gamma / np.sqrt(variance + attribute_float(node, "epsilon", 1e-5))
    return Affine(scale, beta - mean * scale)


def _absorb(anchor: ir.Node, affine: Affine, taken: set[str]) -> None:
    """Change the anchor's constants so that it computes the affine map too."""
    if anchor.op_type == "BatchNormalization":
        gamma, beta, *_ = (_own_constant(anchor, index) for index in (1, 2))
        _batch_norm(anchor)
        _write(anchor, 1, gamma * affine.scale, taken)
        _write(anchor, 2, beta * affine.scale + affine.shift, taken)
        return
    weight = _own_constant(anchor, 1)
    bias = np.zeros_like(affine.shift)
    if len(anchor.inputs) > 2 and anchor.inputs[2] is not None:
        found = per_channel(_own_constant(anchor, 2), len(bias), 1, 2)
        if found is None:
            raise NotFoldableError(
                "bias-shape", f"the bias of {node_text(anchor)} is not one number per channel"
            )
        bias = found * (attribute_float(anchor, "beta", 1.0) if anchor.op_type == "Gemm" else 1.0)
    if anchor.op_type == "Gemm" and "beta" in anchor.attributes:
        del anchor.attributes["beta"]
    if (affine.scale != 1.0).any():
        _write(anchor, 1, _scaled(anchor, weight, affine.scale), taken)
    _write(anchor, 2, bias * affine.scale + affine.shift, taken)


def _scaled(anchor: ir.Node, weight: np.ndarray, scale: np.ndarray) -> np.ndarray:
    if anchor.op_type == "Conv":
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))
    if anchor.op_type == "Gemm":
        return weight * (scale.reshape(-1, 1) if attribute_int(anchor, "transB", 0) else scale)
    groups = attribute_int(anchor, "group", 1)
    tail = weight.shape[2:]
    split = weight.reshape(groups, -1, weight.shape[1], *tail)
    return (split * scale.reshape(groups, 1, -1, *(1,) * len(tail))).reshape(weight.shape)


def _own_constant(anchor: ir.Node, index: int) -> np.ndarray:
    """A constant input that nothing else reads, in float64."""
    value = anchor.inputs[index]
    array = constant_of(value)
    if value is None or array is None or not value.is_initializer():
        raise NotFoldableError("not-constant", f"input {index} of {node_text(anchor)} is not an initializer")
    if index == 1 and len(value.uses()) > 1 and anchor.op_type != "BatchNormalization":
        raise NotFoldableError(
            "shared", f"weight {value.name} of {node_text(anchor)} is used {len(value.uses())} times"
        )
    return array.astype(np.float64)


def _write(anchor: ir.Node, index: int, array: np.ndarray, taken: set[str]) -> None:
    """Put values into an input: in place if nothing else reads the initializer, else under a new name."""
    value = anchor.inputs[index] if index < len(anchor.inputs) else None
    weight = anchor.inputs[1]
    dtype = np.float32 if weight is None or weight.dtype is None else weight.dtype.numpy()
    array = array.astype(dtype)
    if (
        value is not None
        and value.is_initializer()
        and len(value.uses()) == 1
        and not value.is_graph_output()
    ):
        replace_constant(value, array)
    else:
        name = value.name if value is not None else _bias_name(weight)
        fresh = add_initializer(owner_graph(anchor), fresh_name(taken, name or "bias"), array)
        if value is not None:
            inherit(fresh, value)
        if index >= len(anchor.inputs):
            anchor.resize_inputs(index + 1)
        anchor.replace_input_with(index, fresh)
        value = fresh
    record(value, FoldBatchNorm.name)


def _bias_name(weight: ir.Value | None) -> str:
    name = "folded" if weight is None or weight.name is None else weight.name
    return name.removesuffix(".weight") + ".bias"


def _split(node: ir.Node, taken: set[str]) -> None:
    """Case 5: BatchNormalization(x) -> Add(Mul(x, s), t) with s and t of shape [C, 1, ...]."""
    affine = _batch_norm(node)
    source, output = node.inputs[0], node.outputs[0]
    if source is None or output.shape is None:
        raise NotFoldableError("no-rank", "the rank of its input is unknown")
    if source.dtype != ir.DataType.FLOAT:
        raise NotFoldableError("type", "only float32 is split")
    graph = owner_graph(node)
    shape = (-1, *(1,) * (len(output.shape) - 2))
    values: list[ir.Value] = []
    for suffix, vector, index in (("scale", affine.scale, 1), ("shift", affine.shift, 2)):
        origin = node.inputs[index]
        name = fresh_name(taken, f"{output.name}.{suffix}")
        value = add_initializer(graph, name, vector.astype(np.float32).reshape(shape))
        if origin is not None:
            inherit(value, origin)
        record(value, FoldBatchNorm.name)
        values.append(value)
    product = ir.node("Mul", [source, values[0]], name=f"{node.name}.mul")
    total = ir.node("Add", [product.outputs[0], values[1]], name=f"{node.name}.add")
    product.outputs[0].name = fresh_name(taken, f"{output.name}.scaled")
    for result in (product.outputs[0], total.outputs[0]):
        result.type, result.shape = output.type, output.shape.copy()
    graph.insert_before(node, [product, total])
    name = output.name
    output.replace_all_uses_with(total.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
    total.outputs[0].name = name
    if static_shape(total.outputs[0]) is None:
        total.outputs[0].shape = output.shape.copy()
