"""What a criterion is: it reads weights, and perhaps data, and votes on the indices of pruning groups.

saliency of every weight  ->  summed over all axes but one  ->  scattered to the group's indices: one vote
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.axes.groups import Group, GroupAxis, Groups
from sparsecc.errors import UsageError
from sparsecc.passes.criteria.calibration import Calibration

BLOCK_ENTRIES = 1 << 20
"""Entries of a parameter for which saliencies are in memory at once."""


@dataclass(frozen=True)
class Vote:
    """What one axis of one parameter says about a group.

    Attributes:
        group: name.
        scores: [size of the group] float64, larger for what should stay.
    """

    group: str
    scores: np.ndarray


@dataclass(frozen=True)
class Evidence:
    """What a criterion may read.

    Attributes:
        groups: of the model.
        calibration: data, or None.
        seed: of every random choice.
        only: names of the groups that need votes; None means all that can be pruned.
    """

    groups: Groups
    calibration: Calibration | None = None
    seed: int = 0
    only: frozenset[str] | None = None

    @property
    def wanted(self) -> list[Group]:
        """The groups that need votes."""
        return [group for group in self.groups.prunable if self.only is None or group.name in self.only]

    @cached_property
    def slices(self) -> dict[str, list[tuple[Group, GroupAxis]]]:
        """Parameter -> which groups slice which of its axes.

        The running mean and variance of batch normalisations are left out: they say how large activations
        are, not whether they matter.
        """
        statistics = batch_norm_inputs(self.groups.model, (3, 4))
        found: dict[str, list[tuple[Group, GroupAxis]]] = {}
        for group in self.wanted:
            for axis in group.axes:
                if axis.parameter not in statistics:
                    found.setdefault(axis.parameter, []).append((group, axis))
        return found

    def weight(self, parameter: str) -> np.ndarray:
        """The array of a parameter, perhaps mapped from a file: not to be changed."""
        tensor = self.groups.model.graph.initializers[parameter].const_value
        if tensor is None:
            raise UsageError(f"initializer {parameter} has no data; load the weights with the model")
        array = tensor.numpy()
        return array if array.dtype.name in ("float32", "float64") else array.astype(np.float32)

    def data(self, criterion: str) -> Calibration:
        """The calibration data.

        Raises:
            UsageError: there are none.
        """
        if self.calibration is None:
            raise UsageError(
                f"criterion {criterion} needs calibration data and none were given; "
                f"give some, or choose a criterion of weights alone such as l2"
            )
        return self.calibration

    def elementwise(
        self,
        saliency: Callable[[str, np.ndarray, int], np.ndarray | None],
        finish: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Iterator[Vote]:
        """Votes from a number per weight, one parameter in memory at a time.

        Args:
            saliency: of (parameter, some of its rows, where they begin), an array of the same shape as the
                rows, or None for no vote. A parameter without axes or with few entries comes in one piece.
            finish: applied to the sums [size of the group], such as a root.
        """
        for parameter, places in self.slices.items():
            weight = self.weight(parameter)
            sums = {axis.axis: np.zeros(weight.shape[axis.axis]) for _, axis in places}
            rows = max(1, BLOCK_ENTRIES // max(weight[:1].size, 1))
            for start in range(0, len(weight), rows):
                array = saliency(parameter, weight[start : start + rows], start)
                if array is None:
                    break
                for axis, total in sums.items():
                    part = slice(start, start + rows) if axis == 0 else slice(None)
                    total[part] += sum_to_axis(array, axis)
            else:
                for group, axis in places:
                    scores = scatter(sums[axis.axis], axis, group.size)
                    yield Vote(group.name, scores if finish is None else finish(scores))


@dataclass(frozen=True)
class Criterion(ABC):
    """Base of all criteria; the fields of a subclass are its options, all with defaults.

    Class attributes:
        name: as users write it.
        summary: one line for help.
        needs_data: whether calibration data must be given.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    needs_data: ClassVar[bool] = False

    @abstractmethod
    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """All votes, in any order; a group may get several or none.

        Raises:
            UsageError: data that are missing or do not fit the model.
        """


def sum_to_axis(array: np.ndarray, axis: int) -> np.ndarray:
    """Sums [size of the axis] in float64 over all other axes."""
    others = tuple(number for number in range(array.ndim) if number != axis)
    return np.asarray(np.sum(array, axis=others, dtype=np.float64))


def scatter(values: np.ndarray, axis: GroupAxis, size: int) -> np.ndarray:
    """Sum of `values` [size of the axis] over the positions that go with each index: [size] float64."""
    total = np.zeros(size)
    for labels in axis.labels:
        inside = labels >= 0
        total += np.bincount(labels[inside], weights=values[inside], minlength=size)
    return total


def batch_norm_inputs(model: ir.Model, numbers: tuple[int, ...]) -> set[str]:
    """Names of the initializers that BatchNormalization nodes read as their inputs of these numbers."""
    return {
        value.name or ""
        for node in model.graph.all_nodes()
        if node.domain == "" and node.op_type == "BatchNormalization"
        for number in numbers
        if (value := node.inputs[number]) is not None and value.is_initializer()
    }
