"""Normalisations and softmax, and their table; batch norm with running statistics is `module.BatchNorm`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.op import Op
from sparsecc.torch.window import pad_spatial, window_sum


def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: torch.dtype = torch.float32,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """Zero mean, unit variance over the axes from `axis` on (Ba et al. 2016); also mean, 1 / deviation."""
    axis = axis % x.dim()
    shape = x.shape[axis:]
    if scale.shape == shape and (bias is None or bias.shape == shape):
        y = functional.layer_norm(x, shape, scale, bias, epsilon)
    else:
        y = functional.layer_norm(x, shape, eps=epsilon) * scale
        y = y if bias is None else y + bias
    if outputs == 1:
        return y
    axes = list(range(axis, x.dim()))
    wide = x.to(stash_type)
    variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
    return y, mean, torch.rsqrt(variance + epsilon)


def rms_normalization(
    x: Tensor,
    scale: Tensor,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: torch.dtype = torch.float32,
) -> Tensor:
    """Unit root mean square over the axes from `axis` on (Zhang and Sennrich 2019)."""
    shape = list(x.shape[axis % x.dim() :])
    if list(scale.shape) == shape:
        return functional.rms_norm(x, shape, scale, epsilon)
    return functional.rms_norm(x, shape, eps=epsilon) * scale


def instance_normalization(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    """Zero mean and unit variance of each plane (Ulyanov et al. 2016)."""
    # functional.instance_norm refuses planes of one element, which ONNX allows.
    return torch.instance_norm(x, scale, bias, None, None, True, 0.0, epsilon, False)


def group_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    epsilon: float = 1e-5,
    stash_type: torch.dtype = torch.float32,
) -> Tensor:
    """Zero mean and unit variance of each group of channels (Wu and He 2018)."""
    return torch.group_norm(x, num_groups, scale, bias, epsilon, False)


def batch_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> Tensor:
    """Normalise x [N, C, ...] with statistics that the graph computes, through which gradients flow."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    centred = (x - mean.reshape(shape)) * torch.rsqrt(variance + epsilon).reshape(shape)
    return centred * scale.reshape(shape) + bias.reshape(shape)


def local_response_normalization(
    x: Tensor, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Tensor:
    """Divide by a power of the squares of `size` neighbouring channels (Krizhevsky et al. 2012, 3.3)."""
    before = (size - 1) // 2
    squares = pad_spatial((x * x).movedim(1, -1), [before], [size - 1 - before]).movedim(-1, 1)
    energy = window_sum(squares, 1, size, 1, 1, x.shape[1])
    return x / (bias + alpha / size * energy) ** beta


def lp_normalization(x: Tensor, *, axis: int = -1, p: int = 2) -> Tensor:
    """Unit Lp norm along an axis; a vector of zeros stays."""
    norm = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def mean_variance_normalization(x: Tensor, *, axes: Sequence[int] = (0, 2, 3)) -> Tensor:
    """Zero mean and unit variance over the given axes."""
    variance, mean = torch.var_mean(x, list(axes), correction=0, keepdim=True)
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Exponentials that sum to one along an axis."""
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    """Logarithm of softmax."""
    return torch.log_softmax(x, axis)


OPS = {
    "BatchNormalization": Op(batch_normalization),
    "GroupNormalization": Op(group_normalization),
    "InstanceNormalization": Op(instance_normalization),
    "LRN": Op(local_response_normalization),
    "LayerNormalization": Op(layer_normalization),
    "LogSoftmax": Op(log_softmax),
    "LpNormalization": Op(lp_normalization),
    "MeanVarianceNormalization": Op(mean_variance_normalization),
    "RMSNormalization": Op(rms_normalization),
    "Softmax": Op(softmax),
}
