"""Reductions over axes, and their table.

`axes` None or empty reduces all axes, or none where `noop_with_empty_axes` is set.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsecc.torch.op import Op

Axes = Sequence[int] | None


def _axes(x: Tensor, axes: Axes, noop: int) -> list[int]:
    """Axes to reduce, ascending; empty where nothing is reduced."""
    if axes:
        return sorted(axis % x.dim() for axis in axes)
    return [] if noop else list(range(x.dim()))


def _sum(x: Tensor, axes: list[int], keepdims: int) -> Tensor:
    # torch takes an empty list for all axes.
    return torch.sum(x, axes, keepdim=bool(keepdims), dtype=x.dtype) if axes else x


def reduce_sum(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum."""
    return _sum(x, _axes(x, axes, noop_with_empty_axes), keepdims)


def reduce_mean(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Mean; of integers rounded towards zero."""
    chosen = _axes(x, axes, noop_with_empty_axes)
    if not chosen:
        return x
    if x.is_floating_point():
        return torch.mean(x, chosen, keepdim=bool(keepdims))
    count = 1
    for axis in chosen:
        count = count * x.shape[axis]
    return torch.div(_sum(x, chosen, keepdims), count, rounding_mode="trunc")


def _extreme(x: Tensor, axes: list[int], keepdims: int, largest: bool) -> Tensor:
    """Largest or smallest; of nothing the lowest or highest number there is."""
    if not axes:
        return x
    if all(x.shape[axis] != 0 for axis in axes):
        return (torch.amax if largest else torch.amin)(x, axes, bool(keepdims))
    if x.is_floating_point():
        limit = float("-inf") if largest else float("inf")
    elif x.dtype == torch.bool:
        limit = not largest
    else:
        limit = torch.iinfo(x.dtype).min if largest else torch.iinfo(x.dtype).max
    return torch.full_like(x.sum(axes, keepdim=bool(keepdims)), limit, dtype=x.dtype)


def reduce_max(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Largest."""
    return _extreme(x, _axes(x, axes, noop_with_empty_axes), keepdims, True)


def reduce_min(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Smallest."""
    return _extreme(x, _axes(x, axes, noop_with_empty_axes), keepdims, False)


def reduce_prod(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Product."""
    for axis in reversed(_axes(x, axes, noop_with_empty_axes)):
        x = torch.prod(x, axis, keepdim=bool(keepdims), dtype=x.dtype)
    return x


def reduce_l1(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Sum of magnitudes."""
    return _sum(x.abs(), _axes(x, axes, noop_with_empty_axes), keepdims)


def reduce_l2(x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Tensor:
    """Root of the sum of squares, with a gradient of zero for a vector of zeros."""
    chosen = _axes(x, axes, noop_with_empty_axes)
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, chosen, bool(keepdims)) if chosen else x.abs()
    return torch.sqrt(_sum(x * x, chosen, keepdims)).to(x.dtype)


def reduce_sum_square(
    x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Sum of squares."""
    return _sum(x * x, _axes(x, axes, noop_with_empty_axes), keepdims)


def reduce_log_sum(
    x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Logarithm of the sum."""
    return torch.log(_sum(x, _axes(x, axes, noop_with_empty_axes), keepdims))


def reduce_log_sum_exp(
    x: Tensor, axes: Axes = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Tensor:
    """Logarithm of the sum of exponentials."""
    chosen = _axes(x, axes, noop_with_empty_axes)
    return torch.logsumexp(x, chosen, bool(keepdims)) if chosen else x


OPS = {
    "ReduceL1": Op(reduce_l1, numbers=(1,)),
    "ReduceL2": Op(reduce_l2, numbers=(1,)),
    "ReduceLogSum": Op(reduce_log_sum, numbers=(1,)),
    "ReduceLogSumExp": Op(reduce_log_sum_exp, numbers=(1,)),
    "ReduceMax": Op(reduce_max, numbers=(1,)),
    "ReduceMean": Op(reduce_mean, numbers=(1,)),
    "ReduceMin": Op(reduce_min, numbers=(1,)),
    "ReduceProd": Op(reduce_prod, numbers=(1,)),
    "ReduceSum": Op(reduce_sum, numbers=(1,)),
    "ReduceSumSquare": Op(reduce_sum_square, numbers=(1,)),
}
