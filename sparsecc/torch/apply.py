"""Slices a PyTorch module's own parameters as a pruning plan says, where its forward still works then.

Sizes that torch's own layers keep beside their weights (groups, normalized_shape, ...) are set too; sizes
that the module's code keeps, such as a number of heads, are its author's to change: the error says so.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.shapes import first_line

Kept = Mapping[str, Mapping[str, Sequence[int]]]

TOLERANCE = 1e-4
"""Largest relative difference between the sliced module and the pruned graph."""


def apply_plan(
    module: nn.Module,
    kept: Kept,
    inputs: Sequence[torch.Tensor] | Mapping[str, torch.Tensor],
    expected: Sequence[np.ndarray],
) -> None:
    """Slice the parameters of a module in place.

    The module is changed only after a copy of it was sliced, run and compared.

    Args:
        module: what the pruned graph was captured from.
        kept: name of a parameter or buffer -> axis as text -> indices that stay.
        inputs: positional or keyword inputs of one call.
        expected: outputs of the pruned graph on these inputs.

    Raises:
        UsageError: the plan names parameters that the module does not have, or of other shapes.
        VerificationError: the forward does not work with the new sizes, or computes something else; the
            message names the line and what must change.
    """
    trial = copy.deepcopy(module).eval()
    _slice(trial, kept)
    try:
        with torch.no_grad():
            found = trial(**inputs) if isinstance(inputs, Mapping) else trial(*inputs)
    except Exception as error:  # the module's own code runs here and may raise anything
        raise VerificationError(_failure_text(module, trial, error)) from error
    for number, (ours, theirs) in enumerate(zip(_tensors(found), expected, strict=False)):
        array = ours.detach().numpy()
        scale = float(np.abs(theirs).max()) or 1.0
        if array.shape != theirs.shape or float(np.abs(array - theirs).max()) > TOLERANCE * scale:
            raise VerificationError(
                f"with sliced parameters {type(module).__name__} runs, but its output {number} is not that "
                f"of the pruned graph: its code depends on a size that was pruned; use the pruned graph, "
                f"or `sparsecc.to_torch` of it"
            )
    _slice(module, kept)


def _slice(module: nn.Module, kept: Kept) -> None:
    sliced: dict[int, torch.Tensor] = {}
    for name, axes in kept.items():
        owner_name, _, attribute = name.rpartition(".")
        try:
            owner = module.get_submodule(owner_name)
            tensor = getattr(owner, attribute)
        except AttributeError as error:
            raise UsageError(
                f"{type(module).__name__} has no parameter {name}; give the module that was captured"
            ) from error
        if id(tensor) not in sliced:
            sliced[id(tensor)] = _taken(name, tensor, axes)
        setattr(owner, attribute, sliced[id(tensor)])
    for name, part in module.named_modules():
        _set_sizes(part, kept.get(f"{name}.weight" if name else "weight", {}))


def _taken(name: str, tensor: torch.Tensor, axes: Mapping[str, Sequence[int]]) -> torch.Tensor:
    data = tensor.detach()
    for axis, indices in axes.items():
        if int(axis) >= data.ndim or max(indices) >= data.shape[int(axis)]:
            raise UsageError(
                f"the plan keeps index {max(indices)} of axis {axis} of {name}, which has the shape "
                f"{list(tensor.shape)}; apply it to the unpruned module"
            )
        data = data.index_select(int(axis), torch.tensor(list(indices), device=data.device))
    data = data.clone()
    return nn.Parameter(data, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else data


def _set_sizes(part: nn.Module, kept: Mapping[str, Sequence[int]]) -> None:
    """Sizes that torch's layers keep beside their parameters.

    Args:
        part: a layer whose weight was sliced.
        kept: axis of its weight as text -> indices that stay.
    """
    weight: Any = getattr(part, "weight", None)
    if not kept or not isinstance(weight, torch.Tensor):
        return
    rows = kept.get("0")
    if isinstance(part, nn.Linear):
        part.out_features, part.in_features = weight.shape
    elif isinstance(part, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        part.groups = _groups_left(rows, part.out_channels, part.groups)
        part.out_channels, part.in_channels = weight.shape[0], weight.shape[1] * part.groups
    elif isinstance(part, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        part.groups = _groups_left(rows, part.in_channels, part.groups)
        part.in_channels, part.out_channels = weight.shape[0], weight.shape[1] * part.groups
    elif isinstance(part, nn.LayerNorm | nn.RMSNorm):
        part.normalized_shape = tuple(weight.shape)
    elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.InstanceNorm2d):
        part.num_features = weight.shape[0]
    elif isinstance(part, nn.GroupNorm):
        part.num_groups = _groups_left(rows, part.num_channels, part.num_groups)
        part.num_channels = weight.shape[0]
    elif isinstance(part, nn.Embedding):
        part.num_embeddings, part.embedding_dim = weight.shape


def _groups_left(rows: Sequence[int] | None, size: int, groups: int) -> int:
    """Of equal groups of rows, those of which any row stays."""
    return groups if rows is None else len({row // (size // groups) for row in rows})


def _failure_text(module: nn.Module, trial: nn.Module, error: Exception) -> str:
    """Which line failed in whose forward."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.name == "forward" and "torch/nn/" not in frame.filename.replace("\\", "/")
    ]
    place = f" in `{frames[-1].line}`" if frames and frames[-1].line else ""
    return (
        f"the forward of {type(module).__name__} does not work with the pruned sizes{place}: "
        f"{first_line(error)}; a size in its code must change (a number of heads or a width, "
        f"perhaps); use the pruned graph or `sparsecc.to_torch` of it, or leave that group out with skip"
    )


def _tensors(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, Mapping):
        return [item for value in found.values() for item in _tensors(value)]
    if isinstance(found, Sequence):
        return [item for value in found for item in _tensors(value)]
    return []
