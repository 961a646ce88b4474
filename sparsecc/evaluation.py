"""What a model's outputs are worth on data that it has not seen, with confidence intervals.

Samples are drawn again with replacement, many times, and the measure is taken on each draw (Efron 1979); a
difference to a reference is taken on the same draws for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria import Calibration

TASKS = ("perplexity", "classification", "agreement", "similarity")
UNITS = {"perplexity": "", "classification": " %", "agreement": " %", "similarity": ""}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A measure and where it lies with `CONFIDENCE`.

    Attributes:
        value: on all samples.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth.

    Attributes:
        task: one of `TASKS`.
        samples: number of them, which is what is drawn again.
        score: perplexity, per cent of right classes, per cent of equal classes, or a correlation or cosine.
        reference: the same of the reference model, where there is one and the task compares with labels.
        difference: score less reference, on the same draws.
    """

    task: str
    samples: int
    score: Estimate
    reference: Estimate | None = None
    difference: Estimate | None = None


def evaluate(
    model: ir.Model,
    task: str,
    data: Calibration,
    *,
    reference: ir.Model | None = None,
    seed: int = 0,
    resamples: int = 1000,
) -> Evaluation:
    """Measure a model by its first output.

    perplexity: exp of the mean cross-entropy of [samples, positions, tokens]; the targets are ids
        [samples, positions], negative ones not counted; without targets each input id is predicted from
        those before it.
    classification: share of samples [samples, classes] whose largest output is the target [samples].
    agreement: share of places whose largest output along the last axis is that of the reference.
    similarity: with targets [samples, samples], Pearson's correlation of the cosines of all pairs of samples
        with them; without, the mean cosine of each sample's output with the reference's.

    Args:
        model: as `sparsecc.capture` gives it.
        task: one of `TASKS`.
        data: batches of inputs and, where the task needs them, targets; the first axis is samples, as many as
            the model takes at once or a multiple of it.
        reference: what `agreement` compares with; for the others, is measured too.
        seed: of the draws.
        resamples: number of draws.

    Raises:
        UsageError: a task that does not exist, or data that do not fit the model or the task.
        VerificationError: ONNX Runtime cannot run a model on the data, or its outputs are not finite.
    """
    if task not in TASKS:
        raise UsageError(f"the task is one of {', '.join(TASKS)}, not {task!r}")
    if resamples < 1:
        raise UsageError(f"the number of resamples must be positive, not {resamples}")
    data = data.cut(model)
    batches = list(data.stream(model))
    targets = None if data.targets is None else [np.asarray(target) for _, target in batches]
    inputs = [batch for batch, _ in batches]
    if reference is None and (task == "agreement" or (task == "similarity" and targets is None)):
        raise UsageError(f"task {task} compares with a reference model; give one")
    outputs = _outputs(model, inputs, "the model")
    others = None if reference is None else _outputs(reference, inputs, "the reference")
    if task == "agreement":
        assert others is not None
        mine, theirs = _agreement(outputs, others), None
    elif task == "similarity":
        mine = _similarity(outputs, targets, others)
        theirs = None if others is None or targets is None else _similarity(others, targets, None)
    else:
        measure = _perplexity if task == "perplexity" else _classification
        mine = measure(outputs, inputs, targets)
        theirs = None if others is None else measure(others, inputs, targets)
    count = sum(len(output) for output in outputs)
    generator = np.random.default_rng(seed)
    draws = [generator.integers(0, count, count) for _ in range(resamples)]
    everything = np.arange(count)

    def estimate(function: _Measure) -> Estimate:
        found = [function(draw) for draw in draws]
        ends = np.nanquantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Estimate(function(everything), float(ends[0]), float(ends[1]))

    if theirs is None:
        return Evaluation(task, count, estimate(mine))
    other = theirs
    return Evaluation(
        task, count, estimate(mine), estimate(other), estimate(lambda draw: mine(draw) - other(draw))
    )


_Measure = Callable[[np.ndarray], float]
"""The measure on samples with these numbers."""
_Arrays = Sequence[np.ndarray]


def _outputs(model: ir.Model, inputs: Sequence[dict[str, np.ndarray]], which: str) -> list[np.ndarray]:
    """The first output of each batch."""
    evaluator = Evaluator(model)
    found: list[np.ndarray] = []
    for number, batch in enumerate(inputs):
        array = next(iter(evaluator.run(batch).values()))
        if array.ndim < 2 or array.dtype.kind != "f":
            raise UsageError(
                f"the first output of {which} is {array.dtype} {list(array.shape)}, "
                f"expected floats [samples, ...]"
            )
        if not np.isfinite(array).all():
            raise VerificationError(f"the output of {which} is NaN or infinite in batch {number}")
        found.append(array)
    return found


def _perplexity(
    outputs: _Arrays, inputs: Sequence[dict[str, np.ndarray]], targets: _Arrays | None
) -> _Measure:
    sums: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for number, logits in enumerate(outputs):
        if targets is not None:
            wanted = targets[number]
        else:
            wanted, logits = _next_ids(inputs[number], logits)  # noqa: PLW2901 - the last predicts nothing
        if wanted.shape != logits.shape[:-1] or wanted.dtype.kind not in "iu":
            raise UsageError(
                f"the targets of batch {number} are {wanted.dtype} {list(wanted.shape)}, expected ids "
                f"{list(logits.shape[:-1])}"
            )
        if wanted.max(initial=0) >= logits.shape[-1]:
            raise UsageError(f"a target of batch {number} is {wanted.max()}, of {logits.shape[-1]} tokens")
        top = logits.max(-1)
        whole = top + np.log(np.exp(logits - top[..., None]).sum(-1, dtype=np.float64))
        own = np.take_along_axis(logits, np.maximum(wanted, 0)[..., None].astype(np.int64), -1)[..., 0]
        counted = wanted >= 0
        sums.append(np.where(counted, whole - own, 0).reshape(len(logits), -1).sum(1))
        counts.append(counted.reshape(len(logits), -1).sum(1))
    loss, tokens = np.concatenate(sums), np.concatenate(counts)
    if not tokens.sum():
        raise UsageError("no target counts: all are negative, or the samples have one position")
    return lambda draw: float(np.exp(loss[draw].sum() / max(1, tokens[draw].sum())))


def _next_ids(batch: dict[str, np.ndarray], logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = [array for array in batch.values() if array.dtype.kind in "iu" and array.shape == logits.shape[:-1]]
    if not ids:
        raise UsageError(
            f"no input holds ids of the shape {list(logits.shape[:-1])} to predict; give `target` in the data"
        )
    return ids[0][:, 1:], logits[:, :-1]


def _classification(
    outputs: _Arrays, inputs: Sequence[dict[str, np.ndarray]], targets: _Arrays | None
) -> _Measure:
    if targets is None:
        raise UsageError("task classification needs the classes: an array `target` in the data")
    right: list[np.ndarray] = []
    for number, (logits, target) in enumerate(zip(outputs, targets, strict=True)):
        if target.shape != logits.shape[:-1] or target.dtype.kind not in "iu":
            raise UsageError(
                f"the targets of batch {number} are {target.dtype} {list(target.shape)}, expected classes "
                f"{list(logits.shape[:-1])}"
            )
        right.append((logits.argmax(-1) == target).reshape(len(logits), -1).mean(1))
    return _mean(np.concatenate(right))


def _agreement(outputs: _Arrays, others: _Arrays) -> _Measure:
    equal: list[np.ndarray] = []
    for mine, theirs in zip(outputs, others, strict=True):
        _check_same(mine, theirs)
        equal.append((mine.argmax(-1) == theirs.argmax(-1)).reshape(len(mine), -1).mean(1))
    return _mean(np.concatenate(equal))


def _similarity(outputs: _Arrays, targets: _Arrays | None, others: _Arrays | None) -> _Measure:
    rows = _unit_rows(outputs)
    if targets is None:
        assert others is not None
        for mine, theirs in zip(outputs, others, strict=True):
            _check_same(mine, theirs)
        cosines = (rows * _unit_rows(others)).sum(1)
        return lambda draw: float(cosines[draw].mean())
    wanted = np.concatenate(targets).astype(np.float64)
    if wanted.shape != (len(rows), len(rows)):
        raise UsageError(
            f"the targets are {list(wanted.shape)}, expected a similarity for each pair of the {len(rows)} "
            f"samples"
        )
    cosines = rows @ rows.T

    def correlation(draw: np.ndarray) -> float:
        first, second = (draw[side] for side in np.triu_indices(len(draw), 1))
        differ = first != second
        pairs = first[differ], second[differ]
        return float(np.corrcoef(cosines[pairs], wanted[pairs])[0, 1]) if differ.sum() > 1 else float("nan")

    return correlation


def _unit_rows(outputs: _Arrays) -> np.ndarray:
    """[samples, all the rest] of length 1."""
    rows = np.concatenate([output.reshape(len(output), -1) for output in outputs]).astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def _check_same(mine: np.ndarray, theirs: np.ndarray) -> None:
    if mine.shape != theirs.shape:
        raise UsageError(
            f"the model gives {list(mine.shape)} and the reference {list(theirs.shape)}; "
            f"compare models with the same output"
        )


def _mean(values: np.ndarray) -> _Measure:
    return lambda draw: 100 * float(values[draw].mean())
