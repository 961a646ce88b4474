"""Gather, scatter and search ops, and their table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.numbers import Numbers, scalar
from sparsecc.torch.op import Op

REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def gather(x: Tensor, indices: Tensor | int, *, axis: int = 0) -> Tensor:
    """x[..., indices, ...] at an axis; negative indices count from the end."""
    if not isinstance(indices, Tensor):
        return x.select(axis, indices)
    # An exported call becomes Gather again, which takes negative indices; torch's own functions do not.
    places = indices if torch.compiler.is_exporting() else _wrapped(indices, x.shape[axis])
    if axis == 0 and x.dim() == 2:
        return functional.embedding(places, x)
    taken = x.index_select(axis, places.reshape(-1))
    return (
        taken
        if indices.dim() == 1
        else taken.unflatten(axis, indices.shape)
        if indices.dim()
        else taken.squeeze(axis)
    )


def _wrapped(indices: Tensor, size: Any) -> Tensor:
    return torch.where(indices < 0, indices + size, indices)


def gather_elements(x: Tensor, indices: Tensor, *, axis: int = 0) -> Tensor:
    """For each index the element there, at the same place in all other axes."""
    return torch.gather(x, axis, _wrapped(indices, x.shape[axis]).to(torch.int64))


def gather_nd(x: Tensor, indices: Tensor, *, batch_dims: int = 0) -> Tensor:
    """Slices x[indices[...]], the last axis of indices [..., k] being a position in k axes."""
    batch = [
        torch.arange(x.shape[axis], device=x.device).reshape([-1] + [1] * (indices.dim() - 2 - axis))
        for axis in range(batch_dims)
    ]
    return x[(*batch, *indices.unbind(-1))]


def scatter_elements(
    x: Tensor, indices: Tensor, updates: Tensor, *, axis: int = 0, reduction: str = "none"
) -> Tensor:
    """x with updates written, or combined, at the indices of an axis."""
    places = _wrapped(indices, x.shape[axis]).to(torch.int64)
    if reduction == "none":
        return x.scatter(axis, places, updates)
    return x.scatter_reduce(axis, places, updates, REDUCTIONS[reduction], include_self=True)


def scatter_nd(x: Tensor, indices: Tensor, updates: Tensor, *, reduction: str = "none") -> Tensor:
    """x with slices written, or combined, at positions [..., k] in its first k axes."""
    places = indices.unbind(-1)
    if reduction in ("none", "add"):
        return x.index_put(places, updates, accumulate=reduction == "add")
    leading = x.shape[: len(places)]
    inner = x.shape[len(places) :]
    row = torch.zeros_like(places[0])
    for place, dim in zip(places, leading, strict=True):
        row = row * dim + _wrapped(place, dim)
    width = math.prod(inner)
    flat = x.reshape(-1, width)
    rows = row.reshape(-1, 1).expand(-1, width)
    combined = flat.scatter_reduce(
        0, rows, updates.reshape(-1, width), REDUCTIONS[reduction], include_self=True
    )
    return combined.reshape(x.shape)


def one_hot(indices: Tensor, depth: Numbers, values: Tensor, *, axis: int = -1) -> Tensor:
    """values[1] at each index of a new axis, values[0] elsewhere; an index out of range is nowhere."""
    size = int(scalar(depth))
    places = _wrapped(indices.to(torch.int64), size)
    line = torch.arange(size, device=indices.device)
    return torch.where((places.unsqueeze(-1) == line).movedim(-1, axis), values[1], values[0])


def top_k(
    x: Tensor,
    k: Numbers,
    *,
    axis: int = -1,
    largest: int = 1,
    sorted: int = 1,
) -> tuple[Tensor, Tensor]:
    """The k largest or smallest along an axis, and where they are."""
    if torch.compiler.is_exporting():
        return torch.topk(x, scalar(k), axis, bool(largest), bool(sorted))
    # torch.topk may take any of equal elements, ONNX takes the first; a stable sort has no ONNX form.
    values, places = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, scalar(k)), places.narrow(axis, 0, scalar(k))


def _arg(x: Tensor, axis: int, keepdims: int, last: int, largest: bool) -> Tensor:
    x = x.flip(axis) if last else x
    found = torch.argmax(x, axis, bool(keepdims)) if largest else torch.argmin(x, axis, bool(keepdims))
    return x.shape[axis] - 1 - found if last else found


def arg_max(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the largest is, the first or the last of equal ones."""
    return _arg(x, axis, keepdims, select_last_index, True)


def arg_min(x: Tensor, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Tensor:
    """Where the smallest is, the first or the last of equal ones."""
    return _arg(x, axis, keepdims, select_last_index, False)


def hardmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """One at the first largest of an axis, zero elsewhere."""
    line = torch.argmax(x, axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, line, 1.0)


def non_zero(x: Tensor) -> Tensor:
    """Positions of all elements but zeros, [rank, count]."""
    return torch.nonzero(x).t()


def compress(x: Tensor, condition: Tensor, *, axis: int | None = None) -> Tensor:
    """Slices of an axis, or elements of the flattened tensor, where the condition holds."""
    source, place = (x.reshape(-1), 0) if axis is None else (x, axis)
    return source.index_select(place, torch.nonzero(condition).reshape(-1))


def unique(
    x: Tensor,
    *,
    axis: int | None = None,
    sorted: int = 1,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Different values in ascending order, first positions, positions in the result, and counts."""
    if not sorted:
        raise UnsupportedOpError("Unique in order of appearance (sorted=0) has no PyTorch form; use sorted=1")
    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    if outputs == 1:
        return values
    inverse = inverse.reshape(-1)
    places = torch.arange(inverse.shape[0], device=x.device)
    first = torch.full_like(counts, inverse.shape[0]).scatter_reduce(0, inverse, places, "amin")
    return values, first, inverse, counts


def cumsum(x: Tensor, axis: Numbers, *, exclusive: int = 0, reverse: int = 0) -> Tensor:
    """Running sum along an axis, from the end if reversed, without the element itself if exclusive."""
    place = scalar(axis)
    source = x.flip(place) if reverse else x
    total = torch.cumsum(source, place, dtype=x.dtype)
    total = total - source if exclusive else total
    return total.flip(place) if reverse else total


OPS = {
    "ArgMax": Op(arg_max),
    "ArgMin": Op(arg_min),
    "Compress": Op(compress),
    "CumSum": Op(cumsum, numbers=(1,)),
    "Gather": Op(gather, constants=(1,)),
    "GatherElements": Op(gather_elements),
    "GatherND": Op(gather_nd),
    "Hardmax": Op(hardmax),
    "NonZero": Op(non_zero),
    "OneHot": Op(one_hot, numbers=(1,)),
    "ScatterElements": Op(scatter_elements),
    "ScatterND": Op(scatter_nd),
    "TopK": Op(top_k, numbers=(1,)),
    "Unique": Op(unique),
}
