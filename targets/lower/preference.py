"""Which layout a value's consumers would like, found by walking forward through ops that move nothing."""

from __future__ import annotations

from typing import Any, Protocol

import onnx_ir as ir

from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import call_of, few, linear_weights
from sparsecc.targets.lower.elementwise import ELEMENTWISE
from sparsecc.targets.lower.state import shape_of
from sparsecc.targets.lower.views import RESHAPES, permutation

_SHAPE_KEEPING = ELEMENTWISE | {"Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"}


class Regions(Protocol):
    """What wishes need to know of images and of values in codes."""

    @property
    def codes(self) -> Any:
        """`of(value)` says how a value's codes lie, or None."""
        ...

    def layout(self, value: ir.Value) -> Layout | None:
        """Of a value that is an image, else None."""
        ...


class Preferences:
    """Wishes by value; None where any layout will do."""

    def __init__(self, model: ir.Model, regions: Regions, lanes: int) -> None:
        self._model, self._regions, self._lanes = model, regions, lanes
        self._known: dict[ir.Value, Layout | None] = {}
        for node in reversed(list(model.graph)):
            for output in node.outputs:
                self._known[output] = self._wish(output)

    def of(self, value: ir.Value) -> Layout | None:
        return self._known.get(value)

    def _wish(self, value: ir.Value) -> Layout | None:
        if value.dtype != ir.DataType.FLOAT or value.shape is None or not value.shape.is_static():
            return None
        if self._regions.codes.of(value) is not None:
            return None
        planes = self._regions.layout(value)
        if planes is not None:
            return planes
        for node, position in value.uses():
            found = self._through(node, position, value)
            if found is not None:
                return found
        return None

    def _through(self, node: ir.Node, position: int, value: ir.Value) -> Layout | None:
        shape = shape_of(value)
        call = call_of(self._model, node)
        if call.anchor.op_type in ("MatMul", "Gemm") and linear_weights(call) is not None:
            if call.inputs[0] is value and not few(shape):
                return Layout.features(shape, self._lanes)
            if any(call.binding.get(v) is value for n in call.tail for v in n.inputs if v is not None):
                return self._tail_wish(shape)
            return None
        if (codes := self._regions.codes.of(call.output)) is not None and call.anchor is call.node:
            return self._regions.layout(codes.value) if codes.planes else Layout.features(shape, self._lanes)
        if not node.outputs or (position != 0 and node.op_type not in ELEMENTWISE):
            return None
        wish = self._known.get(node.outputs[0])
        if wish is None:
            return None
        out_shape = shape_of(node.outputs[0])
        if node.op_type in _SHAPE_KEEPING and out_shape == shape:
            return wish
        if node.op_type == "Transpose":
            perm = permutation(node, len(shape))
            inverse = [perm.index(d) for d in range(len(perm))]
            return wish.transpose(inverse)
        if node.op_type in RESHAPES:
            return wish.reshape(out_shape, shape)
        return None

    def _tail_wish(self, shape: tuple[int, ...]) -> Layout | None:
        return None if few(shape) else Layout.features(shape, self._lanes)
