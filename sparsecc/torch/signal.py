"""Windows, Fourier transforms, random numbers and losses, and their table."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.numbers import Numbers, scalar
from sparsecc.torch.op import Op

Device = torch.device | None


def hann_window(
    size: Numbers, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1, device: Device = None
) -> Tensor:
    """Hann window."""
    return torch.hann_window(scalar(size), bool(periodic), dtype=output_datatype, device=device)


def hamming_window(
    size: Numbers, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1, device: Device = None
) -> Tensor:
    """Hamming window with ONNX's coefficient of 25 / 46."""
    length = scalar(size)
    return torch.hamming_window(
        length, bool(periodic), alpha=25 / 46, beta=21 / 46, dtype=output_datatype, device=device
    )


def blackman_window(
    size: Numbers, *, output_datatype: torch.dtype = torch.float32, periodic: int = 1, device: Device = None
) -> Tensor:
    """Blackman window."""
    return torch.blackman_window(scalar(size), bool(periodic), dtype=output_datatype, device=device)


def dft(
    x: Tensor, length: Numbers = None, axis: Numbers = None, *, inverse: int = 0, onesided: int = 0
) -> Tensor:
    """Fourier transform of x [..., 1] real or [..., 2] complex along an axis, to [..., 2]."""
    place = -2 if axis is None else scalar(axis)
    place = place % x.dim()
    count = None if length is None else scalar(length)
    if inverse and onesided:
        raise UnsupportedOpError("DFT that is inverse and onesided gives real numbers; use onesided=0")
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.squeeze(-1)
    if onesided:
        return torch.view_as_real(
            torch.fft.rfft(signal.real if signal.is_complex() else signal, count, place)
        )
    transform = torch.fft.ifft if inverse else torch.fft.fft
    return torch.view_as_real(transform(signal, count, place))


def random_normal(
    *,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    mean: float = 0.0,
    scale: float = 1.0,
    seed: float = 0.0,
    device: Device = None,
) -> Tensor:
    """Normal numbers from torch's generator; ONNX leaves the algorithm open, so the seed says nothing."""
    return torch.randn(list(shape), dtype=dtype, device=device) * scale + mean


def random_uniform(
    *,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    high: float = 1.0,
    low: float = 0.0,
    seed: float = 0.0,
    device: Device = None,
) -> Tensor:
    """Uniform numbers from torch's generator."""
    return torch.rand(list(shape), dtype=dtype, device=device) * (high - low) + low


def random_normal_like(
    x: Tensor, *, dtype: torch.dtype | None = None, mean: float = 0.0, scale: float = 1.0, seed: float = 0.0
) -> Tensor:
    """Normal numbers of the input's shape."""
    return torch.randn_like(x, dtype=dtype) * scale + mean


def random_uniform_like(
    x: Tensor, *, dtype: torch.dtype | None = None, high: float = 1.0, low: float = 0.0, seed: float = 0.0
) -> Tensor:
    """Uniform numbers of the input's shape."""
    return torch.rand_like(x, dtype=dtype) * (high - low) + low


def bernoulli(x: Tensor, *, dtype: torch.dtype | None = None, seed: float = 0.0) -> Tensor:
    """One with the probability that the input gives, else zero."""
    return torch.bernoulli(x).to(x.dtype if dtype is None else dtype)


def multinomial(
    x: Tensor, *, dtype: torch.dtype = torch.int32, sample_size: int = 1, seed: float = 0.0
) -> Tensor:
    """Draw classes from unnormalised log probabilities [B, classes]."""
    return torch.multinomial(torch.softmax(x, -1), sample_size, replacement=True).to(dtype)


def negative_log_likelihood_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-x of the target class, x [N, C, ...] being log probabilities."""
    return functional.nll_loss(
        x, target.to(torch.int64), weight, ignore_index=ignore_index, reduction=reduction
    )


def softmax_cross_entropy_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    outputs: int = 1,
) -> Tensor | tuple[Tensor, Tensor]:
    """Negative log likelihood of log_softmax(x), and that."""
    log = torch.log_softmax(x, 1)
    loss = negative_log_likelihood_loss(log, target, weight, ignore_index=ignore_index, reduction=reduction)
    return loss if outputs == 1 else (loss, log)


OPS = {
    "Bernoulli": Op(bernoulli, pure=False),
    "BlackmanWindow": Op(blackman_window, numbers=(0,)),
    "DFT": Op(dft, numbers=(1, 2)),
    "HammingWindow": Op(hamming_window, numbers=(0,)),
    "HannWindow": Op(hann_window, numbers=(0,)),
    "Multinomial": Op(multinomial, pure=False),
    "NegativeLogLikelihoodLoss": Op(negative_log_likelihood_loss),
    "RandomNormal": Op(random_normal, pure=False),
    "RandomNormalLike": Op(random_normal_like, pure=False),
    "RandomUniform": Op(random_uniform, pure=False),
    "RandomUniformLike": Op(random_uniform_like, pure=False),
    "SoftmaxCrossEntropyLoss": Op(softmax_cross_entropy_loss),
}
