"""Ops that ONNX's reference evaluator computes slowly, wrongly, or in float32 whatever it is given.

Each follows the text of the ONNX operator specification in numpy, in the type of its first input. Names and
arguments are those of the specification, by which the evaluator finds and calls them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun
from onnx.reference.ops import op_gru, op_lstm, op_max_pool

Ints = Sequence[int] | None
Array = np.ndarray


class Erf(OpRun):
    """The reference rounds to float32."""

    def _run(self, x: Array) -> tuple[Array]:
        return (_erf(x),)


class Gelu(OpRun):
    """The reference expands it into a function, whose Erf cannot be replaced."""

    def _run(self, x: Array, approximate: str | None = None) -> tuple[Array]:
        if approximate == "tanh":
            inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
            return ((0.5 * x * (1 + np.tanh(inner))).astype(x.dtype),)
        return ((0.5 * x * (1 + _erf(x / np.sqrt(2)))).astype(x.dtype),)


class GroupNormalization(OpRun):
    """The reference expands it into a function that casts to float32."""

    def _run(
        self,
        x: Array,
        scale: Array,
        bias: Array,
        epsilon: float = 1e-5,
        num_groups: int = 1,
        stash_type: int | None = None,
    ) -> tuple[Array]:
        groups = x.reshape(x.shape[0], num_groups, -1)
        mean = groups.mean(-1, keepdims=True)
        deviation = np.sqrt(groups.var(-1, keepdims=True) + epsilon)
        per_channel = (-1, *[1] * (x.ndim - 2))
        normal = ((groups - mean) / deviation).reshape(x.shape)
        return ((normal * scale.reshape(per_channel) + bias.reshape(per_channel)).astype(x.dtype),)


class MeanVarianceNormalization(OpRun):
    """The reference expands it into a function with float32 constants."""

    def _run(self, x: Array, axes: Ints = None) -> tuple[Array]:
        along = tuple(axes or (0, 2, 3))
        deviation = np.sqrt(x.var(along, keepdims=True)) + 1e-9
        return (((x - x.mean(along, keepdims=True)) / deviation).astype(x.dtype),)


class Conv(OpRun):
    """The reference builds index arrays of the size of all patches."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Ints = None,
        group: int = 1,
        kernel_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        count = x.ndim - 2
        steps, gaps = strides or [1] * count, dilations or [1] * count
        kernel = w.shape[2:]
        padding = _padding(auto_pad, x.shape[2:], kernel, steps, gaps, pads)
        windows = _windows(np.pad(x, [(0, 0), (0, 0), *padding]), kernel, steps, gaps)
        batch, area = x.shape[0], windows.shape[2 : 2 + count]
        # [n, (g c), *area, *kernel] -> [g, (c *kernel), (n *area)]
        patches = np.moveaxis(windows, 0, 1 + count)
        patches = np.moveaxis(patches, range(1, 1 + count), range(-count, 0))
        patches = np.moveaxis(patches, 1, 1 + count)
        columns = patches.reshape(group, -1, batch * math.prod(area))
        result = w.reshape(group, w.shape[0] // group, -1) @ columns
        result = np.moveaxis(result.reshape(w.shape[0], batch, *area), 1, 0)
        return (_with_bias(result, b),)


class ConvTranspose(OpRun):
    """The reference loops over pixels and mixes up channels where there are groups."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        auto_pad: str | None = None,
        dilations: Ints = None,
        group: int = 1,
        kernel_shape: Ints = None,
        output_padding: Ints = None,
        output_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        count = x.ndim - 2
        steps, gaps, extra = strides or [1] * count, dilations or [1] * count, output_padding or [0] * count
        area, kernel = x.shape[2:], w.shape[2:]
        full = [
            step * (size - 1) + more + gap * (taps - 1) + 1
            for step, size, more, gap, taps in zip(steps, area, extra, gaps, kernel, strict=True)
        ]
        if output_shape is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            output_shape = [size * step for size, step in zip(area, steps, strict=True)]
        if output_shape is not None:
            total = [long - short for long, short in zip(full, output_shape[-count:], strict=True)]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            before = small if auto_pad == "SAME_UPPER" else large
            after = large if auto_pad == "SAME_UPPER" else small
        else:
            before, after = _halves(pads, count)
        batch, outputs = x.shape[0], w.shape[1] * group
        rows = np.moveaxis(x.reshape(batch, group, x.shape[1] // group, -1), 0, 2)
        rows = rows.reshape(group, x.shape[1] // group, -1)
        spread = np.swapaxes(w.reshape(group, x.shape[1] // group, -1), 1, 2) @ rows
        spread = np.moveaxis(spread.reshape(outputs, *kernel, batch, *area), 1 + count, 0)
        result = np.zeros([batch, outputs, *full], x.dtype)
        for tap in itertools.product(*(range(taps) for taps in kernel)):
            places = tuple(
                slice(t * gap, t * gap + step * (size - 1) + 1, step)
                for t, gap, step, size in zip(tap, gaps, steps, area, strict=True)
            )
            result[(slice(None), slice(None), *places)] += spread[(slice(None), slice(None), *tap)]
        crop = tuple(
            slice(max(low, 0), size - max(high, 0))
            for low, high, size in zip(before, after, full, strict=True)
        )
        grow = [(max(-low, 0), max(-high, 0)) for low, high in zip(before, after, strict=True)]
        result = np.pad(result[(slice(None), slice(None), *crop)], [(0, 0), (0, 0), *grow])
        return (_with_bias(result, b),)


class MaxPool(op_max_pool.MaxPool):
    """The reference loops over pixels; only positions of maxima are left to it."""

    def _run(self, *inputs: Any, **attributes: Any) -> Any:
        if len(self.output) > 1:
            return super()._run(*inputs, **attributes)
        x: Array = inputs[0]
        lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        order = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
        geometry = _pool_geometry(x, *map(attributes.get, order))
        windows = _pool_windows(x, geometry, lowest, lowest)
        return (windows.max(axis=tuple(range(x.ndim, windows.ndim))),)


class AveragePool(OpRun):
    """The reference loops over pixels."""

    def _run(
        self,
        x: Array,
        auto_pad: str | None = None,
        ceil_mode: int = 0,
        count_include_pad: int = 0,
        dilations: Ints = None,
        kernel_shape: Ints = None,
        pads: Ints = None,
        strides: Ints = None,
    ) -> tuple[Array]:
        geometry = _pool_geometry(x, auto_pad, ceil_mode, dilations, kernel_shape, pads, strides)
        windows = _pool_windows(x, geometry, 0, 0)
        counted = _pool_windows(np.ones_like(x[:1, :1]), geometry, 1 if count_include_pad else 0, 0)
        taps = tuple(range(x.ndim, windows.ndim))
        return ((windows.sum(axis=taps) / counted.sum(axis=taps)).astype(x.dtype),)


class GatherElements(OpRun):
    """The reference refuses indices that cover only a part of the data."""

    def _run(self, x: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        axis %= x.ndim
        part = tuple(slice(None if i == axis else size) for i, size in enumerate(indices.shape))
        return (np.take_along_axis(x[part], indices % x.shape[axis], axis),)


class LSTM(op_lstm.LSTM):
    """The reference ignores lengths, clipping and activations; they are refused here."""

    def _run(self, *inputs: Array | None, **attributes: Any) -> Any:
        _refuse_variants("LSTM", inputs, attributes, ["Sigmoid", "Tanh", "Tanh"])
        return super()._run(*inputs, **attributes)


class GRU(op_gru.GRU):
    """The reference ignores lengths, clipping and activations; they are refused here."""

    def _run(self, *inputs: Array | None, **attributes: Any) -> Any:
        _refuse_variants("GRU", inputs, attributes, ["Sigmoid", "Tanh"])
        return super()._run(*inputs, **attributes)


REFERENCE_OPS: list[type[OpRun]] = [
    Erf,
    Gelu,
    GroupNormalization,
    MeanVarianceNormalization,
    Conv,
    ConvTranspose,
    MaxPool,
    AveragePool,
    GatherElements,
    LSTM,
    GRU,
]


def _erf(x: Array) -> Array:
    values = np.fromiter(map(math.erf, x.ravel().tolist()), np.float64, x.size)
    return values.reshape(x.shape).astype(x.dtype)


def _with_bias(result: Array, bias: Array | None) -> Array:
    if bias is None:
        return result
    return result + bias.reshape(-1, *[1] * (result.ndim - 2))


def _halves(pads: Ints, count: int) -> tuple[list[int], list[int]]:
    listed = list(pads or [0] * (2 * count))
    return listed[:count], listed[count:]


def _padding(
    auto_pad: str | None,
    area: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Ints,
) -> list[tuple[int, int]]:
    """Elements added before and after each spatial axis."""
    if auto_pad in (None, "", "NOTSET"):
        before, after = _halves(pads, len(area))
        return list(zip(before, after, strict=True))
    if auto_pad == "VALID":
        return [(0, 0)] * len(area)
    result: list[tuple[int, int]] = []
    for size, taps, step, gap in zip(area, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + gap * (taps - 1) + 1 - size)
        half = total // 2
        result.append((half, total - half) if auto_pad == "SAME_UPPER" else (total - half, half))
    return result


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """[n, c, *area, *kernel], a view."""
    count = len(kernel)
    reach = [gap * (taps - 1) + 1 for gap, taps in zip(dilations, kernel, strict=True)]
    windows = sliding_window_view(x, reach, axis=tuple(range(2, 2 + count)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return windows[(slice(None), slice(None), *steps)]


Geometry = tuple[list[tuple[int, int]], list[tuple[int, int]], Sequence[int], Sequence[int], Sequence[int]]
"""Padding, what is added behind it to complete the last window, kernel, strides and dilations."""


def _pool_geometry(
    x: Array,
    auto_pad: str | None,
    ceil_mode: int | None,
    dilations: Ints,
    kernel_shape: Ints,
    pads: Ints,
    strides: Ints,
) -> Geometry:
    kernel = list(kernel_shape or [])
    steps, gaps = strides or [1] * len(kernel), dilations or [1] * len(kernel)
    padding = _padding(auto_pad, x.shape[2:], kernel, steps, gaps, pads)
    behind: list[tuple[int, int]] = []
    for size, taps, step, gap, (low, high) in zip(x.shape[2:], kernel, steps, gaps, padding, strict=True):
        span = size + low + high - gap * (taps - 1) - 1
        outputs = (math.ceil(span / step) if ceil_mode else span // step) + 1
        if ceil_mode and (outputs - 1) * step >= size + low:  # no window starts in the padding behind
            outputs -= 1
        behind.append((0, max(0, (outputs - 1) * step - span)))
    return padding, behind, kernel, steps, gaps


def _pool_windows(x: Array, geometry: Geometry, padded: float, completed: float) -> Array:
    padding, behind, kernel, strides, dilations = geometry
    x = np.pad(x, [(0, 0), (0, 0), *padding], constant_values=padded)
    x = np.pad(x, [(0, 0), (0, 0), *behind], constant_values=completed)
    return _windows(x, kernel, strides, dilations)


def _refuse_variants(
    name: str, inputs: tuple[Array | None, ...], attributes: dict[str, Any], default: list[str]
) -> None:
    activations = attributes.get("activations")
    usual = activations in (None, [], default, default * 2)
    if not usual or attributes.get("clip") or attributes.get("input_forget"):
        raise NotImplementedError(f"{name} with activations, clip or input_forget of its own")
    if len(inputs) > 4 and inputs[4] is not None:
        raise NotImplementedError(f"{name} with sequence_lens")
