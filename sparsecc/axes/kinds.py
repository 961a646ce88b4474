"""What a dimension is in the words of the field: channel, head, head dimension, feed-forward width, ...

Read off the ops that use it, never off names: a product of two activations is attention, its batch axes are
heads; what an Expand repeats in front of it are the queries of one key-value head.
"""

from __future__ import annotations

import enum

import onnx_ir as ir

from sparsecc.axes.analysis import Analysis
from sparsecc.axes.dims import AxisExpr, Dim, expand, is_frozen, size_of, terminals

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
    CHANNEL_GROUP = "channel group"
    CHANNEL_IN_GROUP = "channel of every group"
    HEAD = "head"
    KEY_VALUE_GROUP = "key-value group"
    QUERY_GROUP = "queries per key-value head"
    HEAD_DIMENSION = "head dimension"
    FEED_FORWARD = "feed-forward width"
    EMBEDDING = "embedding width"
    HIDDEN_STATE = "hidden state"
    EXPERT = "expert"
    FEATURE = "feature"
    TABLE_ROW = "table row"
    SPATIAL = "spatial"

    @property
    def suffix(self) -> str:
        """Last part of a group's name."""
        return _SUFFIXES[self]


_SUFFIXES = {
    Kind.CHANNEL: "channels",
    Kind.CHANNEL_GROUP: "groups",
    Kind.CHANNEL_IN_GROUP: "channels_per_group",
    Kind.HEAD: "heads",
    Kind.KEY_VALUE_GROUP: "kv_heads",
    Kind.QUERY_GROUP: "queries_per_kv_head",
    Kind.HEAD_DIMENSION: "head_dim",
    Kind.FEED_FORWARD: "ffn",
    Kind.EMBEDDING: "embedding",
    Kind.HIDDEN_STATE: "hidden_state",
    Kind.EXPERT: "experts",
    Kind.FEATURE: "features",
    Kind.TABLE_ROW: "rows",
    Kind.SPATIAL: "positions",
}


class Roles:
    """What every dimension does in the graph.

    Attributes:
        producers: dimension -> names of the parameters that make it, in the order in which nodes read them.
        consumers: dimension -> names of the parameters that sum over it, likewise.
        matrices: names of the parameters with two axes or more that are not of size one.
    """

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._heads: set[Dim] = set()
        self._head_dims: set[Dim] = set()
        self._value_dims: set[Dim] = set()
        self._repeats: set[Dim] = set()
        self._hidden: set[Dim] = set()
        self._channels: set[Dim] = set()
        self._channel_groups: set[Dim] = set()
        self._channels_in_groups: set[Dim] = set()
        self._looked_up: set[Dim] = set()
        self._rows: set[Dim] = set()
        self._experts: set[Dim] = set()
        self._attended: set[Dim] = set()
        self._feed_forward: set[Dim] = set()
        self._contracted: dict[ir.Value, set[Dim]] = {}
        self._convolved: set[ir.Value] = set()
        self._tables: set[ir.Value] = set()
        self.producers: dict[Dim, list[str]] = {}
        self.consumers: dict[Dim, list[str]] = {}
        self.matrices: set[str] = set()
        for node in analysis.facts:
            self._read(node)
        self._read_parameters()

    def kind(self, dim: Dim) -> Kind:
        """The kind of a free dimension."""
        if dim.frozen is not None and dim.frozen.code == "spatial":
            return Kind.SPATIAL
        if dim in self._hidden:
            return Kind.HIDDEN_STATE
        if dim in self._repeats and dim in self._heads:
            return Kind.QUERY_GROUP
        if dim in self._heads:
            return Kind.KEY_VALUE_GROUP if dim in self._with_repeats else Kind.HEAD
        if dim in self._head_dims | self._value_dims:
            return Kind.HEAD_DIMENSION
        if dim in self._experts:
            return Kind.EXPERT
        if dim in self._looked_up or self._is_residual(dim):
            return Kind.EMBEDDING
        if dim in self._rows:
            return Kind.TABLE_ROW
        if dim in self._channels:
            outer, inner = dim in self._channel_groups, dim in self._channels_in_groups
            if outer != inner:
                return Kind.CHANNEL_GROUP if outer else Kind.CHANNEL_IN_GROUP
            return Kind.CHANNEL
        return Kind.FEED_FORWARD if dim in self._feed_forward else Kind.FEATURE

    def suffix(self, dim: Dim) -> str:
        """Last part of a name: the kind's, but values of attention are told from queries and keys."""
        if self.kind(dim) is Kind.HEAD_DIMENSION and dim not in self._head_dims:
            return "v_head_dim"
        return self.kind(dim).suffix

    def makers(self, dim: Dim) -> list[str]:
        """Parameters to name a dimension after: matrices that make it, else whatever makes or uses it."""
        made = self.producers.get(dim, [])
        matrices = [name for name in made if name in self.matrices]
        return matrices or made or self.consumers.get(dim, [])

    def _is_residual(self, dim: Dim) -> bool:
        """Whether attention reads it and several layers add to it."""
        if dim not in self._attended:
            return False
        return sum(name in self.matrices for name in self.producers.get(dim, ())) > 1

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
            self._convolved.add(operands[1])
            for value in (operands[0], node.outputs[0]):
                self._read_channels(value)
        elif node.op_type in ("Gather", "GatherND") and operands[0] in analysis.axes:
            self._read_table(node, operands[0])
        elif node.op_type in ("MatMul", "Einsum"):
            if self._both_activations(operands):
                self._read_attention(node, operands)
            else:
                self._read_stack(node, operands)
        elif node.op_type in ("Expand", "Tile"):
            before = {dim for axis in analysis.axes.get(operands[0], ()) for dim in terminals(axis)}
            for axis in analysis.axes[node.outputs[0]]:
                self._repeats.update(dim for dim in terminals(axis) if dim not in before)

    def _read_channels(self, value: ir.Value) -> None:
        """Channels; where an axis is a product of groups and channels, which is which."""
        axis = expand(self._analysis.axes[value][1])
        self._channels.update(terminals(axis))
        factors = [dim for dim in axis if not is_frozen((dim,))]
        if len(factors) > 1:
            self._channel_groups.update(terminals((factors[0],)))
            self._channels_in_groups.update(terminals(tuple(factors[1:])))

    def _read_table(self, node: ir.Node, table: ir.Value) -> None:
        """Rows that are looked up: embeddings, or the matrices of one expert each."""
        axes = self._analysis.axes[table]
        parameter = self._parameter_behind(table)
        if parameter is None or node.attributes.get_int("axis", 0) != 0:
            return
        if len(axes) > 2:
            self._experts.update(self._dims(table, 0))
        else:
            self._tables.add(parameter)
            self._rows.update(self._dims(table, 0))
            for axis in range(1, len(axes)):
                self._looked_up.update(self._dims(table, axis))

    def _both_activations(self, operands: list[ir.Value]) -> bool:
        return len(operands) == 2 and all(
            value in self._analysis.axes and self._parameter_behind(value) is None for value in operands
        )

    def _read_attention(self, node: ir.Node, operands: list[ir.Value]) -> None:
        for number, axis in self._analysis.facts[node].contracted:
            self._head_dims.update(_prunable(self._analysis.axes[operands[number]][axis]))
        heads = self._batch(node, operands)
        self._heads |= heads
        for axis in self._analysis.axes[node.outputs[0]]:
            self._value_dims.update(_prunable(axis) - heads)

    def _read_stack(self, node: ir.Node, operands: list[ir.Value]) -> None:
        """A product with a parameter that has batch axes: one matrix per expert."""
        parameters = [value for value in operands[:2] if self._parameter_behind(value) is not None]
        for value in parameters:
            own = {dim for axis in self._analysis.axes.get(value, ()) for dim in terminals(axis)}
            self._experts |= self._batch(node, operands) & own

    def _batch(self, node: ir.Node, operands: list[ir.Value]) -> set[Dim]:
        """Prunable dimensions of the batch axes of a product."""
        axes = self._analysis.axes[node.outputs[0]]
        if node.op_type == "MatMul":
            return {dim for axis in axes[:-2] for dim in _prunable(axis)}
        found = {dim for axis in axes for dim in _prunable(axis)}
        for value in operands:
            found &= {dim for axis in self._analysis.axes.get(value, ()) for dim in terminals(axis)}
        return found

    def _dims(self, value: ir.Value, axis: int) -> set[Dim]:
        axes = self._analysis.axes.get(value, ())
        return set(terminals(axes[axis])) if axis < len(axes) else set()

    def _parameter_behind(self, value: ir.Value | None) -> ir.Value | None:
        """The parameter a value is a view of, through ops that only move, scale or, of a stack, choose."""
        while value is not None and not value.is_initializer():
            node = value.producer()
            if node is None or not (node.op_type in PASSES_WEIGHTS or self._chooses_matrices(node)):
                return None
            value = node.inputs[0]
        return value if value is not None and not value.is_graph_input() else None

    def _chooses_matrices(self, node: ir.Node) -> bool:
        table = node.inputs[0] if node.inputs else None
        choice = node.op_type in ("Gather", "GatherND")
        return choice and table is not None and len(self._analysis.axes.get(table, ())) > 2

    def _read_parameters(self) -> None:
        """A parameter consumes the dimensions that a node sums away, and produces its others."""
        summed: dict[ir.Value, set[Dim]] = {}
        convolved: set[ir.Value] = set()
        for value, dims in self._contracted.items():
            parameter = self._parameter_behind(value)
            if parameter is not None:
                summed.setdefault(parameter, set()).update(dims)
                if value in self._convolved:
                    convolved.add(parameter)
        consumed: dict[str, set[Dim]] = {}
        produced: dict[str, set[Dim]] = {}
        for value in self._in_order_of_use():
            name = value.name or ""
            own = {dim for axis in self._analysis.axes[value] for dim in terminals(axis)}
            consumed[name] = summed.get(value, set()) & own
            produced[name] = own if value in self._tables else own - consumed[name]
            if sum(size_of(axis) > 1 for axis in self._analysis.axes[value]) > 1:
                self.matrices.add(name)
            for dim in consumed[name]:
                self.consumers.setdefault(dim, []).append(name)
            for dim in produced[name]:
                self.producers.setdefault(dim, []).append(name)
            if value not in convolved and produced[name] & (self._heads | self._head_dims | self._value_dims):
                self._attended |= consumed[name]
        self._with_repeats = self._beside_repeats()
        for dim, users in self.consumers.items():
            makers = [name for name in self.producers.get(dim, ()) if name in self.matrices]
            pairs = [(consumed[maker], produced[user]) for maker in makers for user in users]
            if pairs and all(_returns(before, after) for before, after in pairs):
                self._feed_forward.add(dim)

    def _in_order_of_use(self) -> list[ir.Value]:
        """Parameters by the first node that reads them; files list them in any order."""
        order: dict[ir.Value, int] = {}
        for number, node in enumerate(self._analysis.model.graph):
            for value in node.inputs:
                if value is not None:
                    order.setdefault(value, number)
        return sorted(self._analysis.parameters, key=lambda value: order.get(value, len(order)))

    def _beside_repeats(self) -> set[Dim]:
        """Heads that stand in one axis with a repeated dimension."""
        found: set[Dim] = set()
        for value in self._analysis.parameters:
            for axis in self._analysis.axes[value]:
                dims = set(terminals(axis))
                if dims & self._repeats & self._heads:
                    found |= dims & self._heads
        return found - self._repeats


def _prunable(axis: AxisExpr) -> set[Dim]:
    return {dim for dim in terminals(axis) if not dim.frozen}


def _returns(before: set[Dim], after: set[Dim]) -> bool:
    """Whether a pair of layers ends in the width that it began with; frozen axes are compared by size."""
    if before & after:
        return True
    frozen = all(dim.frozen for dim in before | after)
    return bool(before) and frozen and sorted(dim.size for dim in before) == sorted(d.size for d in after)
