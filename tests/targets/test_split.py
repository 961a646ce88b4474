"""Phase planes and shifted copies: each tap's offset leads to the element that a convolution reads."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from harness import Buffer, call, load_kernels
from networks import Array

from sparsecc.compiler import generator_version
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.conv_geometry import ConvGeometry
from sparsecc.targets.kernels.shift import ShiftForm, plan_shifts, shift_kernel, shifted_offsets
from sparsecc.targets.kernels.split import SplitForm, minimum_pitch, plan_phases, split_kernel, tap_offsets
from sparsecc.targets.layout import Layout, PlaneSpec, round_up

LANES = 16
GEOMETRIES = [  # size, kernel, stride, dilation, pads
    ((13, 7), (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    ((12, 34), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    ((9, 33), (3, 3), (2, 2), (1, 1), (0, 0, 1, 1)),
    ((5, 40), (7, 7), (2, 2), (1, 1), (3, 3, 3, 3)),
    ((11, 17), (5, 3), (3, 4), (1, 1), (2, 1, 2, 1)),
    ((8, 9), (3, 3), (1, 1), (2, 3), (2, 3, 2, 3)),
    ((6, 20), (2, 2), (2, 1), (1, 1), (0, 2, 1, 0)),
    ((1, 5), (1, 3), (1, 1), (1, 1), (2, 4, 3, 4)),
    ((2, 1), (1, 1), (2, 2), (1, 1), (0, 0, 0, 0)),
]


def geometry(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int],
    pads: tuple[int, int, int, int],
) -> ConvGeometry:  # fmt: skip
    out = [
        (size[d] + pads[d] + pads[d + 2] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    ]
    return ConvGeometry(3, 3, 1, size, (out[0], out[1]), kernel, stride, dilation, (pads[0], pads[1]))


def wanted(g: ConvGeometry, x: Array, dy: int, dx: int) -> Array:
    """What output (y, x) reads at tap (dy, dx), zeros outside; [N, C, OH, OW]."""
    rows = np.arange(g.out_size[0]) * g.stride[0] + dy * g.dilation[0] - g.pad[0]
    columns = np.arange(g.out_size[1]) * g.stride[1] + dx * g.dilation[1] - g.pad[1]
    inside = ((rows >= 0) & (rows < g.size[0]))[:, None] & ((columns >= 0) & (columns < g.size[1]))
    picked = x[:, :, rows.clip(0, g.size[0] - 1)][..., columns.clip(0, g.size[1] - 1)]
    return np.where(inside, picked, 0)


def check_taps(
    g: ConvGeometry, memory: Array, offsets: Array, pitch: int, batch_stride: int, x: Array
) -> None:
    per_channel = offsets.reshape(g.channels, *g.kernel)
    grid = np.arange(g.out_size[0])[:, None] * pitch + np.arange(g.out_size[1])
    for n, c, dy, dx in product(range(x.shape[0]), range(g.channels), range(g.kernel[0]), range(g.kernel[1])):
        found = memory[n * batch_stride + per_channel[c, dy, dx] + grid]
        np.testing.assert_array_equal(found, wanted(g, x, dy, dx)[n, c], err_msg=f"tap {dy}, {dx}")


def source(g: ConvGeometry, *, exact: bool) -> Buffer:
    shape = (2, g.channels, *g.size)
    layout = Layout.rows(shape) if exact else PlaneSpec(g.size[1] + 1, 1, 0, 0, False).layout(shape, LANES)
    return Buffer(layout, shape, np.float32, np.random.default_rng(0).standard_normal(shape))


@pytest.mark.parametrize("wider", [0, 5])
@pytest.mark.parametrize("case", GEOMETRIES, ids=str)
def test_split(case: tuple[tuple[int, int], ...], wider: int) -> None:
    g = geometry(*case)  # type: ignore[arg-type]
    plan = plan_phases(g, minimum_pitch(g) + wider, LANES)
    for exact in (False, True):
        x = source(g, exact=exact)
        form = SplitForm(g.size, g.stride, plan, x.layout.strides[2], LANES)
        symbol = structural_name("split", form)
        functions = load_kernels({symbol: lambda f=form, s=symbol: split_kernel(f, s)}, generator_version())
        batch_stride = g.channels * len(plan.phases) * plan.pitch
        layout = Layout((1,), 0, 2 * batch_stride + 64)
        y = Buffer(layout, (layout.size,), np.float32)
        scalars = [g.channels, x.layout.strides[1], x.layout.origin, x.layout.strides[0]]
        call(functions[symbol], [x, y], scalars, 2 * g.channels)
        check_taps(g, y.inside, tap_offsets(g, plan), plan.row_pitch, batch_stride, x.elements)
        assert np.isnan(y.memory[: len(y.memory) - len(y.inside) - 1024]).all()


@pytest.mark.parametrize("case", [c for c in GEOMETRIES if c[2] == (1, 1)], ids=str)
def test_shift(case: tuple[tuple[int, int], ...]) -> None:
    g = geometry(*case)  # type: ignore[arg-type]
    plan = plan_shifts(g, round_up(g.out_size[1], LANES))
    x = source(g, exact=False)
    form = ShiftForm(g.size, plan, x.layout.strides[2], LANES)
    symbol = structural_name("shift", form)
    functions = load_kernels({symbol: lambda: shift_kernel(form, symbol)}, generator_version())
    batch_stride = g.channels * len(plan.shifts) * plan.pitch
    layout = Layout((1,), 0, 2 * batch_stride + 64)
    y = Buffer(layout, (layout.size,), np.float32)
    scalars = [g.channels, x.layout.strides[1], x.layout.origin, x.layout.strides[0]]
    call(functions[symbol], [x, y], scalars, 2 * g.channels)
    offsets = shifted_offsets(g, plan)
    assert not np.any(offsets % LANES), "a tap is not aligned"
    check_taps(g, y.inside, offsets, plan.row_pitch, batch_stride, x.elements)
    assert np.isnan(y.inside[2 * batch_stride :]).all()
