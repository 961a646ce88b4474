"""Geometry of sliding windows, shared by convolution and pooling: padding, and sums over windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError

Sizes = Sequence[Any]
"""One integer, maybe symbolic, for each spatial axis."""


def per_axis(given: Sizes | None, rank: int, default: int = 1) -> list[Any]:
    """An attribute with a number for each of `rank` spatial axes, or its default for all."""
    return [default] * rank if given is None else list(given)


def split_pads(pads: Sizes | None, rank: int) -> tuple[list[Any], list[Any]]:
    """ONNX's pads, all begins before all ends."""
    given = per_axis(pads, 2 * rank, 0)
    return given[:rank], given[rank:]


def window_pads(
    sizes: Sizes,
    kernel: Sizes,
    strides: Sizes,
    dilations: Sizes,
    pads: Sizes | None,
    auto_pad: str,
) -> tuple[list[Any], list[Any]]:
    """Elements to add before and after each spatial axis, from `pads` or `auto_pad` (ONNX, Conv).

    SAME pads so that there are ceil(size / stride) windows; the odd element goes to the end for SAME_UPPER.
    """
    if auto_pad == "NOTSET":
        return split_pads(pads, len(sizes))
    if auto_pad == "VALID":
        return [0] * len(sizes), [0] * len(sizes)
    totals: list[Any] = []
    for size, extent, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        windows = -(-size // stride)
        totals.append(torch.sym_max((windows - 1) * stride + (extent - 1) * dilation + 1 - size, 0))
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def pad_spatial(x: Tensor, begins: Sizes, ends: Sizes, value: float = 0.0) -> Tensor:
    """Pad the last axes with a value; torch counts them from the last."""
    if not any(begins) and not any(ends):
        return x
    flat: list[Any] = []
    for begin, end in zip(reversed(begins), reversed(ends), strict=True):
        flat += [begin, end]
    return functional.pad(x, flat, value=value)


def window_sum(x: Tensor, axis: int, extent: int, stride: int, dilation: int, windows: Any) -> Tensor:
    """Sum over windows along one axis: out[i] = sum over k of x[i * stride + k * dilation]."""
    total: Tensor | None = None
    for k in range(extent):
        start = k * dilation
        part = x.narrow(axis, start, (windows - 1) * stride + 1)
        part = part[(slice(None),) * (axis % x.dim()) + (slice(None, None, stride),)]
        total = part if total is None else total + part
    if total is None:
        raise UnsupportedOpError("a window of no elements has no sum; make its kernel at least 1")
    return total


def window_count(size: Any, extent: int, stride: int, dilation: int, begin: Any, end: Any, ceil: int) -> Any:
    """Number of windows along an axis; with `ceil` a last one may hang over, but must start inside."""
    span = size + begin + end - dilation * (extent - 1) - 1
    if not ceil:
        return span // stride + 1
    windows = -(-span // stride) + 1
    return windows - 1 if (windows - 1) * stride >= size + begin else windows
