"""The original with the removed slices of its weights zeroed and statistics taken over what is kept.

mean(x) over a pruned axis -> sum(m x) / count(m);  variance -> sum((m (x - mean))^2) / count(m)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto, helper

from sparsecc.oracle.network import SHAPE_OPS, Network, Tensors, attribute
from sparsecc.oracle.plan import Kept, Plan, mask, misfit
from sparsecc.oracle.weights import Role, WeightRoles

Shapes = Mapping[str, tuple[int, ...]]

SUMS = ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "LpNormalization")
"""Zeros do not change what these compute, so a mask on the input is all they need."""

SCALED = ("LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization")
"""Normalisations that multiply by a scale of their own, their second input."""

NORMALIZATIONS = {*SUMS, *SCALED, "MeanVarianceNormalization", "ReduceMean", "GlobalAveragePool"}
SCALE_AXES = {"InstanceNormalization": 1, "GroupNormalization": 1}
"""Input axis that the scale lies along; it ends on the last axis for the others with a scale."""


def masked_tensors(tensors: Tensors, sliced: Mapping[str, Kept], roles: WeightRoles) -> Tensors:
    """All tensors, the planned ones with zeros for what is removed.

    What is divided by gets ones instead: the removed entries it divides are zero by other weights.
    """
    result = dict(tensors)
    for name, kept in sliced.items():
        if name in tensors:
            array = tensors[name]
            role = roles.role(name)
            fill = 1 if role is not None and role[0] == Role.POSITIVE else 0
            result[name] = np.where(mask(array.shape, kept), array, np.array(fill, array.dtype))
    return result


def probes(network: Network, plan: Plan) -> tuple[list[str], list[str]]:
    """Values of which the shape, and values of which the elements, must be known before masking."""
    made = {node.output[0]: node for node in network.proto.graph.node}
    shapes: list[str] = []
    elements: list[str] = []
    for name in plan.normalizations:
        node = made.get(name)
        if node is not None and node.op_type in NORMALIZATIONS:
            shapes.append(node.input[0])
            axes = _axes_input(node)
            if axes and axes not in network.tensors:
                elements.append(axes)
    shapes += [node.input[0] for node in _scaled(network, plan)]
    return list(dict.fromkeys(shapes)), list(dict.fromkeys(elements))


def mask_network(network: Network, plan: Plan, shapes: Shapes, elements: Tensors) -> list[str]:
    """Make the normalisations that the plan names aware of masks, in place.

    Args:
        network: a copy of the original; masks are added to its tensors.
        plan: what is kept.
        shapes: of the values that `probes` lists.
        elements: of the values that `probes` lists.

    Returns:
        Sentences on what of the plan could not be followed.
    """
    graph = network.proto.graph
    nodes = list(graph.node)
    made = {node.output[0]: node for node in nodes}
    static = network.static()
    problems: list[str] = []
    replaced: dict[str, list[NodeProto]] = {}
    for name, kept in plan.normalizations.items():
        node = made.get(name)
        if node is None:
            problems.append(f"the plan names normalization {name}, which no node of the main graph computes")
            continue
        if node.op_type not in NORMALIZATIONS:
            problems.append(
                f"the plan names {node.op_type} {name}, which is no normalization with a masked form"
            )
            continue
        shape = shapes[node.input[0]]
        wrong = misfit(kept, shape)
        if wrong is not None:
            problems.append(f"the plan does not fit the input of {node.op_type} {name}: {wrong}")
            continue
        writer = _Writer(network, name)
        axes = _reduced_axes(node, len(shape), {**network.tensors, **elements})
        _Masked(writer, node, kept, shape, axes).write()
        replaced[name] = writer.nodes
    for node in _divisions_of_weights(network, plan, static):
        replaced[node.output[0]] = _guarded(network, node)
    del graph.node[:]
    for node in nodes:
        graph.node.extend(replaced.get(node.output[0], [node]))
    return problems


def disagreements(network: Network, plan: Plan, shapes: Shapes) -> list[str]:
    """Sentences on normalisations whose mask is not the one that the plan gives to their own scale."""
    problems: list[str] = []
    for node in _scaled(network, plan):
        scale, named = node.input[1], plan.normalizations.get(node.output[0], {})
        size = network.tensors[scale].shape
        offset = SCALE_AXES.get(node.op_type, len(shapes[node.input[0]]) - len(size))
        if node.op_type == "InstanceNormalization" and offset not in named:
            continue  # its statistics do not run over the axis of its scale
        own = plan.sliced.get(scale, {})
        for axis, positions in enumerate(map(np.arange, size)):
            left, right = own.get(axis, positions), named.get(axis + offset, positions)
            if positions.size > 1 and not np.array_equal(left, right):
                problems.append(
                    f"statistics of {node.op_type} {node.output[0]} run over {right.size} positions of axis "
                    f"{axis + offset}, which are not the {left.size} that the plan keeps of its scale {scale}"
                )
    return problems


def _scaled(network: Network, plan: Plan) -> list[NodeProto]:
    """Normalisations that the plan touches and that have a scale of their own."""
    return [
        node
        for node in network.proto.graph.node
        if node.op_type in SCALED
        and node.input[1] in network.tensors
        and (node.input[1] in plan.sliced or node.output[0] in plan.normalizations)
    ]


def _divisions_of_weights(network: Network, plan: Plan, static: set[str]) -> list[NodeProto]:
    """Divisions among weights alone that removed slices reach, as in weight normalisation."""
    reached = set(plan.sliced)
    result: list[NodeProto] = []
    for node in network.proto.graph.node:
        if node.output[0] not in static or node.op_type in SHAPE_OPS or not reached.intersection(node.input):
            continue
        reached.update(node.output)
        if node.op_type == "Div":
            result.append(node)
    return result


def _guarded(network: Network, node: NodeProto) -> list[NodeProto]:
    """A division in which 0 / 0 of removed slices is the 0 that a deleted slice stands for."""
    name = node.output[0]
    writer = _Writer(network, name)
    quotient = writer.op("Div", *node.input)
    zero = writer.op("CastLike", writer.constant(np.zeros((), np.float32)), quotient)
    writer.op("Where", writer.op("IsNaN", quotient), zero, quotient, output=name)
    return writer.nodes


def _axes_input(node: NodeProto) -> str:
    reduces = node.op_type.startswith("Reduce")
    return node.input[1] if reduces and len(node.input) > 1 else ""


def _reduced_axes(node: NodeProto, rank: int, tensors: Tensors) -> tuple[int, ...]:
    """Axes that statistics run over, of the input as it is."""
    match node.op_type:
        case "LayerNormalization" | "RMSNormalization":
            first = attribute(node, "axis", -1)
            listed = list(range(first % rank if isinstance(first, int) else rank, rank))
        case "InstanceNormalization" | "GlobalAveragePool":
            listed = list(range(2, rank))
        case "GroupNormalization":
            listed = list(range(1, rank))
        case "MeanVarianceNormalization":
            listed = attribute(node, "axes", [0, 2, 3])
        case "LpNormalization":
            listed = [attribute(node, "axis", -1)]
        case _:
            name = _axes_input(node)
            listed = tensors[name].tolist() if name else attribute(node, "axes", [])
            if not listed and not attribute(node, "noop_with_empty_axes", 0):
                listed = list(range(rank))
    return tuple(int(axis) % rank for axis in np.atleast_1d(np.asarray(listed, np.int64)))


@dataclass
class _Writer:
    """Adds nodes and constants with fresh names."""

    network: Network
    name: str
    nodes: list[NodeProto] = field(default_factory=list[NodeProto])
    count: int = 0

    def fresh(self) -> str:
        self.count += 1
        return f"{self.name}/masked/{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.fresh()
        self.network.tensors[name] = array
        return name

    def op(
        self,
        op_type: str,
        *inputs: str,
        output: str | None = None,
        attributes: Mapping[str, int] | None = None,
    ) -> str:
        name = self.fresh() if output is None else output
        node = helper.make_node(op_type, inputs, [name])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in (attributes or {}).items())
        self.nodes.append(node)
        return name


@dataclass
class _Masked:
    """One normalisation, written over its kept positions."""

    writer: _Writer
    node: NodeProto
    kept: Kept
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def write(self) -> None:
        """Write nodes that end in the outputs of the node."""
        x, name = self.node.input[0], self.node.output[0]
        kept = mask(self.shape, self.kept)
        if self.node.op_type in SUMS:
            copy = NodeProto()
            copy.CopyFrom(self.node)
            copy.input[0] = self._masked(x, self._like(x, kept))
            self.writer.nodes.append(copy)
        elif self.node.op_type in ("ReduceMean", "GlobalAveragePool"):
            keep = self.node.op_type == "GlobalAveragePool" or attribute(self.node, "keepdims", 1) != 0
            total = self._sum(self._masked(x, self._like(x, kept)), self.axes, keep)
            self.writer.op("Div", total, self._like(x, np.array(self._counted())), output=name)
        elif self.node.op_type == "RMSNormalization":
            part = self._masked(x, self._like(x, kept))
            mean = self._mean(self.writer.op("Mul", part, part), self.axes, np.array(self._counted()))
            normal = self.writer.op("Div", part, self._deviation(mean))
            self.writer.op("Mul", normal, self.node.input[1], output=name)
        elif self.node.op_type == "GroupNormalization":
            self._group_normalization(x, kept)
        else:
            self._normalization(x, kept)

    def _normalization(self, x: str, kept: np.ndarray) -> None:
        writer, node = self.writer, self.node
        centred, mean, variance = self._moments(x, kept, self.axes, np.array(self._counted()))
        if node.op_type == "MeanVarianceNormalization":
            spread = writer.op("Add", writer.op("Sqrt", variance), self._like(x, np.array(1e-9)))
            writer.op("Div", centred, spread, output=node.output[0])
            return
        deviation = self._deviation(variance)
        normal = writer.op("Div", centred, deviation)
        self._affine(normal)
        if node.op_type == "LayerNormalization":
            rest = [*node.output, "", ""]
            if rest[1]:
                writer.op("Identity", mean, output=rest[1])
            if rest[2]:
                writer.op("Reciprocal", deviation, output=rest[2])

    def _group_normalization(self, x: str, kept: np.ndarray) -> None:
        """[n, (g c), *area] as [n, g, c, area]; groups may keep different numbers of channels."""
        writer = self.writer
        groups = attribute(self.node, "num_groups", 1)
        batch, channels, *area = self.shape
        split = [batch, int(str(groups)), -1, math.prod(area)]
        full = np.broadcast_to(kept, (1, channels, *area)).reshape(1, *split[1:])
        counts = np.maximum(full.sum((2, 3), keepdims=True), 1)
        grouped = writer.op("Reshape", x, writer.constant(np.array(split)))
        centred, _, variance = self._moments(grouped, full, (2, 3), counts)
        normal = writer.op("Div", centred, self._deviation(variance))
        self._affine(writer.op("Reshape", normal, writer.constant(np.array(self.shape))))

    def _affine(self, normal: str) -> None:
        """Multiply by the scale and add the bias, into the first output."""
        writer, node = self.writer, self.node
        inputs = [*node.input, ""]
        parameters: list[str] = []
        for name in inputs[1:3]:
            per_channel = name and node.op_type in SCALE_AXES
            along = writer.constant(np.array([-1, *[1] * (len(self.shape) - 2)]))
            parameters.append(writer.op("Reshape", name, along) if per_channel else name)
        scale, bias = parameters
        if bias:
            writer.op("Add", writer.op("Mul", normal, scale), bias, output=node.output[0])
        else:
            writer.op("Mul", normal, scale, output=node.output[0])

    def _moments(
        self, x: str, kept: np.ndarray, axes: tuple[int, ...], counts: np.ndarray
    ) -> tuple[str, str, str]:
        """Centred values, mean and variance; removed entries of the first are zero."""
        writer = self.writer
        where = self._like(x, kept)
        mean = self._mean(self._masked(x, where), axes, counts)
        centred = self._masked(writer.op("Sub", x, mean), where)
        return centred, mean, self._mean(writer.op("Mul", centred, centred), axes, counts)

    def _mean(self, x: str, axes: tuple[int, ...], counts: np.ndarray) -> str:
        return self.writer.op("Div", self._sum(x, axes, True), self._like(x, counts))

    def _sum(self, x: str, axes: tuple[int, ...], keep: bool) -> str:
        if not axes:
            return x
        return self.writer.op(
            "ReduceSum", x, self.writer.constant(np.array(axes)), attributes={"keepdims": int(keep)}
        )

    def _deviation(self, variance: str) -> str:
        epsilon = np.array(attribute(self.node, "epsilon", 1e-5), np.float32)  # the type of ONNX's attributes
        return self.writer.op("Sqrt", self.writer.op("Add", variance, self._like(variance, epsilon)))

    def _counted(self) -> int:
        """Kept entries that a statistic runs over; one where all are removed, so that it gives zeros."""
        sizes = (self.kept[a].size if a in self.kept else self.shape[a] for a in self.axes)
        return max(1, math.prod(sizes))

    def _masked(self, x: str, where: str) -> str:
        return self.writer.op("Mul", x, where)

    def _like(self, x: str, array: np.ndarray) -> str:
        """A constant in the type of a value."""
        return self.writer.op("CastLike", self.writer.constant(array.astype(np.float64)), x)
