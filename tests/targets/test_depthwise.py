"""The depthwise kernel against numpy in double precision: strips, edges, multipliers, epilogues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import Buffer, call, load_kernels
from networks import Array

from sparsecc.compiler import generator_version
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.depthwise import choose_strip, depthwise_kernel
from sparsecc.targets.kernels.depthwise_strips import DepthwiseForm
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.layout import PlaneSpec

CASES: list[tuple[Any, ...]] = [  # size, kernel, stride, dilation, pads at the begin, at the end
    ((20, 40), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((21, 70), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((22, 35), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
    ((14, 14), (5, 5), (1, 1), (1, 1), (2, 2), (2, 2)),
    ((14, 14), (5, 5), (2, 2), (1, 1), (2, 2), (2, 2)),
    ((14, 14), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1)),
    ((20, 56), (5, 5), (2, 2), (1, 1), (2, 1), (2, 2)),
    ((15, 112), (3, 3), (2, 2), (1, 1), (0, 0), (1, 1)),
    ((13, 121), (3, 3), (1, 2), (2, 1), (1, 1), (1, 0)),
    ((7, 7), (3, 3), (1, 1), (1, 1), (1, 1), (1, 1)),
    ((30, 20), (3, 3), (1, 1), (3, 2), (3, 2), (3, 2)),
    ((9, 33), (2, 7), (1, 3), (1, 1), (1, 0), (0, 3)),
    ((1, 50), (1, 9), (1, 1), (1, 1), (0, 8), (0, 0)),
    ((3, 2), (3, 3), (1, 1), (1, 1), (2, 2), (2, 2)),
]
EPILOGUE = Epilogue(
    (
        EpilogueOp("Mul", (Operand("step", 0), Operand("row", 0))),
        EpilogueOp("Add", (Operand("tensor", 0), Operand("step", 1))),
    ),
    row_pointers=1,
    tensor_pointers=1,
)


def expected_of(x: Array, w: Array, case: tuple[Any, ...], multiplier: int) -> Array:
    _, kernel, stride, dilation, begin, end = case
    padded = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *zip(begin, end, strict=True)])
    out = [(padded.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)]
    padded = np.repeat(padded, multiplier, axis=1)
    total = np.zeros((*padded.shape[:2], *out))
    for dy in range(kernel[0]):
        for dx in range(kernel[1]):
            rows = slice(dy * dilation[0], dy * dilation[0] + (out[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(dx * dilation[1], dx * dilation[1] + (out[1] - 1) * stride[1] + 1, stride[1])
            total += w[None, :, dy, dx, None, None] * padded[:, :, rows, columns]
    return total


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("multiplier", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_depthwise(case: tuple[Any, ...], multiplier: int, lanes: int) -> None:
    size, kernel, stride, dilation, begin, _ = case
    rng = np.random.default_rng(0)
    shape, M = (2, 3, *size), 3 * multiplier
    x = Buffer(
        PlaneSpec(size[1] + 2, 1, 1, 1, True).layout(shape, lanes),
        shape,
        np.float32,
        rng.standard_normal(shape),
    )
    w, bias, scale = (rng.standard_normal(s).astype(np.float32) for s in ((M, *kernel), M, M))
    wanted = expected_of(x.elements, w, case, multiplier) + bias[:, None, None]
    target = PlaneSpec(wanted.shape[3] + 1, 0, 0, 0, False).layout(wanted.shape, lanes)
    y, residual = (
        Buffer(target, wanted.shape, np.float32, rng.standard_normal(wanted.shape)) for _ in range(2)
    )
    wanted = wanted * scale[:, None, None] + residual.elements
    strip = choose_strip((wanted.shape[2], wanted.shape[3]), stride, lanes)
    form = DepthwiseForm(
        size, wanted.shape[2:], kernel, stride, dilation, begin, x.layout.strides[2], target.strides[2],
        multiplier, strip, lanes, EPILOGUE,
    )  # fmt: skip
    symbol = structural_name("depthwise", form)
    functions = load_kernels({symbol: lambda: depthwise_kernel(form, symbol)}, generator_version())
    scalars = [M, x.layout.strides[1], x.layout.origin, x.layout.strides[0]]
    scalars += [target.strides[1], target.origin, target.strides[0], target.strides[0]]
    call(functions[symbol], [w, bias, x, y, scale, residual], scalars, 2 * M)
    np.testing.assert_allclose(y.elements, wanted, rtol=1e-5, atol=1e-5)
    assert np.isnan(y.memory[:1024]).all() and np.isnan(y.memory[-1024:]).all()
