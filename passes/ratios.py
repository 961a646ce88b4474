"""How sparse each layer is, by rules that solve nothing.

ERK: density of a layer ~ sum of its sizes / product of its sizes          (Evci et al. 2020, after Mocanu)
OWL: density of a layer = mean + what its share of outliers adds to it     (Yin et al. 2024)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer
from sparsecc.passes.criteria.moments import Values, rows

OUTLIER, REACH = 5.0, 0.08
"""OWL: times its layer's mean from which a weight is an outlier, and half the widest span of sparsities."""


def erk(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    """Sparsity of each layer by the rule of Erdős-Rényi kernels: small layers keep a larger share.

    Layers that would keep more than all are dense, and the others make up for it.

    Args:
        shapes: of the weights by name.
        sparsity: of all weights together.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / max(1, sizes[name]) for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        others = [name for name in shapes if name not in whole]
        room = (1 - sparsity) * sum(sizes.values()) - sum(sizes[name] for name in whole)
        scale = room / max(1e-30, sum(raw[name] * sizes[name] for name in others))
        full = {name for name in others if scale * raw[name] >= 1}
        if not full:
            return {name: 0.0 if name in whole else 1 - scale * raw[name] for name in shapes}
        whole |= full


def owl(
    model: ir.Model,
    layers: Sequence[LinearLayer],
    calibration: Calibration,
    sparsity: float,
    *,
    outlier: float = OUTLIER,
    reach: float = REACH,
) -> dict[str, float]:
    """Sparsity of each layer by its outliers: those of many keep more (outlier weighed layerwise sparsity).

    An outlier is a weight whose magnitude times the norm of its input is `outlier` times the mean of that
    over the layer.

    Args:
        model: dense.
        layers: of it.
        calibration: inputs.
        sparsity: of all weights of these layers together.
        outlier: 5 or so.
        reach: half of how far the sparsities of two layers may be apart; no more than leaves all of them
            between 0 and 1.

    Returns:
        Sparsities by the name of the initializer.

    Raises:
        UsageError: data that do not fit the model.
        VerificationError: ONNX Runtime cannot run the model on them.
    """
    shares = _outliers(model, layers, calibration, outlier)
    sizes = np.array([math.prod(layer.shape) for layer in layers], np.float64)
    span = float(np.ptp(shares)) if layers else 0.0
    if span == 0:
        return {layer.name: sparsity for layer in layers}
    added = (shares - shares.min()) / span * 2 * min(reach, sparsity / 2, (1 - sparsity) / 2)
    found = sparsity + np.average(added, weights=sizes) - added
    return {layer.name: float(share) for layer, share in zip(layers, found, strict=True)}


def _outliers(
    model: ir.Model, layers: Sequence[LinearLayer], calibration: Calibration, outlier: float
) -> np.ndarray:
    """Share of outliers among the weights of each layer."""
    values = Values(model, [name for layer in layers for name in layer.input_names])
    squares = [np.zeros((layer.groups, layer.columns)) for layer in layers]
    for batch, _ in calibration.stream(model):
        found = values.run(batch)
        for place, layer in enumerate(layers):
            for part in rows(layer, found, constant=False):
                squares[place] += np.square(part).sum(axis=1)
    shares = np.zeros(len(layers))
    for place, (layer, total) in enumerate(zip(layers, squares, strict=True)):
        scores = np.abs(layer.matrix) * np.sqrt(total)[:, None, :]
        shares[place] = np.mean(scores > outlier * scores.mean())
    return shares
