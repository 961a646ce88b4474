"""Why are these slices one group? Chains of ops from the layer that makes the group to every parameter in it.

The graph of a group has its (value, axis) pairs and the ops that touch them as nodes; a chain is a shortest
path in it. A frozen group has a chain too, from the place that froze it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import networkx as nx
import onnx_ir as ir

from sparsecc.axes.analysis import Analysis
from sparsecc.axes.dims import Dim, terminals
from sparsecc.axes.groups import Group, Groups
from sparsecc.axes.kinds import Roles
from sparsecc.errors import Refusal, UsageError

Place = tuple[str, int]
"""Name of a value and number of an axis."""

Item = Place | ir.Node
"""A node of the graph of chains."""

SHOWN_STEPS = 12


@dataclass(frozen=True)
class Step:
    """One op of a chain.

    Attributes:
        op: its type.
        name: of the node.
        layer: whether it reads parameters.
        place: what it leads to.
    """

    op: str
    name: str
    layer: bool
    place: Place


@dataclass(frozen=True)
class Chain:
    """A path from one place to another, op by op."""

    start: Place
    steps: tuple[Step, ...]

    @property
    def end(self) -> Place:
        """Where it leads to."""
        return self.steps[-1].place if self.steps else self.start

    def text(self, steps: int = SHOWN_STEPS) -> str:
        """`conv1.weight[0] -Conv conv1-> h1[1] -Relu-> h2[1]`; the middle of a longer chain is left out."""
        parts = [f" -{_op_text(step)}-> {_place_text(step.place)}" for step in self.steps]
        if len(parts) > steps:
            half = steps // 2
            left_out = f" … {len(parts) - 2 * half} more ops …"
            parts = [*parts[:half], left_out, *parts[len(parts) - half :]]
        return _place_text(self.start) + "".join(parts)


@dataclass(frozen=True)
class Explanation:
    """What ties a group together.

    Attributes:
        group: the group.
        chains: from the first producer's axis to each axis of a parameter that the group slices, itself
            included, in the order of `group.axes`; an axis that no chain of ops reaches is absent.
        norms: normalisations whose statistics run over the group, as `op name`.
        freezing: from the place that froze the group to it, or None.
    """

    group: Group
    chains: tuple[Chain, ...]
    norms: tuple[str, ...]
    freezing: Chain | None

    def text(self, steps: int = SHOWN_STEPS) -> str:
        """Lines for the terminal; chains of more than `steps` ops are cut in the middle."""
        group = self.group
        lines = [f"{group.name}: {group.kind.value}, {group.size} indices, {group.exactness}"]
        if group.frozen is not None:
            where = f" ({group.frozen.where})" if group.frozen.where else ""
            lines.append(f"frozen because {group.frozen.reason}{where}")
            if self.freezing is not None:
                lines.append(f"  {self.freezing.text(steps)}")
        if self.norms:
            lines.append("after pruning, statistics run over fewer entries in:")
            lines += [f"  {norm}" for norm in self.norms]
        lines.append("one index takes these slices with it:" if group.frozen is None else "it slices:")
        per_index = {(axis.parameter, axis.axis): axis.positions(0) for axis in group.axes}
        reached = {chain.end: chain for chain in self.chains}
        for place, positions in per_index.items():
            chain = reached.get(place)
            lines.append(f"  {_place_text(place)}, {_count(len(positions))}")
            if chain is not None and chain.steps:
                lines.append(f"    {chain.text(steps)}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, object]:
        """The explanation as JSON values, chains in full."""
        return {
            "name": self.group.name,
            "chains": [_chain_json(chain) for chain in self.chains],
            "norms": list(self.norms),
            "freezing": None if self.freezing is None else _chain_json(self.freezing),
        }


def explain(groups: Groups, name: str) -> Explanation:
    """Say what ties the parameters of a group together, and what froze it.

    Args:
        groups: of the model.
        name: of the group, or of a parameter and one of its axes, as `fc.weight[0]`.

    Raises:
        UsageError: there is no such group.
    """
    group = find_group(groups, name)
    analysis = groups.analysis
    dims = frozenset(group.dims)
    graph = _graph(analysis, lambda dim: dim in dims)
    places = [(axis.parameter, axis.axis) for axis in group.axes]
    paths: dict[Item, list[Item]] = nx.single_source_shortest_path(graph, _producer(analysis, group))
    chains = tuple(_chain(analysis, paths[place]) for place in places if place in paths)
    names = {node.outputs[0].name: _node_text(node) for node in analysis.facts}
    norms = tuple(names.get(norm, norm) for norm in group.norms)
    return Explanation(group, chains, norms, _freezing_chain(analysis, group))


def find_group(groups: Groups, name: str) -> Group:
    """A group by its name or by an axis of a parameter, as `fc.weight[0]`.

    Raises:
        UsageError: there is no such group.
    """
    found = next((group for group in groups if group.name == name), None)
    if found is not None:
        return found
    parameter, bracket, number = name.removesuffix("]").rpartition("[")
    holding = [
        group
        for group in groups
        if bracket and any((axis.parameter, str(axis.axis)) == (parameter, number) for axis in group.axes)
    ]
    if len(holding) == 1:
        return holding[0]
    if holding:
        names = ", ".join(group.name for group in holding)
        raise UsageError(f"{name} is sliced by several groups, name one of them: {names}")
    alike = [group.name for group in groups if name in group.name][:5]
    hint = f"did you mean {', '.join(alike)}?" if alike else "`sparsecc groups SOURCE --frozen` lists them"
    raise UsageError(f"there is no group {name!r}; {hint}")


def in_graph_order(groups: Groups) -> list[Group]:
    """All groups by the first node that reads one of their parameters, those of one node as they are."""
    order: dict[str, int] = {}
    for number, node in enumerate(groups.model.graph):
        for value in node.inputs:
            if value is not None and value.name:
                order.setdefault(value.name, number)
    return sorted(groups, key=lambda group: min(order.get(name, len(order)) for name in group.parameters))


# the graph of a group


def _graph(analysis: Analysis, holds: Callable[[Dim], bool]) -> nx.Graph[Item]:
    """Pairs (value, axis) that hold a chosen dimension, and the ops that touch them, which are `ir.Node`s."""
    graph: nx.Graph[Item] = nx.Graph()
    for node in analysis.model.graph:
        places = [
            place
            for value in (*node.inputs, *node.outputs)
            if value is not None
            for place in _places(analysis, value, holds)
        ]
        if places:
            graph.add_edges_from((node, place) for place in places)
    return graph


def _places(analysis: Analysis, value: ir.Value, holds: Callable[[Dim], bool]) -> Iterator[Place]:
    elements = analysis.sequences.get(value) or [analysis.axes.get(value, ())]
    found = {
        number
        for axes in elements
        for number, axis in enumerate(axes)
        if any(holds(dim) for dim in terminals(axis))
    }
    for number in sorted(found):
        yield value.name or "", number


def _producer(analysis: Analysis, group: Group) -> Place:
    """The axis of the first parameter that makes the group, in the order in which nodes read parameters."""
    makers = Roles(analysis).makers(group.dims[0])
    first = next((axis for axis in group.axes if makers and axis.parameter == makers[0]), group.axes[0])
    return first.parameter, first.axis


def _freezing_chain(analysis: Analysis, group: Group) -> Chain | None:
    """The shortest way to the group from what its refusal names, through axes frozen for the same reason."""
    refusal = group.frozen
    if refusal is None:
        return None
    graph = _graph(analysis, lambda dim: dim.frozen == refusal)
    end = _producer(analysis, group)
    if end not in graph:
        return None
    paths: dict[Item, list[Item]] = nx.single_source_shortest_path(graph, end)
    sizes = {value.name: shape for value, shape in analysis.trace.shapes.items()}

    def rank(place: Place) -> tuple[int, bool]:
        return len(paths[place]), sizes[place[0]][place[1]] != group.size

    sources = [place for place in _freezing_places(analysis, refusal, graph) if place in paths]
    return _chain(analysis, paths[min(sources, key=rank)][::-1]) if sources else None


def _freezing_places(analysis: Analysis, refusal: Refusal, graph: nx.Graph[Item]) -> list[Place]:
    model = analysis.model.graph
    ends = {"graph-input": model.inputs, "graph-output": model.outputs}.get(refusal.code)
    if ends is not None:
        names = {value.name for value in ends}
        return [item for item in graph if isinstance(item, tuple) and item[0] in names]
    found: list[Place] = []
    for item in graph:
        if isinstance(item, ir.Node) and refusal.where in (item.outputs[0].name, _node_text(item)):
            found.extend(place for place in graph.neighbors(item) if isinstance(place, tuple))
    return found


def _chain(analysis: Analysis, path: Sequence[Item]) -> Chain:
    """From a path whose places and ops take turns."""
    places = [item for item in path if isinstance(item, tuple)]
    nodes = [item for item in path if isinstance(item, ir.Node)]
    steps = [
        Step(node.op_type, node.name or "", _reads_parameters(analysis, node), place)
        for node, place in zip(nodes, places[1:], strict=True)
    ]
    return Chain(places[0], tuple(steps))


def _reads_parameters(analysis: Analysis, node: ir.Node) -> bool:
    return any(
        value is not None
        and value.is_initializer()
        and value in analysis.axes
        and value not in analysis.pseudo
        for value in node.inputs
    )


def _op_text(step: Step) -> str:
    return f"{step.op} {step.name}" if step.layer and step.name else step.op


def _place_text(place: Place) -> str:
    return f"{place[0]}[{place[1]}]"


def _node_text(node: ir.Node) -> str:
    return f"{node.op_type} {node.name or node.outputs[0].name}"


def _count(positions: int) -> str:
    return "1 position" if positions == 1 else f"{positions} positions"


def _chain_json(chain: Chain) -> dict[str, object]:
    return {
        "start": _place_text(chain.start),
        "steps": [{"op": step.op, "node": step.name, "to": _place_text(step.place)} for step in chain.steps],
    }
