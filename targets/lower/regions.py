"""Which planes share one row pitch: values that convolutions and residual additions tie together.

A stride-1 convolution over flattened planes writes output position p from input positions p + offset, so its
input and output need one row pitch, wide enough for the zero columns that its shifted reads meet.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import constant_of
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.split import minimum_pitch
from sparsecc.targets.kernels.spmm import block_mask
from sparsecc.targets.layout import Layout, PlaneSpec, round_up
from sparsecc.targets.lower.call import Call, call_of, conv_geometry
from sparsecc.targets.lower.codes import CodedValues, Codes
from sparsecc.targets.lower.elementwise import ELEMENTWISE
from sparsecc.targets.lower.state import shape_of

_WASTE = 1.16  # positions that rows of whole vectors may add

POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True)
class Planes:
    """A value's region and whether its own zeros are read."""

    spec: PlaneSpec
    zero: bool


class PlaneRegions:
    """The plane layout of every value that has one; values in codes share that of their words."""

    def __init__(self, model: ir.Model, lanes: int) -> None:
        self._lanes = lanes
        self.codes = CodedValues(model)
        self._graph: nx.Graph[ir.Value] = nx.Graph()
        self._zero: set[ir.Value] = set()
        self._aligned: set[ir.Value] = set()
        self._needs: dict[ir.Value, list[tuple[int, int, int, int]]] = {}
        for node in model.graph:
            self._visit(call_of(model, node))
        self._planes = self._solve()

    def planes(self, value: ir.Value) -> Planes | None:
        return self._planes.get(self.codes.stored(value))

    def layout(self, value: ir.Value) -> Layout | None:
        """Of fp32 planes."""
        found = self.planes(value)
        return None if found is None else found.spec.layout(shape_of(value), self._lanes)

    def words(self, codes: Codes) -> Layout:
        """Of the words of a value in codes."""
        if not codes.planes:
            return codes.layout(self._lanes)
        return self._planes[codes.value].spec.layout(codes.words, self._lanes)

    def _visit(self, call: Call) -> None:
        op = call.anchor.op_type
        x, y = call.inputs[0] if call.inputs else None, call.output
        if x is None or not self._is_planes(y):
            return
        x = self.codes.stored(x)
        if self.codes.of(y) is not None:
            self._add(self.codes.stored(y))
        if op == "Conv":
            self._visit_conv(call, x, y)
        elif op in POOLS:
            if self._is_planes(x):
                self._add(x)
            if y.shape is not None and shape_of(y)[2:] != (1, 1):
                self._add(y)
        elif call.node.domain == "" and _elementwise_planes(call):
            for operand in call.inputs:
                if operand is not None and self._is_planes(operand) and operand.shape == y.shape:
                    self._tie(self.codes.stored(operand), y)

    def _visit_conv(self, call: Call, x: ir.Value, y: ir.Value) -> None:
        g = conv_geometry(call)
        if g is None or not self._is_planes(x):
            return
        self._add(y)
        if not x.is_graph_input():
            self._add(x)
        if not g.depthwise:
            self._need(y, (minimum_pitch(g), 0, 0, 0))
            if g.stride == (1, 1) and g.kernel[1] > 1 and self.codes.of(x) is None and _scattered(call):
                self._aligned.add(y)
            if flat(g) and not x.is_graph_input():
                self._tie(x, y)
                if not g.pointwise and has_padding(g):
                    low, high = g.shifts(0)
                    left = max(g.shifts(1)[0], 0)
                    below = max(high - (g.size[0] - g.out_size[0]), 0)
                    self._need(x, (0, max(low, 0), below, max(left, g.shifts(1)[1], 0)))
                    self._zero.add(x)
        for node in call.tail:
            for value in node.inputs:
                actual = None if value is None else call.binding.get(value)
                if actual is not None and constant_of(actual) is None:
                    self._tie(self.codes.stored(actual), y)

    def _add(self, value: ir.Value) -> None:
        self._graph.add_node(value)

    def _tie(self, a: ir.Value, b: ir.Value) -> None:
        if not a.is_graph_input() and not b.is_graph_input():
            self._graph.add_edge(a, b)

    def _need(self, value: ir.Value, need: tuple[int, int, int, int]) -> None:
        self._needs.setdefault(value, []).append(need)

    def _is_planes(self, value: ir.Value) -> bool:
        return (
            (value.dtype == ir.DataType.FLOAT or self.codes.of(value) is not None)
            and value.shape is not None
            and value.shape.rank() == 4
            and value.shape.is_static()
            and constant_of(value) is None
        )

    def _solve(self) -> dict[ir.Value, Planes]:
        result: dict[ir.Value, Planes] = {}
        for component in nx.connected_components(self._graph):
            needs = [need for value in component for need in self._needs.get(value, [])]
            width = max(shape_of(value)[3] for value in component)
            pitch, top, bottom, left = (max([0, *(n[i] for n in needs)]) for i in range(4))
            zero = any(value in self._zero for value in component)
            row = max(width, pitch)
            whole = round_up(row, self._lanes)
            if whole <= _WASTE * row and any(value in self._aligned for value in component):
                row = whole
            spec = PlaneSpec(row, top, bottom, left, zero)
            for value in component:
                result[value] = Planes(spec, value in self._zero)
        return result


def _scattered(call: Call) -> bool:
    """Whether weights are so sparse, and in no blocks, that one row at a time is the form to expect."""
    weight = constant_of(call.inputs[1])
    assert weight is not None
    matrix = weight.reshape(weight.shape[0], -1)
    filled = np.count_nonzero(matrix) / matrix.size
    return bool(0 < filled < 0.4 and block_mask(matrix, 2).mean() > 1.4 * filled)


def flat(g: ConvGeometry) -> bool:
    """Whether the convolution can run over its input's own planes."""
    return g.stride == (1, 1) and g.size[0] >= g.out_size[0] and g.size[1] >= g.out_size[1]


def has_padding(g: ConvGeometry) -> bool:
    """Whether some tap reads outside the input's rows or columns."""
    for axis in (0, 1):
        low, high = g.shifts(axis)
        if low > 0 or g.out_size[axis] - 1 + high >= g.size[axis]:
            return True
    return False


def _elementwise_planes(call: Call) -> bool:
    return call.anchor.op_type in ELEMENTWISE
