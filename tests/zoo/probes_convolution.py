"""Small convolutional networks, each around one way in which channels are regrouped, joined or shared.

Widths within a network differ, so that channels that must be kept together are told apart by more than size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .samples import Floats, Sample

BATCH = 2
LABELS = 5


def convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the image size over `stride`, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class Head(nn.Module):
    """Mean over all positions, then a linear classifier: (N, C, ...) -> (N, labels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, LABELS)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(2).mean(2))


class PixelShuffle(nn.Module):
    """Four channels become one at twice the resolution, in between and at the output."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.PixelShuffle(2), nn.ReLU())
        self.mix = nn.Conv2d(6, 10, 3, padding=1)
        self.out = nn.Sequential(nn.Conv2d(10, 12, 1), nn.PixelShuffle(2))

    def forward(self, image: Tensor) -> Tensor:
        return self.out(functional.relu(self.mix(self.up(image))))


class PixelUnshuffle(nn.Module):
    """Space to depth: a convolution reads four copies of every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 7)
        self.down = nn.PixelUnshuffle(2)
        self.second = convolution(28, 18)
        self.head = Head(18)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.second(self.down(self.first(image))))


class FlipChannels(nn.Module):
    """A map plus itself with the channels in reverse order: channels i and C - 1 - i are tied."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 12)
        self.second = convolution(12, 20)
        self.head = Head(20)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        return self.head(self.second(x + x.flip(1)))


class ShuffleUnit(nn.Module):
    """ShuffleNet v1's unit: grouped convolution, channel shuffle, depthwise, grouped, residual."""

    def __init__(self, channels: int, middle: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.squeeze = convolution(channels, middle, 1, groups=groups)
        self.depthwise = nn.Conv2d(middle, middle, 3, padding=1, groups=middle)
        self.expand = nn.Conv2d(middle, channels, 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeeze(x)
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return functional.relu(x + self.expand(self.depthwise(y)))


class ChannelShuffle(nn.Module):
    """Two shuffle units."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 24, stride=2)
        self.units = nn.Sequential(ShuffleUnit(24, 12, 3), ShuffleUnit(24, 18, 3))
        self.head = Head(24)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.units(self.stem(image)))


class UNet(nn.Module):
    """Two levels; transposed convolutions go up, skips are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([convolution(3, 8), convolution(8, 14), convolution(14, 22)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(22, 12, 2, 2), nn.ConvTranspose2d(18, 10, 2, 2)])
        self.merge = nn.ModuleList([convolution(26, 18), convolution(18, 16)])
        self.out = nn.Conv2d(16, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        first = self.down[0](image)
        second = self.down[1](functional.max_pool2d(first, 2))
        x = self.down[2](functional.max_pool2d(second, 2))
        x = self.merge[0](torch.cat([self.up[0](x), second], 1))
        x = self.merge[1](torch.cat([self.up[1](x), first], 1))
        return self.out(x)


class FlattenLinear(nn.Module):
    """LeNet's end: a linear layer reads channels x positions as one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, 6, 5), nn.MaxPool2d(2), convolution(6, 10), nn.MaxPool2d(2)
        )
        self.hidden = nn.Linear(160, 36)
        self.out = nn.Linear(36, LABELS)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(functional.relu(self.hidden(self.features(image).flatten(1))))


class C2f(nn.Module):
    """YOLOv8's block: chunk into two halves, grow one, concatenate all (Ultralytics, `C2f`)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 20)
        self.enter = convolution(20, 16, 1)
        self.steps = nn.ModuleList(
            [nn.Sequential(convolution(8, middle), convolution(middle, 8)) for middle in (5, 6)]
        )
        self.leave = convolution(32, 14, 1)
        self.head = Head(14)

    def forward(self, image: Tensor) -> Tensor:
        parts = list(self.enter(self.stem(image)).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        return self.head(self.leave(torch.cat(parts, 1)))


class SqueezeExcitation(nn.Module):
    """Channels scaled by a gate computed from their means."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 18)
        self.squeeze = nn.Conv2d(18, 7, 1)
        self.excite = nn.Conv2d(7, 18, 1)
        self.second = convolution(18, 11)
        self.head = Head(11)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        gate = self.excite(functional.relu(self.squeeze(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(self.second(x * gate))


class DepthwiseSeparable(nn.Module):
    """MobileNet's layers, with a depth multiplier of two in the last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, 9),
            convolution(9, 9, groups=9),
            convolution(9, 14, 1),
            convolution(14, 28, groups=14),
            convolution(28, 17, 1),
        )
        self.head = Head(17)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.layers(image))


class GroupNorms(nn.Module):
    """Group norms after convolutions, with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 18, 3, padding=1), nn.GroupNorm(3, 18), nn.SiLU())
        self.middle = nn.Sequential(nn.Conv2d(18, 20, 3, padding=1), nn.GroupNorm(4, 20), nn.SiLU())
        self.last = nn.Conv2d(20, 18, 1)
        self.norm = nn.GroupNorm(1, 18)
        self.head = Head(18)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        return self.head(self.norm(x + self.last(self.middle(x))))


class InstanceNorms(nn.Module):
    """Instance norms, with and without an affine part."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.InstanceNorm2d(10, affine=True),
            nn.LeakyReLU(0.1),
            nn.Conv2d(10, 14, 3, padding=1),
            nn.InstanceNorm2d(14),
            nn.LeakyReLU(0.1),
            nn.Conv2d(14, 4, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class OptionA(nn.Module):
    """ResNet's parameter-free shortcut: stride two, new channels padded with zeros (He et al. 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 10)
        self.body = nn.Sequential(convolution(10, 13, stride=2), nn.Conv2d(13, 18, 3, padding=1))
        self.tail = convolution(18, 18)
        self.head = Head(18)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = functional.relu(self.body(x) + functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(x + self.tail(x))


class DenseBlock(nn.Module):
    """DenseNet: every layer reads all earlier ones, norm before convolution, then a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.layers = nn.ModuleList(
            [
                nn.Sequential(
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                    nn.Conv2d(width, 12, 1, bias=False),
                    nn.BatchNorm2d(12),
                    nn.ReLU(),
                    nn.Conv2d(12, 6, 3, padding=1, bias=False),
                )
                for width in (10, 16, 22)
            ]
        )
        self.transition = nn.Sequential(nn.BatchNorm2d(28), nn.ReLU(), nn.Conv2d(28, 14, 1), nn.AvgPool2d(2))
        self.head = Head(14)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(functional.relu(self.transition(x)))


class Inception(nn.Module):
    """Four branches of different kernels, concatenated, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = convolution(3, 12)
        self.blocks = nn.ModuleList([self._block(12), self._block(25)])
        self.head = Head(25)

    @staticmethod
    def _block(channels: int) -> nn.ModuleList:
        return nn.ModuleList(
            [
                convolution(channels, 6, 1),
                nn.Sequential(convolution(channels, 5, 1), convolution(5, 8)),
                nn.Sequential(convolution(channels, 3, 1), convolution(3, 7, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), convolution(channels, 4, 1)),
            ]
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for block in self.blocks:
            assert isinstance(block, nn.ModuleList)
            x = torch.cat([branch(x) for branch in block], 1)
        return self.head(x)


class Conv3d(nn.Module):
    """Video: convolutions over time, height and width, with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv3d(3, 9, 3, padding=1)
        self.norm = nn.BatchNorm3d(9)
        self.second = nn.Conv3d(9, 13, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.head = Head(13)

    def forward(self, video: Tensor) -> Tensor:
        return self.head(functional.relu(self.second(functional.relu(self.norm(self.first(video))))))


class PReLUs(nn.Module):
    """One slope per channel, and one slope for all."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 11, 3, padding=1),
            nn.PReLU(11),
            nn.Conv2d(11, 15, 3, padding=1),
            nn.PReLU(),
            Head(15),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class BilinearUpsample(nn.Module):
    """A feature pyramid's top-down path: upsampled maps are added to finer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = convolution(3, 9, stride=2)
        self.coarse = convolution(9, 15, stride=2)
        self.lateral = nn.ModuleList([nn.Conv2d(9, 12, 1), nn.Conv2d(15, 12, 1)])
        self.out = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.fine(image)
        coarse = self.lateral[1](self.coarse(fine))
        up = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)
        return functional.interpolate(self.out(self.lateral[0](fine) + up), scale_factor=2.0, mode="nearest")


class Conv1dNet(nn.Module):
    """Audio: a strided, then a dilated and grouped convolution in a residual block; a unit axis is put in."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(1, 12, 7, stride=2, padding=3)
        self.norm = nn.BatchNorm1d(12)
        self.dilated = nn.Conv1d(12, 18, 3, padding=2, dilation=2, groups=3)
        self.back = nn.Conv1d(18, 12, 1)
        self.head = Head(12)

    def forward(self, signal: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(signal.unsqueeze(1))))
        return self.head(x + self.back(functional.gelu(self.dilated(x))))


class GatedConv(nn.Module):
    """WaveNet's unit: tanh times sigmoid of two convolutions, with residual and skip outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(3, 10, 1)
        self.filters = nn.ModuleList([nn.Conv1d(10, width, 3, padding=1) for width in (8, 9)])
        self.gates = nn.ModuleList([nn.Conv1d(10, width, 3, padding=1) for width in (8, 9)])
        self.residuals = nn.ModuleList([nn.Conv1d(width, 10, 1) for width in (8, 9)])
        self.skips = nn.ModuleList([nn.Conv1d(width, 13, 1) for width in (8, 9)])
        self.head = Head(13)

    def forward(self, signal: Tensor) -> Tensor:
        x = self.stem(signal)
        skips: list[Tensor] = []
        for filters, gate, residual, skip in zip(
            self.filters, self.gates, self.residuals, self.skips, strict=True
        ):
            y = torch.tanh(filters(x)) * torch.sigmoid(gate(x))
            x = x + residual(y)
            skips.append(skip(y))
        return self.head(functional.relu(torch.stack(skips).sum(0)))


class UnitAxis(nn.Module):
    """Attention over positions from one channel: axes of size one are squeezed and put back."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 12)
        self.score = nn.Conv2d(12, 1, 1)
        self.last = nn.Conv2d(12, LABELS, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        weight = self.score(x).squeeze(1).flatten(1).softmax(1).unflatten(1, x.shape[2:]).unsqueeze(1)
        pooled = (x * weight).sum((2, 3), keepdim=True)
        return self.last(pooled).squeeze(-1).squeeze(-1)


class GroupedTransposed(nn.Module):
    """A grouped transposed convolution, whose weight holds the outputs of one group only."""

    def __init__(self) -> None:
        super().__init__()
        self.first = convolution(3, 12, stride=2)
        self.up = nn.ConvTranspose2d(12, 18, 4, 2, 1, groups=3)
        self.out = nn.Conv2d(18, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.out(functional.relu(self.up(self.first(image))))


IMAGE = {"image": Floats((BATCH, 3, 16, 16))}
SIGNAL = {"signal": Floats((BATCH, 3, 19))}

PROBES: dict[str, Sample] = {
    "pixel-shuffle": Sample(PixelShuffle, IMAGE),
    "pixel-unshuffle": Sample(PixelUnshuffle, IMAGE),
    "flip-channels": Sample(FlipChannels, IMAGE),
    "channel-shuffle": Sample(ChannelShuffle, IMAGE),
    "u-net": Sample(UNet, IMAGE),
    "flatten-linear": Sample(FlattenLinear, IMAGE),
    "c2f": Sample(C2f, IMAGE),
    "squeeze-and-excitation": Sample(SqueezeExcitation, IMAGE),
    "depthwise-separable": Sample(DepthwiseSeparable, IMAGE),
    "group-norm": Sample(GroupNorms, IMAGE),
    "instance-norm": Sample(InstanceNorms, IMAGE),
    "resnet-option-a": Sample(OptionA, IMAGE),
    "dense-block": Sample(DenseBlock, IMAGE),
    "inception": Sample(Inception, IMAGE),
    "conv3d": Sample(Conv3d, {"video": Floats((BATCH, 3, 4, 8, 8))}),
    "prelu": Sample(PReLUs, IMAGE),
    "bilinear-upsample": Sample(BilinearUpsample, IMAGE),
    "conv1d": Sample(Conv1dNet, {"signal": Floats((BATCH, 37))}),
    "gated-conv": Sample(GatedConv, SIGNAL),
    "unit-axis": Sample(UnitAxis, IMAGE),
    "grouped-transposed-conv": Sample(GroupedTransposed, IMAGE),
}
