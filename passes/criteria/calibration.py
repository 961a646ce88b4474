"""Calibration data: batches of inputs by name, checked against the model before anything is computed.

Read as a stream, so that a data set never has to fit in memory; made of noise where there are no data.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from sparsecc.axes.groups import Groups
from sparsecc.errors import UsageError
from sparsecc.ir.shapes import value_text
from sparsecc.passes.criteria.noise import noise_input, pictures, table_rows

if TYPE_CHECKING:
    from torch import Tensor

Batch: TypeAlias = Mapping[str, "np.ndarray[Any, Any]"]
"""An array for every graph input, by name."""

Loss: TypeAlias = "Callable[[tuple[Tensor, ...], Tensor | None], Tensor]"
"""(outputs in the graph's order, target of the batch or None) -> a single number."""


NOISE_BATCHES = (32, 256)
"""Fewest and most batches of noise."""
NOISE_ENTRIES = 2**15
"""Elements of the largest input that all batches of noise have, within these numbers."""


@dataclass(frozen=True)
class Calibration:
    """Data that a criterion or a reconstruction learns from.

    Attributes:
        batches: arrays by graph input name; something that can be gone through again and again, such as a
            list, or a function that makes a new iterator each time.
        targets: one array per batch, or None.
        loss: called with the tuple of outputs and the batch's target (None without targets), as tensors;
            gives one number. None means: with integer targets the cross-entropy of the first output, whose
            classes lie along the last axis or along axis 1, whichever leaves the target's shape; with float
            targets of the first output's shape the mean squared error; without targets the cross-entropy of
            the first output against its own most likely classes, along axis 1 of four or more axes, else
            along the last, or half its mean square where that axis has size 1, and half the mean square of
            every other output, so that no part of the network goes unseen. Only outputs of floats count.
        weights: how much each batch counts where weights are made sparse, or None for 1 each. For a network
            that is run again and again on its own results, as in diffusion, the first steps count more, since
            all later ones inherit their errors (OBS-Diff, arXiv 2510.06751).

    Raises:
        UsageError: a generator, which would be empty the second time, or a weight that is not positive.
    """

    batches: Iterable[Batch] | Callable[[], Iterable[Batch]]
    targets: Sequence[np.ndarray] | None = None
    loss: Loss | None = None
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.batches, Iterator):
            raise UsageError(
                "calibration batches are read more than once, but an iterator ends after the first time; "
                "give a list, or a function that makes a new iterator"
            )
        for number, weight in enumerate(self.weights or ()):
            if not 0 < weight < math.inf:
                raise UsageError(
                    f"the weight of calibration batch {number} is {weight:g}; it must be positive"
                )

    def again(self) -> Iterable[Batch]:
        """The batches as they were given, from the first on."""
        return self.batches() if callable(self.batches) else self.batches

    def weight(self, number: int) -> float:
        """How much a batch counts."""
        return 1.0 if self.weights is None else float(self.weights[number])

    def stream(self, model: ir.Model) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray | None]]:
        """Checked batches in the model's types, each with its target.

        Args:
            model: whose inputs the batches are for.

        Raises:
            UsageError: no batches; a missing or unknown input; a shape or type that the input does not take;
                NaN or infinity; another number of targets or weights than batches.
        """
        beside = {"target": self.targets, "weight": self.weights}
        given = {name: len(values) for name, values in beside.items() if values is not None}
        count = 0
        for count, batch in enumerate(self.again(), start=1):
            for name, number in given.items():
                if count > number:
                    raise UsageError(
                        f"there are more calibration batches than {name}s, which are {number}; "
                        f"give one {name} per batch"
                    )
            target = None
            if self.targets is not None:
                target = np.asarray(self.targets[count - 1])
                _check_finite(target, f"the target of calibration batch {count - 1}")
            yield _checked(batch, model, f"calibration batch {count - 1}"), target
        if count == 0:
            raise UsageError("there are no calibration batches; give at least one")
        for name, number in given.items():
            if count != number:
                raise UsageError(
                    f"there are {number} {name}s for {count} calibration batches; give one per batch"
                )

    def cut(self, model: ir.Model) -> Calibration:
        """Batches of the size that the model takes, from such as are a multiple of it in all inputs.

        x [64, 3, 224, 224] for an input [1, 3, 224, 224]  ->  64 batches, and targets cut alike.

        Args:
            model: whose inputs the batches are for; symbolic first dimensions take any size.

        Raises:
            UsageError: a target with another first axis than its batch.
        """
        targets = None if self.targets is None else self._cut_targets(self.targets, model)

        def batches() -> Iterator[Batch]:
            for batch in self.again():
                parts = _parts(batch, model)
                if parts == 1:
                    yield batch
                    continue
                arrays = {name: np.split(np.asarray(array), parts) for name, array in batch.items()}
                for number in range(parts):
                    yield {name: pieces[number] for name, pieces in arrays.items()}

        weights = self.weights
        if weights is not None:
            pairs = zip(self.again(), weights, strict=False)
            weights = [weight for batch, weight in pairs for _ in range(_parts(batch, model))]
        return Calibration(batches, targets, self.loss, weights)

    def with_noise(self, model: ir.Model, seed: int = 0) -> Calibration:
        """Behind all batches the same with noise for text and pictures; without such inputs itself.

        Text of another kind than the training data has few of its words, and random ids have none of its
        grammar; pictures of another kind lack its edges, colours and textures. What is fitted to both is
        nearer to what is fitted to the training data than with either. Targets are left out.

        Args:
            model: whose inputs the batches are for. The ids of its largest table are drawn from all of them;
                inputs of floats with four axes and more become `pictures` with the mean and the deviation of
                the given ones.
            seed: of batch `i` together with `i`.

        Raises:
            UsageError: as `stream`, where there are pictures.
        """
        tables = [(rows, value.name or "") for value in model.graph.inputs if (rows := table_rows(value))]
        rows, ids = max(tables, default=(0, ""))
        shown = [
            value.name or ""
            for value in model.graph.inputs
            if value.dtype is not None and value.dtype.is_floating_point() and len(value.shape or ()) >= 4
        ]
        if not tables and not shown:
            return self
        scales = {name: _mean_and_deviation(batch[name] for batch, _ in self.stream(model)) for name in shown}

        def batches() -> Iterator[Batch]:
            yield from self.again()
            for number, batch in enumerate(self.again()):
                generator = np.random.default_rng([seed, number])
                found = dict(batch)
                if tables:
                    given = np.asarray(batch[ids])
                    found[ids] = generator.integers(0, rows, given.shape).astype(given.dtype)
                for name, (mean, deviation) in scales.items():
                    given = np.asarray(batch[name])
                    found[name] = (pictures(given.shape, generator) * deviation + mean).astype(given.dtype)
                yield found

        weights = None if self.weights is None else [*self.weights, *self.weights]
        return Calibration(batches, weights=weights)

    def hold_out(self, count: int) -> tuple[Calibration, Calibration]:
        """What to fit to, and the first batches, at most a quarter of all, to judge the fit by.

        All for both where there are less than four.
        """
        total = sum(1 for _ in self.again())
        if total < 4:
            return self, self
        held = min(count, max(1, total // 4))
        return self._part(held, None), self._part(0, held)

    def _part(self, first: int, end: int | None) -> Calibration:
        targets, weights = (
            None if beside is None else beside[first:end] for beside in (self.targets, self.weights)
        )
        return Calibration(lambda: islice(self.again(), first, end), targets, self.loss, weights)

    def _cut_targets(self, targets: Sequence[np.ndarray], model: ir.Model) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for number, (batch, target) in enumerate(zip(self.again(), targets, strict=False)):
            parts, array = _parts(batch, model), np.asarray(target)
            if parts > 1 and (not array.ndim or array.shape[0] % parts):
                raise UsageError(
                    f"the target of batch {number} is {list(array.shape)}, which cannot be cut into {parts} "
                    f"parts as its inputs are; give one row per sample"
                )
            found.extend(np.split(array, parts) if parts > 1 else [array])
        return found

    @classmethod
    def noise(cls, groups: Groups, count: int = 0, seed: int = 0) -> Calibration:
        """Noise in place of data, for models that come without any (OBSPA, arXiv 2403.18955).

        See `noise_input`. Shapes are those of the analysis.

        Args:
            groups: of the model.
            count: number of batches; 0 takes `NOISE_BATCHES`, and more while the largest input has fewer than
                `NOISE_ENTRIES` elements in all of them, since a text of a few tokens shows little.
            seed: of batch `i` together with `i`.
        """
        inputs = list(groups.model.graph.inputs)
        shapes = [groups.analysis.trace.shapes[value] for value in inputs]
        if not count:
            entries = max((math.prod(shape) for shape in shapes), default=1)
            count = int(np.clip(NOISE_ENTRIES // max(entries, 1), *NOISE_BATCHES))
        rows = [table_rows(value) for value in inputs]

        def batches() -> Iterator[Batch]:
            for number in range(count):
                generator = np.random.default_rng([seed, number])
                yield {
                    value.name or "": noise_input(value, shape, high, generator)
                    for value, shape, high in zip(inputs, shapes, rows, strict=True)
                }

        return cls(batches)


def read_calibration(
    files: Sequence[str | os.PathLike[str]], option: str, inputs: Collection[str] = ()
) -> Calibration:
    """Batches from .npz files: arrays by input name, and `target` and `weight` where there are any.

    Args:
        files: one batch each.
        option: named in errors.
        inputs: names of the model's inputs, among which `target` or `weight` may be.

    Raises:
        UsageError: a file that cannot be read, a weight that is not one number, or only some files with a
            target or a weight.
    """
    batches: list[dict[str, np.ndarray]] = []
    targets: list[np.ndarray] = []
    weights: list[float] = []
    for file in files:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                batch = dict(arrays)
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"{option} {file} is no .npz file with arrays by input name: {error}") from error
        if "target" in batch and "target" not in inputs:
            targets.append(batch.pop("target"))
        if "weight" in batch and "weight" not in inputs:
            weight = batch.pop("weight")
            if weight.size != 1 or weight.dtype.kind not in "fiu":
                raise UsageError(
                    f"weight in {option} {file} is {weight.dtype} {list(weight.shape)}, not a number"
                )
            weights.append(float(weight.reshape(())))
        batches.append(batch)
    for name, found in (("target", targets), ("weight", weights)):
        if found and len(found) < len(batches):
            raise UsageError(
                f"{len(found)} of {len(batches)} files of {option} have a {name}: give all or none"
            )
    return Calibration(batches, targets or None, weights=weights or None)


def _mean_and_deviation(arrays: Iterable[np.ndarray]) -> tuple[float, float]:
    """Of all elements; 0 and 1 where there are none."""
    count, total, squares = 0, 0.0, 0.0
    for array in arrays:
        count += array.size
        total += float(array.sum(dtype=np.float64))
        squares += float(np.square(array, dtype=np.float64).sum())
    if not count:
        return 0.0, 1.0
    mean = total / count
    return mean, math.sqrt(max(squares / count - mean**2, 0.0))


def _parts(batch: Batch, model: ir.Model) -> int:
    """How many times the model's own batch; 1 where that is not clear, which the check of shapes refuses."""
    if not isinstance(batch, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        return 1
    counts: set[int] = set()
    for value in model.graph.inputs:
        size = value.shape[0] if value.shape is not None and len(value.shape) else None
        shape = np.shape(batch[value.name or ""]) if value.name in batch else ()
        if not isinstance(size, int) or not size or not shape or shape[0] % size:
            return 1
        counts.add(shape[0] // size)
    return max(*counts, 1) if len(counts) == 1 else 1


def _checked(batch: Batch, model: ir.Model, where: str) -> dict[str, np.ndarray]:
    inputs = {value.name or "": value for value in model.graph.inputs}
    if not isinstance(batch, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(
            f"{where} is a {type(batch).__name__}, expected arrays by input name: {', '.join(inputs)}"
        )
    for name in batch:
        if name not in inputs:
            raise UsageError(
                f"{where} has an input {name!r} that the model has not; its inputs are {', '.join(inputs)}"
            )
    symbols: dict[str, tuple[str, int]] = {}
    result: dict[str, np.ndarray] = {}
    for name, value in inputs.items():
        if name not in batch:
            raise UsageError(
                f"{where} lacks the input {name}: {value_text(value)}; give an array for every input"
            )
        array = np.asarray(batch[name])
        _check_shape(array, value, symbols, where)
        result[name] = _converted(array, value, where)
        _check_finite(result[name], f"input {name} of {where}")
    return result


def _check_shape(array: np.ndarray, value: ir.Value, symbols: dict[str, tuple[str, int]], where: str) -> None:
    if value.shape is None:
        return
    found = f"input {value.name} of {where} has the shape {list(array.shape)}, expected {value_text(value)}"
    if array.ndim != len(value.shape):
        raise UsageError(f"{found}; reshape the array or capture the model anew")
    for size, dim in zip(array.shape, value.shape, strict=True):
        if isinstance(dim, int):
            if size != dim:
                raise UsageError(
                    f"{found}; cut the batch to that size or capture the model with a symbolic one"
                )
        elif dim.value is not None:
            other, known = symbols.setdefault(dim.value, (value.name or "", size))
            if known != size:
                raise UsageError(f"{found}, but {dim.value} is {known} in input {other}; make the two agree")


def _converted(array: np.ndarray, value: ir.Value, where: str) -> np.ndarray:
    """The array in the input's element type, if that keeps its values."""
    if value.dtype is None:
        return array
    dtype = np.dtype(value.dtype.numpy())
    if array.dtype == dtype:
        return array
    floats = array.dtype.kind == "f" and value.dtype.is_floating_point()
    if floats or (array.dtype.kind in "iu" and dtype.kind in "iu"):
        with np.errstate(over="ignore"):  # what becomes infinite is refused right after
            converted = array.astype(dtype)
        if floats or np.array_equal(converted, array):
            return converted
    raise UsageError(
        f"input {value.name} of {where} is of type {array.dtype}, expected {value_text(value)}; "
        f"convert the array"
    )


def _check_finite(array: np.ndarray, where: str) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UsageError(f"{where} holds NaN or infinity, where only numbers are expected; clean the data")
