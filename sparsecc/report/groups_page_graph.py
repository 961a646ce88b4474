"""The picture of a model's graph on the page of groups: nodes in layers, coloured by the group they hold.

What is computed from parameters alone belongs to the node that uses it; a graph that is too large to open
quickly is reduced to the nodes with parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import networkx as nx
import onnx_ir as ir

from sparsecc.axes.dims import Dim, terminals
from sparsecc.axes.groups import Groups

LARGEST = 1500
"""Nodes that a browser lays out and scrolls without delay."""

_WIDTH, _HEIGHT, _GAP, _STEP = 132, 20, 12, 40  # pixels: a node, between nodes, from layer to layer


@dataclass(frozen=True)
class Picture:
    """An SVG element and a sentence about what it leaves out, or "" ."""

    svg: str
    note: str


@dataclass
class _Drawn:
    """A node of the picture: what it says, which groups it holds, which of them gives the colour."""

    title: str
    label: str
    groups: list[int]
    colour: int | None
    layer: bool


def colour_of(number: int) -> str:
    """CSS colour of the group with this number: hues far apart for neighbours."""
    return f"hsl({number * 137.508 % 360:.0f} 65% 68%)"


def draw(groups: Groups, numbers: Mapping[Dim, int]) -> Picture:
    """Draw the graph.

    Args:
        groups: of the model.
        numbers: of the groups on the page, by their dimensions; `data-g` of a node lists those it holds.
    """
    graph = _data_flow(groups, numbers)
    count = len(graph)
    note = ""
    if count > LARGEST:
        graph = _with_parameters_only(graph)
        note = f"{count:,} nodes are too many to draw; these are the {len(graph):,} that have parameters."
    if len(graph) > LARGEST:
        return Picture("", f"{len(graph):,} nodes with parameters are too many to draw.")
    return Picture(_svg(graph, _places(graph)), note)


# what is drawn


def _data_flow(groups: Groups, numbers: Mapping[Dim, int]) -> nx.DiGraph[int]:
    """Nodes that graph inputs reach, by number; what reads parameters only is folded into its users."""
    analysis = groups.analysis
    weights = _weights(groups, numbers)
    graph: nx.DiGraph[int] = nx.DiGraph()
    makers: dict[ir.Value, int] = {}
    folded: dict[ir.Value, set[int]] = {value: _held(groups, value, numbers) for value in analysis.parameters}
    for number, node in enumerate(analysis.model.graph):
        inputs = [value for value in node.inputs if value is not None]
        if node in analysis.constant_nodes:
            continue
        own = set[int]().union(*(folded.get(value, ()) for value in inputs))
        layer = any(value in folded for value in inputs)
        if inputs and not any(value in makers or value.is_graph_input() for value in inputs):
            folded.update(dict.fromkeys(node.outputs, own))
            continue
        given = set[int]().union(*(_held(groups, value, numbers) for value in node.outputs))
        colour = max(given, key=lambda group: weights[group], default=None)
        name = node.name or node.outputs[0].name or ""
        title = f"{node.op_type} {name} -> {_outputs(groups, node)}"
        drawn = _Drawn(title, node.op_type, sorted(given | own), colour, layer)
        graph.add_node(number, drawn=drawn)
        graph.add_edges_from((makers[value], number) for value in inputs if value in makers)
        makers.update(dict.fromkeys(node.outputs, number))
    return graph


def _weights(groups: Groups, numbers: Mapping[Dim, int]) -> dict[int, float]:
    """Parameters of each numbered group: where a node holds several, the largest gives the colour."""
    return {numbers[g.dims[0]]: g.size * g.cost.parameters for g in groups if g.dims[0] in numbers}


def _held(groups: Groups, value: ir.Value, numbers: Mapping[Dim, int]) -> set[int]:
    elements = groups.analysis.sequences.get(value) or [groups.analysis.axes.get(value, ())]
    found = (dim for axes in elements for axis in axes for dim in terminals(axis))
    return {numbers[dim] for dim in found if dim in numbers}


def _outputs(groups: Groups, node: ir.Node) -> str:
    shapes = groups.analysis.trace.shapes
    return ", ".join(
        f"{value.name}{list(shapes[value])}" if value in shapes else f"{value.name}" for value in node.outputs
    )


def _with_parameters_only(graph: nx.DiGraph[int]) -> nx.DiGraph[int]:
    """The nodes that read parameters, joined where others lay between them."""
    reduced: nx.DiGraph[int] = nx.DiGraph()
    before: dict[int, set[int]] = {}
    for number in graph:
        reached = {
            ancestor
            for maker in graph.predecessors(number)
            for ancestor in ((maker,) if _drawn(graph, maker).layer else before[maker])
        }
        before[number] = reached
        if _drawn(graph, number).layer:
            reduced.add_node(number, drawn=_drawn(graph, number))
            reduced.add_edges_from((ancestor, number) for ancestor in reached)
    return reduced


def _drawn(graph: nx.DiGraph[int], number: int) -> _Drawn:
    return graph.nodes[number]["drawn"]


# where it is drawn


def _places(graph: nx.DiGraph[int]) -> dict[int, tuple[float, int]]:
    """Left edge in pixels and layer of every node; a node stands below the mean of what it reads."""
    layers = _layers(graph)
    places: dict[int, tuple[float, int]] = {}
    for depth, layer in enumerate(layers):
        wanted = {number: _mean(places[maker][0] for maker in graph.predecessors(number)) for number in layer}
        ordered = sorted(layer, key=lambda number: (wanted[number], number))
        lefts: list[float] = []
        for number in ordered:
            least = lefts[-1] + _WIDTH + _GAP if lefts else wanted[number]
            lefts.append(max(wanted[number], least))
        shift = _mean(left - wanted[number] for left, number in zip(lefts, ordered, strict=True))
        places.update({number: (left - shift, depth) for left, number in zip(lefts, ordered, strict=True)})
    least = min((left for left, _ in places.values()), default=0.0)
    return {number: (left - least, depth) for number, (left, depth) in places.items()}


def _layers(graph: nx.DiGraph[int]) -> list[list[int]]:
    """Nodes by the longest way from the inputs; those without a predecessor just above their first user."""
    depth = {
        number: layer for layer, numbers in enumerate(nx.topological_generations(graph)) for number in numbers
    }
    for number in graph:
        if not graph.in_degree(number):
            depth[number] = min((depth[user] for user in graph.successors(number)), default=1) - 1
    layers: list[list[int]] = [[] for _ in range(max(depth.values(), default=-1) + 1)]
    for number, layer in depth.items():
        layers[layer].append(number)
    return layers


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


# SVG


def _svg(graph: nx.DiGraph[int], places: Mapping[int, tuple[float, int]]) -> str:
    width = max((left for left, _ in places.values()), default=0.0) + _WIDTH + 4
    height = (max((depth for _, depth in places.values()), default=0) + 1) * _STEP
    size = f"width:{width:.0f}px;height:{height}px"
    parts = [
        f'<svg class="graph" style="{size}" viewBox="-2 -2 {width:.0f} {height}" role="img" '
        'aria-label="Graph of the model">'
    ]
    parts += [_edge(graph, places, maker, user) for maker, user in graph.edges]
    parts += [_node(_drawn(graph, number), *places[number]) for number in graph]
    return "\n".join([*parts, "</svg>"])


def _edge(graph: nx.DiGraph[int], places: Mapping[int, tuple[float, int]], maker: int, user: int) -> str:
    x1, y1 = places[maker][0] + _WIDTH / 2, places[maker][1] * _STEP + _HEIGHT
    x2, y2 = places[user][0] + _WIDTH / 2, places[user][1] * _STEP
    shared = set(_drawn(graph, maker).groups) & set(_drawn(graph, user).groups)
    bend = (y2 - y1) / 2
    passes_nodes = y2 - y1 > _STEP and abs(x1 - x2) < _WIDTH / 2
    aside = _WIDTH if passes_nodes else 0
    return (
        f'<path{_data(sorted(shared))} d="M{x1:.0f} {y1}C{x1 + aside:.0f} {y1 + bend:.0f} '
        f'{x2 + aside:.0f} {y2 - bend:.0f} {x2:.0f} {y2}"/>'
    )


def _node(drawn: _Drawn, left: float, depth: int) -> str:
    fill = f' style="fill:{colour_of(drawn.colour)}"' if drawn.colour is not None else ""
    layer = ' class="layer"' if drawn.layer else ""
    top, middle = depth * _STEP, left + _WIDTH / 2
    return (
        f"<g{_data(drawn.groups)}><title>{escape(drawn.title)}</title>"
        f'<rect{layer} x="{left:.0f}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="3"{fill}/>'
        f'<text x="{middle:.0f}" y="{top + 14}" text-anchor="middle">{escape(drawn.label)}</text></g>'
    )


def _data(groups: Sequence[int]) -> str:
    return f' data-g="{" ".join(map(str, groups))}"' if groups else ""
