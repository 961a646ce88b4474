"""What a dimension is in the words of the field: channel, head, head dimension, feed-forward width, ...

Read off the ops that use it, never off names: a product of two activations is attention, its batch axes are
heads; what an Expand repeats in front of it are the queries of one key-value head.
"""

from __future__ import annotations

import enum

import onnx_ir as ir

from sparsecc.axes.analysis import Analysis
from sparsecc.axes.dims import Dim, terminals

RECURRENT = ("LSTM", "GRU", "RNN")
CONVOLUTIONS = ("Conv", "ConvTranspose")
PASSES_WEIGHTS = (
    "Transpose",
    "Cast",
    "CastLike",
    "Identity",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Mul",
    "Div",
)
"""Ops between a parameter and the node that computes with it."""


class Kind(enum.Enum):
    """Kinds of groups; the value is what the user reads."""

    CHANNEL = "channel"
    HEAD = "head"
    KEY_VALUE_GROUP = "key-value group"
    QUERY_GROUP = "queries per key-value head"
    HEAD_DIMENSION = "head dimension"
    FEED_FORWARD = "feed-forward width"
    EMBEDDING = "embedding width"
    HIDDEN_STATE = "hidden state"
    EXPERT = "expert"
    FEATURE = "feature"

    @property
    def suffix(self) -> str:
        """Last part of a group's name."""
        return _SUFFIXES[self]


_SUFFIXES = {
    Kind.CHANNEL: "channels",
    Kind.HEAD: "heads",
    Kind.KEY_VALUE_GROUP: "kv_heads",
    Kind.QUERY_GROUP: "queries_per_kv_head",
    Kind.HEAD_DIMENSION: "head_dim",
    Kind.FEED_FORWARD: "ffn",
    Kind.EMBEDDING: "embedding",
    Kind.HIDDEN_STATE: "hidden_state",
    Kind.EXPERT: "experts",
    Kind.FEATURE: "features",
}


class Roles:
    """What every dimension does in the graph.

    Attributes:
        producers: dimension -> names of the parameters that make it, in order.
        consumers: dimension -> names of the parameters that sum over it.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._heads: set[Dim] = set()
        self._head_dims: set[Dim] = set()
        self._repeats: set[Dim] = set()
        self._hidden: set[Dim] = set()
        self._channels: set[Dim] = set()
        self._looked_up: set[Dim] = set()
        self._contracted: dict[ir.Value, set[Dim]] = {}
        self.producers: dict[Dim, list[str]] = {}
        self.consumers: dict[Dim, list[str]] = {}
        for node in analysis.facts:
            self._read(node)
        self._read_parameters()

    def kind(self, dim: Dim) -> Kind:
        """The kind of a free dimension."""
        if dim in self._hidden:
            return Kind.HIDDEN_STATE
        if dim in self._repeats and dim in self._heads:
            return Kind.QUERY_GROUP
        if dim in self._heads:
            return Kind.KEY_VALUE_GROUP if self._shares_axis_with_repeats(dim) else Kind.HEAD
        if dim in self._head_dims:
            return Kind.HEAD_DIMENSION
        if dim in self._looked_up:
            return Kind.EMBEDDING
        if dim in self._channels:
            return Kind.CHANNEL
        if self.producers.get(dim) and self.consumers.get(dim) and not dim.norms:
            return Kind.FEED_FORWARD
        return Kind.FEATURE

    def _shares_axis_with_repeats(self, dim: Dim) -> bool:
        return dim in self._with_repeats

    # reading the graph

    def _read(self, node: ir.Node) -> None:
        analysis = self._analysis
        facts = analysis.facts[node]
        operands = [value for value in node.inputs if value is not None]
        for number, axis in facts.contracted:
            value = node.inputs[number]
            if value is not None:
                self._contracted.setdefault(value, set()).update(self._dims(value, axis))
        if node.op_type in RECURRENT:
            self._hidden.update(terminals(analysis.axes[operands[2]][2]))
        elif node.op_type in CONVOLUTIONS:
            for value in (operands[0], node.outputs[0]):
                self._channels.update(self._dims(value, 1))
        elif node.op_type == "Gather" and operands[0] in analysis.axes and 1 in facts.data:
            table = operands[0]
            if self._parameter_behind(table) is not None:
                for axis in range(1, len(analysis.axes[table])):
                    self._looked_up.update(self._dims(table, axis))
        elif node.op_type == "MatMul" and self._both_activations(operands):
            self._read_attention(node, operands)
        elif node.op_type in ("Expand", "Tile"):
            before = {dim for axis in analysis.axes.get(operands[0], ()) for dim in terminals(axis)}
            for axis in analysis.axes[node.outputs[0]]:
                self._repeats.update(dim for dim in terminals(axis) if dim not in before)

    def _both_activations(self, operands: list[ir.Value]) -> bool:
        return all(
            value in self._analysis.axes and self._parameter_behind(value) is None for value in operands[:2]
        )

    def _read_attention(self, node: ir.Node, operands: list[ir.Value]) -> None:
        axes = self._analysis.axes[node.outputs[0]]
        for axis in axes[:-2]:
            self._heads.update(dim for dim in terminals(axis) if not dim.frozen)
        inner = self._dims(operands[0], len(self._analysis.axes[operands[0]]) - 1)
        outer = set(terminals(axes[-1])) | set(terminals(axes[-2]))
        self._head_dims.update(dim for dim in inner | outer if not dim.frozen)

    def _dims(self, value: ir.Value, axis: int) -> set[Dim]:
        axes = self._analysis.axes.get(value, ())
        return set(terminals(axes[axis])) if axis < len(axes) else set()

    def _parameter_behind(self, value: ir.Value | None) -> ir.Value | None:
        """The parameter a value is a view of, through ops that only move or scale entries."""
        while value is not None and not value.is_initializer():
            node = value.producer()
            if node is None or node.op_type not in PASSES_WEIGHTS:
                return None
            value = node.inputs[0]
        return value if value is not None and not value.is_graph_input() else None

    def _read_parameters(self) -> None:
        """A parameter consumes the dimensions that a node sums away, and produces its others."""
        summed: dict[ir.Value, set[Dim]] = {}
        for value, dims in self._contracted.items():
            parameter = self._parameter_behind(value)
            if parameter is not None:
                summed.setdefault(parameter, set()).update(dims)
        for value in self._analysis.parameters:
            gone = summed.get(value, set())
            for axis in self._analysis.axes[value]:
                for dim in terminals(axis):
                    into = self.consumers if dim in gone else self.producers
                    names = into.setdefault(dim, [])
                    if value.name and value.name not in names:
                        names.append(value.name)
        self._with_repeats = self._beside_repeats()

    def _beside_repeats(self) -> set[Dim]:
        """Heads that stand in one axis with a repeated dimension."""
        found: set[Dim] = set()
        for value in self._analysis.parameters:
            for axis in self._analysis.axes[value]:
                dims = set(terminals(axis))
                if dims & self._repeats & self._heads:
                    found |= dims & self._heads
        return found - self._repeats
