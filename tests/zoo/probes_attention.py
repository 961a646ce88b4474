"""Small sequence networks, each around one way to write attention, recurrence or a token's path.

Heads, head widths, tokens and batch are all different, so that a confused axis is a wrong size.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .samples import Floats, Ids, Sample

BATCH = 2
TOKENS = 9
VOCABULARY = 50
LABELS = 5


class Recurrent(nn.Module):
    """A recurrent network over embedded tokens; its states and its last output are read."""

    def __init__(self, kind: Callable[..., nn.RNNBase], layers: int, bidirectional: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 14)
        self.recurrent = kind(14, 20, layers, bidirectional=bidirectional, batch_first=True)
        self.out = nn.Linear(40 if bidirectional else 20, LABELS)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embed(ids))
        return self.out(states[:, -1] + states.mean(1))


class EinsumAttention(nn.Module):
    """Attention as a handful of einsum: projections keep heads and head width as axes of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 24)
        self.query = nn.Parameter(torch.randn(24, 3, 10) / 5)
        self.key = nn.Parameter(torch.randn(24, 3, 10) / 5)
        self.value = nn.Parameter(torch.randn(24, 3, 7) / 5)
        self.leave = nn.Parameter(torch.randn(3, 7, 24) / 5)
        self.out = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = (torch.einsum("bnc,chd->bhnd", x, w) for w in (self.query, self.key, self.value))
        weights = (torch.einsum("bhnd,bhmd->bhnm", q, k) / math.sqrt(10)).softmax(-1)
        return self.out(x + torch.einsum("bhnm,bhmd,hdc->bnc", weights, v, self.leave))


class TiedEmbedding(nn.Module):
    """The output layer reads the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 18)
        self.hidden = nn.Linear(18, 31)
        self.back = nn.Linear(31, 18)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return functional.linear(x + self.back(functional.relu(self.hidden(x))), self.embed.weight)


class PositionEmbedding(nn.Module):
    """A free parameter is added to the tokens, another is put before them as class token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(11, 22)
        self.token = nn.Parameter(torch.randn(1, 1, 22))
        self.position = nn.Parameter(torch.randn(1, TOKENS + 1, 22))
        self.norm = nn.LayerNorm(22)
        self.hidden = nn.Linear(22, 34)
        self.out = nn.Linear(34, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1) + self.position
        return self.out(functional.gelu(self.hidden(self.norm(x).mean(1) + x[:, 0])))


class MultiheadAttention(nn.Module):
    """PyTorch's own module with one packed input projection, key and value of other widths in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 24)
        self.attend = nn.MultiheadAttention(24, 3, batch_first=True)
        self.cross = nn.MultiheadAttention(24, 4, kdim=13, vdim=11, batch_first=True)
        self.keys = nn.Linear(24, 13)
        self.out = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        y = y + self.attend(y, y, y, need_weights=False)[0]
        return self.out(y + self.cross(y, self.keys(y), x, need_weights=False)[0])


class EncoderLayers(nn.Module):
    """PyTorch's encoder layers, one with the norm before and one with the norm after."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 24)
        self.before = nn.TransformerEncoderLayer(24, 3, 40, batch_first=True, norm_first=True)
        self.after = nn.TransformerEncoderLayer(24, 4, 36, batch_first=True, activation="gelu")
        self.out = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.after(self.before(self.enter(x))))


class CrossAttention(nn.Module):
    """Queries from one input, keys and values from another of other width and length."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(11, 30)
        self.key = nn.Linear(13, 30)
        self.value = nn.Linear(13, 24)
        self.out = nn.Linear(24, LABELS)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (3, 10)).transpose(1, 2)
        k = self.key(context).unflatten(-1, (3, 10)).transpose(1, 2)
        v = self.value(context).unflatten(-1, (3, 8)).transpose(1, 2)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(10)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class LinearAttention(nn.Module):
    """Katharopoulos et al. 2020: features elu + 1 are not zero at zero, so removing differs from zeroing."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(11, 14)
        self.key = nn.Linear(11, 14)
        self.value = nn.Linear(11, 17)
        self.out = nn.Linear(17, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = functional.elu(self.query(x)) + 1, functional.elu(self.key(x)) + 1, self.value(x)
        numerator = q @ (k.transpose(1, 2) @ v)
        return self.out(numerator / (q * k.sum(1, keepdim=True)).sum(-1, keepdim=True))


class StackedQkv(nn.Module):
    """One projection for query, key and value, regrouped, permuted and unbound, as in ViT of timm."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 24)
        self.qkv = nn.Linear(24, 90)
        self.leave = nn.Linear(30, 24)
        self.norm = nn.LayerNorm(24)
        self.out = nn.Linear(24, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        n, tokens, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, tokens, 3, 3, 10).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(10)).softmax(-1) @ v
        return self.out(x + self.leave(mixed.transpose(1, 2).reshape(n, tokens, 30)))


class GatedLinearUnit(nn.Module):
    """A packed gate and value, cut by `glu`, and a separate SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.packed = nn.Linear(11, 32)
        self.middle = nn.Linear(16, 21)
        self.gate = nn.Linear(21, 27)
        self.up = nn.Linear(21, 27)
        self.down = nn.Linear(27, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(functional.glu(self.packed(x), -1))
        return self.down(functional.silu(self.gate(x)) * self.up(x))


def _angles(width: int) -> Tensor:
    """Rotation angles (TOKENS, width / 2)."""
    return torch.outer(torch.arange(TOKENS), 10000 ** (-torch.arange(0, width, 2) / width))


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021) by hand: pairs (i, i + d/2) with `split`, else (2i, 2i + 1)."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, split: bool) -> None:
        super().__init__()
        self.halves = split
        angles = _angles(10)
        angles = torch.cat([angles, angles], -1) if split else angles.repeat_interleave(2, -1)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        self.query = nn.Linear(11, 40)
        self.key = nn.Linear(11, 20)
        self.value = nn.Linear(11, 14)
        self.out = nn.Linear(28, LABELS)

    def rotated(self, x: Tensor) -> Tensor:
        """Positions applied to (..., TOKENS, 10)."""
        if self.halves:
            first, second = x.chunk(2, -1)
            turned = torch.cat([-second, first], -1)
        else:
            turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * self.cosine + turned * self.sine

    def forward(self, x: Tensor) -> Tensor:
        q = self.rotated(self.query(x).unflatten(-1, (4, 10)).transpose(1, 2))
        k = self.rotated(self.key(x).unflatten(-1, (2, 10)).transpose(1, 2))
        v = self.value(x).unflatten(-1, (2, 7)).transpose(1, 2)
        k, v = (part.repeat_interleave(2, 1) for part in (k, v))
        mixed = (q @ k.transpose(-1, -2) / math.sqrt(10)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class RmsNorm(nn.Module):
    """Root mean square norms written by hand and by PyTorch, around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 22)
        self.scale = nn.Parameter(torch.ones(22))
        self.hidden = nn.Linear(22, 35)
        self.back = nn.Linear(35, 22)
        self.norm = nn.RMSNorm(22, eps=1e-5)
        self.out = nn.Linear(22, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.scale
        return self.out(self.norm(x + self.back(functional.relu(self.hidden(y)))))


class SoftExperts(nn.Module):
    """All experts run and a softmax router weighs them; weights are stacked (expert, in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 16)
        self.router = nn.Linear(16, 3)
        self.up = nn.Parameter(torch.randn(3, 16, 25) / 4)
        self.down = nn.Parameter(torch.randn(3, 25, 16) / 5)
        self.out = nn.Linear(16, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        weights = self.router(x).softmax(-1)
        hidden = functional.gelu(torch.einsum("btc,ech->beth", x, self.up))
        return self.out(x + torch.einsum("beth,ehc,bte->btc", hidden, self.down, weights))


class Bag(nn.Module):
    """fastText's classifier: the mean of the embeddings of a row (Joulin et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 17)
        self.hidden = nn.Linear(17, 23)
        self.out = nn.Linear(23, LABELS)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(functional.relu(self.hidden(self.embed(ids).mean(1))))


class Mixer(nn.Module):
    """MLP-Mixer: an MLP over tokens, with bias, and one over channels (Tolstikhin et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(11, 20)
        self.norms = nn.ModuleList([nn.LayerNorm(20), nn.LayerNorm(20), nn.LayerNorm(20)])
        self.tokens = nn.Sequential(nn.Linear(TOKENS, 13), nn.GELU(), nn.Linear(13, TOKENS))
        self.channels = nn.Sequential(nn.Linear(20, 33), nn.GELU(), nn.Linear(33, 20))
        self.out = nn.Linear(20, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norms[1](x))
        return self.out(self.norms[2](x).mean(1))


class Windows(nn.Module):
    """Attention inside windows of 4 x 4 positions that are shifted by two (Liu et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 18, 1)
        self.qkv = nn.Linear(18, 90)
        self.bias = nn.Parameter(torch.randn(3, 16, 16))
        self.leave = nn.Linear(30, 18)
        self.out = nn.Linear(18, LABELS)

    def forward(self, image: Tensor) -> Tensor:
        x = self.enter(image).permute(0, 2, 3, 1)
        n, height, width, channels = x.shape
        y = x.roll((-2, -2), (1, 2)).reshape(n, height // 4, 4, width // 4, 4, channels)
        y = y.transpose(2, 3).reshape(-1, 16, channels)
        q, k, v = (part.unflatten(-1, (3, 10)).transpose(1, 2) for part in self.qkv(y).chunk(3, -1))
        y = ((q @ k.transpose(-1, -2) / math.sqrt(10)) + self.bias).softmax(-1) @ v
        y = self.leave(y.transpose(1, 2).flatten(2)).reshape(n, height // 4, width // 4, 4, 4, channels)
        y = y.transpose(2, 3).reshape(n, height, width, channels).roll((2, 2), (1, 2))
        return self.out((x + y).mean((1, 2)))


class MultiQueryDecay(nn.Module):
    """Causal attention in which one key and value head serves all queries, with a learned decay per head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 26)
        self.query = nn.Linear(26, 40, bias=False)
        self.key = nn.Linear(26, 10, bias=False)
        self.value = nn.Linear(26, 10, bias=False)
        self.decay = nn.Parameter(torch.linspace(0.1, 0.4, 4))
        self.leave = nn.Linear(40, 26, bias=False)
        self.out = nn.Linear(26, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        q = self.query(x).unflatten(-1, (4, 10)).transpose(1, 2)
        k, v = self.key(x).unsqueeze(1), self.value(x).unsqueeze(1)
        steps = torch.arange(TOKENS)
        distance = (steps[:, None] - steps[None]).float()
        bias = -self.decay[:, None, None] * distance.abs()
        score = (q @ k.transpose(-1, -2) / math.sqrt(10) + bias).masked_fill(distance < 0, float("-inf"))
        return self.out(x + self.leave((score.softmax(-1) @ v).transpose(1, 2).flatten(2)))


IDS = {"ids": Ids((BATCH, TOKENS), VOCABULARY, low=0)}
FEATURES = {"x": Floats((BATCH, TOKENS, 11))}

PROBES: dict[str, Sample] = {
    "bidirectional-lstm": Sample(lambda: Recurrent(nn.LSTM, 2, True), IDS),
    "gru": Sample(lambda: Recurrent(nn.GRU, 2, False), IDS),
    "rnn": Sample(lambda: Recurrent(nn.RNN, 2, True), IDS),
    "einsum-attention": Sample(EinsumAttention, FEATURES),
    "tied-embedding": Sample(TiedEmbedding, IDS),
    "position-embedding": Sample(PositionEmbedding, FEATURES),
    "multihead-attention": Sample(MultiheadAttention, FEATURES),
    "encoder-layers": Sample(EncoderLayers, FEATURES),
    "cross-attention": Sample(CrossAttention, {**FEATURES, "context": Floats((BATCH, 6, 13))}),
    "linear-attention": Sample(LinearAttention, FEATURES),
    "stacked-qkv": Sample(StackedQkv, FEATURES),
    "gated-linear-unit": Sample(GatedLinearUnit, FEATURES),
    "rotary-half": Sample(lambda: Rotary(split=True), FEATURES),
    "rotary-interleaved": Sample(lambda: Rotary(split=False), FEATURES),
    "rms-norm": Sample(RmsNorm, FEATURES),
    "soft-experts": Sample(SoftExperts, FEATURES),
    "bag-of-embeddings": Sample(Bag, IDS),
    "mixer": Sample(Mixer, FEATURES),
    "windows": Sample(Windows, {"image": Floats((BATCH, 3, 8, 12))}),
    "multi-query-decay": Sample(MultiQueryDecay, IDS),
}
