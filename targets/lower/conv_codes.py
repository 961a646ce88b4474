"""Convolutions of 8-bit codes with 8-bit weights; others take their input in fp32."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sparsecc.ir.quantized import quantized_of
from sparsecc.targets.kernels.byte_products import transposing_pays
from sparsecc.targets.kernels.codes import CHANNELS
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.depthwise_codes import (
    DepthwiseCodesForm,
    depthwise_codes_kernel,
    direct_strip,
    pack_depthwise,
    pack_taps,
    strip_of,
)
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, Tail
from sparsecc.targets.lower.codes import Codes, words_of
from sparsecc.targets.lower.conv_planes import (
    flat_offsets,
    group_offsets,
    report_conv,
    split_form,
    split_step,
)
from sparsecc.targets.lower.dots import (
    Finish,
    Sums,
    choose_dots,
    define_finished,
    dots_step,
    finish_of,
    start_pointers,
)
from sparsecc.targets.lower.exact_floats import FloatLayer, choose_floats, conv_in_floats, label_of
from sparsecc.targets.lower.layers import SpmmLayer
from sparsecc.targets.lower.regions import PlaneRegions, flat
from sparsecc.targets.lower.state import Lowering, base

FloatArray = npt.NDArray[np.float32]


def lower_conv_codes(
    low: Lowering,
    regions: PlaneRegions,
    call: Call,
    g: ConvGeometry,
    weight: FloatArray,
    bias: FloatArray,
    tail: Tail,
    layout: Layout,
) -> bool:
    """Emit the steps of a convolution of codes; False where input or weights are not in 8 bits.

    Args:
        layout: of an output in fp32.
    """
    source = regions.codes.of(call.inputs[0])
    if source is None or not source.planes:
        return False
    found = quantized_of(weight.reshape(g.out_channels, -1))
    if found is None or found.bits != 8:
        return False
    codes = found.codes.reshape(weight.shape)
    sums = Sums.of(codes, found.scale, source, bias)
    if g.depthwise and g.out_channels == g.channels:
        finish = finish_of(low, regions, call, tail, sums, layout)
        if finish.limits is None:
            return False
        steps = [_depthwise(low, call, g, codes, source, finish)]
        report_conv(
            low, call, g, weight, "int8 depthwise", "depthwise convolutions run dense", 0.0, 0.0, steps
        )
    elif g.groups > 1 and (g.channels // g.groups % CHANNELS or g.out_channels // g.groups % CHANNELS):
        return False
    else:
        finish = finish_of(low, regions, call, tail, sums, layout)
        _product(low, regions, call, g, codes, weight, source, tail, finish)
    define_finished(low, regions, call, finish)
    return True


def _product(
    low: Lowering,
    regions: PlaneRegions,
    call: Call,
    g: ConvGeometry,
    codes: npt.NDArray[np.int8],
    weight: FloatArray,
    source: Codes,
    tail: Tail,
    finish: Finish,
) -> None:
    batch, pitch = source.shape[0], finish.y.layout.strides[2]
    of_words = replace(g, channels=words_of(g.channels))
    vectors = -(-(g.out_size[0] * pitch) // low.machine.lanes)
    matrix, taps = codes.reshape(g.out_channels, -1), g.kernel[0] * g.kernel[1]
    words, choice = choose_dots(
        low, call.name, matrix, taps, vectors, group_rows=g.out_channels // g.groups, batch=batch
    )
    layer = SpmmLayer(matrix.astype(np.float32), vectors, taps, g.out_channels // g.groups, batch)
    floats = choose_floats(low, call.name, layer, choice, finish)
    if floats is not None:
        own = conv_in_floats(low, regions, FloatLayer(call, layer, source, tail, finish, floats), g)
        report_conv(
            low, call, g, weight, label_of(floats), floats.reason, floats.seconds, floats.dense_seconds, own
        )
        return
    x = low.words(source.value)
    steps: list[int] = []
    if flat(g) and x.layout.strides[2] == pitch:
        offsets, channel_pitch = flat_offsets(of_words, x.layout), x.layout.strides[1]
        x_batch = x.layout.strides[0]
    else:
        form = split_form(of_words, pitch, x.layout.strides[2], low.machine.lanes, source.zero_word)
        x, offsets, x_batch, channel_pitch, index = split_step(
            low, f"{call.name}.split", f"{source.value.name}.phases", of_words, form, x, batch
        )
        steps.append(index)
    offsets = group_offsets(of_words, offsets, choice.rows, channel_pitch)
    strides = (finish.y.layout.strides[1], x_batch, finish.y.layout.strides[0])
    steps.append(
        dots_step(
            low, call, words, offsets, choice, finish, vectors=vectors, batch=batch, x=x, strides=strides
        )
    )
    report_conv(
        low, call, g, weight, choice.label, choice.reason, choice.seconds, choice.dense_seconds, steps
    )


def _depthwise(
    low: Lowering,
    call: Call,
    g: ConvGeometry,
    codes: npt.NDArray[np.int8],
    source: Codes,
    finish: Finish,
) -> int:
    x, y = low.words(source.value), finish.y
    dot = low.machine.sure_dot  # kernels are long, and SDOT saves little: one for all processors
    direct = not transposing_pays(dot, low.machine.lanes)
    strip = (
        direct_strip(low.machine.registers) if direct else strip_of(g.kernel[0], g.stride[0], g.dilation[0])
    )
    geometry = DepthwiseForm(
        g.size, g.out_size, g.kernel, g.stride, g.dilation, g.pad, x.layout.strides[2], y.layout.strides[2],
        1, strip, low.machine.lanes, finish.epilogue,
    )  # fmt: skip
    form = DepthwiseCodesForm(geometry, dot, finish.known, low.machine.fused, direct, low.machine.by_lane)
    low.use(dot)
    symbol = low.kernel("depthwise_codes", form, lambda s: depthwise_codes_kernel(form, s))
    if direct:
        packed = pack_taps(codes[:, 0])
    else:
        packed = pack_depthwise(codes[:, 0], strip, g.stride[0], g.dilation[0])
    count = words_of(g.channels)
    scalars = [number for side in (x, y) for number in (
        side.layout.strides[1], side.layout.origin, side.layout.strides[0]
    )]  # fmt: skip
    return low.step(
        call.name, "depthwise", symbol,
        [*low.pack(packed, *finish.scale_and_bias()), *start_pointers(low, dot, codes),
         *finish.limit_pointers(low), base(x), base(y), *finish.operand_pointers(low)],
        [count, source.zero_word, *scalars, *(y.layout.strides[0] for _ in finish.tensors)],
        source.shape[0] * count,
    )  # fmt: skip
