"""The structured optimal brain surgeon: what the outputs of the layers that read a slice lose without it.

For a layer Y = W X and H = X X': the least squared error of Y without the columns q, all others updated at
best, is the sum over rows of W[:,q] inv(inv(H)[q,q]) W[:,q]' (OBSPA in SPA, arXiv 2403.18955).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparsecc.axes.groups import GroupAxis
from sparsecc.errors import UsageError
from sparsecc.passes.criteria.base import Criterion, Evidence, Vote
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.moments import MAX_COLUMNS, second_moments
from sparsecc.passes.reconstruct_batch_norm import adapted


@dataclass(frozen=True)
class StructuredOBS(Criterion):
    """Structured OBS score on the inputs of convolutions and matrix products, as OBSPA has it.

    Reads inputs of the layers only, no gradients; without calibration data they are made from noise, as in
    the data-free setting of OBSPA. Only weights that sum over a group's indices vote, with the mean of their
    inputs taken up by the bias where they have one; layers of more than 8192 columns and weights that other
    ops share do not.

    A vote is the share of the layer's output energy, mean taken out, that goes with the slice, so that layers
    of different scale have an equal say.

    Options:
        damping: added to the diagonal of H, as a share of its mean.
        noise_batches: number of batches of noise where there are no data; 0 as `Calibration.noise` has it.
        adapt: whether the data are unlike the training data: batch-norm statistics are then theirs, as they
            always are with noise, and noise is added to text and pictures.
    """

    damping: float = 0.01
    noise_batches: int = 0
    adapt: bool = False

    name: ClassVar[str] = "obspa"
    summary: ClassVar[str] = "least output error of the reading layers without the slice"

    def __post_init__(self) -> None:
        if not self.damping > 0:
            raise UsageError(f"the damping of criterion {self.name} must be positive, not {self.damping}")
        if self.noise_batches < 0:
            raise UsageError(
                f"criterion {self.name} takes 0 batches of noise or more, not {self.noise_batches}"
            )

    def votes(self, evidence: Evidence) -> Iterator[Vote]:
        """One vote per weight that sums over a group."""
        model = evidence.groups.model
        data = evidence.calibration or Calibration.noise(evidence.groups, self.noise_batches, evidence.seed)
        if self.adapt and evidence.calibration is not None:
            data = data.with_noise(model, evidence.seed)
        if self.adapt or evidence.calibration is None:
            model = adapted(model, data)
        readers = [
            layer
            for layer in linear_layers(model)[0]
            if layer.columns <= MAX_COLUMNS
            and any(axis.axis == layer.input_axis for _, axis in evidence.slices.get(layer.name, []))
        ]
        for layer, moments in second_moments(model, readers, data):
            inverse = damped_inverse(moments.sums, layer.columns, self.damping)
            matrix = layer.matrix
            matrix *= np.einsum("gii->gi", moments.sums)[:, None, : layer.columns] > 0
            energy = output_energy(matrix, moments.sums)
            for group, axis in evidence.slices[layer.name]:
                if axis.axis == layer.input_axis:
                    scores = block_scores(matrix, inverse, _columns(layer, axis, group.size))
                    yield Vote(group.name, scores / energy if energy > 0 else scores)


def damped_inverse(moments: np.ndarray, columns: int, damping: float) -> np.ndarray:
    """Inverse of H + damping x mean(diag H) x I over the first `columns`; inputs that are always 0 get 1.

    Args:
        moments: [groups, n, n] with n = columns, or columns + 1 with a constant input, which is not damped.
        columns: number of inputs.
        damping: share of the mean of the diagonal.
    """
    damped = moments.copy()
    for matrix in damped:
        diagonal = matrix[range(columns), range(columns)]
        matrix[range(columns), range(columns)] += np.where(diagonal > 0, damping * diagonal.mean(), 1)
    return np.linalg.inv(damped)


def output_energy(matrix: np.ndarray, moments: np.ndarray) -> float:
    """Sum over rows of W H W', less that of the mean where H has a last row for a constant input.

    Args:
        matrix: W, [groups, rows, columns].
        moments: H, [groups, columns, columns] or one more of each.
    """
    columns = matrix.shape[2]
    own = moments[:, :columns, :columns]
    if moments.shape[1] > columns:
        means = moments[:, columns, :columns]
        own = own - means[:, :, None] * means[:, None, :] / moments[:, columns, columns, None, None]
    return float(np.einsum("gij,gij->", matrix @ own, matrix))


def block_scores(matrix: np.ndarray, inverse: np.ndarray, blocks: list[np.ndarray]) -> np.ndarray:
    """Sum over rows of W[:,q] inv(inv(H)[q,q]) W[:,q]' for each block of columns q.

    Args:
        matrix: W, [groups, rows, columns].
        inverse: of H, [groups, columns or more, columns or more].
        blocks: positions of columns, alike for all groups; an empty one scores 0.
    """
    scores = np.zeros(len(blocks))
    for number, block in enumerate(blocks):
        for weights, own in zip(matrix[:, :, block], inverse, strict=True):
            scores[number] += float(np.sum(np.linalg.solve(own[np.ix_(block, block)], weights.T) * weights.T))
    return scores


def _columns(layer: LinearLayer, axis: GroupAxis, size: int) -> list[np.ndarray]:
    """Columns of the layer that go with each index of a group."""
    window = np.arange(layer.window)
    order = [np.asarray(axis.positions(index), np.int64) for index in range(size)]
    return [(positions[:, None] * layer.window + window).reshape(-1) for positions in order]
