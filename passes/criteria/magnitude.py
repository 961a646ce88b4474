"""Criteria of weights alone: norms, distance to the geometric median, batch-norm scales, and chance."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sparsecc.passes.criteria.base import Criterion, Evidence, Vote, batch_norm_inputs, scatter

BLOCK_ROWS = 256
"""Slices whose distances to all others are in memory at once."""


@dataclass(frozen=True)
class L1(Criterion):
    """Sum of |w| over a slice (Li et al. 2017, Pruning Filters for Efficient ConvNets)."""

    name: ClassVar[str] = "l1"
    summary: ClassVar[str] = "sum of the absolute weights of a slice"

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every parameter."""
        return evidence.elementwise(lambda _, rows, __: np.abs(rows))


@dataclass(frozen=True)
class L2(Criterion):
    """Root of the sum of w² over a slice (the norm that Li et al. 2017 compare with)."""

    name: ClassVar[str] = "l2"
    summary: ClassVar[str] = "Euclidean norm of a slice"

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every parameter."""
        return evidence.elementwise(lambda _, rows, __: np.square(rows, dtype=np.float64), np.sqrt)


@dataclass(frozen=True)
class GeometricMedian(Criterion):
    """Sum of the distances from a slice to all others of its axis: small for what others can stand in for.

    He et al. 2019, Filter Pruning via Geometric Median (FPGM). Parameters of one axis have no slices with a
    geometry and do not vote.
    """

    name: ClassVar[str] = "fpgm"
    summary: ClassVar[str] = "sum of distances to all other slices"

    def votes(self, evidence: Evidence) -> Iterator[Vote]:
        """One vote per axis of every parameter of two or more axes."""
        for parameter, places in evidence.slices.items():
            weight = evidence.weight(parameter)
            if weight.ndim < 2:
                continue
            sums: dict[int, np.ndarray] = {}
            for group, axis in places:
                if axis.axis not in sums:
                    sums[axis.axis] = sum_of_distances(weight, axis.axis)
                yield Vote(group.name, scatter(sums[axis.axis], axis, group.size))


@dataclass(frozen=True)
class BatchNormScale(Criterion):
    """|gamma| of the batch normalisations over a channel (Liu et al. 2017, network slimming)."""

    name: ClassVar[str] = "bn-scale"
    summary: ClassVar[str] = "absolute scale of batch normalisation"

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per scale of a BatchNormalization node; other parameters do not vote."""
        scales = batch_norm_inputs(evidence.groups.model, (1,))
        return evidence.elementwise(lambda name, rows, _: np.abs(rows) if name in scales else None)


@dataclass(frozen=True)
class Random(Criterion):
    """Uniform numbers, the baseline that a criterion must beat."""

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "uniform random numbers"

    def votes(self, evidence: Evidence) -> Iterator[Vote]:
        """One vote per group, which depends on the seed and the group's name only."""
        for group in evidence.wanted:
            generator = np.random.default_rng([evidence.seed, zlib.crc32(group.name.encode())])
            yield Vote(group.name, generator.random(group.size))


def sum_of_distances(weight: np.ndarray, axis: int) -> np.ndarray:
    """For each slice along an axis the sum of its Euclidean distances to all slices: [size] float64."""
    slices = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    # Distances do not depend on the origin, and round better around the mean.
    slices -= slices.mean(axis=0)
    squares = np.einsum("ij,ij->i", slices, slices)
    total = np.zeros(len(slices))
    for start in range(0, len(slices), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        # Each pair once: the block against itself and all that comes after.
        distances = squares[block, None] + squares[None, start:] - 2 * (slices[block] @ slices[start:].T)
        np.fill_diagonal(distances, 0)
        distances = np.sqrt(np.maximum(distances, 0))
        total[block] += distances.sum(axis=1)
        total[start + BLOCK_ROWS :] += distances[:, BLOCK_ROWS:].sum(axis=0)
    return total
