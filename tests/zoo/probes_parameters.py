"""Small networks whose parameters are shared, reparametrised or belong to no layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from .probes_convolution import IMAGE, Head, convolution
from .samples import Sample


class SharedModule(nn.Module):
    """One convolution used twice, on maps that are not otherwise related."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 14)
        self.shared = nn.Conv2d(14, 14, 3, padding=1)
        self.between = nn.Conv2d(14, 14, 1)
        self.head = Head(14)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.shared(self.stem(image)))
        return self.head(functional.relu(self.shared(self.between(x))))


class WeightNorm(nn.Module):
    """Weights as direction times length, one length per output (Salimans and Kingma 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.weight_norm(nn.Conv2d(3, 10, 3, padding=1))
        self.second = parametrizations.weight_norm(nn.Conv2d(10, 14, 3, padding=1))
        self.head = Head(14)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(functional.relu(self.second(functional.relu(self.first(image)))))


class SpectralNorm(nn.Module):
    """Weights divided by their largest singular value (Miyato et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = parametrizations.spectral_norm(nn.Conv2d(3, 10, 3, padding=1))
        self.second = parametrizations.spectral_norm(nn.Conv2d(10, 14, 3, padding=1))
        self.head = Head(14)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(functional.relu(self.second(functional.relu(self.first(image)))))


class ScalarParameters(nn.Module):
    """Free-standing scalars and a per-channel scale that belong to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 13)
        self.second = convolution(13, 13)
        self.alpha = nn.Parameter(torch.tensor(0.7))
        self.beta = nn.Parameter(torch.tensor([0.2]))
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 13).reshape(13, 1, 1))
        self.head = Head(13)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        return self.head(self.alpha * x + self.gamma * self.second(x) * self.beta.exp())


PROBES: dict[str, Sample] = {
    "shared-module": Sample(SharedModule, IMAGE),
    "weight-norm": Sample(WeightNorm, IMAGE),
    "spectral-norm": Sample(SpectralNorm, IMAGE),
    "scalar-parameters": Sample(ScalarParameters, IMAGE),
}
