"""The arithmetic of convolution shapes, shared by the kernels that run them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConvGeometry:
    """A 2-D convolution (ONNX Conv) with explicit pads; pairs are (rows, columns).

    Attributes:
        pad: zeros before the first row and column.
        out_size: follows from the pads at both ends.
    """

    channels: int
    out_channels: int
    groups: int
    size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    pad: tuple[int, int]

    def tap(self, axis: int, d: int) -> tuple[int, int]:
        """(phase, shift) of kernel position d: phase row y + shift is read for output row y."""
        o = self.dilation[axis] * d - self.pad[axis]
        phase = o % self.stride[axis]
        return phase, (o - phase) // self.stride[axis]

    def phases(self) -> tuple[tuple[int, int], ...]:
        """The phases that some tap reads, in order."""
        rows = sorted({self.tap(0, d)[0] for d in range(self.kernel[0])})
        columns = sorted({self.tap(1, d)[0] for d in range(self.kernel[1])})
        return tuple((py, px) for py in rows for px in columns)

    def phase_size(self, phase: int) -> tuple[int, int]:
        """Rows and columns of the input that belong to `phase` (taken per axis)."""
        rows, columns = (-(-(n - phase) // s) for n, s in zip(self.size, self.stride, strict=True))
        return rows, columns

    def shifts(self, axis: int) -> tuple[int, int]:
        """(low, high): reads reach from -low to out_size - 1 + high, in phase rows or columns."""
        shifts = [self.tap(axis, d)[1] for d in range(self.kernel[axis])]
        return -min(shifts), max(shifts)

    @property
    def depthwise(self) -> bool:
        return self.groups == self.channels and self.groups > 1

    @property
    def pointwise(self) -> bool:
        """1x1, stride 1, no padding: a matrix product over the flattened planes."""
        return self.kernel == (1, 1) and self.stride == (1, 1) and self.size == self.out_size
