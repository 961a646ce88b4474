"""Second moments H = X'X of the inputs of linear layers, summed over calibration data in float64.

Layers are taken in portions so that only a bounded number of matrices is in memory; each portion is one run
over the data in ONNX Runtime with the layers' inputs as outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, patches

PORTION_BYTES = 1 << 28
"""Matrices in memory at once; a single layer may take more."""

MAX_COLUMNS = 8192
"""Columns above which a layer is left out: its matrix would take more than 512 MiB, its inverse minutes."""


class Values:
    """Reads inner values of a model, running only the nodes that lead to them.

    Args:
        model: unchanged.
        names: of values of its main graph.
    """

    def __init__(self, model: ir.Model, names: Iterable[str]) -> None:
        inputs = {value.name for value in model.graph.inputs}
        self._names = [name for name in dict.fromkeys(names) if name not in inputs]
        if self._names:
            self._evaluator = Evaluator(_only(model, self._names))

    def run(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The values by name, and the batch itself."""
        return {**batch, **(self._evaluator.run(batch) if self._names else {})}


def _only(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy, sharing weights, that computes some values and nothing else."""
    part = model.clone()
    values = {value.name: value for node in part.graph for value in node.outputs}
    part.graph.outputs.clear()
    part.graph.outputs.extend(values[name] for name in names)
    common_passes.RemoveUnusedNodesPass()(part)
    return part


def rows(
    layer: LinearLayer,
    values: Mapping[str, np.ndarray],
    constant: bool,
    every: int = 1,
    dtype: type[np.floating] = np.float64,
) -> Iterator[np.ndarray]:
    """Rows of X of all uses of a layer.

    Args:
        layer: of the model that the values are from.
        values: by name.
        constant: append a column of ones, to which the bias belongs.
        every: every n-th row, as in `patches`.
        dtype: of the rows.

    Yields:
        [groups, rows, columns (+ 1)].
    """
    for use, name in zip(layer.uses, layer.input_names, strict=True):
        for part in patches(use, values[name], layer.shape[2:], every, dtype):
            yield np.concatenate([part, np.ones((*part.shape[:2], 1), dtype)], axis=2) if constant else part


@dataclass
class Moments:
    """Sums of products of rows.

    Attributes:
        sums: left' right, [groups, columns of left, columns of right] float64.
        rows: number of rows so far.
    """

    sums: np.ndarray
    rows: int = 0

    @classmethod
    def zeros(cls, groups: int, left: int, right: int) -> Moments:
        """Before the first row."""
        return cls(np.zeros((groups, left, right)))

    def add(self, left: np.ndarray, right: np.ndarray) -> None:
        """Count rows [groups, rows, columns] of both."""
        self.sums += left.transpose(0, 2, 1) @ right
        self.rows += left.shape[1]


def second_moments(
    model: ir.Model, layers: Iterable[LinearLayer], calibration: Calibration
) -> Iterator[tuple[LinearLayer, Moments]]:
    """H = X'X of each layer.

    Args:
        model: that the layers are of.
        layers: with at most `MAX_COLUMNS` columns each, to be bounded in memory.
        calibration: is gone through once per portion of layers.

    Yields:
        (layer, moments), with a last row and column for a constant input of 1 where the layer has a bias.

    Raises:
        UsageError: data that do not fit the model.
    """
    for portion in _portions(layers):
        values = Values(model, [name for layer in portion for name in layer.input_names])
        sums = [Moments.zeros(layer.groups, _width(layer), _width(layer)) for layer in portion]
        for batch, _ in calibration.stream(model):
            found = values.run(batch)
            for layer, total in zip(portion, sums, strict=True):
                for part in rows(layer, found, layer.bias is not None):
                    total.add(part, part)
        yield from zip(portion, sums, strict=True)


def _width(layer: LinearLayer) -> int:
    return layer.columns + (layer.bias is not None)


def _portions(layers: Iterable[LinearLayer]) -> Iterator[list[LinearLayer]]:
    portion: list[LinearLayer] = []
    size = 0
    for layer in layers:
        own = 8 * layer.groups * _width(layer) ** 2
        if portion and size + own > PORTION_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(layer)
        size += own
    if portion:
        yield portion
