"""Estimate the running mean and variance of batch normalisations anew on calibration data.

Pruned inputs shift and shrink what a batch normalisation sees; its statistics are sums over data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import replace_constant
from sparsecc.ir.provenance import record
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.frontier import Frontier


def normalizations(model: ir.Model) -> list[ir.Node]:
    """BatchNormalization nodes of the main graph whose statistics are initializers that only they read."""
    return [
        node
        for node in model.graph
        if node.domain == ""
        and node.op_type == "BatchNormalization"
        and all(
            value is not None and value.is_initializer() and len(value.uses()) == 1
            for value in node.inputs[3:5]
        )
    ]


def estimate(node: ir.Node, values: Frontier) -> None:
    """Set mean and variance [C] over batch and space (Ioffe and Szegedy 2015), those before it as they are.

    Args:
        node: one of `normalizations(model)`; its mean and variance are changed.
        values: of the model, which have not come past the node.
    """
    data, _, _, mean, variance = node.inputs
    assert data is not None and mean is not None and variance is not None
    count, center, squares = 0, np.zeros(1), np.zeros(1)
    for batch in values.read([data.name or ""]):
        array = np.asarray(batch[data.name or ""], np.float64)
        array = np.moveaxis(array, 1, 0).reshape(array.shape[1], -1)
        # Chan et al. 1979: combining means and squared deviations loses no digits.
        own = array.mean(axis=1)
        share = array.shape[1] / (count + array.shape[1])
        squares = (
            squares + np.square(array - own[:, None]).sum(axis=1) + np.square(own - center) * count * share
        )
        center = center + (own - center) * share
        count += array.shape[1]
    for value, found in ((mean, center), (variance, squares / count)):
        assert value.const_value is not None
        replace_constant(value, found.astype(value.const_value.dtype.numpy()))
        record(value, "reconstruct")


def adapted(model: ir.Model, calibration: Calibration) -> ir.Model:
    """A copy whose statistics are those of other data than the training data.

    After each batch normalisation such data then have the mean and variance that training data have, so that
    the layers behind see inputs of the scale that they were trained for (AdaBN, Li et al. 2017).

    Args:
        model: not changed; weights are shared.
        calibration: the other data, or noise.
    """
    copy = model.clone()
    values = Frontier(copy, calibration)
    for node in normalizations(copy):
        estimate(node, values)
    return copy


class Statistics:
    """Means and variances of a model, of its adapted copy, and of what is pruned from them.

    Args:
        original: with the statistics of the training data.
        copy: of `adapted`.
        masks: name of a mean or variance -> mask of what stays.
    """

    def __init__(self, original: ir.Model, copy: ir.Model, masks: Mapping[str, np.ndarray]) -> None:
        self._masks = masks
        self._original, self._copy = _statistics(original, masks), _statistics(copy, masks)

    def adapt(self, pruned: ir.Model) -> None:
        """Give a pruned model the statistics of the copy, in place."""
        for (name, _), array in self._copy.items():
            _set(pruned, name, array)

    def restore(self, pruned: ir.Model) -> None:
        """Undo `adapt` in place; what reconstruction added to a mean stays."""
        for (name, moved), array in self._original.items():
            shift = _get(pruned, name) - self._copy[name, moved] if moved else 0
            _set(pruned, name, array + shift)


def _statistics(model: ir.Model, masks: Mapping[str, np.ndarray]) -> dict[tuple[str, bool], np.ndarray]:
    """(name, whether it is a mean) -> what stays of it in float64."""
    names = [
        (node.inputs[number].name or "", number == 3)  # pyright: ignore[reportOptionalMemberAccess]
        for node in normalizations(model)
        for number in (3, 4)
    ]
    return {(name, mean): _get(model, name)[masks[name]] for name, mean in names}


def _get(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def _set(model: ir.Model, name: str, array: np.ndarray) -> None:
    value = model.graph.initializers[name]
    assert value.const_value is not None
    replace_constant(value, array.astype(value.const_value.dtype.numpy()))
