"""Products of inputs and wanted outputs over calibration data, for layers that are made sparse in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.edit import attribute_float, constant_of, only_consumer, operand_other_than
from sparsecc.passes.criteria.linear_layers import LinearLayer
from sparsecc.passes.criteria.moments import rows
from sparsecc.passes.frontier import Frontier

Batch = Mapping[str, np.ndarray]

SMALLEST_SCALE = 1e-2
"""Outputs that a batch normalisation scales by less than this share of the largest repair nothing."""


@dataclass
class Sums:
    """Products over the data, of inputs with a constant one behind them.

    Attributes:
        gram: Z Z' of the sparse model's inputs, [groups, n, n] float64.
        cross: X Z' with the dense model's inputs, or the sparse model's own, [groups, n, n].
        lost: D Z' with D what the value that the layer's output is added to has lost, [groups, outputs of a
            group, n], or None where nothing is added.
        rows: number of rows; all of them are sums over the batches by their weights.
    """

    gram: np.ndarray
    cross: np.ndarray
    lost: np.ndarray | None
    rows: float = 0


@dataclass(frozen=True)
class Pair:
    """A layer of the dense and of the sparse model.

    Attributes:
        dense: unchanged.
        sparse: whose weight will be replaced.
        regress: fit to the outputs of the dense model; else to what the dense weights make of the sparse
            model's inputs.
    """

    dense: LinearLayer
    sparse: LinearLayer
    regress: bool

    @property
    def key(self) -> object:
        """Equal for layers with the same sums."""
        sparse = self.sparse
        inputs = tuple(self.dense.input_names), tuple(sparse.input_names)
        return inputs, sparse.window, sparse.groups, sparse.bias is not None, self._others()

    def _others(self) -> tuple[str, str] | None:
        """What the outputs are added to in both models, such as the residual stream of a transformer."""
        names = [_added_to(layer) for layer in (self.dense, self.sparse)]
        return (names[0], names[1]) if self.regress and names[0] and names[1] else None

    def sums(self, fronts: tuple[Frontier, Frontier]) -> Sums:
        """One pass over the data; the fronts move up to the layers.

        Raises:
            UsageError: the data are empty.
            VerificationError: an input is NaN or infinite.
        """
        layer = self.sparse
        size = layer.columns + 1
        others = self._known(fronts)
        gram, cross = (np.zeros((layer.groups, size, size)) for _ in range(2))
        outputs = layer.shape[layer.axis] // layer.groups
        lost = None if others is None else np.zeros((layer.groups, outputs, size))
        scale = _behind(layer)[1]
        small = np.abs(scale) < SMALLEST_SCALE * np.abs(scale).max()
        inverse = np.where(small, 0, 1 / np.where(small, 1, scale)).astype(np.float32)
        sums = Sums(gram, cross if self.regress else gram, lost)
        for number, (left, right) in enumerate(self.read(fronts)):
            _check(layer.name, layer.input_names, right, number)
            weight = fronts[1].weights[number]
            pieces = rows(layer, right, True, dtype=np.float32)
            if not self.regress:
                for z in pieces:
                    gram += weight * (z.transpose(0, 2, 1) @ z)
                    sums.rows += weight * z.shape[1]
                continue
            _check(layer.name, self.dense.input_names, left, number)
            gap = None
            if others is not None:
                gap = _rows_of((left[others[0]] - right[others[1]]).astype(np.float32), layer)
                gap *= inverse.reshape(layer.groups, 1, -1)
            place = 0
            for x, z in zip(rows(self.dense, left, True, dtype=np.float32), pieces, strict=True):
                gram += weight * (z.transpose(0, 2, 1) @ z)
                cross += weight * (x.transpose(0, 2, 1) @ z)
                if lost is not None and gap is not None:
                    lost += weight * (gap[:, place : place + z.shape[1]].transpose(0, 2, 1) @ z)
                place += z.shape[1]
                sums.rows += weight * z.shape[1]
        if not sums.rows:
            raise UsageError(
                f"the calibration data have no row for layer {layer.name}; give at least one sample"
            )
        return sums

    def _known(self, fronts: tuple[Frontier, Frontier]) -> tuple[str, str] | None:
        """What the outputs are added to, where it was computed before the layer."""
        others = self._others()
        if others is None:
            return None
        for front, layer, name in zip(fronts, (self.dense, self.sparse), others, strict=True):
            if not front.holds(name) and name not in layer.input_names:
                return None
        return others

    def read(self, fronts: tuple[Frontier, Frontier]) -> Iterator[tuple[Batch, Batch]]:
        """Inputs in both models, and what the outputs are added to; moves the fronts up to the layer."""
        once = len(self.sparse.uses) == 1  # past its first use the front would keep what others see as it was
        others = self._known(fronts) or ()
        names = [[*layer.input_names] for layer in (self.dense, self.sparse)]
        for list_, name in zip(names, others, strict=False):
            list_.append(name)
        right = fronts[1].read(names[1], advance=once)
        if not self.regress:
            yield from (({}, values) for values in right)
            return
        yield from zip(fronts[0].read(names[0], advance=once), right, strict=True)


def _check(layer: str, names: list[str], values: Batch, number: int) -> None:
    for name in names:
        if not np.isfinite(values[name]).all():
            raise VerificationError(
                f"the input {name} of layer {layer} is NaN or infinite in calibration batch {number}; "
                f"check the model on this batch"
            )


def _added_to(layer: LinearLayer) -> str | None:
    """Name of the value that an Add behind the layer, its bias or batch normalisation adds to its output."""
    if len(layer.uses) != 1:
        return None
    value = _behind(layer)[0]
    behind = None if value is None else only_consumer(value)
    if value is None or behind is None or behind.domain != "" or behind.op_type != "Add":
        return None
    other = operand_other_than(behind, value)
    if other is None or constant_of(other) is not None or not _same_shape(other, value):
        return None
    return other.name


def _behind(layer: LinearLayer) -> tuple[ir.Value | None, np.ndarray]:
    """The output behind the bias or batch normalisation, and what the latter multiplies each output by."""
    value, ones = layer.uses[0].node.outputs[0], np.ones(layer.shape[layer.axis])
    behind = only_consumer(value)
    if behind is None or behind.domain != "":
        return value, ones
    if behind.op_type == "BatchNormalization":
        scale, variance = (constant_of(behind.inputs[place]) for place in (1, 4))
        if scale is None or variance is None:
            return None, ones
        root = np.sqrt(variance.astype(np.float64) + attribute_float(behind, "epsilon", 1e-5))
        return behind.outputs[0], scale / root
    if layer.bias is not None and layer.bias in behind.inputs:
        return behind.outputs[0] if behind.op_type == "Add" else None, ones
    return value, ones


def _same_shape(one: ir.Value, other: ir.Value) -> bool:
    return one.shape is not None and other.shape is not None and tuple(one.shape) == tuple(other.shape)


def _rows_of(array: np.ndarray, layer: LinearLayer) -> np.ndarray:
    """[groups, rows, outputs of a group] of what has the shape of a layer's output."""
    if layer.uses[0].anchor.op_type == "Conv":
        array = np.moveaxis(array, 1, -1)
    flat = array.reshape(-1, layer.groups, array.shape[-1] // layer.groups)
    return np.ascontiguousarray(flat.transpose(1, 0, 2))
