"""Small networks that cut, join, reorder or reduce channels in ways of their own, and unusual interfaces."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .samples import Floats, Sample

BATCH = 2
LABELS = 5


class FunctionalLinear(nn.Module):
    """Weights held as bare parameters, used through `linear`, `matmul` and `addmm`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(19, 11) / 3)
        self.offset = nn.Parameter(torch.randn(19))
        self.second = nn.Parameter(torch.randn(19, 14) / 4)
        self.third = nn.Parameter(torch.randn(14, LABELS) / 4)
        self.last = nn.Parameter(torch.randn(LABELS))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.linear(x, self.first, self.offset))
        return torch.addmm(self.last, torch.tanh(torch.matmul(x, self.second)), self.third)


class IndexSelect(nn.Module):
    """Channels picked by a constant list, with one left out and one taken twice."""

    indices: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 8)
        self.register_buffer("indices", torch.tensor([6, 0, 3, 3, 1, 7, 5, 2]))
        self.second = nn.Linear(8, 13)
        self.out = nn.Linear(13, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        picked = functional.relu(self.first(x)).index_select(-1, self.indices)
        return self.out(functional.relu(self.second(picked)))


class OverlappingSlices(nn.Module):
    """Slices that share channels, concatenated: one unit feeds two columns of the next layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 14)
        self.second = nn.Linear(18, 12)
        self.out = nn.Linear(12, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        return self.out(functional.relu(self.second(torch.cat([x[:, :9], x[:, 5:]], -1))))


class Roll(nn.Module):
    """Channels shifted round by three and added to themselves: they tie in cycles."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 12)
        self.second = nn.Linear(12, 17)
        self.out = nn.Linear(17, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        return self.out(functional.relu(self.second(x + x.roll(3, -1))))


class SigmoidSum(nn.Module):
    """Sigmoids are summed over channels: a zeroed channel still counts one half."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 15)
        self.out = nn.Linear(1, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(x).sigmoid().sum(-1, keepdim=True))


class ManyInputs(nn.Module):
    """Two inputs of other widths meet in a sum, a product and a concatenation; two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(11, 16)
        self.right = nn.Linear(7, 16)
        self.wide = nn.Linear(7, 10)
        self.first = nn.Linear(26, 21)
        self.out = nn.Linear(21, LABELS)
        self.score = nn.Bilinear(16, 10, 3)

    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        both = self.left(left) * torch.tanh(self.right(right)) + self.right(right)
        wide = functional.relu(self.wide(right))
        return self.out(functional.relu(self.first(torch.cat([both, wide], -1)))), self.score(both, wide)


class DictOutputs(nn.Module):
    """Results by name, one of them an inner representation that must keep its width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 16)
        self.second = nn.Linear(16, 22)
        self.out = nn.Linear(22, LABELS)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = self.first(x)
        return {"logits": self.out(functional.gelu(self.second(embedding))), "embedding": embedding}


class HandNorm(nn.Module):
    """Layer norm and batch norm written out as means and variances."""

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 18)
        self.scale = nn.Parameter(torch.ones(18))
        self.shift = nn.Parameter(torch.zeros(18))
        self.second = nn.Linear(18, 14)
        self.register_buffer("running_mean", torch.linspace(-0.3, 0.4, 14))
        self.register_buffer("running_variance", torch.linspace(0.6, 1.6, 14))
        self.out = nn.Linear(14, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        centred = x - x.mean(-1, keepdim=True)
        x = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * self.scale + self.shift
        return self.out(
            functional.relu((self.second(x) - self.running_mean) / torch.sqrt(self.running_variance + 1e-3))
        )


class Split(nn.Module):
    """Parts of unequal size from one layer go different ways and meet again in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 24)
        self.gate = nn.Linear(6, 10)
        self.out = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.first(x).split([6, 8, 10], -1)
        return self.out(torch.cat([functional.relu(c * self.gate(a)), torch.tanh(b), a], -1))


class Maxout(nn.Module):
    """The largest of three pieces, as a regrouped axis and as a maximum of two layers (Goodfellow 2013)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 30)
        self.left = nn.Linear(10, 13)
        self.right = nn.Linear(10, 13)
        self.out = nn.Linear(13, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).unflatten(-1, (10, 3)).amax(-1)
        return self.out(torch.maximum(self.left(x), self.right(x)))


class StridedChannels(nn.Module):
    """Even and odd channels take different paths and are interleaved again."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 18)
        self.even = nn.Linear(9, 8)
        self.odd = nn.Linear(9, 8)
        self.out = nn.Linear(16, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        both = torch.stack([self.even(x[:, ::2]), self.odd(x[:, 1::2])], -1).flatten(1)
        return self.out(functional.relu(both))


class Repeated(nn.Module):
    """One vector tiled and interleaved, and gated by another of the full width."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 6)
        self.tiled = nn.Linear(11, 18)
        self.spread = nn.Linear(11, 12)
        self.out = nn.Linear(30, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.first(x))
        parts = [y.repeat(1, 3) * self.tiled(x), y.repeat_interleave(2, -1) * self.spread(x)]
        return self.out(torch.cat(parts, -1))


class OuterProduct(nn.Module):
    """The outer product of two layers is flattened: two axes become one (Lin et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(11, 6)
        self.right = nn.Linear(11, 7)
        self.out = nn.Linear(42, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.left(x).unsqueeze(2) * self.right(x).unsqueeze(1)).flatten(1))


class GeneratedWeights(nn.Module):
    """A small network writes the weights of a layer (Ha et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = nn.Linear(7, 9)
        self.write = nn.Linear(9, 11 * 14)
        self.out = nn.Linear(14, LABELS)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        weight = self.write(functional.relu(self.condition(condition))).unflatten(-1, (11, 14))
        return self.out(functional.relu(torch.bmm(x.unsqueeze(1), weight).squeeze(1)))


class Normalised(nn.Module):
    """Unit vectors and their cosine similarities with learned prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(11, 20)
        self.second = nn.Linear(20, 16)
        self.prototypes = nn.Parameter(torch.randn(LABELS, 16))
        self.temperature = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.normalize(self.second(functional.relu(self.first(x))), dim=-1)
        return self.temperature.exp() * x @ functional.normalize(self.prototypes, dim=-1).T


FEATURES = {"x": Floats((BATCH, 11))}

PROBES: dict[str, Sample] = {
    "functional-linear": Sample(FunctionalLinear, FEATURES),
    "index-select": Sample(IndexSelect, FEATURES),
    "overlapping-slices": Sample(OverlappingSlices, FEATURES),
    "roll": Sample(Roll, FEATURES),
    "sigmoid-sum": Sample(SigmoidSum, FEATURES),
    "many-inputs": Sample(ManyInputs, {"left": Floats((BATCH, 11)), "right": Floats((BATCH, 7))}),
    "dict-outputs": Sample(DictOutputs, FEATURES),
    "hand-norm": Sample(HandNorm, FEATURES),
    "split": Sample(Split, FEATURES),
    "maxout": Sample(Maxout, FEATURES),
    "strided-channels": Sample(StridedChannels, FEATURES),
    "repeated": Sample(Repeated, FEATURES),
    "outer-product": Sample(OuterProduct, FEATURES),
    "generated-weights": Sample(GeneratedWeights, {**FEATURES, "condition": Floats((BATCH, 7))}),
    "normalised": Sample(Normalised, FEATURES),
}
