"""The product of two activations in any strides, against numpy in double precision."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from harness import Buffer, call, load_kernels

from sparsecc.compiler import generator_version
from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.kernels.matmul import MatMulForm, matmul_kernel
from sparsecc.targets.kernels.spmm import tile_classes
from sparsecc.targets.layout import Layout, round_up

LANES = 16
SCALED = Epilogue(
    (
        EpilogueOp("Mul", (Operand("step", 0), Operand("constant", value=0.5))),
        EpilogueOp("Add", (Operand("step", 1), Operand("tensor", 0))),
    ),
    tensor_pointers=1,
)


@pytest.mark.parametrize("epilogue", [Epilogue(), SCALED], ids=["plain", "scaled"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "columns"), product((1, 4, 7), (1, 16, 65)))
def test_matmul(rows: int, columns: int, transposed: bool, epilogue: Epilogue) -> None:
    """Two batch dimensions: the first is broadcast on the left operand, the second on the right one."""
    rng = np.random.default_rng(0)
    K, batch = 9, (2, 3)
    pitch = round_up(columns, LANES) + LANES
    left = Layout((0, rows * K, 1, rows) if transposed else (0, rows * K, K, 1), 0, 3 * rows * K)
    right = Layout((K * pitch, 0, pitch, 1), 16, 2 * K * pitch + 16)
    result = Layout((3 * rows * pitch, rows * pitch, pitch, 1), 0, 6 * rows * pitch)
    s = Buffer(left, (1, 3, rows, K), np.float32, rng.standard_normal((1, 3, rows, K)))
    x = Buffer(right, (2, 1, K, columns), np.float32, rng.standard_normal((2, 1, K, columns)))
    y, residual = (Buffer(result, (*batch, rows, columns), np.float32) for _ in range(2))
    residual.elements[...] = rng.standard_normal(residual.shape)
    height = min(4, rows)
    widths, (first, second) = tile_classes(-(-columns // LANES), 4)
    form = MatMulForm(height, rows % height, widths, LANES, 2, epilogue)
    symbol = structural_name("matmul", form)
    functions = load_kernels({symbol: lambda: matmul_kernel(form, symbol)}, generator_version())
    strides = (left.strides[-2:], right.strides[-2], result.strides[-2])
    scalars = [K, rows // height, first, second, *strides[0], *strides[1:]]
    for d in (0, 1):
        scalars += [batch[d], left.strides[d], right.strides[d], result.strides[d]]
    shifted = np.frombuffer(x.memory, np.float32)[1024 + 16 :]
    extra = [residual] if epilogue.ops else []
    tiles = -(-rows // height) * (first + second)
    call(functions[symbol], [s, shifted, y, *extra], [*scalars, *(0 for _ in extra)], 6 * tiles)
    expected = s.elements.astype(np.float64) @ x.elements.astype(np.float64)
    if epilogue.ops:
        expected = expected * 0.5 + residual.elements
    np.testing.assert_allclose(y.elements, expected, rtol=1e-5, atol=1e-5)
    assert np.isnan(y.memory[:1024]).all() and np.isnan(y.memory[-1024:]).all()
