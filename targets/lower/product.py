"""Matrix products of two computed values, in whatever layouts they come."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from sparsecc.targets.kernels.matmul import MatMulForm, matmul_kernel
from sparsecc.targets.kernels.spmm import tile_classes
from sparsecc.targets.layout import Layout, odd_lines, round_up
from sparsecc.targets.lower.call import Call, tail_of
from sparsecc.targets.lower.rowwise import residuals
from sparsecc.targets.lower.state import Lowering, Stored, at_origin, shape_of


def lower_product(low: Lowering, call: Call, wanted: Layout | None) -> None:
    """Emit MatMul of [..., M, K] and [..., K, N]; `wanted` is taken as the output's layout where it fits."""
    a_value, b_value = call.inputs[0], call.inputs[1]
    assert a_value is not None and b_value is not None
    out_shape = shape_of(call.output)
    a_shape, b_shape = shape_of(a_value), shape_of(b_value)
    vector_a, vector_b = len(a_shape) == 1, len(b_shape) == 1
    M, N = 1 if vector_a else a_shape[-2], 1 if vector_b else b_shape[-1]
    K = a_shape[-1]
    batch = out_shape[: len(out_shape) - (not vector_a) - (not vector_b)]
    full = (*batch, M, N)

    a_layouts = [(s, _matrix(s.layout, a_shape, vector_a, leading=True)) for s in low.versions(a_value)]
    lanes_on_m = M > 1 and any(not s.exact and layout.strides[-2] == 1 for s, layout in a_layouts)
    lane_count, row_count = (M, N) if lanes_on_m else (N, M)
    V = low.machine.lanes
    y_layout = _output_layout(full, lanes_on_m, V)
    if wanted is not None and not vector_a and not vector_b and _fits(wanted, full, lanes_on_m, V):
        y_layout = wanted
    matrix = [*([] if vector_a else [len(batch)]), *([] if vector_b else [len(batch) + 1])]
    kept = tuple(y_layout.strides[d] for d in (*range(len(batch)), *matrix))
    y = low.buffer(replace(y_layout, strides=kept), "float32", call.output.name or "")

    lane_value, lane_shape = (a_value, a_shape) if lanes_on_m else (b_value, b_shape)
    other_value = b_value if lanes_on_m else a_value
    lane_axis = -2 if lanes_on_m else -1
    is_vector = vector_a if lanes_on_m else vector_b

    def unit(s: Stored) -> bool:
        layout = _matrix(s.layout, lane_shape, is_vector, leading=lanes_on_m)
        return not s.exact and s.dtype == "float32" and (layout.strides[lane_axis] == 1 or lane_count == 1)

    lane = low.require(lane_value, unit, lambda: _lane_layout(lane_shape, lane_axis, V))
    other = low.any_version(other_value)
    a_stored, b_stored = (lane, other) if lanes_on_m else (other, lane)
    a = _matrix(a_stored.layout, a_shape, vector_a, leading=True)
    b = _matrix(b_stored.layout, b_shape, vector_b, leading=False)
    l_k = a.strides[-1] if lanes_on_m else b.strides[-2]
    s_r, s_k = (b.strides[-1], b.strides[-2]) if lanes_on_m else (a.strides[-2], a.strides[-1])
    y_r = y_layout.strides[-1] if lanes_on_m else y_layout.strides[-2]

    tail = tail_of(call, 0)
    rows, width = (4, 4) if low.machine.registers >= 32 else (4, 2)
    rows = min(rows, row_count)
    widths, (first, second) = tile_classes(-(-lane_count // V), width)
    whole, rest = divmod(row_count, rows)
    scalars = [K, whole, first, second, s_r, s_k, l_k, y_r]
    for d, extent in enumerate(batch):
        s_stored, l_stored = (b, a) if lanes_on_m else (a, b)
        shapes = (b_shape, a_shape) if lanes_on_m else (a_shape, b_shape)
        strides = [
            _batch_stride(layout, shape, d - len(batch))
            for layout, shape in zip((s_stored, l_stored), shapes, strict=True)
        ]
        scalars += [extent, *strides, y_layout.strides[d]]
    form = MatMulForm(rows, rest, widths, V, len(batch), tail.epilogue)
    symbol = low.kernel("matmul", form, lambda s: matmul_kernel(form, s))
    extra = residuals(low, tail, y.layout)
    row_tiles = whole + (1 if rest else 0)
    low.step(
        call.name,
        "matmul",
        symbol,
        [at_origin(other), at_origin(lane), at_origin(y), *map(at_origin, extra)],
        [*scalars, *(0 for _ in extra)],
        prod(batch) * row_tiles * (first + second),
    )
    low.define(call.output, y)


def _matrix(layout: Layout, shape: tuple[int, ...], vector: bool, *, leading: bool) -> Layout:
    """A 1-D operand seen as a row (first operand) or a column (second)."""
    if not vector:
        return layout
    strides = (0, layout.strides[0]) if leading else (layout.strides[0], 0)
    return Layout(strides, layout.origin, layout.size)


def _batch_stride(layout: Layout, shape: tuple[int, ...], axis: int) -> int:
    """Stride of a batch dimension counted from the matrix dimensions, 0 where it is broadcast."""
    at = len(shape) - 2 + axis
    return 0 if at < 0 or shape[at] == 1 else layout.strides[at]


def _output_layout(shape: tuple[int, ...], lanes_on_m: bool, lanes: int) -> Layout:
    M, N = shape[-2:]
    inner, outer = (M, N) if lanes_on_m else (N, M)
    pitch = odd_lines(round_up(inner, lanes)) if outer > 1 else round_up(inner, lanes)
    matrix = (1, pitch) if lanes_on_m else (pitch, 1)
    strides = [prod(shape[d + 1 : -2]) * outer * pitch for d in range(len(shape) - 2)]
    return Layout((*strides, *matrix), 0, prod(shape[:-2]) * outer * pitch + 16)


def _fits(layout: Layout, shape: tuple[int, ...], lanes_on_m: bool, lanes: int) -> bool:
    """Unit stride along the lanes, and whole vectors do not run into a neighbour."""
    lane_axis = len(shape) - (2 if lanes_on_m else 1)
    if layout.strides[lane_axis] != 1:
        return False
    reach = round_up(shape[lane_axis], lanes)
    return all(
        s == 0 or s >= reach
        for d, (s, n) in enumerate(zip(layout.strides, shape, strict=True))
        if d != lane_axis and n > 1
    )


def _lane_layout(shape: tuple[int, ...], lane_axis: int, lanes: int) -> Layout:
    if len(shape) == 1:
        return Layout((1,), 0, round_up(shape[0], lanes))
    return _output_layout(shape, lane_axis == -2, lanes)
