"""Resize, axis by axis: each output element is a weighted sum of neighbours of a point in the input.

Where torch's interpolate computes the same it is used, since it is faster and exports as one Resize again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.op import Op

TORCH_MODES = {
    ("linear", 3): "linear",
    ("linear", 4): "bilinear",
    ("linear", 5): "trilinear",
    ("cubic", 4): "bicubic",
}


def _sizes_and_scales(
    x: Tensor,
    axes: Sequence[int],
    scales: Sequence[float] | None,
    sizes: Sequence[Any] | None,
    policy: str,
) -> tuple[list[Any], list[Any]]:
    """Output size and scale of each resized axis (ONNX, Resize: scales, sizes, keep_aspect_ratio_policy)."""
    if scales:
        return [math.floor(x.shape[a] * s) for a, s in zip(axes, scales, strict=True)], list(scales)
    if not sizes:
        raise UnsupportedOpError("Resize has neither scales nor sizes; give one of the two")
    ratios = [size / x.shape[axis] for axis, size in zip(axes, sizes, strict=True)]
    if policy == "stretch":
        return list(sizes), ratios
    ratio = min(ratios) if policy == "not_larger" else max(ratios)
    return [math.floor(x.shape[axis] * ratio + 0.5) for axis in axes], [ratio] * len(ratios)


def _coordinates(
    mode: str, size: Any, new: Any, scale: Any, roi: tuple[float, float], device: torch.device
) -> Tensor:
    """Where each output element lies in the input (ONNX, Resize: coordinate_transformation_mode)."""
    i = torch.arange(new, device=device, dtype=torch.float32)
    if mode == "half_pixel":
        return (i + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        adjusted = new / (scale * size)
        return size / 2 * (1 - adjusted) + (i + 0.5) / scale - 0.5
    if mode == "pytorch_half_pixel":
        return (i + 0.5) / scale - 0.5 if new > 1 else torch.zeros_like(i)
    if mode == "align_corners":
        return i * ((size - 1) / (new - 1)) if new > 1 else torch.zeros_like(i)
    if mode == "asymmetric":
        return i / scale
    if mode == "tf_crop_and_resize":
        start, end = roi
        if new > 1:
            return start * (size - 1) + i * ((end - start) * (size - 1) / (new - 1))
        return torch.zeros_like(i) + 0.5 * (start + end) * (size - 1)
    raise UnsupportedOpError(f"Resize has no coordinate_transformation_mode {mode}; export another one")


def _nearest(point: Tensor, mode: str) -> Tensor:
    if mode == "floor":
        return torch.floor(point)
    if mode == "ceil":
        return torch.ceil(point)
    return torch.floor(point + 0.5) if mode == "round_prefer_ceil" else torch.ceil(point - 0.5)


def _weights(mode: str, offset: Tensor, a: float) -> Tensor:
    """Weight of a neighbour at a distance (linear: triangle; cubic: Keys 1981 with coefficient a)."""
    d = offset.abs()
    if mode == "linear":
        return torch.clamp(1 - d, min=0)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return torch.where(d <= 1, inner, torch.where(d < 2, outer, torch.zeros_like(d)))


def _resized_axis(
    x: Tensor, axis: int, point: Tensor, mode: str, a: float, exclude_outside: int, reach: float
) -> Tensor:
    """Weighted neighbours along one axis; `reach` over 1 widens the window, for antialias."""
    size = x.shape[axis]
    half = math.ceil((1 if mode == "linear" else 2) * reach)
    base = torch.floor(point)
    columns = torch.arange(1 - half, half + 1, device=x.device, dtype=point.dtype)
    neighbours = base.unsqueeze(1) + columns
    weights = _weights(mode, (neighbours - point.unsqueeze(1)) / reach, a)
    if exclude_outside:
        weights = torch.where((neighbours < 0) | (neighbours > size - 1), torch.zeros_like(weights), weights)
    if exclude_outside or reach > 1:
        weights = weights / weights.sum(1, keepdim=True)
    places = neighbours.clamp(0, size - 1).to(torch.int64)
    taken = x.index_select(axis, places.reshape(-1))
    taken = taken.unflatten(axis, (point.shape[0], 2 * half))
    shaped = weights.to(x.dtype if x.is_floating_point() else torch.float32)
    shaped = shaped.reshape([1] * axis + [point.shape[0], 2 * half] + [1] * (x.dim() - 1 - axis))
    return (taken * shaped).sum(axis + 1)


def _as_torch(
    x: Tensor, axes: list[int], sizes: list[Any], scales: list[Any], mode: str, coordinates: str, a: float
) -> Tensor | None:
    """The same through interpolate, None where it computes something else."""
    name = TORCH_MODES.get((mode, x.dim()))
    if name is None or not x.is_floating_point() or (mode == "cubic" and a != -0.75):
        return None
    resized = dict(zip(axes, sizes, strict=True))
    spatial = range(2, x.dim())
    if any(resized.get(axis, x.shape[axis]) != x.shape[axis] for axis in (0, 1)):
        return None
    exact = all(x.shape[axis] * scale == size for axis, size, scale in zip(axes, sizes, scales, strict=True))
    aligned = coordinates == "align_corners"
    halves = coordinates in ("half_pixel", "pytorch_half_pixel") and all(
        size > 1 for size in sizes[-len(spatial) :]
    )
    if not (aligned or (halves and exact)):
        return None
    wanted = [resized.get(axis, x.shape[axis]) for axis in spatial]
    return functional.interpolate(x, wanted, mode=name, align_corners=aligned)


def resize(
    x: Tensor,
    roi: Sequence[float] | None = None,
    scales: Sequence[float] | None = None,
    sizes: Sequence[Any] | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """x at other sizes, by nearest, linear or cubic interpolation."""
    chosen = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    new, ratios = _sizes_and_scales(x, chosen, scales, sizes, keep_aspect_ratio_policy)
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    if not antialias and not exclude_outside and not crop:
        found = _as_torch(x, chosen, new, ratios, mode, coordinate_transformation_mode, cubic_coeff_a)
        if found is not None:
            return found
    y = x
    outside: Tensor | None = None
    for k, axis in enumerate(chosen):
        size = x.shape[axis]
        if new[k] == size and ratios[k] == 1 and not crop:
            continue
        region = (float(roi[k]), float(roi[k + len(chosen)])) if crop and roi else (0.0, 1.0)
        point = _coordinates(coordinate_transformation_mode, size, new[k], ratios[k], region, x.device)
        if crop:
            line = ((point < 0) | (point > size - 1)).reshape([-1] + [1] * (x.dim() - 1 - axis))
            outside = line if outside is None else outside | line
        if mode == "nearest":
            y = y.index_select(axis, _nearest(point, nearest_mode).clamp(0, size - 1).to(torch.int64))
        else:
            reach = max(1.0, 1 / ratios[k]) if antialias else 1.0
            y = _resized_axis(y, axis, point, mode, cubic_coeff_a, exclude_outside, reach)
    if outside is not None:
        y = torch.where(outside, torch.full_like(y, extrapolation_value), y)
    return y if y.dtype == x.dtype else y.round().to(x.dtype)


OPS = {"Resize": Op(resize, numbers=(1, 2, 3))}
