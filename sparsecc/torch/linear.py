"""Convolutions and matrix products, and their table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.op import Op
from sparsecc.torch.window import pad_spatial, per_axis, split_pads, window_pads

CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def _spatial_axes(x: Tensor, op: str) -> int:
    rank = x.dim() - 2
    if rank not in CONVOLUTIONS:
        raise UnsupportedOpError(
            f"{op} on a tensor of {x.dim()} axes: PyTorch has 1 to 3 spatial axes, found {rank}; "
            f"reshape the input of the layer"
        )
    return rank


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Convolution of x [N, C, ...] with weight [O, C / group, ...]; uneven padding is added beforehand."""
    rank = _spatial_axes(x, "Conv")
    strides, dilations = per_axis(strides, rank), per_axis(dilations, rank)
    begins, ends = window_pads(x.shape[2:], weight.shape[2:], strides, dilations, pads, auto_pad)
    if begins != ends:
        x, begins = pad_spatial(x, begins, ends), [0] * rank
    return CONVOLUTIONS[rank](x, weight, bias, strides, begins, dilations, group)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Transposed convolution of x [N, C, ...] with weight [C, O / group, ...]; uneven padding is cut off."""
    rank = _spatial_axes(x, "ConvTranspose")
    strides, dilations = per_axis(strides, rank), per_axis(dilations, rank)
    extra = per_axis(output_padding, rank, 0)
    begins, ends = split_pads(pads, rank)
    if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = (
            [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
            if output_shape is None
            else list(output_shape)[-rank:]
        )
        for axis, size in enumerate(wanted):
            full = (
                (x.shape[2 + axis] - 1) * strides[axis] + (weight.shape[2 + axis] - 1) * dilations[axis] + 1
            )
            total = full + extra[axis] - size
            half = total // 2
            begins[axis], ends[axis] = (
                (half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half)
            )
    elif auto_pad == "VALID":
        begins, ends = [0] * rank, [0] * rank
    if begins == ends and all(pad >= 0 for pad in begins):
        return TRANSPOSED[rank](x, weight, bias, strides, begins, extra, group, dilations)
    y = TRANSPOSED[rank](x, weight, bias, strides, 0, extra, group, dilations)
    return pad_spatial(y, [-pad for pad in begins], [-pad for pad in ends])


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    """alpha * A B + beta * C, with A and B turned round on request."""
    a = a.t() if transA else a
    if alpha == beta == 1 and transB and (c is None or c.dim() == 1):
        return functional.linear(a, b, c)
    b = b.t() if transB else b
    if c is None:
        return a @ b if alpha == 1 else alpha * (a @ b)
    return torch.addmm(c, a, b) if alpha == beta == 1 else torch.addmm(c, a, b, beta=beta, alpha=alpha)


def einsum(*tensors: Tensor, equation: str) -> Tensor:
    """Sum of products in Einstein's notation."""
    return torch.einsum(equation, *tensors)


def mat_mul_integer(
    a: Tensor, b: Tensor, a_zero_point: Tensor | None = None, b_zero_point: Tensor | None = None
) -> Tensor:
    """Product of 8-bit integers in 32 bits; a zero point per row of A or per column of B."""
    left, right = a.to(torch.int32), b.to(torch.int32)
    if a_zero_point is not None:
        zero = a_zero_point.to(torch.int32)
        left = left - (zero.unsqueeze(-1) if zero.dim() else zero)
    if b_zero_point is not None:
        right = right - b_zero_point.to(torch.int32)
    return left @ right


OPS = {
    "Conv": Op(conv),
    "ConvTranspose": Op(conv_transpose),
    "Det": Op(torch.det),
    "Einsum": Op(einsum),
    "Gemm": Op(gemm),
    "MatMul": Op(torch.matmul),
    "MatMulInteger": Op(mat_mul_integer),
}
