"""Ops whose elements depend on each other, which TVM does not lower for us: CumSum, TopK and the scatters."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from tvm import tirx

from sparsecc.targets.build import structural_name
from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.rowwise import Point, RowForm, Rows, row_form
from sparsecc.targets.layout import Layout
from sparsecc.targets.tir import KernelBuilder, const, vector_of

_COMBINE: dict[str, Any] = {"none": None, "add": tirx.Add, "mul": tirx.Mul, "max": tirx.Max, "min": tirx.Min}
REDUCTIONS = tuple(_COMBINE)  # ONNX scatter reductions


@dataclass(frozen=True)
class CumSumForm:
    rows: RowForm
    dtype: str
    exclusive: bool


def cumsum_kernel(form: CumSumForm, symbol: str) -> tirx.PrimFunc:
    """y[i] = sum of x[0..i] (or of x[0..i-1]). Pointers: x, y. Extent: blocks of rows."""
    b = KernelBuilder()
    x, y = b.pointer("x", form.dtype), b.pointer("y", form.dtype)
    rows = Rows(form.rows, b, form.rows.lanes)

    def unit() -> None:
        zero = const(0, form.dtype)
        total = b.register(vector_of(zero, rows.width) if rows.width > 1 else zero, rows.width, form.dtype)

        def step(p: Point) -> None:
            value = p.load(x, 0)
            if form.exclusive:
                p.store(y, 1, total.value)
            b.set(total, total.value + value)
            if not form.exclusive:
                p.store(y, 1, total.value)

        rows.sweep(step)

    rows.units(unit)
    return b.function(symbol)


def cumsum_call(
    shape: Sequence[int], dtype: str, axis: int, source: Layout, destination: Layout, lanes: int,
    *, exclusive: bool, reverse: bool,
) -> KernelCall:  # fmt: skip
    """Running sums along `axis`; pointers x, y."""
    axis %= len(shape)
    layouts = [source, destination]
    if reverse:
        layouts = [layout.narrow(axis, shape[axis] - 1, -1) for layout in layouts]
    rows = row_form(shape, [axis], layouts, lanes)
    if not rows.across:
        rows = row_form(shape, [axis], layouts, 1)
    form = CumSumForm(rows, dtype, exclusive)
    symbol = structural_name("cumsum", form)
    return KernelCall(
        symbol, partial(cumsum_kernel, form, symbol), (), Rows(rows, KernelBuilder(), rows.lanes).extent
    )


@dataclass(frozen=True)
class TopKForm:
    """`rows` describes x, values and indices; `steps` their strides along the axis of `n` elements."""

    rows: RowForm
    steps: tuple[int, ...]
    n: int
    k: int
    dtype: str
    largest: bool


def topk_kernel(form: TopKForm, symbol: str) -> tirx.PrimFunc:
    """Insertion into the sorted output, the earlier of equal elements first. Pointers: x, values, indices.

    Extent: rows.
    """
    b = KernelBuilder()
    x, values, indices = (
        b.pointer("x", form.dtype),
        b.pointer("values", form.dtype),
        b.pointer("indices", "int64"),
    )
    rows = Rows(form.rows, b, 1)
    better = tirx.GT if form.largest else tirx.LT

    def row(p: Point) -> None:
        x0, v0, i0 = p.index
        with b.loop(form.n) as i:
            new = b.register(x[x0 + i * form.steps[0]], 1, form.dtype).value
            held = b.register(tirx.Min(i, const(form.k)), dtype="int32")
            last = v0 + (form.k - 1) * form.steps[1]
            wanted = b.register(tirx.Cast("int32", tirx.LT(i, const(form.k))), dtype="int32")
            with b.branch(tirx.EQ(held.value, const(form.k))):
                b.set(wanted, tirx.Cast("int32", better(new, values[last])))
            with b.branch(tirx.NE(wanted.value, const(0))):
                rank = b.register(held.value, dtype="int32")
                with b.loop(held.value) as t:
                    at = b.register(held.value - 1 - t, dtype="int32").value
                    old = b.register(values[v0 + at * form.steps[1]], 1, form.dtype).value
                    with b.branch(better(new, old)):
                        with b.branch(tirx.LT(at + 1, const(form.k))):
                            b.store(values, v0 + (at + 1) * form.steps[1], old)
                            b.store(indices, i0 + (at + 1) * form.steps[2], indices[i0 + at * form.steps[2]])
                        b.set(rank, at)
                b.store(values, v0 + rank.value * form.steps[1], new)
                b.store(indices, i0 + rank.value * form.steps[2], tirx.Cast("int64", i))

    rows.units(lambda: rows.sweep(row))
    return b.function(symbol)


def topk_call(
    shape: Sequence[int], dtype: str, axis: int, k: int, layouts: Sequence[Layout], *, largest: bool
) -> KernelCall:
    """The k largest (smallest) along `axis`, sorted; pointers x, values, indices (int64), as `layouts`."""
    axis %= len(shape)
    outer = [1 if d == axis else n for d, n in enumerate(shape)]
    steps = tuple(layout.strides[axis] for layout in layouts)
    form = TopKForm(row_form(outer, [axis], layouts, 1), steps, shape[axis], k, dtype, largest)
    symbol = structural_name("topk", form)
    return KernelCall(
        symbol, partial(topk_kernel, form, symbol), (), Rows(form.rows, KernelBuilder(), 1).extent
    )


@dataclass(frozen=True)
class ScatterForm:
    """updates[i] goes to y[j]: j is i, but with `axes` taken from the indices.

    Attributes:
        shape: of the updates.
        updates, indices: (origin, strides per dimension of the updates).
        target: y's origin, its strides per dimension of the updates (0 for indexed axes).
        axes: per indexed axis its size, y's stride, and where its component lies behind an index entry.
    """

    shape: tuple[int, ...]
    updates: tuple[int, tuple[int, ...]]
    indices: tuple[int, tuple[int, ...]]
    target: tuple[int, tuple[int, ...]]
    axes: tuple[tuple[int, int, int], ...]
    dtype: str
    index_dtype: str
    reduction: str


def scatter_kernel(form: ScatterForm, symbol: str) -> tirx.PrimFunc:
    """Pointers: indices, updates, y (which holds the data already). Extent: 1, as updates may collide."""
    b = KernelBuilder()
    indices, updates = b.pointer("indices", form.index_dtype), b.pointer("updates", form.dtype)
    y = b.pointer("y", form.dtype)
    with ExitStack() as stack:
        stack.enter_context(b.loop(b.end - b.begin, b.begin))
        at = [const(o) for o, _ in (form.updates, form.indices, form.target)]
        for d, n in enumerate(form.shape):
            i = stack.enter_context(b.loop(n))
            at = [
                a + i * s[d] for a, (_, s) in zip(at, (form.updates, form.indices, form.target), strict=True)
            ]
        target = at[2]
        for size, stride, component in form.axes:
            index = b.register(indices[at[1] + component], dtype=form.index_dtype).value
            lowest, highest = (const(n, form.index_dtype) for n in (0, size - 1))
            index = tirx.Select(tirx.LT(index, lowest), index + const(size, form.index_dtype), index)
            # data decide it, and no input may write what is not its own
            inside = tirx.Max(tirx.Min(index, highest), lowest)
            target = target + tirx.Cast("int32", inside) * stride
        target = b.register(target, dtype="int32").value
        value = updates[at[0]]
        b.store(y, target, value if form.reduction == "none" else _COMBINE[form.reduction](y[target], value))
    return b.function(symbol)


def scatter_elements_call(
    shape: Sequence[int], updates_shape: Sequence[int], axis: int, dtypes: tuple[str, str],
    layouts: tuple[Layout, Layout, Layout], reduction: str,
) -> KernelCall:  # fmt: skip
    """ONNX ScatterElements onto data already copied to y; `layouts` of indices, updates, y; `dtypes` of
    indices and data."""
    indices, updates, y = layouts
    axis %= len(shape)
    target = tuple(0 if d == axis else s for d, s in enumerate(y.strides))
    form = ScatterForm(
        tuple(updates_shape), (updates.origin, updates.strides), (indices.origin, indices.strides),
        (y.origin, target), ((shape[axis], y.strides[axis], 0),), dtypes[1], dtypes[0], reduction,
    )  # fmt: skip
    symbol = structural_name("scatter", form)
    return KernelCall(symbol, partial(scatter_kernel, form, symbol), (), 1)


def scatter_nd_call(
    shape: Sequence[int], indices_shape: Sequence[int], dtypes: tuple[str, str],
    layouts: tuple[Layout, Layout, Layout], reduction: str,
) -> KernelCall:  # fmt: skip
    """ONNX ScatterND onto data already copied to y; arguments as for `scatter_elements_call`."""
    indices, updates, y = layouts
    depth, outer = indices_shape[-1], len(indices_shape) - 1
    inner = len(shape) - depth
    axes = tuple((shape[d], y.strides[d], d * indices.strides[-1]) for d in range(depth))
    form = ScatterForm(
        (*indices_shape[:-1], *shape[depth:]), (updates.origin, updates.strides),
        (indices.origin, (*indices.strides[:-1], *(0,) * inner)),
        (y.origin, (*(0,) * outer, *y.strides[depth:])), axes, dtypes[1], dtypes[0], reduction,
    )  # fmt: skip
    symbol = structural_name("scatter", form)
    return KernelCall(symbol, partial(scatter_kernel, form, symbol), (), 1)
