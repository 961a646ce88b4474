"""Outputs that are classes: where these lie, how far two answers are apart, and whether a graph has such."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.edit import constant_of

LOSSES = ("kl", "squared")
"""How two outputs are compared: as classes, or as numbers."""
ROUNDING = 1e-3
"""By how much probabilities may miss the sum of 1."""
LEAST_PROBABILITY = 1e-12
NO_CLASSES = "the first output has no classes to compare; choose the loss squared"
_ROWS = 256
"""Answers that are compared at a time: vocabularies are large."""
_SAME_WEIGHT = ("Cast", "DequantizeLinear", "Identity", "Reshape", "Transpose")
"""Ops behind a stored weight that leave it one."""
_SAME_CLASSES = (
    "Add", "Cast", "Div", "Flatten", "Identity", "Mul", "Reshape", "Resize", "Squeeze", "Transpose",
    "Unsqueeze",
)  # fmt: skip
"""Ops behind a classifier's last layer that leave it one; those of two inputs with a constant."""


def class_axis(shape: Sequence[int]) -> int | None:
    """Where the loss of `Calibration` takes an output's classes to be: axis 1 of four or more, else the last.

    None where that has size 1 or there is none.
    """
    axis = 1 if len(shape) >= 4 else len(shape) - 1
    return None if not shape or shape[axis] == 1 else axis


def class_divergence(
    outputs: Iterable[Sequence[np.ndarray]], expected: Iterable[Sequence[np.ndarray]]
) -> float:
    """Kullback-Leibler divergence of the first output's classes, in nats, averaged over all answers.

    Args:
        outputs, expected: for each batch the outputs in the graph's order; logits or probabilities.

    Raises:
        UsageError: there is no output of floats, or the first has no classes.
        VerificationError: the expected outputs are NaN or infinite.
    """
    total, count = 0.0, 0
    for found, wanted in zip(outputs, expected, strict=True):
        place = next((n for n, one in enumerate(wanted) if np.issubdtype(one.dtype, np.floating)), None)
        axis = None if place is None else class_axis(wanted[place].shape)
        if place is None or axis is None:
            raise UsageError(NO_CLASSES)
        if not np.isfinite(wanted[place]).all():
            raise VerificationError(f"output {place} of the model is NaN or infinite on these data")
        pair = (_log_probabilities(one[place], axis) for one in (found, wanted))
        for ours, theirs in zip(*pair, strict=True):
            total += float((np.exp(theirs) * (theirs - ours)).sum())
            count += len(theirs)
    return total / max(count, 1)


def _log_probabilities(output: np.ndarray, axis: int) -> Iterator[np.ndarray]:
    """[answers, classes] in float64, some answers at a time."""
    rows = np.moveaxis(output, axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    done = bool((rows >= 0).all()) and bool((np.abs(rows.sum(-1, dtype=np.float64) - 1) < ROUNDING).all())
    for start in range(0, len(rows), _ROWS):
        part = rows[start : start + _ROWS].astype(np.float64)
        if done:
            yield np.log(np.maximum(part, LEAST_PROBABILITY))
            continue
        part -= part.max(-1, keepdims=True)
        yield part - np.log(np.exp(part).sum(-1, keepdims=True))


def chosen_loss(loss: str | None, model: ir.Model) -> str:
    """The loss that was asked for, or the one that suits the graph where none was.

    Raises:
        UsageError: there is no such loss.
    """
    if loss not in (None, *LOSSES):
        raise UsageError(f"the loss is one of {', '.join(LOSSES)}, not {loss!r}")
    return loss or loss_of(model)


def loss_of(model: ir.Model) -> str:
    """How an output's change is measured where nothing is said: kl if it looks like classes, else squared.

    It does where the graph has one output of floats, made by a softmax or by a layer with a weight of its
    own and nothing but shapes, sums and factors behind it; embeddings that come out of a normalisation and
    several outputs do not.
    """
    floats = [out for out in model.graph.outputs if out.dtype is not None and out.dtype.is_floating_point()]
    if len(floats) != 1:
        return "squared"
    shape = floats[0].shape
    if shape is not None and class_axis([d if isinstance(d, int) else 2 for d in shape]) is None:
        return "squared"
    value: ir.Value | None = floats[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("Softmax", "LogSoftmax"):
            return "kl"
        if node.op_type in ("Gemm", "MatMul", "Conv"):
            return "kl" if any(map(_is_weight, node.inputs)) else "squared"
        free = [each for each in node.inputs if each is not None and constant_of(each) is None]
        if node.op_type not in _SAME_CLASSES or len(free) != 1:
            return "squared"
        value = free[0]
    return "squared"


def _is_weight(value: ir.Value | None) -> bool:
    while value is not None and (node := value.producer()) is not None and node.op_type in _SAME_WEIGHT:
        value = node.inputs[0]
    return value is not None and constant_of(value) is not None
