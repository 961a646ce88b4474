"""LayerNormalization and RMSNormalization over trailing (or any) axes of strided tensors.

layer: y = (x - mean) / sqrt(var + epsilon) * scale + bias, var = mean((x - mean)^2): three sweeps.
RMS: y = x / sqrt(mean(x^2) + epsilon) * scale: two sweeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from tvm import tirx

from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.rowwise import Point, RowForm, Rows, row_form
from sparsecc.targets.layout import Layout
from sparsecc.targets.tir import KernelBuilder


@dataclass(frozen=True)
class NormForm:
    """`rows` describes x, y, scale and bias (both contiguous along the normalised axes)."""

    rows: RowForm
    centered: bool
    scaled: bool
    biased: bool
    epsilon: float


def norm_kernel(form: NormForm, symbol: str) -> tirx.PrimFunc:
    """Pointers: x, [scale], [bias], y. No scalars. Extent: blocks of rows."""
    b = KernelBuilder()
    x = b.pointer("x")
    scale = b.pointer("scale") if form.scaled else None
    bias = b.pointer("bias") if form.biased else None
    y = b.pointer("y")
    rows = Rows(form.rows, b, _widest(form))

    def unit() -> None:
        row = Point(b, [], (), rows.width)
        share = row.number(1.0 / form.rows.count)
        mean: Any = None
        if form.centered:
            total = rows.statistic(tirx.Add, 0.0)
            rows.sweep(lambda p: total.add(p.load(x, 0), p.width))
            mean = b.register(total.result() * share, rows.width).value

        def centered(p: Point) -> Any:
            value = p.load(x, 0)
            return b.register(value - p.spread(mean, rows.width), p.width).value if form.centered else value

        squares = rows.statistic(tirx.Add, 0.0)

        def square(p: Point) -> None:
            value = centered(p)
            squares.add(value * value, p.width)

        rows.sweep(square)
        variance = squares.result() * share + row.number(form.epsilon)
        factor = b.register(row.number(1.0) / tirx.sqrt(variance), rows.width).value

        def write(p: Point) -> None:
            value = centered(p) * p.spread(factor, rows.width)
            if scale is not None:
                value = value * p.load(scale, 2)
            if bias is not None:
                value = value + p.load(bias, 3)
            p.store(y, 1, value)

        rows.sweep(write)

    rows.units(unit)
    return b.function(symbol)


def _widest(form: NormForm) -> int:
    if not form.rows.across:
        return 4 * form.rows.lanes
    blocks = prod(n for n, _ in form.rows.outer) // (4 * form.rows.lanes)
    return (4 if blocks >= 4 else 2) * form.rows.lanes


def norm_call(
    shape: Sequence[int],
    axes: Sequence[int],
    source: Layout,
    destination: Layout,
    lanes: int,
    *,
    epsilon: float,
    centered: bool = True,
    scaled: bool = True,
    biased: bool = True,
) -> KernelCall:
    """Normalise a fp32 tensor over `axes`; pointers x, [scale], [bias], y.

    scale and bias have the shape of the normalised axes, contiguous. `centered` is LayerNormalization,
    otherwise RMSNormalization.
    """
    wanted = sorted(a % len(shape) for a in axes)
    strides = [0] * len(shape)
    step = 1
    for d in reversed(wanted):
        strides[d] = step
        step *= shape[d]
    factor = Layout(tuple(strides), 0, step)
    layouts = [source, destination, factor, factor]
    form = NormForm(row_form(shape, wanted, layouts, lanes), centered, scaled, biased, epsilon)
    symbol = structural_name("norm", form)
    return KernelCall(
        symbol, partial(norm_kernel, form, symbol), (), Rows(form.rows, KernelBuilder(), _widest(form)).extent
    )
