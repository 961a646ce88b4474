"""Pruning plans: which indices of which parameters stay, as JSON that replays on the same architecture.

{"format": 1, "model": {"sha256": ..., "initializers": {name: shape}},
 "kept": {initializer: {axis: [indices]}}, "normalizations": {first output: {axis: [indices]}},
 "groups": [{"name", "kind", "size", "kept"}]}
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsecc.axes.dims import Dim
from sparsecc.axes.groups import Group, Groups
from sparsecc.axes.rewrite import Kept, Rewriter
from sparsecc.errors import UsageError, VerificationError

FORMAT = 1


@dataclass(frozen=True)
class PrunedGroup:
    """What stays of a group.

    Attributes:
        name: of the group.
        kind: what its indices are.
        size: number of indices before.
        kept: the indices that stay, in order.
    """

    name: str
    kind: str
    size: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class PrunePlan:
    """What stays of a model.

    Attributes:
        initializers: name -> shape of every parameter before pruning.
        kept: initializer -> axis as text -> indices that stay; axes that keep all are absent.
        normalizations: first output of each node whose statistics run over fewer entries -> axis of its
            first input -> entries that stay.
        groups: the groups that lost indices.
    """

    initializers: Mapping[str, tuple[int, ...]]
    kept: Kept
    normalizations: Kept
    groups: tuple[PrunedGroup, ...]

    def to_json(self) -> dict[str, Any]:
        """As in a plan file."""
        return {
            "format": FORMAT,
            "model": {
                "sha256": _digest(self.initializers),
                "initializers": {name: list(shape) for name, shape in self.initializers.items()},
            },
            "kept": self.kept,
            "normalizations": self.normalizations,
            "groups": [
                {"name": group.name, "kind": group.kind, "size": group.size, "kept": list(group.kept)}
                for group in self.groups
            ],
        }

    @classmethod
    def from_json(cls, data: Any) -> PrunePlan:
        """Read a parsed plan file.

        Raises:
            UsageError: it is no plan, of another format version, or its parts contradict each other.
        """
        try:
            version = data["format"]
            if version != FORMAT:
                raise UsageError(f"the plan has format {version}, but this version reads format {FORMAT}")
            initializers = {
                str(name): tuple(int(size) for size in shape)
                for name, shape in data["model"]["initializers"].items()
            }
            digest = data["model"]["sha256"]
            plan = cls(
                initializers,
                _kept(data["kept"]),
                _kept(data["normalizations"]),
                tuple(
                    PrunedGroup(
                        str(group["name"]),
                        str(group["kind"]),
                        int(group["size"]),
                        tuple(map(int, group["kept"])),
                    )
                    for group in data["groups"]
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(f"this is no pruning plan: {type(error).__name__} at {error}") from error
        if digest != _digest(initializers):
            raise UsageError("the plan's hash does not fit its list of initializers; the file was edited")
        return plan

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a plan file, whole or not at all."""
        target = Path(path)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self.to_json(), file, indent=1)
                file.write("\n")
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PrunePlan:
        """Read a plan file.

        Raises:
            UsageError: the file cannot be read or is no plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{path} is not JSON: {error}") from error
        return cls.from_json(data)


def shapes_of(groups: Groups) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter."""
    return {value.name or "": groups.analysis.trace.shapes[value] for value in groups.analysis.parameters}


def prune_with(groups: Groups, kept: Mapping[Dim, np.ndarray]) -> tuple[ir.Model, PrunePlan]:
    """Delete indices from a copy of the model.

    Args:
        groups: of the model.
        kept: mask per free dimension; one that is absent keeps all.

    Raises:
        VerificationError: an axis would keep no index.
    """
    rewriter = Rewriter(groups.analysis, kept)
    model = rewriter.run()
    return model, PrunePlan(
        shapes_of(groups), rewriter.kept(), rewriter.normalizations(), _pruned_groups(groups, kept)
    )


def masks_of(groups: Groups, plan: PrunePlan) -> dict[Dim, np.ndarray]:
    """The masks of a plan on a model of the same architecture.

    Raises:
        VerificationError: another architecture (the first difference is named), or a plan that does not
            delete whole slices of groups.
    """
    _check_same(shapes_of(groups), plan.initializers)
    masks: dict[Dim, np.ndarray] = {}
    for group in groups.prunable:
        mask = group_mask(group, plan)
        if mask is not None and not mask.all():
            masks.update(group.mask_of(mask))
    found = Rewriter(groups.analysis, masks).kept()
    if found != plan.kept:
        name = min(name for name in found.keys() | plan.kept.keys() if found.get(name) != plan.kept.get(name))
        raise VerificationError(
            f"the plan does not keep whole groups: what it keeps of {name} needs other slices to go too"
        )
    return masks


def compose(first: PrunePlan, second: PrunePlan, groups: Groups) -> PrunePlan:
    """One plan for two prunings in a row.

    Args:
        first: from the original model.
        second: from the model that the first left.
        groups: of the original model.
    """
    kept: Kept = {name: dict(axes) for name, axes in first.kept.items()}
    for name, axes in second.kept.items():
        if name not in first.initializers:
            continue  # a constant that the first pruning sliced, which follows from the parameters
        own = kept.setdefault(name, {})
        for axis, indices in axes.items():
            before = own.get(axis)
            own[axis] = list(indices) if before is None else [before[index] for index in indices]
    joined = PrunePlan(first.initializers, kept, {}, ())
    masks = masks_of(groups, joined)
    rewriter = Rewriter(groups.analysis, masks)
    return PrunePlan(first.initializers, kept, rewriter.normalizations(), _pruned_groups(groups, masks))


def group_mask(group: Group, plan: PrunePlan) -> np.ndarray | None:
    """An index stays where any of its positions along an axis does; None where no axis is in the plan."""
    for axis in group.axes:
        indices = plan.kept.get(axis.parameter, {}).get(str(axis.axis))
        if indices is not None:
            mask = np.zeros(group.size, bool)
            for array in axis.labels:
                found = array[indices]
                mask[found[found >= 0]] = True
            return mask
    return None


def _pruned_groups(groups: Groups, kept: Mapping[Dim, np.ndarray]) -> tuple[PrunedGroup, ...]:
    result: list[PrunedGroup] = []
    for group in groups.prunable:
        mask = np.concatenate([kept.get(dim, np.ones(dim.size, bool)) for dim in group.dims])
        if not mask.all():
            indices = tuple(np.flatnonzero(mask).tolist())
            result.append(PrunedGroup(group.name, group.kind.value, group.size, indices))
    return tuple(result)


def _check_same(shapes: Mapping[str, tuple[int, ...]], planned: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in planned.items():
        if name not in shapes:
            raise VerificationError(f"the plan is for a model with a parameter {name}, which this one lacks")
        if shapes[name] != shape:
            raise VerificationError(
                f"the plan is for a model whose {name} has the shape {list(shape)}; here it is "
                f"{list(shapes[name])}"
            )
    for name in shapes:
        if name not in planned:
            raise VerificationError(f"the plan is for a model without the parameter {name}")


def _digest(initializers: Mapping[str, tuple[int, ...]]) -> str:
    text = json.dumps({name: list(shape) for name, shape in initializers.items()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _kept(data: Mapping[str, Mapping[str, list[int]]]) -> Kept:
    return {
        str(name): {str(axis): [int(index) for index in indices] for axis, indices in axes.items()}
        for name, axes in data.items()
    }
