"""Matrix product of two activations in any affine layouts, lanes along one of the output's dimensions.

Y[b, r, l] = epilogue(scale * sum_k S[b, r, k] L[b, k, l]): L has stride 1 along l, S is broadcast element by
element. With A B = (B^T A^T)^T either operand may be L, so attention needs no transposes: feature-major
queries and keys give scores with the lanes along the queries, and those give feature-major outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOperands
from sparsecc.targets.tir import KernelBuilder, const, vector_of


@dataclass(frozen=True)
class MatMulForm:
    """What a kernel is specialised for.

    Attributes:
        rows: R output rows of a tile; `tail` of the last one (0: none).
        tiles: widths in vectors of the one or two classes of lane tiles.
        batch_dims: number of batch dimensions, with one stride each per operand.
    """

    rows: int
    tail: int
    tiles: tuple[int, ...]
    lanes: int
    batch_dims: int
    epilogue: Epilogue


def matmul_kernel(form: MatMulForm, symbol: str) -> Any:
    """Pointers: S, L, Y (at their first elements), then the epilogue's.

    Scalars: K, whole row tiles, lane tiles of the first and second class, S's strides r and k, L's stride k,
    Y's stride r, then per batch dimension its extent and the strides of S, L, Y; then the epilogue's.
    Extent: batch x row tiles (the tail is one) x lane tiles. The epilogue's index is Y's.
    """
    b = KernelBuilder()
    V, R = form.lanes, form.rows
    s, lane, y = b.pointer("s"), b.pointer("l"), b.pointer("y")
    operands = EpilogueOperands(b, form.epilogue)
    names = ("reduction", "row_tiles", "tiles_first", "tiles_second", "s_r", "s_k", "l_k", "y_r")
    reduction, row_tiles, tiles_first, tiles_second, s_r, s_k, l_k, y_r = (b.scalar(n) for n in names)
    batches = [
        tuple(b.scalar(f"{n}{d}") for n in ("extent", "s_b", "l_b", "y_b")) for d in range(form.batch_dims)
    ]
    operands.declare_scalars()

    def tile(rows: int, J: int, s_at: Any, l_at: Any, y_at: Any, r0: Any) -> None:
        acc = [[b.register(vector_of(const(0.0, "float32"), V), V) for _ in range(J)] for _ in range(rows)]
        with b.loop(reduction) as k:
            xs = [b.register(lane.vector(l_at + k * l_k + j * V, V), V).value for j in range(J)]
            for r in range(rows):
                w = b.register(vector_of(s[s_at + s_r * r + k * s_k], V), V).value
                for j in range(J):
                    b.set(acc[r][j], acc[r][j].value + w * xs[j])
        for r in range(rows):
            for j in range(J):
                index = y_at + y_r * r + j * V
                out = operands.apply(acc[r][j].value, row=r0 + r, index=index, batch=const(0), lanes=V)
                b.store(y, index, out, V)

    with b.loop(b.end - b.begin, b.begin) as u:
        lane_tiles = tiles_first + tiles_second
        row_count = row_tiles + (1 if form.tail else 0)
        rest = b.register(tirx.truncdiv(u, lane_tiles), dtype="int32").value
        t = b.register(u - rest * lane_tiles, dtype="int32").value
        outer = b.register(tirx.truncdiv(rest, row_count), dtype="int32").value
        rt = b.register(rest - outer * row_count, dtype="int32").value
        s_at, l_at, y_at = rt * R * s_r, const(0), rt * R * y_r
        for extent, s_b, l_b, y_b in reversed(batches):
            above = b.register(tirx.truncdiv(outer, extent), dtype="int32").value
            i = b.register(outer - above * extent, dtype="int32").value
            s_at, l_at, y_at, outer = s_at + i * s_b, l_at + i * l_b, y_at + i * y_b, above
        J1 = form.tiles[0]
        classes = [(J1, t * (J1 * V), t < tiles_first)]
        if len(form.tiles) > 1:
            J2 = form.tiles[1]
            start = tiles_first * (J1 * V) + (t - tiles_first) * (J2 * V)
            classes.append((J2, start, t >= tiles_first))
        s0 = b.register(s_at, dtype="int32").value
        r0 = b.register(rt * R, dtype="int32").value
        for J, first, condition in classes:
            with b.branch(condition):
                l0 = b.register(l_at + first, dtype="int32").value
                y0 = b.register(y_at + first, dtype="int32").value
                if form.tail:
                    with b.branch(rt < row_tiles):
                        tile(R, J, s0, l0, y0, r0)
                    with b.branch(rt >= row_tiles):
                        tile(form.tail, J, s0, l0, y0, r0)
                else:
                    tile(R, J, s0, l0, y0, r0)
    return b.function(symbol)
