"""Inner values of a model over calibration data, front to back, each node run once.

Weights behind the front may change between two readings, so that fitting layer after layer costs one run over
the data and not one per layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria.calibration import Calibration

Mark = tuple[list[dict[str, np.ndarray]], set[ir.Node]]
"""The values of a front, and the nodes that ran."""


class Frontier:
    """The front: every value that is known and that a node which has not run yet reads, for all batches.

    Holds what is alive between two layers of the whole calibration data in memory.

    Attributes:
        weights: how much each batch counts.

    Args:
        model: its weights may be changed until a value that depends on them has been read.
        calibration: inputs.

    Raises:
        UsageError: data that do not fit the model.
    """

    def __init__(self, model: ir.Model, calibration: Calibration) -> None:
        self._model = model
        self._held: list[dict[str, np.ndarray]] = [batch for batch, _ in calibration.stream(model)]
        self.weights = [calibration.weight(number) for number in range(len(self._held))]
        self._values = {value.name or "": value for value in model.graph.inputs}
        self._values |= {value.name or "": value for node in model.graph for value in node.outputs}
        self._readers: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            for value in read_by(node, model.graph):
                self._readers.setdefault(value, []).append(node)
        self._ran: set[ir.Node] = set()

    def read(self, names: Iterable[str], *, advance: bool = True) -> Iterator[Mapping[str, np.ndarray]]:
        """Values by name, batch after batch.

        Args:
            names: of values that have not been left behind.
            advance: move the front up to them; if not, what leads to them runs again the next time.
        """
        wanted = [self._values[name] for name in dict.fromkeys(names)]
        missing = [value for value in wanted if value.name not in self._held[0]]
        if not missing:
            for held in self._held:
                yield {value.name or "": held[value.name or ""] for value in wanted}
            return
        between = self._nodes_to(missing)
        ran = self._ran | between
        passed = [value for node in between for value in node.outputs if value.name]
        kept = [value for value in passed if value in missing or self._is_read(value, ran)]
        borders = [value for value in self._values.values() if value.name in self._held[0]]
        borders = [value for value in borders if not between.isdisjoint(self._readers.get(value, ()))]
        evaluator = self._part(borders, kept if advance else missing)
        inputs = {value.name or "" for value in borders}
        dropped = {name for name in self._held[0] if not self._is_read(self._values[name], ran)}
        dropped -= {value.name for value in wanted}
        for number, held in enumerate(self._held):
            found = {**held, **evaluator.run({name: held[name] for name in inputs})}
            if advance:
                self._held[number] = {name: array for name, array in found.items() if name not in dropped}
            yield {value.name or "": found[value.name or ""] for value in wanted}
        if advance:
            self._ran = ran

    def holds(self, name: str) -> bool:
        """Whether a value is known without running anything."""
        return name in self._held[0]

    def mark(self) -> Mark:
        """Where the front is now; holds its values in memory."""
        return [dict(held) for held in self._held], set(self._ran)

    def rewind(self, mark: Mark) -> None:
        """Go back to where the front was, for weights that changed since."""
        self._held, self._ran = [dict(held) for held in mark[0]], set(mark[1])

    def _nodes_to(self, values: list[ir.Value]) -> set[ir.Node]:
        """Nodes between the front and some values."""
        found: set[ir.Node] = set()
        open_values = list(values)
        while open_values:
            value = open_values.pop()
            node = value.producer()
            if node is None or node in found or value.name in self._held[0]:
                continue
            found.add(node)
            open_values.extend(read_by(node, self._model.graph))
        return found

    def _is_read(self, value: ir.Value, ran: set[ir.Node]) -> bool:
        """Whether a node that has not run reads it."""
        return any(node not in ran for node in self._readers.get(value, ()))

    def _part(self, inputs: list[ir.Value], outputs: list[ir.Value]) -> Evaluator:
        """What leads from some values to others."""
        graph = ir.convenience.extract(self._model.graph, inputs, outputs)
        for value in graph.inputs:
            # The sizes of batches may differ.
            value.shape = None
        part = ir.Model(
            graph, ir_version=self._model.ir_version, functions=list(self._model.functions.values())
        )
        return Evaluator(part)


def read_by(node: ir.Node, graph: ir.Graph) -> Iterator[ir.Value]:
    """Values of the main graph that a node or its subgraphs read."""
    inner: list[ir.Node] = [node]
    for attribute in node.attributes.values():
        for subgraph in _subgraphs(attribute):
            inner.extend(subgraph.all_nodes())
    for each in inner:
        yield from (value for value in each.inputs if value is not None and value.graph is graph)


def _subgraphs(attribute: ir.Attr) -> list[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return list(attribute.as_graphs()) if attribute.type == ir.AttributeType.GRAPHS else []
