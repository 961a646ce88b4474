"""Pooling over windows, over whole planes and at sampled points, and its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.op import Op
from sparsecc.torch.window import pad_spatial, per_axis, split_pads, window_count, window_pads, window_sum

AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _small(begins: Sequence[int], ends: Sequence[int], kernel: Sequence[int]) -> bool:
    """Whether torch's pooling takes the padding: even, and at most half the kernel."""
    return list(begins) == list(ends) and all(
        2 * pad <= size for pad, size in zip(begins, kernel, strict=True)
    )


def _pool_sum(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    begins: Sequence[Any],
    ends: Sequence[Any],
    ceil_mode: int,
) -> Tensor:
    """Sum over the windows of all spatial axes, one axis after the other."""
    rank = len(kernel)
    counts: list[Any] = []
    hang: list[Any] = []
    for axis in range(rank):
        size, extent, stride, dilation = x.shape[2 + axis], kernel[axis], strides[axis], dilations[axis]
        windows = window_count(size, extent, stride, dilation, begins[axis], ends[axis], ceil_mode)
        needed = (windows - 1) * stride + (extent - 1) * dilation + 1
        counts.append(windows)
        hang.append(torch.sym_max(needed - size - begins[axis], ends[axis]))
    x = pad_spatial(x, begins, hang)
    for axis in range(rank):
        x = window_sum(x, 2 + axis, kernel[axis], strides[axis], dilations[axis], counts[axis])
    return x


def average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Mean over windows of x [N, C, ...]; padding counts if asked to, what hangs over the end never does."""
    rank = x.dim() - 2
    kernel = list(kernel_shape)
    strides, dilations = per_axis(strides, rank), per_axis(dilations, rank)
    begins, ends = window_pads(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    if rank in AVERAGE and _small(begins, ends, kernel) and set(dilations) == {1}:
        return AVERAGE[rank](x, kernel, strides, begins, bool(ceil_mode), bool(count_include_pad))
    ones = x.new_ones((1, 1, *x.shape[2:]))
    total = _pool_sum(x, kernel, strides, dilations, begins, ends, ceil_mode)
    if count_include_pad:
        ones = pad_spatial(ones, begins, ends, 1.0)
        begins = ends = [0] * rank
    return total / _pool_sum(ones, kernel, strides, dilations, begins, ends, ceil_mode)


def max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    storage_order: int = 0,
    strides: Sequence[int] | None = None,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    """Largest of each window of x [N, C, ...], and where it is in the flattened x."""
    rank = x.dim() - 2
    strides, dilations = per_axis(strides, rank), per_axis(dilations, rank)
    begins, ends = window_pads(x.shape[2:], list(kernel_shape), strides, dilations, pads, auto_pad)
    uneven = not _small(begins, ends, kernel_shape)
    if rank not in MAXIMUM or (outputs > 1 and (uneven or storage_order)):
        raise UnsupportedOpError(
            f"MaxPool on a tensor of {x.dim()} axes with pads {begins}, {ends}: PyTorch has 1 to 3 spatial "
            f"axes, and indices for even padding in row-major order only; drop the Indices output"
        )
    if uneven:
        lowest = float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min
        x, begins = pad_spatial(x, begins, ends, lowest), [0] * rank
    arguments = (list(kernel_shape), strides, begins, dilations, bool(ceil_mode))
    if outputs == 1:
        return MAXIMUM[rank](x, *arguments)
    y, indices = MAXIMUM[rank](x, *arguments, return_indices=True)
    planes = torch.arange(x.shape[0] * x.shape[1], device=x.device).reshape(x.shape[:2] + (1,) * rank)
    return y, indices + planes * x.shape[2:].numel()


def max_unpool(
    x: Tensor,
    indices: Tensor,
    output_shape: Sequence[Any] | None = None,
    *,
    kernel_shape: Sequence[int],
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Put each maximum back where MaxPool found it in the flattened output, zeros elsewhere."""
    rank = x.dim() - 2
    strides = per_axis(strides, rank)
    begins, ends = split_pads(pads, rank)
    pooled = [
        (size - 1) * stride - begin - end + extent
        for size, stride, begin, end, extent in zip(
            x.shape[2:], strides, begins, ends, kernel_shape, strict=True
        )
    ]
    # Indices are into the output that MaxPool's input was, whatever output shape is asked for.
    y = x.new_zeros(x.shape[0] * x.shape[1] * _product(pooled)).scatter(0, indices.reshape(-1), x.reshape(-1))
    y = y.reshape(x.shape[0], x.shape[1], *pooled)
    if output_shape is None:
        return y
    wanted = list(output_shape)[2:]
    return pad_spatial(y, [0] * rank, [w - p for w, p in zip(wanted, pooled, strict=True)])


def _product(sizes: Sequence[Any]) -> Any:
    total = 1
    for size in sizes:
        total = total * size
    return total


def lp_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    dilations: Sequence[int] | None = None,
    p: int = 2,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Lp norm of each window."""
    rank = x.dim() - 2
    kernel = list(kernel_shape)
    strides, dilations = per_axis(strides, rank), per_axis(dilations, rank)
    begins, ends = window_pads(x.shape[2:], kernel, strides, dilations, pads, auto_pad)
    return _pool_sum(x.abs() ** p, kernel, strides, dilations, begins, ends, ceil_mode) ** (1 / p)


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def global_average_pool(x: Tensor) -> Tensor:
    """Mean of each plane, [N, C, 1, ...]."""
    return x.mean(_spatial(x), keepdim=True)


def global_max_pool(x: Tensor) -> Tensor:
    """Largest of each plane, [N, C, 1, ...]."""
    return x.amax(_spatial(x), keepdim=True)


def global_lp_pool(x: Tensor, *, p: int = 2) -> Tensor:
    """Lp norm of each plane, [N, C, 1, ...]."""
    return (x.abs() ** p).sum(_spatial(x), keepdim=True) ** (1 / p)


def grid_sample(
    x: Tensor, grid: Tensor, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    """Values of x [N, C, ...] at the points of grid [N, ..., rank] in [-1, 1]."""
    names = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic"}
    return functional.grid_sample(x, grid, names.get(mode, mode), padding_mode, bool(align_corners))


def affine_grid(theta: Tensor, size: Sequence[Any], *, align_corners: int = 0) -> Tensor:
    """Sampling points of affine maps theta [N, 2, 3] or [N, 3, 4]."""
    return functional.affine_grid(theta, list(size), bool(align_corners))


OPS = {
    "AffineGrid": Op(affine_grid, numbers=(1,)),
    "AveragePool": Op(average_pool),
    "GlobalAveragePool": Op(global_average_pool),
    "GlobalLpPool": Op(global_lp_pool),
    "GlobalMaxPool": Op(global_max_pool),
    "GridSample": Op(grid_sample),
    "LpPool": Op(lp_pool),
    "MaxPool": Op(max_pool),
    "MaxUnpool": Op(max_unpool, numbers=(2,)),
}
