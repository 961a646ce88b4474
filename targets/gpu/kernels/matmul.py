"""Matrix products of two activations in any affine layouts, in tiles through shared memory.

Y[b, m, n] = epilogue(sum_k A[b, m, k] B[b, k, n]). A group computes 32 x 64 outputs; a thread 4 x 4 of them,
with columns TX apart, so that neighbouring threads read and write neighbouring elements along n.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sparsecc.targets.gpu.tir import GpuBuilder, Shared
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import Expr, Pointer, const

BLOCK = (16, 8)
_ROWS, _COLUMNS, _CHUNK = 4, 4, 16
TILE = (BLOCK[1] * _ROWS, BLOCK[0] * _COLUMNS)
"""Rows and columns of a group of threads."""


@dataclass(frozen=True)
class MatMulForm:
    """What a kernel is specialised for.

    Attributes:
        a_along_k, b_along_k: whether K is the operand's contiguous dimension.
        batch_dims: number of batch dimensions, with one stride each per operand.
    """

    a_along_k: bool
    b_along_k: bool
    batch_dims: int
    epilogue: Epilogue


def matmul_kernel(form: MatMulForm, symbol: str) -> tirx.PrimFunc:
    """Pointers: A, B, Y, then the epilogue's.

    Scalars: M, N, K, row tiles, then of A, B and Y the origin and both matrix strides (m and k, k and n, m
    and n), then per batch dimension its extent and the strides of A, B and Y. Grid: column tiles, batch x row
    tiles. Tensors of the epilogue are laid out as Y, batch included.
    """
    b = GpuBuilder(BLOCK)
    TX, TY = BLOCK
    a, other, y = b.pointer("a"), b.pointer("b"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    rows, columns, depth, tiles = (b.scalar(n) for n in ("rows", "columns", "depth", "tiles"))
    a_origin, a_m, a_k = (b.scalar(n) for n in ("a_origin", "a_m", "a_k"))
    b_origin, b_k, b_n = (b.scalar(n) for n in ("b_origin", "b_k", "b_n"))
    y_origin, y_m, y_n = (b.scalar(n) for n in ("y_origin", "y_m", "y_n"))
    batches = [
        tuple(b.scalar(f"{n}{d}") for n in ("extent", "a_b", "b_b", "y_b")) for d in range(form.batch_dims)
    ]
    operands.declare_scalars()

    outer = b.register(tirx.Div(b.group(1), tiles), dtype="int32").value
    m0 = b.register((b.group(1) - outer * tiles) * TILE[0], dtype="int32").value
    n0 = b.register(b.group(0) * TILE[1], dtype="int32").value
    at: list[Any] = [a_origin, b_origin, y_origin]
    for extent, *strides in reversed(batches):
        above = b.register(tirx.Div(outer, extent), dtype="int32").value
        i = b.register(outer - above * extent, dtype="int32").value
        at = [start + i * stride for start, stride in zip(at, strides, strict=True)]
        outer = above
    a_at, b_at, y_at = (b.register(start, dtype="int32").value for start in at)
    a_tile, b_tile = b.shared(_CHUNK * TILE[0]), b.shared(_CHUNK * TILE[1])
    thread = b.register(b.thread(1) * TX + b.thread(0), dtype="int32").value
    sums = [[b.register(const(0.0, "float32")) for _ in range(_COLUMNS)] for _ in range(_ROWS)]

    def stage(
        tile: Shared, width: int, source: Pointer, base: Expr, along_k: bool, limit: Expr,
        steps: tuple[Expr, Expr], first: tuple[Expr, Expr],
    ) -> None:  # fmt: skip
        """tile[k, i] for the chunk's k and `width` rows or columns i; 0 outside of the matrix."""
        inner = const(_CHUNK if along_k else width)  # divides the number of threads
        slow = b.register(tirx.Div(thread, inner), dtype="int32").value
        fast = b.register(thread - slow * inner, dtype="int32").value
        step = TX * TY // (_CHUNK if along_k else width)
        for turn in range(_CHUNK * width // (TX * TY)):
            k, i = (fast, slow + turn * step) if along_k else (slow + turn * step, fast)
            inside = tirx.all(first[0] + k < depth, first[1] + i < limit)
            place = base + (first[0] + k) * steps[0] + (first[1] + i) * steps[1]
            value = tirx.if_then_else(inside, source[place], const(0.0, "float32"))
            b.put_shared(tile, k * width + i, value)

    with b.loop(tirx.Div(depth + (_CHUNK - 1), const(_CHUNK))) as c:
        k0 = b.register(c * _CHUNK, dtype="int32").value
        stage(a_tile, TILE[0], a, a_at, form.a_along_k, rows, (a_k, a_m), (k0, m0))
        stage(b_tile, TILE[1], other, b_at, form.b_along_k, columns, (b_k, b_n), (k0, n0))
        b.barrier()
        with b.unrolled(_CHUNK) as k:
            left = [b.register(a_tile[k * TILE[0] + b.thread(1) * _ROWS + r]).value for r in range(_ROWS)]
            for v in range(_COLUMNS):
                right = b.register(b_tile[k * TILE[1] + b.thread(0) + v * TX]).value
                for r in range(_ROWS):
                    b.set(sums[r][v], sums[r][v].value + left[r] * right)
        b.barrier()
    for r in range(_ROWS):
        m = b.register(m0 + b.thread(1) * _ROWS + r, dtype="int32").value
        for v in range(_COLUMNS):
            n = b.register(n0 + b.thread(0) + v * TX, dtype="int32").value
            with b.branch(tirx.all(m < rows, n < columns)):
                index = b.register(y_at + m * y_m + n * y_n, dtype="int32").value
                out = operands.apply(sums[r][v].value, row=m, index=index, batch=const(0), lanes=1)
                b.store(y, index, out)
    return b.function(symbol)
