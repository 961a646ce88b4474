"""What a network of the zoo is made of: a PyTorch module, and seeded example inputs by name.

Weights are drawn anew, biases and norm scales included: equal initial values may be merged by an exporter,
and would hide an analysis that mixes up two parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

import sparsecc


class Draw(Protocol):
    """A kind of input that can be drawn."""

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """One array."""
        ...


@dataclass(frozen=True)
class Floats:
    """Standard normal float32 numbers."""

    shape: tuple[int, ...]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """An array of `shape`."""
        return generator.standard_normal(self.shape, dtype=np.float32)


@dataclass(frozen=True)
class Ids:
    """Integers from `low` to `high` - 1; the last of each row is `last` where that is given."""

    shape: tuple[int, ...]
    high: int
    low: int = 3
    last: int | None = None
    dtype: type[np.integer[Any]] = np.int64

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """An array of `shape`."""
        ids = generator.integers(self.low, self.high, self.shape).astype(self.dtype)
        if self.last is not None:
            ids[..., -1] = self.last
        return ids


@dataclass(frozen=True)
class Mask:
    """Ones of int64 over (batch, tokens); the last third of the last row is padding."""

    shape: tuple[int, int]

    def draw(self, generator: np.random.Generator) -> np.ndarray:
        """An array of `shape`; the same for every seed."""
        mask = np.ones(self.shape, np.int64)
        mask[-1, -(self.shape[1] // 3) :] = 0
        return mask


@dataclass(frozen=True)
class Sample:
    """A module to build and the inputs of its `forward`, by parameter name."""

    module: Callable[[], nn.Module]
    inputs: Mapping[str, Draw]

    def build_module(self) -> nn.Module:
        """The module with seeded weights, in eval mode."""
        torch.manual_seed(0)
        module = self.module().eval()
        randomise(module)
        calibrate(module, self.tensors())
        return module

    def build(self) -> ir.Model:
        """The module, captured; graph inputs have the names of `inputs`."""
        # Learned attention biases that want gradients make the exporter take another kernel than the tracer.
        with torch.no_grad():
            return sparsecc.capture(self.build_module(), self.tensors())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Example inputs by name, of seed 0."""
        return {name: torch.from_numpy(array) for name, array in self.draw(0).items()}

    def draw(self, seed: int) -> dict[str, np.ndarray]:
        """Example inputs by name."""
        generator = np.random.default_rng(seed)
        return {name: kind.draw(generator) for name, kind in self.inputs.items()}


def randomise(module: nn.Module) -> None:
    """Draw every parameter anew, keeping activations of order one.

    Matrices get a standard deviation of 1.2 / sqrt(fan in), norm scales lie in [0.5, 1.5], biases around 0;
    parameters that belong to no known layer are perturbed around the values that their module chose.
    """
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if parameter.is_floating_point():
                    _redraw(part, name, parameter)


def calibrate(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
    """Set the statistics of batch norms near those of `inputs`, so that signals neither vanish nor grow."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]  # pyright: ignore[reportPrivateUsage]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        module(**inputs)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
            mean, variance = norm.running_mean, norm.running_var
            assert mean is not None and variance is not None
            variance.add_(0.05).mul_(torch.empty_like(variance).uniform_(0.7, 1.4))
            mean.add_(0.2 * variance.sqrt() * torch.randn_like(mean))


def _redraw(part: nn.Module, name: str, parameter: torch.Tensor) -> None:
    if isinstance(part, nn.Embedding):
        parameter.normal_(0.0, 0.7)
    elif name.startswith("bias") or name.endswith("bias"):
        parameter.normal_(0.0, 0.2)
    elif isinstance(part, nn.Linear | nn.modules.conv._ConvNd):  # pyright: ignore[reportPrivateUsage]
        transposed = bool(getattr(part, "transposed", False))
        fan_in = parameter.shape[0] if transposed else parameter[0].numel()
        parameter.normal_(0.0, 1.2 / math.sqrt(fan_in))
    elif "Norm" in type(part).__name__ and parameter.ndim == 1:
        parameter.uniform_(0.5, 1.5)
    elif parameter.ndim == 2:
        parameter.normal_(0.0, 1.2 / math.sqrt(min(parameter.shape)))
    else:
        noise = torch.randn_like(parameter)
        parameter.mul_(1 + 0.3 * noise).add_(0.1 * torch.randn_like(parameter))
