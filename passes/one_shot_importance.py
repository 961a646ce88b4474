"""How much the loss minds an error of each output of each layer, and what sparsity that gives each layer.

With G = dL/dW of one batch, E[G²] is about the product of an output's E[(dL/dy)²] and an input's E[x²].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.ir.edit import constant_of
from sparsecc.ir.encoding import Encoding, as_matrix
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer
from sparsecc.passes.sparsify import block_scores

Array = NDArray[np.floating]

REACH = 0.2
"""How far a layer's sparsity may be from the mean: one that is nearly emptied breaks what is behind it."""
FLOOR = 0.05
"""Importance of an output is at least this share of its layer's mean: a few batches do not show all."""


def squared_gradients(
    model: ir.Model, layers: Sequence[LinearLayer], calibration: Calibration
) -> dict[str, NDArray[np.float32]]:
    """Weighted sum of (dL/dw)² of the batches, for each layer [outputs, columns] as in a pattern, by name.

    Args:
        model: the dense network.
        layers: of it.
        calibration: with the loss, as `Calibration` says.

    Raises:
        UnsupportedOpError: an op without a PyTorch form.
        UsageError: data or a loss that do not fit the model.
        VerificationError: a loss that is not finite.
    """
    # PyTorch is loaded only by those who ask for derivatives.
    from sparsecc.passes.criteria.differentiation import Derivatives

    derivatives = Derivatives(model, calibration, {layer.name for layer in layers})
    total = derivatives.zeros()
    for number, gradient in enumerate(derivatives.gradients()):
        for name, tensor in gradient.items():
            total[name].addcmul_(tensor, tensor, value=calibration.weight(number))
    by_name = {layer.name: layer for layer in layers}
    return {name: as_matrix(tensor.numpy(), by_name[name].axis) for name, tensor in total.items()}


def output_importance(gradients: Array) -> Array:
    """Importance of each output [outputs, 1], of mean 1, from squared gradients [outputs, columns]."""
    sums = gradients.sum(axis=1, keepdims=True, dtype=np.float64)
    mean = sums.mean()
    return np.maximum(sums / mean, FLOOR) if mean > 0 else np.ones_like(sums)


def layer_shares(
    layers: Sequence[LinearLayer],
    gradients: Mapping[str, Array],
    encoding: Encoding,
    sparsity: float,
) -> dict[str, float]:
    """Sparsity of each layer for which the zeros over all are as many as asked for.

    One threshold holds for all blocks, on w² E[(dL/dy)²] E[x²] summed over a block, the second-order change
    of the loss without it (LeCun et al. 1990, with the gradients' squares for the Hessian's diagonal and its
    factors for noise; Singh and Alistarh 2020). No layer is further than `REACH` from the mean.

    Args:
        layers: of the dense network.
        gradients: of `squared_gradients`; layers that are absent get the mean.
        encoding: the pattern; N:M and fan-in have their own sparsity in every layer.
        sparsity: over all layers.
    """
    known = [layer for layer in layers if layer.name in gradients]
    if encoding.pattern in ("n:m", "fan-in") or not known:
        return {}
    scores = [np.sort(_saliency(layer, gradients[layer.name], encoding).reshape(-1)) for layer in known]
    sizes = np.array([score.size for score in scores])
    low, high = max(0.0, sparsity - REACH), min(0.99, sparsity + REACH)
    least, most = np.rint(low * sizes), np.rint(high * sizes)
    wanted = round(sparsity * sizes.sum())

    def counts(threshold: float) -> NDArray[np.float64]:
        found = [np.searchsorted(score, threshold, side="right") for score in scores]
        return np.clip(np.array(found, np.float64), least, most)

    bottom, top = -745.0, 709.0  # logarithms of all positive numbers
    for _ in range(100):
        middle = (bottom + top) / 2
        if counts(np.exp(middle)).sum() < wanted:
            bottom = middle
        else:
            top = middle
    found = counts(np.exp(top))
    for number in np.argsort(-sizes):  # ties at the threshold
        moved = np.clip(found[number] + wanted - found.sum(), least[number], most[number])
        found[number] = moved
    return {layer.name: float(count / size) for layer, count, size in zip(known, found, sizes, strict=True)}


def factors(gradients: Array) -> Array:
    """What the loss makes of an error of each weight: the root of E[(dL/dy)²] E[x²], [outputs, columns]."""
    rows, columns = (gradients.sum(axis=axis, keepdims=True, dtype=np.float64) for axis in (1, 0))
    return np.sqrt(rows * columns / max(float(rows.sum()), 1e-300))


def _saliency(layer: LinearLayer, gradients: Array, encoding: Encoding) -> Array:
    """The loss without each block, over the batches."""
    array = constant_of(layer.value)
    assert array is not None
    return block_scores(as_matrix(array, layer.axis) * factors(gradients), encoding) ** 2
