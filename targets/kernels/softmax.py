"""Softmax over one axis of strided tensors, optionally of scale * x + mask.

y = exp(z - max z) / sum exp(z - max z): three sweeps (maximum; exponentials and their sum; division), the
middle one stores the exponentials in y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.intrinsics import number, typed
from sparsecc.targets.kernels.rowwise import Point, RowForm, Rows, row_form
from sparsecc.targets.layout import Layout
from sparsecc.targets.tir import KernelBuilder

_LOWEST = -3.402823466e38


@dataclass(frozen=True)
class SoftmaxForm:
    """`rows` describes x, y and, where `masked`, the additive mask; z = scale * x + mask."""

    rows: RowForm
    masked: bool
    scale: float


def softmax_kernel(form: SoftmaxForm, symbol: str) -> tirx.PrimFunc:
    """Pointers: x, [mask], y. No scalars. Extent: blocks of rows."""
    b = KernelBuilder()
    x = b.pointer("x")
    mask = b.pointer("mask") if form.masked else None
    y = b.pointer("y")
    rows = Rows(form.rows, b, _widest(form))

    def logits(p: Point) -> Any:
        z = p.load(x, 0)
        if form.scale != 1.0:
            z = z * p.number(form.scale)
        if mask is not None:
            z = z + p.load(mask, 2)
        return b.register(z, p.width).value

    def unit() -> None:
        top = rows.statistic(tirx.Max, _LOWEST)
        rows.sweep(lambda p: top.add(logits(p), p.width))
        highest = b.register(top.result(), rows.width).value
        total = rows.statistic(tirx.Add, 0.0)

        def exponentials(p: Point) -> None:
            e = _exp_nonpositive(p, logits(p) - p.spread(highest, rows.width))
            e = b.register(e, p.width).value
            p.store(y, 1, e)
            total.add(e, p.width)

        rows.sweep(exponentials)
        inverse = b.register(Point(b, [], (), rows.width).number(1.0) / total.result(), rows.width).value
        rows.sweep(lambda p: p.store(y, 1, p.load(y, 1) * p.spread(inverse, rows.width)))

    rows.units(unit)
    return b.function(symbol)


def _exp_nonpositive(p: Point, x: Any) -> Any:
    """e ** x for x <= 0, as in `vector_math.exp`; below -87.7 it is 0, as 2 ** -127 has no bits."""
    b, w = p.b, p.width
    x = b.register(tirx.Max(x, p.number(-88.0)), w).value
    n = b.register(tirx.floor(x * p.number(1.44269504088896341) + p.number(0.5)), w).value
    r = b.register(x - n * p.number(0.693359375) - n * p.number(-2.12194440e-4), w).value
    poly = p.number(1.9875691500e-4)
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        poly = poly * r + p.number(c)
    y = b.register(poly * r * r + r + p.number(1.0), w).value
    exponent = tirx.Cast(typed("int32", w), n) + number(127, "int32", w)
    return y * tirx.reinterpret(typed("float32", w), tirx.shift_left(exponent, number(23, "int32", w)))


def _widest(form: SoftmaxForm) -> int:
    return 2 * form.rows.lanes


def softmax_call(
    shape: Sequence[int],
    axis: int,
    source: Layout,
    destination: Layout,
    lanes: int,
    *,
    scale: float = 1.0,
    mask: Layout | None = None,
) -> KernelCall:
    """Softmax of a fp32 tensor along `axis`; pointers x, [mask], y. `mask` is indexed by `shape` too."""
    layouts = [source, destination, *([mask] if mask else [])]
    form = SoftmaxForm(row_form(shape, [axis % len(shape)], layouts, lanes), mask is not None, scale)
    symbol = structural_name("softmax", form)
    return KernelCall(
        symbol,
        partial(softmax_kernel, form, symbol),
        (),
        Rows(form.rows, KernelBuilder(), _widest(form)).extent,
    )
