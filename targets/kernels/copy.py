"""Copies between layouts: contiguous runs, blocked transposes, and zeros for the padding of planes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tvm import tirx

from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import KernelCall, LoopCall
from sparsecc.targets.kernels.expressions import Node
from sparsecc.targets.kernels.indexing import Axis, Index, strides_index
from sparsecc.targets.kernels.nests import loop_call
from sparsecc.targets.kernels.schedule import plan_loops
from sparsecc.targets.layout import Layout, PlaneSpec
from sparsecc.targets.tir import KernelBuilder, const, vector_of

_UNIT = 4096  # bytes of a parallel unit when filling


@dataclass
class _Copied:
    """Resolves the one value of a copy: the source's element at the same indices."""

    dtype: str
    source: Layout
    reduce_axes: dict[str, tuple[tuple[Axis, ...], tuple[Index, ...]]] = field(
        default_factory=dict[str, tuple[tuple[Axis, ...], tuple[Index, ...]]]
    )

    def computed(self, name: str, indices: Sequence[Index]) -> Node:
        at = strides_index(list(indices), self.source.strides, self.source.origin)
        return Node("load", self.dtype, data=("source", at), axes=frozenset(at.axes()))


def copy_call(
    shape: Sequence[int],
    dtype: str,
    source: Layout,
    destination: Layout,
    lanes: int,
    loops: LoopCall = loop_call,
) -> KernelCall:
    """destination[i] = source[i] for all indices of `shape`; pointers source, destination.

    Strides may be permuted, zero (a broadcast source) or negative (a reversed source).
    """
    key = (tuple(shape), dtype, source, destination, lanes)
    symbol = "copy_" + hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    kernel = plan_loops(lambda: _Copied(dtype, source), "destination", shape, destination, lanes)
    return loops(kernel, symbol)


@dataclass(frozen=True)
class FillForm:
    """`pieces`: (first element, length, repeats, distance of repeats) of each plane."""

    pieces: tuple[tuple[int, int, int, int], ...]
    planes: tuple[tuple[int, int], ...]  # (count, stride), outermost first
    lanes: int
    bits: int = 0  # of every element written


def zero_halo_call(
    layout: Layout, shape: Sequence[int], spec: PlaneSpec, lanes: int, bits: int = 0
) -> KernelCall:
    """Zero the padding of fp32 planes [N, C, H, W]: the rows above and below, the columns left and between.

    With `bits`, put that int32 there, for other elements of four bytes. Pointer: the planes' buffer. No
    element is touched, nor anything outside the planes' channel pitch.
    """
    n, c, h, w = shape
    row = spec.row_pitch
    lead = min(layout.origin, spec.top * row + spec.left)
    behind = min(layout.strides[1] - layout.origin - h * row, spec.bottom * row + spec.left)
    pieces: list[tuple[int, int, int, int]] = []
    if lead > 0:
        pieces.append((layout.origin - lead, lead, 1, 0))
    if row > w and h > 1:
        pieces.append((layout.origin + w, row - w, h - 1, row))
    tail = row - w + max(behind, 0)
    if tail > 0:
        pieces.append((layout.origin + (h - 1) * row + w, tail, 1, 0))
    form = FillForm(tuple(pieces), ((n, layout.strides[0]), (c, layout.strides[1])), lanes, bits)
    symbol = structural_name("zero_halo", form)
    return KernelCall(symbol, partial(zero_halo_kernel, form, symbol), (), n * c)


def zero_halo_kernel(form: FillForm, symbol: str) -> tirx.PrimFunc:
    """Pointer: the buffer. No scalars. Extent: planes."""
    b = KernelBuilder()
    out = b.pointer("out")
    zero = tirx.reinterpret("float32", const(form.bits)) if form.bits else const(0.0, "float32")
    with b.loop(b.end - b.begin, b.begin) as u:
        rest: Any = u
        base: Any = const(0)
        for count, stride in reversed(form.planes):
            outer = b.register(tirx.Div(rest, const(count)), dtype="int32").value
            base = base + (rest - outer * count) * stride
            rest = outer
        base = b.register(base, dtype="int32").value
        for first, length, repeats, distance in form.pieces:
            with b.loop(repeats) as r:
                at = b.register(base + r * distance + first, dtype="int32").value
                whole = length // form.lanes
                if whole:
                    with b.loop(whole) as v:
                        b.store(out, at + v * form.lanes, vector_of(zero, form.lanes), form.lanes)
                done = whole * form.lanes
                width = form.lanes // 2
                while done < length:
                    if length - done >= width:
                        value = vector_of(zero, width) if width > 1 else zero
                        b.store(out, at + done, value, width)
                        done += width
                    else:
                        width //= 2
    return b.function(symbol)
