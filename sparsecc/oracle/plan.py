"""A pruning plan: which indices of which axes stay, by tensor name, as numbers and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FORMAT = 1

Kept = Mapping[int, NDArray[np.int64]]
"""Positions that stay, in ascending order, by axis."""


class PlanError(ValueError):
    """A plan that is no plan; one sentence."""


@dataclass(frozen=True)
class Plan:
    """A parsed plan.

    Attributes:
        kept: by initializer name.
        normalizations: positions over which statistics run, by the first output of the node, of the axes of
            its first input.
        constants: as `kept`, for tensors that are no initializers of the original.
    """

    kept: Mapping[str, Kept]
    normalizations: Mapping[str, Kept]
    constants: Mapping[str, Kept]

    @classmethod
    def parse(cls, plan: Mapping[str, object]) -> Plan:
        """Read `{"format": 1, "kept": {name: {axis: [positions]}}, "normalizations": …, "constants": …}`.

        Other keys are ignored; `normalizations` and `constants` may be absent.

        Raises:
            PlanError: another format, a missing key, or positions that are not ascending integers.
        """
        if plan.get("format") != FORMAT:
            raise PlanError(f"the plan is of format {plan.get('format')!r}, where {FORMAT} is understood")
        if "kept" not in plan:
            raise PlanError("the plan has no entry named kept")
        return cls(*(_section(key, plan.get(key, {})) for key in ("kept", "normalizations", "constants")))

    @property
    def sliced(self) -> Mapping[str, Kept]:
        """`kept` and `constants` in one."""
        return {**self.constants, **self.kept}


def _section(key: str, section: object) -> dict[str, Kept]:
    if not isinstance(section, Mapping):
        raise PlanError(f"entry {key} of the plan is {type(section).__name__}, not a mapping of names")
    return {str(name): _axes(f"{key} of {name}", axes) for name, axes in section.items()}


def _axes(where: str, axes: object) -> dict[int, NDArray[np.int64]]:
    if not isinstance(axes, Mapping):
        raise PlanError(f"{where} is {type(axes).__name__}, not a mapping of axes")
    result: dict[int, NDArray[np.int64]] = {}
    for axis, positions in axes.items():
        if not str(axis).isdecimal():
            raise PlanError(f"{where} names axis {axis!r}, which is no number from 0 on")
        array = np.asarray(positions)
        if array.ndim != 1 or (array.size > 0 and array.dtype.kind not in "iu"):
            raise PlanError(f"{where} on axis {axis} is no list of integers")
        array = array.astype(np.int64)
        if array.size > 0 and (array[0] < 0 or np.any(np.diff(array) <= 0)):
            raise PlanError(f"{where} on axis {axis} does not ascend from 0 on without repetition")
        result[int(str(axis))] = array
    return result


def misfit(kept: Kept, shape: tuple[int, ...]) -> str | None:
    """Why positions cannot be taken from a tensor of this shape, or None."""
    for axis, positions in kept.items():
        if axis >= len(shape):
            return f"axis {axis} does not exist in shape {list(shape)}"
        if positions.size > 0 and positions[-1] >= shape[axis]:
            return f"position {positions[-1]} lies outside axis {axis} of shape {list(shape)}"
    return None


def take(array: np.ndarray, kept: Kept) -> np.ndarray:
    """The tensor with only the kept positions of each axis."""
    for axis, positions in kept.items():
        array = np.take(array, positions, axis)
    return array


def mask(shape: tuple[int, ...], kept: Kept) -> NDArray[np.bool_]:
    """True where all axes are kept; axes that the plan does not name have size 1."""
    result = np.ones([1] * len(shape), np.bool_)
    for axis, positions in kept.items():
        line = np.zeros(shape[axis], np.bool_)
        line[positions] = True
        result = result & line.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return result
