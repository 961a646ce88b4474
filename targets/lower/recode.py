"""Steps between fp32 and words of codes."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.targets.kernels.codes import limits_of
from sparsecc.targets.kernels.recode import RecodeForm, decode_kernel, encode_kernel
from sparsecc.targets.layout import Layout, PlaneSpec
from sparsecc.targets.lower.codes import Codes
from sparsecc.targets.lower.regions import PlaneRegions
from sparsecc.targets.lower.state import Lowering, Stored, base, shape_of


def lower_encode(low: Lowering, regions: PlaneRegions, node: ir.Node, codes: Codes) -> None:
    """QuantizeLinear of a value that is stored as words, unless a pool of codes has left them already."""
    if low.has_words(codes.value):
        return
    value = node.inputs[0]
    assert value is not None
    V = low.machine.lanes
    shape = shape_of(value)

    def accepts(stored: Stored) -> bool:
        view = _planes_of(stored.layout, codes, shape)
        if view is None or stored.dtype != "float32" or view.strides[3] != 1:
            return False
        return not stored.exact or _size(codes)[1] >= V

    def layout() -> Layout:
        if not codes.planes:
            return Layout.features(shape, V)
        return regions.layout(value) or PlaneSpec(shape[3], 0, 0, 0, False).layout(shape, V)

    encode(low, regions, node.name or value.name or "", low.require(value, accepts, layout), codes)


def encode(low: Lowering, regions: PlaneRegions, label: str, source: Stored, codes: Codes) -> None:
    """Emit the step from fp32 planes or features to words, and record them."""
    made = low.buffer(regions.words(codes), "int32", f"{codes.value.name}.codes")
    encode_into(low, label, (source, made), codes, limits_of(codes.zero), 1.0 / codes.scale)
    low.define_words(codes.value, made)


def encode_into(
    low: Lowering,
    label: str,
    sides: tuple[Stored, Stored],
    codes: Codes,
    limits: npt.NDArray[np.int32],
    factor: float,
) -> None:
    """Emit the step from fp32, times a factor, to words with the given limits (see `limits_of`)."""
    _recode(low, f"{label}.encode", "encode", sides, codes, [limits, np.array([factor], np.float32)])


def floats_layout(low: Lowering, regions: PlaneRegions, codes: Codes) -> Layout:
    """Of the fp32 value that codes stand for."""
    layout = regions.layout(codes.value) if codes.planes else Layout.features(codes.shape, low.machine.lanes)
    assert layout is not None
    return layout


def numbers_of(low: Lowering, regions: PlaneRegions, codes: Codes) -> Stored:
    """Emit the step from words to the codes' numbers, 0 to 255, in fp32."""
    name = f"{codes.value.name}.numbers"
    made = low.buffer(floats_layout(low, regions, codes), "float32", name)
    _recode(low, name, "decode", (low.words(codes.value), made), codes, [np.array([1.0, 0.0], np.float32)])
    return made


def lower_decode(low: Lowering, regions: PlaneRegions, node: ir.Node, codes: Codes) -> None:
    """DequantizeLinear of words: nothing, until somebody wants fp32."""
    low.define_later(node.outputs[0], partial(_decode, low, regions, node, codes))


def _decode(low: Lowering, regions: PlaneRegions, node: ir.Node, codes: Codes) -> None:
    value = node.outputs[0]
    made = low.buffer(floats_layout(low, regions, codes), "float32", value.name or "")
    numbers = np.array([codes.scale, codes.zero], np.float32)
    _recode(
        low, f"{node.name or value.name}.decode", "decode", (low.words(codes.value), made), codes, [numbers]
    )
    low.define(value, made)
    if low.after_copy is not None:
        low.after_copy(value, made)


def _recode(
    low: Lowering,
    label: str,
    kind: str,
    sides: tuple[Stored, Stored],
    codes: Codes,
    numbers: list[np.ndarray],
) -> None:
    """Emit one step of either kind, from the first side to the second."""
    words, channels = (1, 0) if kind == "encode" else (0, 1)
    found: list[Layout] = [sides[0].layout, sides[1].layout]
    found[words] = _words_planes(found[words], codes)
    view = _planes_of(found[channels], codes, codes.shape)
    assert view is not None
    found[channels] = view
    size = _size(codes)
    pitches = (found[0].strides[2], found[1].strides[2])
    if pitches[0] == pitches[1] and not sides[0].exact and sides[1].own:
        size = (1, (size[0] - 1) * pitches[0] + size[1])  # what lies between the rows goes along
    form = RecodeForm(size, pitches, low.machine.lanes)
    make = encode_kernel if kind == "encode" else decode_kernel
    symbol = low.kernel(kind, form, lambda s: make(form, s))
    count = codes.shape[1] if codes.planes else codes.shape[-1]
    batch = codes.shape[0] if codes.planes else 1
    scalars = [number for side in found for number in (side.strides[1], side.origin, side.strides[0])]
    low.step(
        label, kind, symbol, [*low.pack(*numbers), base(sides[0]), base(sides[1])],
        [count, *scalars], batch * (codes.words[1] if codes.planes else codes.words[-1]),
    )  # fmt: skip


def _size(codes: Codes) -> tuple[int, int]:
    """Rows and columns of a plane: features are planes of one row."""
    return (codes.shape[2], codes.shape[3]) if codes.planes else (1, int(np.prod(codes.shape[:-1])))


def _words_planes(layout: Layout, codes: Codes) -> Layout:
    found = _planes_of(layout, codes, codes.words)
    assert found is not None
    return found


def _planes_of(layout: Layout, codes: Codes, shape: tuple[int, ...]) -> Layout | None:
    """A layout of `shape` seen as planes [N, C, H, W]; None where features lie in no such way."""
    if codes.planes:
        return layout
    flat = layout.reshape(shape, (int(np.prod(shape[:-1])), shape[-1]))
    if flat is None:
        return None
    columns, channels = flat.strides
    return Layout((0, channels, 0, columns), flat.origin, flat.size)
