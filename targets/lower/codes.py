"""Activations of 8 bits: which values are stored as words of codes, and how they get there and back.

    q = QuantizeLinear(x, scale, zero); y = DequantizeLinear(q, scale, zero)

Where nothing but DequantizeLinear reads q, only words are stored (kernels/codes.py). Convolutions and linear
layers with 8-bit weights read them; whoever else reads y gets a copy in fp32. Layers on few columns are
limited by the bytes of their weights, so what they read is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import constant_of
from sparsecc.targets.kernels.codes import CHANNELS
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, call_of, conv_geometry, few, linear_weights
from sparsecc.targets.lower.state import shape_of

_SIGNED = 128  # what is added to signed codes


@dataclass(frozen=True)
class Codes:
    """A value in codes.

    Attributes:
        value: the output of QuantizeLinear.
        scale: of a step.
        zero: the stored code of 0.
    """

    value: ir.Value
    scale: float
    zero: int

    @property
    def zero_word(self) -> int:
        """Four codes of zero, as an int32."""
        return int(np.array([self.zero] * CHANNELS, np.uint8).view("<i4")[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the fp32 value."""
        return shape_of(self.value)

    @property
    def planes(self) -> bool:
        """Whether channels are the second dimension, as convolutions have it, or the last."""
        return len(self.shape) == 4

    @property
    def words(self) -> tuple[int, ...]:
        """The shape in words."""
        axis = 1 if self.planes else -1
        found = list(self.shape)
        found[axis] = words_of(found[axis])
        return tuple(found)

    def layout(self, lanes: int) -> Layout:
        """Of the words of a value that is no planes."""
        return Layout.features(self.words, lanes)


def words_of(channels: int) -> int:
    return -(-channels // CHANNELS)


class CodedValues:
    """All values of a model's main graph that are stored as words."""

    def __init__(self, model: ir.Model) -> None:
        self._of: dict[ir.Value, Codes] = {}
        for node in model.graph:
            found = _codes(call_of(model, node))
            if found is not None:
                self._of[found.value] = found
                self._of.update({reader.outputs[0]: found for reader, _ in found.value.uses()})

    def of(self, value: ir.Value | None) -> Codes | None:
        """How a value is stored: the output of QuantizeLinear, or of DequantizeLinear behind it."""
        return None if value is None else self._of.get(value)

    def stored(self, value: ir.Value) -> ir.Value:
        """The value itself, or where it is only a view of codes those."""
        found = self._of.get(value)
        return value if found is None else found.value

    def __iter__(self) -> Iterator[Codes]:
        return iter(dict.fromkeys(self._of.values()))


def _codes(call: Call) -> Codes | None:
    node = call.coding if call.coding is not None else call.anchor
    if node.op_type != "QuantizeLinear" or node.domain != "":
        return None
    if call.coding is not None and conv_geometry(call) is None and linear_weights(call) is None:
        return None
    value = call.output
    numbers = _numbers(node)
    shape = value.shape
    if numbers is None or shape is None or not shape.is_static() or not 2 <= shape.rank() <= 4:
        return None
    source = node.inputs[0]
    if source is None or (call.coding is None and source.dtype != ir.DataType.FLOAT):
        return None
    if value.is_graph_output() or value.dtype not in (ir.DataType.UINT8, ir.DataType.INT8):
        return None
    readers = [reader for reader, _ in value.uses()]
    if not readers or 0 in shape_of(value) or (shape.rank() < 4 and few(shape_of(value))):
        return None
    for reader in readers:
        if reader.op_type != "DequantizeLinear" or reader.domain != "" or reader.graph is not call.node.graph:
            return None
        if _numbers(reader) != numbers or reader.outputs[0].dtype != ir.DataType.FLOAT:
            return None
        if shape.rank() == 3 and any(r.op_type.startswith("Conv") for r, _ in reader.outputs[0].uses()):
            return None
    scale, zero = numbers
    return Codes(value, scale, zero + (_SIGNED if value.dtype == ir.DataType.INT8 else 0))


def _numbers(node: ir.Node) -> tuple[float, int] | None:
    """Scale and zero of a (De)QuantizeLinear with one of each, both constant; None for others."""
    scale = constant_of(node.inputs[1])
    if scale is None or scale.size != 1 or not np.isfinite(scale).all() or not (scale > 0).all():
        return None
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return float(scale.reshape(())), 0
    zero = constant_of(node.inputs[2])
    if zero is None or zero.size != 1 or zero.dtype.name not in ("uint8", "int8"):
        return None
    return float(scale.reshape(())), int(zero.reshape(()))
