"""`knee`: up to which share of zeros one-shot pruning hardly changes a model's outputs.

Essential sparsity (Jaiswal et al. 2023): what weights can go at once, before damage rises fast.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError
from sparsecc.ir.evaluate import outputs_of
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.sensitivity import divergence
from sparsecc.sparsifier import sparsify

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""

SPARSITIES = tuple(step / 20 for step in range(2, 20))
"""10 to 95 %."""


@dataclass(frozen=True)
class KneeResult:
    """Damage over sparsity.

    Attributes:
        pattern: of the zeros.
        sparsities: that were tried.
        damages: divergence of the outputs at each, as `sensitivity.divergence` has it.
        sparsity: the knee, one of them; 0 where damage rises from the start.
    """

    pattern: str
    sparsities: tuple[float, ...]
    damages: tuple[float, ...]
    sparsity: float


def knee(
    model: ir.Model,
    calibration: Calibration,
    pattern: str = "unstructured",
    *,
    sparsities: Sequence[float] = SPARSITIES,
    method: str = "magnitude",
    scope: str = "layer",
    skip: Sequence[str] = (),
    min_size: int = 1024,
    progress: Progress | None = None,
) -> KneeResult:
    """Make a model sparse at once, ever more, and find where its outputs begin to change fast.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        calibration: some batches of inputs, on which the outputs are compared.
        pattern: as for `sparsify`, but not N:M, which has one sparsity.
        sparsities: to try, each over 0 and under 1, at least three.
        method: magnitude as in the paper, or a one-shot method, fitted to the same data.
        scope: what each layer gets, as for `sparsify`.
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
        progress: told about every sparsity.

    Raises:
        UsageError: arguments that do not exist or contradict each other, or data that do not fit.
        VerificationError: ONNX Runtime cannot run the model on the data.
    """
    shares = tuple(sorted(set(sparsities)))
    if len(shares) < 3 or not all(0 < share < 1 for share in shares):
        raise UsageError("a knee is looked for among at least three sparsities between 0 and 1")
    if ":" in pattern:
        raise UsageError(f"pattern {pattern} has one sparsity, so no knee; take blocks or unstructured")
    data = calibration.cut(model)
    expected = outputs_of(model, (batch for batch, _ in data.stream(model)))
    damages: list[float] = []
    for number, share in enumerate(shares):
        if progress is not None:
            progress("sparsify", number, len(shares))
        sparse = sparsify(
            model, pattern, share, scope=scope, skip=skip, min_size=min_size, method=method,
            calibration=None if method == "magnitude" else data,
        ).model  # fmt: skip
        damages.append(divergence(outputs_of(sparse, (batch for batch, _ in data.stream(model))), expected))
    return KneeResult(pattern, shares, tuple(damages), find_knee(shares, damages))


def find_knee(sparsities: Sequence[float], damages: Sequence[float]) -> float:
    """The sparsity that is furthest below the line from no zeros to the most.

    This is Kneedle (Satopää et al. 2011) on a convex curve, without its smoothing. Damage over 1, outputs
    that say less than their mean, counts as 1.

    Args:
        sparsities: rising, over 0.
        damages: divergences.

    Returns:
        One of the sparsities, or 0 where none is below the line.
    """
    x = np.concatenate([[0.0], sparsities]) / sparsities[-1]
    y = np.concatenate([[0.0], np.minimum(damages, 1.0)])
    below = x - y / max(float(y[-1]), 1e-30)
    if y[-1] <= 0:
        return sparsities[-1]
    place = int(below.argmax())
    return float(sparsities[place - 1]) if place else 0.0
