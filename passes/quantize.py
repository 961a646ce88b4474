"""Store weights as int8 with one scale per output: a quarter of the bytes, computed in float32.

w: float32 -> DequantizeLinear(round(w / s): int8, s), s = max |row| / 127
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import add_initializer, constant_of, fresh_name, used_names
from sparsecc.ir.encoding import as_matrix, from_matrix
from sparsecc.ir.provenance import inherit, record, source_name
from sparsecc.ir.quantized import quantize_rows
from sparsecc.ir.weights import WeightUse, weight_uses
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class Quantize(Pass):
    """Weight-only int8, symmetric, with the largest magnitude of each output at 127 (ONNX QuantizeLinear-23).

    Zeros stay zeros, so what is sparse stays sparse: quantise last. Depthwise convolutions, weights that
    other ops read too, weights that are not float32, and layers that are skipped or too small are refusals.

    Options:
        skip: layer or parameter names to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
    """

    skip: tuple[str, ...] = ()
    min_size: int = 1024

    name: ClassVar[str] = "quantize"
    summary: ClassVar[str] = "store weights as int8 with a scale per output"
    keeps_numbers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.min_size < 0:
            raise UsageError(f"option min-size of pass quantize must not be negative, not {self.min_size}")

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Replace weights by int8 ones with a DequantizeLinear behind them."""
        taken = used_names(model)
        refusals: list[Refusal] = []
        uses: dict[ir.Value, list[WeightUse]] = {}
        for use in weight_uses(model):
            uses.setdefault(use.value, []).append(use)
        done = 0
        for value, found in uses.items():
            refusal = self._refusal(found)
            if refusal is None:
                _quantize(value, found[0].axis, taken)
                done += 1
            else:
                refusals.append(refusal)
        notes = (f"{done} weights are int8 with a scale per output",) if done else ()
        return PassResult(bool(done), tuple(refusals), notes)

    def _refusal(self, uses: list[WeightUse]) -> Refusal | None:
        use = uses[0]
        layer, array = use.layer, constant_of(use.value)
        assert array is not None
        names = (layer, source_name(use.value), use.value.name or "")
        if any(name == skip or fnmatch.fnmatchcase(name, skip) for name in names for skip in self.skip):
            return Refusal(f"{layer} is skipped by name", layer, "skipped")
        if use.depthwise:
            return Refusal(f"{layer} is depthwise, with few weights for its work", layer, "depthwise")
        if use.shared or len({other.axis for other in uses}) > 1:
            return Refusal(f"{layer} is also read by other ops or along another axis", layer, "shared")
        if array.size < self.min_size:
            reason = f"{layer} has {array.size} weights, under min-size {self.min_size}"
            return Refusal(reason, layer, "too-small")
        if array.dtype != np.float32:
            return Refusal(f"{layer} holds {array.dtype}, not float32", layer, "type")
        return None


def _quantize(value: ir.Value, axis: int, taken: set[str]) -> None:
    array, graph = constant_of(value), value.graph
    assert array is not None and isinstance(graph, ir.Graph)
    name = value.name or "weight"
    codes, scale = quantize_rows(as_matrix(array, axis))
    stored = add_initializer(graph, fresh_name(taken, f"{name}.int8"), from_matrix(codes, array.shape, axis))
    scales = add_initializer(graph, fresh_name(taken, f"{name}.scale"), scale)
    inherit(stored, value)
    record(stored, Quantize.name)
    node = ir.Node(
        "", "DequantizeLinear", [stored, scales], [ir.AttrInt64("axis", axis)], num_outputs=1,
        name=fresh_name(taken, f"{name}.dequantize"),
    )  # fmt: skip
    result = node.outputs[0]
    result.name, result.shape, result.type = fresh_name(taken, f"{name}.float32"), value.shape, value.type
    if len(graph):
        graph.insert_before(graph[0], node)
    value.replace_all_uses_with(result)
    graph.initializers.pop(name)
    taken.discard(name)
