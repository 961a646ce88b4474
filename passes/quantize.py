"""Store weights in 16, 8 or 4 bits: a half, a quarter or a sixth of the bytes, computed in float32.

16 bits: w -> Cast(bfloat16(w))
8 bits: w -> DequantizeLinear(round(w / s): int8, s), s = max |row| / 127
4 bits: w -> DequantizeLinear(round(w / s): int4, s), s = max |32 inputs of a row| / 7
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import add_initializer, constant_of, fresh_name, used_names
from sparsecc.ir.encoding import as_matrix, encoding_of, fits, from_matrix, set_encoding, tagged_encoding
from sparsecc.ir.provenance import inherit, record
from sparsecc.ir.quantized import BLOCK, quantize_matrix
from sparsecc.ir.weights import WeightUse, weight_uses
from sparsecc.passes.base import Context, Pass, PassResult

_STORED = {
    16: "bfloat16",
    8: "int8 with a scale per output",
    4: f"int4 with a scale per {BLOCK} inputs of an output",
}


@dataclass(frozen=True)
class Quantize(Pass):
    """Weight-only, symmetric, the largest magnitude of those that share a scale at 127 or 7.

    Follows ONNX QuantizeLinear-23; 16 bits are the nearest bfloat16 numbers, with no scale. With 8 bits each
    output has a scale, with 4 bits every 32 inputs of an output. Zeros stay zeros, so what is sparse stays
    sparse: quantise last. Depthwise convolutions, weights that other ops read too, weights that are not
    float32, and layers that are skipped or too small are refusals; with 4 bits convolutions and layers whose
    inputs 32 does not divide, too.

    Options:
        bits: 16, 8 or 4.
        skip: layer or parameter names to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
    """

    bits: int = 8
    skip: tuple[str, ...] = ()
    min_size: int = 1024

    name: ClassVar[str] = "quantize"
    summary: ClassVar[str] = "store weights in 16, 8 or 4 bits"
    keeps_numbers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.bits not in _STORED:
            raise UsageError(f"option bits of pass quantize is 16, 8 or 4, not {self.bits}")
        if self.min_size < 0:
            raise UsageError(f"option min-size of pass quantize must not be negative, not {self.min_size}")

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Replace weights by codes with a DequantizeLinear behind them."""
        taken = used_names(model)
        refusals: list[Refusal] = []
        uses: dict[ir.Value, list[WeightUse]] = {}
        for use in weight_uses(model):
            uses.setdefault(use.value, []).append(use)
        done = 0
        for value, found in uses.items():
            refusal = self.refusal(found)
            if refusal is None:
                quantize_weight(value, found[0].axis, self.bits, taken)
                done += 1
            else:
                refusals.append(refusal)
        notes = (f"{done} weights are {_STORED[self.bits]}",) if done else ()
        return PassResult(bool(done), tuple(refusals), notes)

    def refusal(self, uses: list[WeightUse], *, depthwise: bool = False) -> Refusal | None:
        """Why a weight stays float32, given all its uses, or None; `depthwise` ones need not."""
        use = uses[0]
        layer, array = use.layer, constant_of(use.value)
        assert array is not None
        if use.is_named(self.skip):
            return Refusal(f"{layer} is skipped by name", layer, "skipped")
        if use.depthwise and not depthwise:
            return Refusal(f"{layer} is depthwise, with few weights for its work", layer, "depthwise")
        if use.shared or len({other.axis for other in uses}) > 1:
            return Refusal(f"{layer} is also read by other ops or along another axis", layer, "shared")
        if array.size < self.min_size:
            reason = f"{layer} has {array.size} weights, under min-size {self.min_size}"
            return Refusal(reason, layer, "too-small")
        if array.dtype != np.float32:
            return Refusal(f"{layer} holds {array.dtype}, not float32", layer, "type")
        if self.bits == 4 and (array.ndim != 2 or array.shape[1 - use.axis] % BLOCK):
            reason = f"{layer} has no blocks of {BLOCK} inputs, as matrices whose inputs it divides have"
            return Refusal(reason, layer, "indivisible")
        return None


def quantize_weight(value: ir.Value, axis: int, bits: int, taken: set[str]) -> None:
    """Put codes and a DequantizeLinear in the place of an initializer.

    Args:
        value: float32, read by weight uses only.
        axis: of its outputs.
        bits: 16, 8, or 4 for matrices whose inputs 32 divides.
        taken: names of the model; gets the new ones.
    """
    array, graph = constant_of(value), value.graph
    assert array is not None and isinstance(graph, ir.Graph)
    name = value.name or "weight"
    if bits == 16:
        stored = add_initializer(
            graph, fresh_name(taken, f"{name}.bfloat16"), array.astype(ml_dtypes.bfloat16)
        )
        to = [ir.AttrInt64("to", ir.DataType.FLOAT)]
        _put(value, stored, ir.Node("", "Cast", [stored], to, num_outputs=1), axis, taken)
        return
    found = quantize_matrix(as_matrix(array, axis), bits)
    codes, scale = from_matrix(found.codes, array.shape, axis), found.scale
    attributes = [ir.AttrInt64("axis", axis)]
    if bits == 4:
        codes, scale = codes.astype(ml_dtypes.int4), scale if axis == 0 else np.ascontiguousarray(scale.T)
        attributes = [ir.AttrInt64("axis", 1 - axis), ir.AttrInt64("block_size", BLOCK)]
    stored = add_initializer(graph, fresh_name(taken, f"{name}.int{bits}"), codes)
    scales = add_initializer(graph, fresh_name(taken, f"{name}.scale"), scale)
    node = ir.Node("", "DequantizeLinear", [stored, scales], attributes, num_outputs=1)
    _put(value, stored, node, axis, taken)


def _put(value: ir.Value, stored: ir.Value, node: ir.Node, axis: int, taken: set[str]) -> None:
    """Let `node`, which widens `stored`, take the place of `value`."""
    graph, name = value.graph, value.name or "weight"
    codes = constant_of(stored)
    assert isinstance(graph, ir.Graph) and codes is not None
    inherit(stored, value)
    tag = tagged_encoding(stored)
    if tag is not None and not fits(codes, tag, axis):  # small weights may have become zeros
        set_encoding(stored, encoding_of(codes, axis))
    record(stored, Quantize.name)
    node.name = fresh_name(taken, f"{name}.dequantize")
    result = node.outputs[0]
    result.name, result.shape, result.type = fresh_name(taken, f"{name}.float32"), value.shape, value.type
    if len(graph):
        graph.insert_before(graph[0], node)
    value.replace_all_uses_with(result)
    graph.initializers.pop(name)
    taken.discard(name)
