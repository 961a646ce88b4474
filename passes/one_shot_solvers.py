"""Sparse weights for one layer that keep its outputs on calibration data: Wanda, SparseGPT and ALPS.

With H = Z Z' of the inputs and T = Y Z' of inputs and wanted outputs, ||Y - W Z||² is W H W' - 2 W T' and a
constant. Each solver takes H, T and the dense weights and returns weights whose zeros follow a pattern.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sparsecc.errors import UsageError
from sparsecc.ir.encoding import Encoding
from sparsecc.passes.sparsify import keep_mask

Array = NDArray[np.floating]
Mask = NDArray[np.bool_]

DAMPING = 0.01
"""Pull towards the dense weights, as a share of the mean of the diagonal of H."""
COLUMNS = 128
"""Whose zeros SparseGPT chooses at once."""
_ITERATIONS, _EVERY, _FIRST_PENALTY, _GROWTH = 60, 3, 0.1, 1.3
_SETTLED = 1e-4  # share of the support that changed since the last penalty
_REFITS = 20
_EXCHANGES = 50


class Inputs:
    """H of a layer's inputs, and what solvers derive from it; layers that read the same inputs share one.

    Args:
        gram: H, [groups, columns, columns], without damping.
        damping: added to the diagonal, as a share of its mean; an input that is always 0 gets 1.
        mean: of each input times the root of the number of rows, [groups, 1, columns].

    Attributes:
        norms: of each input over the data, [groups, 1, columns].
    """

    def __init__(self, gram: Array, damping: float, mean: Array | None = None) -> None:
        diagonal = np.diagonal(gram, axis1=1, axis2=2)
        self.norms = np.sqrt(np.maximum(diagonal, 0))[:, None]  # of an input that never changes about 0
        self.mean = np.zeros_like(self.norms) if mean is None else mean
        self.added = np.where(diagonal > 0, damping * diagonal.mean(axis=1, keepdims=True), 1.0)
        self.gram = gram + self.added[:, :, None] * np.eye(gram.shape[1])
        self.scale = 1 / np.sqrt(np.diagonal(self.gram, axis1=1, axis2=2))[:, None]
        self._inverses: dict[int, Array] = {}

    @property
    def variance(self) -> Array:
        """Of each input, times the number of rows, [groups, 1, columns]."""
        return self.norms**2 - self.mean**2

    @cached_property
    def scaled(self) -> Array:
        """H of inputs of norm 1, float32."""
        return (self.gram * self.scale * self.scale.swapaxes(1, 2)).astype(np.float32)

    @cached_property
    def upper(self) -> Array:
        """The upper Cholesky factor of the inverse of H."""
        return np.linalg.cholesky(np.linalg.inv(self.gram)).swapaxes(1, 2)

    @cached_property
    def _spectrum(self) -> tuple[Array, Array]:
        """Eigenvalues [groups, 1, columns] and eigenvectors of `scaled`."""
        values, vectors = np.linalg.eigh(self.scaled)
        return np.maximum(values, 0)[:, None], vectors

    def inverse(self, step: int) -> Array:
        """Of `scaled` with the penalty of a step of ALPS on its diagonal."""
        if step not in self._inverses:
            values, vectors = self._spectrum
            penalty = np.float32(_FIRST_PENALTY * _GROWTH**step)
            self._inverses[step] = (vectors / (values + penalty)) @ np.ascontiguousarray(
                vectors.swapaxes(1, 2)
            )
        return self._inverses[step]


@dataclass(frozen=True)
class Problem:
    """One layer, all convolution groups.

    Attributes:
        weights: dense, [groups, outputs of a group, columns] float64; zeros stay zeros.
        inputs: H.
        target: T, [groups, outputs of a group, columns], with the pull of the damping.
        encoding: the pattern of [groups x outputs, columns].
        sparsity: share of blocks that are zero afterwards.
        slopes: norms of the loss's gradients over the batches, [groups, outputs of a group, columns].
    """

    weights: Array
    inputs: Inputs
    target: Array
    encoding: Encoding
    sparsity: float
    slopes: Array | None = None

    @staticmethod
    def of(
        weights: Array,
        inputs: Inputs,
        target: Array,
        encoding: Encoding,
        sparsity: float,
        slopes: Array | None = None,
    ) -> Problem:
        """With damping, which pulls towards the dense weights.

        An input that is always 0 keeps its weights out of the sum and from moving.
        """
        pulled = target + inputs.added[:, None] * weights
        return Problem(weights, inputs, pulled, encoding, sparsity, slopes)

    @property
    def gram(self) -> Array:
        """H with damping, [groups, columns, columns]."""
        return self.inputs.gram

    def error(self, weights: Array) -> float:
        """||Y - W Z||² with damping, less a constant."""
        return float(((weights @ self.gram - 2 * self.target) * weights).sum())

    def keep(self, scored: Array) -> Mask:
        """Which weights stay if `scored` [groups, outputs, columns] stands for them."""
        scored = np.where(self.weights == 0, 0, scored)
        matrix = scored.reshape(-1, scored.shape[2])
        return keep_mask(matrix, self.encoding, self.sparsity).reshape(scored.shape) & (self.weights != 0)


def wanda(problem: Problem) -> Array:
    """Zero what has the least |weight| x norm of its input in each output; the others stay (Sun et al. 2024).

    Blocks and N:M are chosen by the norms of these products in the whole layer.
    """
    return np.where(_keep_by_output(problem, problem.weights * problem.inputs.norms), problem.weights, 0)


def gblm(problem: Problem) -> Array:
    """As `wanda`, with norms of gradients added to those of the inputs (Das et al. 2023, GBLM-Pruner).

    Both are divided by their root mean square in the layer, in place of the paper's factor for gradients.
    """
    norms = np.broadcast_to(problem.inputs.norms, problem.weights.shape)
    slopes = np.zeros_like(norms) if problem.slopes is None else problem.slopes
    factors = sum(part / max(float(np.sqrt(np.mean(part**2))), 1e-300) for part in (norms, slopes))
    return np.where(_keep_by_output(problem, problem.weights * factors), problem.weights, 0)


def _keep_by_output(problem: Problem, scored: Array) -> Mask:
    if problem.encoding.pattern != "unstructured":
        return problem.keep(scored)
    rows = Problem(
        problem.weights, problem.inputs, problem.target, Encoding.parse("fan-in"), problem.sparsity
    )
    return rows.keep(scored)


def dsnot(problem: Problem) -> Array:
    """Exchange weights of `wanda` for zeros while the mean of an output comes nearer to what it was.

    Zhang et al. 2024, Dynamic Sparse no Training: in each output comes back what lessens the mean error most
    over the variance of its input, and what has the least |weight| x norm of its input goes, of those that
    lessen it too; in the same group with N:M.

    Raises:
        UsageError: a pattern of blocks, in which no single weight can be exchanged.
    """
    if problem.encoding.pattern == "block":
        raise UsageError(
            "method dsnot exchanges single weights, which blocks have not: choose another method"
        )
    keep = _keep_by_output(problem, problem.weights * problem.inputs.norms)
    means = problem.weights * problem.inputs.mean
    scaled = np.abs(problem.weights * problem.inputs.norms)
    gains = means / np.maximum(problem.inputs.variance, 1e-30)
    size = problem.encoding.m if problem.encoding.pattern == "n:m" else means.shape[2]
    groups = np.arange(means.shape[2]) // size
    error = np.where(keep, 0, -means).sum(axis=2, keepdims=True)
    for _ in range(_EXCHANGES):
        sign = np.sign(error)
        back = np.where(keep | (problem.weights == 0), -np.inf, -sign * gains).argmax(axis=2)[..., None]
        goes = keep & (sign * means > 0) & (groups == groups[back])
        gone = np.where(goes, scaled, np.inf).argmin(axis=2)[..., None]
        after = error + np.take_along_axis(means, back, 2) - np.take_along_axis(means, gone, 2)
        better = np.abs(after) < np.abs(error)
        better &= np.take_along_axis(goes, gone, 2) & ~np.take_along_axis(keep, back, 2)
        better &= np.take_along_axis(problem.weights, back, 2) != 0
        if not better.any():
            break
        np.put_along_axis(keep, back, np.take_along_axis(keep, back, 2) | better, 2)
        np.put_along_axis(keep, gone, np.take_along_axis(keep, gone, 2) & ~better, 2)
        error = np.where(better, after, error)
    return np.where(keep, problem.weights, 0)


def sparsegpt(problem: Problem) -> Array:
    """Zero column after column and let the columns behind make up for it (Frantar and Alistarh 2023).

    The zeros of 128 columns are chosen at once by w² / diag(U)², with U the upper Cholesky factor of inv(H);
    blocks of more rows or columns by the sum over them.
    """
    start = np.linalg.solve(problem.gram, problem.target.swapaxes(1, 2)).swapaxes(1, 2)
    start = np.where(problem.weights == 0, 0, start)
    upper = problem.inputs.upper
    found = start.copy()
    count = found.shape[2]
    for low in range(0, count, COLUMNS):
        high = min(low + COLUMNS, count)
        diagonal = np.diagonal(upper, axis1=1, axis2=2)[:, None, low:high]
        part = Problem(
            problem.weights[:, :, low:high],
            problem.inputs,
            problem.target,
            problem.encoding,
            problem.sparsity,
        )
        keep = part.keep(found[:, :, low:high] / diagonal)
        errors = np.zeros_like(found[:, :, low:high])
        for column in range(low, high):
            value = found[:, :, column]
            kept = np.where(keep[:, :, column - low], value, 0)
            error = (value - kept) / upper[:, column, column, None]
            found[:, :, column:high] -= error[:, :, None] * upper[:, None, column, column:high]
            found[:, :, column] = kept
            errors[:, :, column - low] = error
        found[:, :, high:] -= errors @ upper[:, low:high, high:]
    return found


def alps(problem: Problem) -> Array:
    """Alternate between all weights and weights in the pattern until the zeros settle (Meng et al. 2024).

    ADMM on inputs scaled to the same norm, with a penalty that grows at a fixed pace, so that layers which
    read the same inputs share its inverses, then conjugate gradients on the support that was found.
    """
    scale, gram = problem.inputs.scale, problem.inputs.scaled
    target = (problem.target * scale).astype(np.float32)
    sparse = (problem.weights / scale).astype(np.float32)
    keep = before = problem.keep(sparse)
    sparse = np.where(keep, sparse, np.float32(0))
    dual, inverse, penalty = np.zeros_like(sparse), gram, np.float32(_FIRST_PENALTY)
    for iteration in range(_ITERATIONS):
        if iteration % _EVERY == 0:
            inverse = problem.inputs.inverse(iteration // _EVERY)
            penalty = np.float32(_FIRST_PENALTY * _GROWTH ** (iteration // _EVERY))
        sparse -= dual
        sparse *= penalty
        sparse += target
        dual += sparse @ inverse
        keep = problem.keep(dual)
        sparse = np.where(keep, dual, np.float32(0))
        dual -= sparse
        if iteration % _EVERY == _EVERY - 1:
            if np.count_nonzero(keep != before) <= _SETTLED * keep.size:
                break
            before = keep
            dual /= np.float32(_GROWTH)
    found = refit(sparse, keep, gram, target) * scale
    first = np.where(problem.keep(problem.weights / scale), problem.weights, 0)
    return min((found, first), key=problem.error)


def refit(start: Array, keep: Mask, gram: Array, target: Array, steps: int = _REFITS) -> Array:
    """The best weights on a support by conjugate gradients from `start`, for each output by itself.

    Args:
        start: [groups, outputs, columns].
        keep: the support.
        gram: H with about the same diagonal everywhere, [groups, columns, columns].
        target: T, [groups, outputs, columns].
        steps: of the method; it ends early where nothing is left to gain.
    """
    found = np.where(keep, start, 0)
    residual = np.where(keep, target - found @ gram, 0)
    direction = residual.copy()
    norm = (residual**2).sum(axis=2, keepdims=True)
    first = norm.max(initial=0.0)
    for _ in range(steps):
        if not norm.max(initial=0.0) > 1e-12 * first:
            break
        along = np.where(keep, direction @ gram, 0)
        curve = (direction * along).sum(axis=2, keepdims=True)
        step = np.divide(norm, curve, out=np.zeros_like(norm), where=curve > 0)
        found += step * direction
        residual -= step * along
        after = (residual**2).sum(axis=2, keepdims=True)
        direction = residual + np.divide(after, norm, out=np.zeros_like(norm), where=norm > 0) * direction
        norm = after
    return found


SOLVERS: dict[str, Callable[[Problem], Array]] = {
    "wanda": wanda,
    "gblm": gblm,
    "dsnot": dsnot,
    "sparsegpt": sparsegpt,
    "alps": alps,
}
MASKS = ("wanda", "gblm", "dsnot")
"""Methods that choose zeros and change no weight."""
