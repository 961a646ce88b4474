"""Criteria of the loss's first and second derivatives, taken by PyTorch on the graph itself.

With w a weight, g = dL/dw and H the Hessian of L, all in evaluation mode and L as `Calibration` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from sparsecc.errors import UsageError
from sparsecc.passes.criteria.base import Criterion, Evidence, Vote, scatter, sum_to_axis

if TYPE_CHECKING:
    import torch

    from sparsecc.passes.criteria.differentiation import Derivatives


def _derivatives(evidence: Evidence, criterion: str) -> Derivatives:
    # PyTorch is loaded only by those who ask for derivatives.
    from sparsecc.passes.criteria.differentiation import Derivatives

    return Derivatives(evidence.groups.model, evidence.data(criterion), evidence.slices)


def _elementwise(evidence: Evidence, tensors: dict[str, torch.Tensor], sign: bool = False) -> Iterator[Vote]:
    """Votes from |tensor|, or from the tensor itself where its sign means something."""

    def saliency(parameter: str, rows: np.ndarray, start: int) -> np.ndarray | None:
        if parameter not in tensors:
            return None
        array = tensors[parameter].numpy()[start : start + len(rows)]
        return array if sign else np.abs(array)

    return evidence.elementwise(saliency)


def _squared_slices(evidence: Evidence, batches: Iterable[dict[str, torch.Tensor]]) -> Iterator[Vote]:
    """Votes from the sum over batches of the square of the sum over a slice."""
    places = [(name, number) for name, slices in evidence.slices.items() for number in range(len(slices))]
    totals: dict[tuple[str, int], np.ndarray] = {}
    for tensors in batches:
        for name, number in places:
            if name in tensors:
                group, axis = evidence.slices[name][number]
                sums = scatter(sum_to_axis(tensors[name].numpy(), axis.axis), axis, group.size)
                totals[name, number] = totals.get((name, number), 0) + np.square(sums)
    for (name, number), total in totals.items():
        yield Vote(evidence.slices[name][number][0].name, total)


@dataclass(frozen=True)
class Taylor(Criterion):
    """(sum of w g over the slice)², summed over batches: the squared first-order change of the loss.

    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, eq. 8, where the sum over the
    slice stands for a gate behind it. Smaller batches see more of what single samples need.
    """

    name: ClassVar[str] = "taylor"
    summary: ClassVar[str] = "squared first-order change of the loss without the slice"
    needs_data: ClassVar[bool] = True

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        derivatives = _derivatives(evidence, self.name)
        return _squared_slices(evidence, (derivatives.times_weight(g) for g in derivatives.gradients()))


@dataclass(frozen=True)
class TaylorSecond(Criterion):
    """(sum of w g - w (H w) / 2 over the slice)², summed over batches: as `taylor` with the second order.

    Molchanov et al. 2019, eq. 4, with the Hessian-vector product of all weights.
    """

    name: ClassVar[str] = "taylor-second"
    summary: ClassVar[str] = "squared second-order change of the loss without the slice"
    needs_data: ClassVar[bool] = True

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        derivatives = _derivatives(evidence, self.name)
        weights = derivatives.weights()
        return _squared_slices(
            evidence,
            (
                derivatives.times_weight({name: g[name] - hessian[name] / 2 for name in g})
                for g, hessian in derivatives.products(weights)
            ),
        )


@dataclass(frozen=True)
class SNIP(Criterion):
    """|w g|, g summed over batches (Lee et al. 2019, SNIP: Single-shot Network Pruning)."""

    name: ClassVar[str] = "snip"
    summary: ClassVar[str] = "connection sensitivity |w g|"
    needs_data: ClassVar[bool] = True

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        derivatives = _derivatives(evidence, self.name)
        return _elementwise(evidence, derivatives.times_weight(derivatives.gradient()))


@dataclass(frozen=True)
class GraSP(Criterion):
    """w (H g): what would lower the gradient norm most if it went stays (Wang et al. 2020, GraSP).

    The paper scores -w (H g) and removes the largest; here larger means keep, so the sign is turned. Scores
    may be negative.
    """

    name: ClassVar[str] = "grasp"
    summary: ClassVar[str] = "gradient flow w (H g), of either sign"
    needs_data: ClassVar[bool] = True

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        return _elementwise(evidence, _flow(evidence, self.name), sign=True)


@dataclass(frozen=True)
class CroP(Criterion):
    """|w (H g)|: what changes the gradient norm in either direction stays (Rachwan et al. 2022, CroP)."""

    name: ClassVar[str] = "crop"
    summary: ClassVar[str] = "change of gradient flow |w (H g)|"
    needs_data: ClassVar[bool] = True

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        return _elementwise(evidence, _flow(evidence, self.name))


def _flow(evidence: Evidence, criterion: str) -> dict[str, torch.Tensor]:
    """W (H g) with g and H of the mean loss over all batches."""
    derivatives = _derivatives(evidence, criterion)
    return derivatives.times_weight(derivatives.product(derivatives.gradient()))


@dataclass(frozen=True)
class Fisher(Criterion):
    """w² h / 2 with h the empirical Fisher information, the sum over batches of g².

    LeCun et al. 1990, Optimal Brain Damage, with the Fisher in place of the Hessian's diagonal; exact for
    batches of one sample.
    """

    name: ClassVar[str] = "fisher"
    summary: ClassVar[str] = "Optimal Brain Damage with the empirical Fisher information"
    needs_data: ClassVar[bool] = True

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        derivatives = _derivatives(evidence, self.name)
        total = derivatives.zeros()
        for gradient in derivatives.gradients():
            for name, tensor in gradient.items():
                total[name].addcmul_(tensor, tensor)
        return _elementwise(evidence, derivatives.times_square(total, 0.5))


@dataclass(frozen=True)
class HessianDiagonal(Criterion):
    """|w² h / 2| with h the Hessian's diagonal estimated by Hutchinson's probes z ⊙ (H z), z = ±1.

    LeCun et al. 1990, Optimal Brain Damage; the estimator of Bekas et al. 2007.

    Options:
        probes: number of vectors z; the error falls with its root.
    """

    probes: int = 8

    name: ClassVar[str] = "hessian-diagonal"
    summary: ClassVar[str] = "Optimal Brain Damage with Hutchinson's estimate of the Hessian's diagonal"
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise UsageError(f"criterion {self.name} needs at least 1 probe, not {self.probes}")

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis of every trained parameter."""
        derivatives = _derivatives(evidence, self.name)
        total = derivatives.zeros()
        for number in range(self.probes):
            probe = derivatives.signs(evidence.seed, number)
            for name, product in derivatives.product(probe).items():
                total[name].addcmul_(probe[name], product)
        return _elementwise(evidence, derivatives.times_square(total, 0.5 / self.probes))
