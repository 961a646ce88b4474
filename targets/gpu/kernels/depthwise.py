"""Depthwise convolutions: a thread for each output position, its taps unrolled, its weights in registers.

Y[c, p] = epilogue(bias[c] + sum_t W[c, t] X[c / multiplier, tap t of p]); taps outside the plane are 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from sparsecc.targets.gpu.tir import GpuBuilder
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import const

THREADS = 64
"""Of a group, along the positions."""


@dataclass(frozen=True)
class DepthwiseForm:
    """What a kernel is specialised for: pairs are (rows, columns)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    epilogue: Epilogue


def depthwise_kernel(form: DepthwiseForm, symbol: str) -> tirx.PrimFunc:
    """Pointers: weights [C, taps], bias, X, Y, then the epilogue's.

    Scalars: output channels, channels per input channel, output positions, output width, height, width,
    padding above and left, X's row pitch, channel pitch, origin and batch stride, Y's channel pitch, origin
    and batch stride, then the epilogue's. Grid: positions, batch x channels.
    """
    b = GpuBuilder((THREADS,))
    weights, bias, x, y = (b.pointer(n) for n in ("weights", "bias", "x", "y"))
    operands = EpilogueOperands(b, form.epilogue)
    names = ("channels", "multiplier", "positions", "out_width", "height", "width", "pad_y", "pad_x")
    channels, multiplier, positions, out_width, height, width, pad_y, pad_x = (b.scalar(n) for n in names)
    x_row, x_channel, x_origin, x_batch = (b.scalar(f"x_{n}") for n in ("row", "channel", "origin", "batch"))
    y_channel, y_origin, y_batch = (b.scalar(f"y_{n}") for n in ("channel", "origin", "batch"))
    operands.declare_scalars()

    batch = b.register(tirx.Div(b.group(1), channels), dtype="int32").value
    channel = b.register(b.group(1) - batch * channels, dtype="int32").value
    n = b.register(b.group(0) * THREADS + b.thread(0), dtype="int32").value
    with b.branch(n < positions):
        oy = b.register(tirx.Div(n, out_width), dtype="int32").value
        top = b.register(oy * form.stride[0] - pad_y, dtype="int32").value
        left = b.register((n - oy * out_width) * form.stride[1] - pad_x, dtype="int32").value
        source = tirx.Div(channel, multiplier) * x_channel + x_origin + batch * x_batch
        corner = b.register(source + top * x_row + left, dtype="int32").value
        first = b.register(channel * (form.kernel[0] * form.kernel[1]), dtype="int32").value
        total = b.register(bias[channel])
        for i in range(form.kernel[0]):
            dy = i * form.dilation[0]
            inside_rows = b.register(
                tirx.Select(tirx.all(top + dy >= 0, top + dy < height), const(1), const(0)), dtype="int32"
            ).value
            for j in range(form.kernel[1]):
                dx = j * form.dilation[1]
                inside = tirx.all(inside_rows > 0, left + dx >= 0, left + dx < width)
                loaded = tirx.if_then_else(inside, x[corner + x_row * dy + dx], const(0.0, "float32"))
                value = b.register(loaded).value
                b.set(total, total.value + weights[first + i * form.kernel[1] + j] * value)
        index = b.register(y_origin + channel * y_channel + n, dtype="int32").value
        out = operands.apply(total.value, row=channel, index=index, batch=batch, lanes=1)
        b.store(y, index + batch * y_batch, out)
    return b.function(symbol)
