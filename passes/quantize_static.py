"""Quantise weights and activations to 8 bits, with ranges from calibration data and nothing trained.

y = Conv(x, w)  ->  y = Conv(DequantizeLinear(QuantizeLinear(x): uint8), DequantizeLinear(w: int8))
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import (
    add_initializer,
    attribute_int,
    constant_tensor,
    fresh_name,
    owner_graph,
    used_names,
)
from sparsecc.ir.fused import fused_parts, is_fused
from sparsecc.ir.provenance import record
from sparsecc.ir.quantized import FEW_COLUMNS
from sparsecc.ir.shapes import specialize_shapes, static_shape
from sparsecc.ir.weights import WeightUse, actual_inputs, weight_uses
from sparsecc.passes.activation_ranges import Range, activation_ranges, check_method
from sparsecc.passes.base import Context, Pass, PassResult
from sparsecc.passes.criteria.calibration import Calibration, read_calibration
from sparsecc.passes.fuse_epilogues import FuseEpilogues
from sparsecc.passes.quantize import Quantize, quantize_weight
from sparsecc.passes.round_to_outputs import round_to_outputs

PREPARE = "fold-dequantize,fold-constants,drop-dead,fold-batch-norm,fold-pad"
"""What must run before: scales are chosen for the weights and activations that the compiled network has."""


@dataclass(frozen=True)
class QuantizeStatic(Pass):
    """Weights int8 with a scale per output and zero point 0, activations uint8 with one scale and zero point.

    Weights: convolutions, Gemm and MatMul by a constant, as `quantize` stores them, depthwise convolutions
    too; zeros stay zeros. Biases stay float32.

    Activations: a QuantizeLinear and a DequantizeLinear behind

    1. what a quantised layer reads, once per value, if it is a convolution or has more than 8 columns (all
       dimensions of its input but the last, in the first calibration batch)
    2. with the same range what a MaxPool reads for such a value, and nobody else: the maximum of codes is the
       code of the maximum
    3. in networks of convolutions, the operand of a residual Add that is stored: not the one whose
       convolution takes the Add into its epilogue (`fuse-epilogues` says which it is)

    A value that a convolution reads, or that is such an operand, is only ever stored in 8 bits: all its
    readers read the DequantizeLinear, a skipped layer too. Other values are read as 8 bits by the quantised
    layers alone. Graph outputs stay float32. Run it last, after `fold-batch-norm` and `fold-pad`.

    Layers that are skipped, too small, of another type than float32, inside a subgraph,
    on few columns, or whose weight other ops read too, are refusals.

    With `correct` codes are not the nearest ones but those that, with a new bias, keep each layer's outputs
    on the data: see `round_to_outputs`. A layer without bias gets none.

    Options:
        calibration: .npz files, each one batch of inputs by name.
        method: minmax, percentile or entropy: see `activation_ranges`.
        percentile: share of an activation's values inside its range, in percent.
        correct: choose codes and biases by the data, not each weight by itself.
        skip: layer or parameter names to leave alone, or globs.
        min_size: weights with fewer elements are left alone, and so is what their layers read.
    """

    calibration: tuple[str, ...] = ()
    method: str = "minmax"
    percentile: float = 99.999
    correct: bool = False
    skip: tuple[str, ...] = ()
    min_size: int = 0

    name: ClassVar[str] = "quantize-static"
    summary: ClassVar[str] = "8-bit weights and activations, calibrated"
    keeps_numbers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_method(self.method, self.percentile)
        Quantize(8, self.skip, self.min_size)  # which checks them

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Quantise in place, with the data of the option `calibration`.

        Raises:
            UsageError: no data, or data that do not fit the model.
            VerificationError: ONNX Runtime cannot run the model on them.
        """
        return self.quantize(model, read_calibration(self.calibration, "calibration"))

    def quantize(self, model: ir.Model, calibration: Calibration) -> PassResult:
        """As `apply`, with data from memory; an array may hold several batches of the model's fixed size."""
        data = calibration.cut(model)
        fixed = _with_shapes(model, data)
        shapes = {value.name or "": static_shape(value) for value in _values(fixed)}
        refusals: list[Refusal] = []
        weights: list[WeightUse] = []
        readers: set[ir.Node] = set()
        read: set[ir.Value] = set()
        by_convolutions: set[ir.Value] = set()
        uses: dict[ir.Value, list[WeightUse]] = {}
        for use in weight_uses(model):
            uses.setdefault(use.value, []).append(use)
            if use.anchor.op_type == "Conv":
                by_convolutions.update(value for value in actual_inputs(model, use.node)[:1] if value)
        for found in uses.values():
            refusal = self._refusal(model, found)
            if refusal is None:
                weights.append(found[0])
            else:
                refusals.append(refusal)
                continue
            for use in found:
                refusal = _few_columns(model, use, shapes)
                if refusal is not None:
                    refusals.append(refusal)
                elif (value := _activation(model, use)) is not None:
                    readers.add(use.node)
                    read.add(value)
        stored = _stored_operands(fixed, _filters(model, readers))
        values = [value for value in _values(model) if value in read or value.name in stored]
        ranges = activation_ranges(model, values, data, self.method, self.percentile)
        dense, taken = model.clone(), used_names(model)
        for value in values:
            everywhere = value in by_convolutions or value.name in stored
            pooled = _pooled(value)
            if everywhere and pooled is not None and pooled not in ranges:
                _insert_pair(model, pooled, ranges[value], None, taken)
            _insert_pair(model, value, ranges[value], None if everywhere else readers, taken)
        notes = [f"{len(weights)} weights are int8 with a scale per output"]
        if self.correct:
            fitted = round_to_outputs(dense, model, {use.value for use in weights}, data, shapes)
            notes.append(f"codes and biases of {fitted} layers are fitted to their outputs")
        for use in weights:
            quantize_weight(use.value, use.axis, 8, taken)
        changed = bool(values or weights)
        notes.append(f"{len(values)} activations are uint8 with ranges by {self.method}")
        return PassResult(changed, tuple(refusals), tuple(notes) if changed else ())

    def _refusal(self, model: ir.Model, uses: list[WeightUse]) -> Refusal | None:
        """Why a weight stays float32."""
        layer = uses[0].layer
        if any(other.node.graph is not model.graph for other in uses):
            return Refusal(f"{layer} is used inside a subgraph", layer, "subgraph")
        return Quantize(8, self.skip, self.min_size).refusal(uses, depthwise=True)


def _values(model: ir.Model) -> list[ir.Value]:
    """Inputs and all that the main graph computes, in its order."""
    return [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]


def _with_shapes(model: ir.Model, data: Calibration) -> ir.Model:
    """A copy with the shapes that the first batch gives."""
    batch, _ = next(data.stream(model))
    copy = model.clone()
    specialize_shapes(copy, {name: array.shape for name, array in batch.items()})
    return copy


def _few_columns(
    model: ir.Model, use: WeightUse, shapes: Mapping[str, tuple[int, ...] | None]
) -> Refusal | None:
    """Why a linear layer reads floats."""
    value = actual_inputs(model, use.node)[0]
    shape = None if value is None else shapes.get(value.name or "")
    if use.anchor.op_type == "Conv" or shape is None:
        return None
    if attribute_int(use.anchor, "transA", 0):
        shape = shape[::-1]
    columns = math.prod(shape[:-1])
    if columns > FEW_COLUMNS:
        return None
    reason = (
        f"{use.layer} has few columns ({columns}), so the bytes of its weights limit it, which are int8: "
        f"what it reads stays float32"
    )
    return Refusal(reason, use.layer, "few-columns")


def _activation(model: ir.Model, use: WeightUse) -> ir.Value | None:
    """What a layer reads, if that can be and is not yet quantised."""
    value = actual_inputs(model, use.node)[0]
    if value is None or constant_tensor(value) is not None or value.dtype != ir.DataType.FLOAT:
        return None
    producer = value.producer()
    return None if producer is not None and producer.op_type == "DequantizeLinear" else value


def _filters(model: ir.Model, nodes: Collection[ir.Node]) -> set[str]:
    """Names of what these nodes read as weights."""
    found = (actual_inputs(model, node)[1] for node in nodes)
    return {value.name or "" for value in found if value is not None}


def _stored_operands(fixed: ir.Model, filters: Collection[str]) -> set[str]:
    """Names of the operands that an Add in a convolution's epilogue reads from memory.

    Args:
        fixed: with static shapes; its tails are fused afterwards.
        filters: names of the convolutions' weights.
    """
    FuseEpilogues().apply(fixed, Context())
    names: set[str] = set()
    for node in fixed.graph:
        if not is_fused(node):
            continue
        parts = fused_parts(fixed, node)
        weight = parts.anchor.inputs[1]
        if parts.anchor.op_type != "Conv" or weight is None or parts.binding[weight].name not in filters:
            continue
        operands = (value for part in parts.epilogue if part.op_type == "Add" for value in part.inputs)
        for value in operands:
            actual = None if value is None else parts.binding.get(value)
            if actual is not None and constant_tensor(actual) is None:
                names.add(actual.name or "")
    return names


def _pooled(value: ir.Value) -> ir.Value | None:
    """What a MaxPool reads to make a value, if nobody else reads it and it is computed."""
    node = value.producer()
    source = None if node is None or node.op_type != "MaxPool" or len(node.outputs) > 1 else node.inputs[0]
    if source is None or source.is_graph_output() or len(source.uses()) != 1:
        return None
    return None if source.producer() is None or source.dtype != ir.DataType.FLOAT else source


def _insert_pair(
    model: ir.Model, value: ir.Value, covered: Range, readers: Collection[ir.Node] | None, taken: set[str]
) -> None:
    """Put QuantizeLinear and DequantizeLinear behind a value, for some readers or all of the main graph."""
    uses = [
        (node, index)
        for node, index in value.uses()
        if node.graph is model.graph and (readers is None or node in readers)
    ]
    name = value.name or "value"
    scale, zero = covered.grid()
    parameters = [
        add_initializer(model.graph, fresh_name(taken, f"{name}.scale"), np.array(scale)),
        add_initializer(model.graph, fresh_name(taken, f"{name}.zero_point"), np.array(zero)),
    ]
    nodes: list[ir.Node] = []
    source = value
    for op_type, suffix, dtype in (
        ("QuantizeLinear", "uint8", ir.DataType.UINT8),
        ("DequantizeLinear", "dequantized", ir.DataType.FLOAT),
    ):
        node = ir.Node(
            "", op_type, [source, *parameters], num_outputs=1,
            name=fresh_name(taken, f"{name}.{'quantize' if source is value else 'dequantize'}"),
        )  # fmt: skip
        record(node, QuantizeStatic.name)
        source = node.outputs[0]
        source.name, source.type = fresh_name(taken, f"{name}.{suffix}"), ir.TensorType(dtype)
        source.shape = None if value.shape is None else value.shape.copy()
        nodes.append(node)
    producer = value.producer()
    if producer is not None:
        owner_graph(producer).insert_after(producer, nodes)
    else:
        model.graph.insert_before(model.graph[0], nodes)
    for node, index in uses:
        node.replace_input_with(index, source)
