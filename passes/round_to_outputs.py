"""Choose the 8-bit codes and biases that keep each layer's output as it was; nothing is trained.

Y = W X + b  ->  codes Q and bias b' for which ||Y - s Q Z - b'||² is small, Z being the inputs in 8 bits
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir

from sparsecc.ir.edit import constant_of, replace_constant
from sparsecc.ir.provenance import record
from sparsecc.ir.quantized import LARGEST, quantize_matrix
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.moments import MAX_COLUMNS, rows
from sparsecc.passes.frontier import Frontier

HELD_BYTES = 1 << 29
"""The largest value over all batches that are used, of which some are in memory at once."""
ROWS = 1 << 16
"""Rows per layer that are enough for a mean, and for the products of few columns."""
ROWS_PER_COLUMN = 64
"""Rows per layer that are enough for the products of many columns; of more only every n-th is read."""
DAMPING = 0.01
"""Pull towards the weights as they were, as a share of the mean of the diagonal."""
SWEEPS = 4
"""Over all columns; codes hardly change any more after."""
BLOCK = 64
"""Columns between which the gradient is computed anew, as a product of matrices."""


def round_to_outputs(
    dense: ir.Model,
    model: ir.Model,
    weights: Collection[ir.Value],
    calibration: Calibration,
    shapes: Mapping[str, tuple[int, ...] | None],
) -> int:
    """Move weights to grids of 8 bits, and biases by the mean error that is left.

    One layer after the other, in the order of the graph, with what the dense model and the model in 8 bits,
    as far as it has been fitted, compute on the data. A layer's error is a square of its weights, once the
    bias that is best for them is put in (Nagel et al. 2019, "Data-Free Quantization Through Weight
    Equalization and Bias Correction", section 4.2). Beginning at the nearest codes, each column in turn takes
    the codes that are best for those of all others, so the error never grows on the data (Behdin et al. 2023,
    "QuantEase"). Zeros stay zeros, and the largest weight of an output stays at code 127. Damping, and
    columns / rows added to it, hold few data off.

    Layers of more than `MAX_COLUMNS` columns, or whose weight other ops read or different nodes use
    differently, are left as they are.

    Args:
        dense: float32.
        model: the same with activations in 8 bits and weights in float32; gets the weights and biases.
        weights: initializers of `model`, float32, that will be stored as int8 with a scale per output.
        calibration: inputs that fit the model; the first batches, up to `HELD_BYTES`, are used.
        shapes: of the dense model's values in the first batch, by name.

    Returns:
        The number of layers that were fitted.

    Raises:
        VerificationError: ONNX Runtime cannot run the models on the data.
    """
    largest = max((4 * math.prod(shape) for shape in shapes.values() if shape is not None), default=0)
    count = max(1, HELD_BYTES // max(1, largest))
    batches = [batch for batch, _ in islice(calibration.stream(model), count)]
    data = Calibration(batches)
    originals = {layer.name: layer for layer in linear_layers(dense)[0]}
    before, after = Frontier(dense, data), Frontier(model, data)
    done = 0
    for layer in linear_layers(model)[0]:
        if layer.value not in weights or layer.columns > MAX_COLUMNS or _is_fused(layer):
            continue
        per_batch = sum(math.prod(shapes.get(use.node.outputs[0].name or "") or ()) for use in layer.uses)
        positions = per_batch * len(batches) // layer.shape[layer.axis]
        every = max(1, positions // max(ROWS, ROWS_PER_COLUMN * layer.columns))
        _fit(layer, _sums(originals[layer.name], layer, before, after, every))
        done += 1
    return done


def _is_fused(layer: LinearLayer) -> bool:
    """Whether a node is a call whose inputs are not those of the layer."""
    return any(use.node is not use.anchor for use in layer.uses)


@dataclass
class Sums:
    """Products of rows over the data, n columns and with a bias a constant one.

    Attributes:
        gram: Z Z', [groups, n, n] float64.
        target: Y Z', [groups, outputs of a group, n] float64.
        rows: number of rows.
    """

    gram: np.ndarray
    target: np.ndarray
    rows: int = 0


def _sums(dense: LinearLayer, layer: LinearLayer, before: Frontier, after: Frontier, every: int) -> Sums:
    """Of every n-th row."""
    bias = _bias(dense) if layer.bias is not None else None
    weights = dense.matrix if bias is None else np.concatenate([dense.matrix, bias], axis=2)
    groups, outputs, columns = weights.shape
    sums = Sums(np.zeros((groups, columns, columns)), np.zeros((groups, outputs, columns)))
    once = len(layer.uses) == 1  # past its first use the front would keep what others see of it as it was
    for left, right in zip(
        before.read(dense.input_names, advance=once), after.read(layer.input_names, advance=once), strict=True
    ):
        constant = bias is not None
        parts = zip(rows(dense, left, constant, every), rows(layer, right, constant, every), strict=True)
        for x, z in parts:
            sums.gram += z.transpose(0, 2, 1) @ z
            sums.target += (weights @ x.transpose(0, 2, 1)) @ z
            sums.rows += z.shape[1]
    return sums


def _bias(layer: LinearLayer) -> np.ndarray:
    """[groups, outputs of a group, 1] float64."""
    array = constant_of(layer.bias)
    assert array is not None
    return layer.bias_sign * array.astype(np.float64).reshape(layer.groups, -1, 1)


def _fit(layer: LinearLayer, sums: Sums) -> None:
    """Replace a layer's weight by values on its grid, and its bias."""
    count, matrix = layer.columns, layer.matrix
    gram, target = sums.gram[:, :count, :count], sums.target[:, :, :count]
    inputs, outputs = sums.gram[:, :count, count:], sums.target[:, :, count:]
    if layer.bias is not None:  # the bias that is best for any codes, put in
        gram = gram - inputs @ inputs.transpose(0, 2, 1) / sums.rows
        target = target - outputs @ inputs.transpose(0, 2, 1) / sums.rows
    pull = (DAMPING + count / max(1, sums.rows)) * np.trace(gram, axis1=1, axis2=2) / count
    gram = gram + pull[:, None, None] * np.eye(count)
    found = quantize_matrix(matrix.reshape(-1, count).astype(np.float32), 8)
    codes = found.codes.reshape(matrix.shape).astype(np.float64)
    scale = found.scale.reshape(*matrix.shape[:2], 1).astype(np.float64)
    fixed = matrix == 0
    np.put_along_axis(fixed, np.abs(matrix).argmax(axis=2, keepdims=True), values=True, axis=2)
    descend(codes, scale, fixed, gram, target + pull[:, None, None] * matrix)
    rounded = (found.scale[:, None] * codes.reshape(-1, count)).astype(np.float32)
    replace_constant(layer.value, layer.array_of(rounded))
    if layer.bias is not None:
        column = (outputs - (scale * codes) @ inputs) / sums.rows
        replace_constant(layer.bias, (layer.bias_sign * column).reshape(-1).astype(np.float32))
        record(layer.bias, "quantize-static")


def descend(
    codes: np.ndarray,
    scale: np.ndarray,
    fixed: np.ndarray,
    gram: np.ndarray,
    target: np.ndarray,
    bits: int = 8,
) -> None:
    """Lessen q G q' - 2 q t' for q = scale x codes, one column at a time for all outputs, in place.

    Args:
        codes: [groups, outputs, columns], whole numbers of magnitude 127 or 7 at most.
        scale: [groups, outputs, columns], or one for all columns, positive.
        fixed: [groups, outputs, columns], codes that stay.
        gram: G, [groups, columns, columns], symmetric and without negative eigenvalues.
        target: t, [groups, outputs, columns].
        bits: 8 or 4.
    """
    count, largest = codes.shape[2], LARGEST[bits]
    scale = np.broadcast_to(scale, codes.shape)
    for _ in range(SWEEPS):
        changed = False
        for start in range(0, count, BLOCK):
            block = slice(start, min(start + BLOCK, count))
            slope = (scale * codes) @ gram[:, :, block] - target[:, :, block]
            for column in range(start, block.stop):
                curve = gram[:, column, column, None]
                away = slope[:, :, column - start] / np.where(curve > 0, curve, np.inf) / scale[:, :, column]
                best = np.clip(np.rint(codes[:, :, column] - away), -largest, largest)
                steps = np.where(fixed[:, :, column], 0, best - codes[:, :, column])
                if steps.any():
                    changed = True
                    codes[:, :, column] += steps
                    slope += (scale[:, :, column] * steps)[:, :, None] * gram[:, column, None, block]
        if not changed:
            return
