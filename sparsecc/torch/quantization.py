"""Quantisation to 8-bit integers and back, and its table; gradients do not pass a rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.op import Op


def _along(parameter: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """A scale or zero point for each index of an axis, shaped to broadcast; blocks repeat theirs."""
    if block_size:
        return parameter.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if parameter.dim() == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    shape = [1] * x.dim()
    shape[axis] = parameter.shape[0]
    return parameter.reshape(shape)


def quantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype = torch.uint8,
    precision: torch.dtype | None = None,
    saturate: int = 1,
) -> Tensor:
    """round(x / scale) + zero point, within the range of the type."""
    scaled = torch.round(x / _along(scale, x, axis, block_size))
    if zero_point is not None:
        scaled = scaled + _along(zero_point, x, axis, block_size).to(scaled.dtype)
    limits = torch.iinfo(output_dtype)
    return scaled.clamp(limits.min, limits.max).to(output_dtype)


def dequantize_linear(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(x - zero point) * scale."""
    shifted = x.to(torch.int32)
    if zero_point is not None:
        shifted = shifted - _along(zero_point, x, axis, block_size).to(torch.int32)
    return shifted.to(output_dtype) * _along(scale, x, axis, block_size)


def dynamic_quantize_linear(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in unsigned 8 bits with the scale and zero point of its own range."""
    if not x.is_floating_point():
        raise UnsupportedOpError("DynamicQuantizeLinear takes floats; cast its input")
    low, high = torch.clamp(x.amin(), max=0), torch.clamp(x.amax(), min=0)
    scale = (high - low) / 255
    zero = torch.clamp(torch.round(-low / scale), 0, 255)
    return torch.clamp(torch.round(x / scale) + zero, 0, 255).to(torch.uint8), scale, zero.to(torch.uint8)


OPS = {
    "DequantizeLinear": Op(dequantize_linear),
    "DynamicQuantizeLinear": Op(dynamic_quantize_linear),
    "QuantizeLinear": Op(quantize_linear),
}
