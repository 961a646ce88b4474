"""Layers of 8-bit codes that run in fp32, which is exact: integers below 2^24 are floats.

Products of bytes take four channels at once, so a zero saves nothing unless its neighbours are zeros
too. With zeros in no pattern, a kernel that multiplies the nonzero weights alone can be faster in fp32: codes
become floats, sums are the same integers, and what follows rounds as it does behind products of bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsecc.targets.kernels.byte_products import instructions
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.lower.call import Call, Tail
from sparsecc.targets.lower.codes import Codes
from sparsecc.targets.lower.conv_planes import flat_offsets, group_offsets, split_form, split_step
from sparsecc.targets.lower.dots import MOST, Finish
from sparsecc.targets.lower.layers import SpmmLayer
from sparsecc.targets.lower.recode import encode_into, floats_layout, numbers_of
from sparsecc.targets.lower.regions import PlaneRegions, flat, has_padding
from sparsecc.targets.lower.rowwise import padded_rows_of
from sparsecc.targets.lower.select import SpmmChoice, choose_spmm, vector_machine
from sparsecc.targets.lower.spmm import After, spmm_step
from sparsecc.targets.lower.state import Lowering, Stored

_EXACT = 2**24
"""Integers up to here are floats."""
GAIN = 0.97
"""Share of the time of products of bytes that must be expected: less is within the models' errors."""
_ENCODED = 2.0
"""What a vector of values costs to become codes, in times a vector of Y costs."""


def choose_floats(
    low: Lowering, node: str, layer: SpmmLayer, dots: SpmmChoice, finish: Finish
) -> SpmmChoice | None:
    """The form in fp32 where it is exact and expected to beat `dots`; else None.

    A form of `dots` that a selector wants stays: selectors measure and know layers of codes as such.

    Args:
        layer: with the codes of its weights as floats.
    """
    sums = np.abs(layer.matrix).sum(axis=1, dtype=np.float64)
    if low.keep_dense(node) or dots.note or not sums.size or MOST * sums.max() >= _EXACT:
        return None
    found = choose_spmm(layer, low.machine, dense_only=False)
    if found.dense:
        return None
    model = vector_machine(low.machine)
    M, K = layer.matrix.shape
    recoded = K / layer.taps + (0.0 if finish.limits is None else _ENCODED * M)
    cycles = layer.batch * layer.vectors * model.constants.spmm.output * recoded
    seconds = found.seconds + cycles / model.clock
    by_bytes = dots.seconds * instructions(low.machine.dot, low.machine.lanes)
    if seconds > GAIN * by_bytes:
        return None
    return replace(found, seconds=seconds, dense_seconds=by_bytes, note=_reason(by_bytes / seconds))


def _reason(gain: float) -> str:
    return f"exact in fp32, predicted {gain:.2f} times as fast as products of bytes"


def label_of(choice: SpmmChoice) -> str:
    """For users."""
    return f"int8 in fp32 {choice.label}"


@dataclass(frozen=True)
class FloatLayer:
    """A layer of codes that runs in fp32.

    Attributes:
        layer: with the codes of its weights as floats.
        source: its input.
        tail, finish: what happens behind the sums.
        choice: its form.
    """

    call: Call
    layer: SpmmLayer
    source: Codes
    tail: Tail
    finish: Finish
    choice: SpmmChoice


def conv_in_floats(low: Lowering, regions: PlaneRegions, of: FloatLayer, g: ConvGeometry) -> list[int]:
    """Emit the steps of a convolution; returns those that are its own."""
    name, source = of.call.name, of.source
    x, y = codes_as_floats(low, regions, source), _result(low, regions, of)
    pitch = y.layout.strides[2]
    steps: list[int] = []
    if flat(g) and not has_padding(g) and x.layout.strides[2] == pitch:
        offsets, channel_pitch = flat_offsets(g, x.layout), x.layout.strides[1]
        x_batch = x.layout.strides[0]
    else:
        bits = int(np.float32(source.zero).view(np.int32))
        form = split_form(g, pitch, x.layout.strides[2], low.machine.lanes, bits)
        x, offsets, x_batch, channel_pitch, index = split_step(
            low, f"{name}.split", f"{source.value.name}.phases", g, form, x, of.layer.batch
        )
        steps.append(index)
    offsets = group_offsets(g, offsets, of.choice.rows, channel_pitch)
    strides = (y.layout.strides[1], x_batch, y.layout.strides[0])
    return [*steps, _product(low, regions, of, offsets, x, y, strides)]


def linear_in_floats(low: Lowering, regions: PlaneRegions, of: FloatLayer) -> list[int]:
    """Emit the steps of a layer with many columns; returns those that are its own."""
    x, y = codes_as_floats(low, regions, of.source), _result(low, regions, of)
    offsets = x.layout.origin + np.arange(of.layer.matrix.shape[1], dtype=np.int64) * x.layout.strides[-1]
    strides = (y.layout.strides[-1], 0, 0)
    return [_product(low, regions, of, offsets, x, y, strides)]


def codes_as_floats(low: Lowering, regions: PlaneRegions, codes: Codes) -> Stored:
    """The codes' numbers, 0 to 255, in the layout that their value has in fp32."""
    return low.once(("numbers", codes.value), lambda: numbers_of(low, regions, codes))


def _result(low: Lowering, regions: PlaneRegions, of: FloatLayer) -> Stored:
    """Where the product stores."""
    codes = regions.codes.of(of.call.output)
    if of.finish.limits is None or codes is None:
        return of.finish.y
    return low.buffer(floats_layout(low, regions, codes), "float32", f"{codes.value.name}.scaled")


def _product(
    low: Lowering,
    regions: PlaneRegions,
    of: FloatLayer,
    offsets: npt.NDArray[np.int64],
    x: Stored,
    y: Stored,
    strides: tuple[int, int, int],
) -> int:
    """Emit the product, and where the result is codes the step that makes them."""
    finish, tensors = of.finish, of.finish.tensors
    result = regions.codes.of(of.call.output)
    if finish.limits is not None:
        sources = [regions.codes.of(value) for value in of.tail.tensors]
        tensors = tuple(codes_as_floats(low, regions, source) for source in sources if source is not None)
    scale_and_bias = [finish.sums.scale.astype(np.float32), finish.sums.bias.astype(np.float32)]
    epilogue = _scaled(finish.epilogue, fused=low.machine.fused)
    after = After(epilogue, (*finish.row_operands, *scale_and_bias), tensors)
    weights = (
        of.layer.matrix.astype(np.float32, copy=False),
        np.zeros(padded_rows_of(len(of.layer.matrix)), np.float32),
    )
    step = spmm_step(
        low, of.call.name, weights, offsets, of.choice, after,
        vectors=of.layer.vectors, batch=of.layer.batch, x=x, y=y, strides=strides,
    )  # fmt: skip
    if finish.limits is not None and result is not None:
        encode_into(low, of.call.name, (y, finish.y), result, finish.limits, 1.0)
    return step


def _scaled(epilogue: Epilogue, *, fused: bool) -> Epilogue:
    """What a kernel of floats does with sums that a kernel of bytes scales by itself."""

    def moved(operand: Operand) -> Operand:
        if operand.kind == "step":
            return replace(operand, index=operand.index + 1)
        return replace(operand, kind="tensor") if operand.kind == "codes" else operand

    rows = epilogue.row_pointers
    operands = (Operand("step", 0), Operand("row", rows), Operand("row", rows + 1))
    first = EpilogueOp("MulAdd", operands, (("fused", float(fused)),))
    others = (replace(op, operands=tuple(map(moved, op.operands))) for op in epilogue.ops)
    return Epilogue((first, *others), rows + 2, epilogue.tensor_pointers)
