"""Estimate the running mean and variance of batch normalisations anew on calibration data.

Pruned inputs shift and shrink what a batch normalisation sees; its statistics are sums over data.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import replace_constant
from sparsecc.ir.provenance import record
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.moments import Values


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


def estimate(model: ir.Model, node: ir.Node, calibration: Calibration) -> None:
    """Set mean and variance [C] over batch and space (Ioffe and Szegedy 2015), those before it as they are.

    Args:
        model: changed in place.
        node: one of `normalizations(model)`.
        calibration: inputs like the training data.

    Raises:
        UsageError: data that do not fit the model.
    """
    data, _, _, mean, variance = node.inputs
    assert data is not None and mean is not None and variance is not None
    values = Values(model, [data.name or ""])
    count, center, squares = 0, np.zeros(1), np.zeros(1)
    for batch, _ in calibration.stream(model):
        array = np.asarray(values.run(batch)[data.name or ""], np.float64)
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
