"""Code for planned loop nests: units, serial loops, vectors of falling width, transposed blocks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.emit import Emitter, store
from sparsecc.targets.kernels.indexing import Axis
from sparsecc.targets.kernels.schedule import LoopKernel, Nest, reductions_of
from sparsecc.targets.tir import KernelBuilder, const


def loop_call(kernel: LoopKernel, symbol: str) -> KernelCall:
    """The call of planned loops on a CPU: lanes, and units of work for threads."""
    return KernelCall(symbol, partial(loop_kernel, kernel, symbol), (), kernel.extent)


def loop_kernel(kernel: LoopKernel, symbol: str) -> tirx.PrimFunc:
    """The PrimFunc: pointers of `kernel.loads`, then the output."""
    b = KernelBuilder()
    pointers = {n: b.pointer(f"p{i}", _stored(kernel.dtypes[n])) for i, n in enumerate(kernel.loads)}
    out = b.pointer("out", _stored(kernel.dtypes[kernel.output]))
    base = 0
    for nest in kernel.nests:
        low = tirx.Max(b.begin, const(base))
        high = tirx.Min(b.end, const(base + nest.extent))
        with b.loop(high - low, low) as u:
            unit = b.register(u - base, dtype="int32").value
            _emit_unit(b, pointers, out, nest, unit, kernel)
        base += nest.extent
    return b.function(symbol)


def _stored(dtype: str) -> str:
    return "int8" if dtype == "bool" else dtype


def _emit_unit(b: KernelBuilder, pointers: Any, out: Any, nest: Nest, unit: Any, kernel: LoopKernel) -> None:
    point = Emitter(b, pointers, {}, reduce_vector=nest.reduce_vector, reduce_lanes=kernel.lanes)
    chunk = None
    if nest.vector and nest.chunk:
        chunks = -(-nest.vector.extent // nest.chunk)
        rest = b.register(tirx.Div(unit, const(chunks)), dtype="int32").value
        chunk = b.register(unit - rest * chunks, dtype="int32").value
        unit = rest
    for axis in reversed(nest.parallel):
        rest = b.register(tirx.Div(unit, const(axis.extent)), dtype="int32").value
        point.axes[axis] = b.register(unit - rest * axis.extent, dtype="int32").value
        unit = rest

    def element(at: Emitter, lanes: int) -> None:
        at.vector, at.lanes = nest.vector, lanes
        store(at, out, nest.index, at.value(nest.root), kernel.dtypes[kernel.output])

    def vectors(at: Emitter) -> None:
        if nest.vector is None:
            element(at, 1)
            return
        for start, steps, width in _runs(nest, kernel.lanes, chunk):
            with b.loop(steps) as v:
                inner = at.inner()
                inner.axes[nest.vector] = start + v * width
                if nest.inside is None:
                    element(inner, width)
                    continue
                done = 0
                if width == kernel.lanes and is_transposition(nest, kernel):
                    done = nest.inside.extent // width * width
                    with b.loop(done // width) as w:
                        inner.axes[nest.inside] = b.register(w * width, dtype="int32").value
                        _transpose(inner, pointers, out, nest, width)
                with b.loop(nest.inside.extent - done, done) as w:
                    last = inner.inner()
                    last.axes[nest.inside] = w
                    element(last, width)

    def loops(at: Emitter, axes: Sequence[Axis]) -> None:
        if not axes:
            vectors(at)
            return
        with b.loop(axes[0].extent) as i:
            inner = at.inner()
            inner.axes[axes[0]] = i
            loops(inner, axes[1:])

    loops(point, nest.serial)


def is_transposition(nest: Nest, kernel: LoopKernel) -> bool:
    """Whether the nest only moves 4-byte elements from rows to columns."""
    if nest.root.op != "load" or nest.vector is None or nest.inside is None:
        return False
    read = nest.root.data[1]
    return (
        nest.root.dtype in ("float32", "int32")
        and kernel.lanes >= 4
        and read.coefficient(nest.inside) == 1
        and read.coefficient(nest.vector) is not None  # a gathered row is no fixed stride away
        and nest.index.coefficient(nest.vector) == 1
        and nest.index.coefficient(nest.inside) is not None
        and nest.inside.extent >= kernel.lanes
    )


def _transpose(point: Emitter, pointers: Any, out: Any, nest: Nest, n: int) -> None:
    """Move an n x n block: n loads along `inside`, log2(n) rounds of two-vector shuffles, n stores."""
    b = point.b
    assert nest.vector is not None and nest.inside is not None
    name, source = nest.root.data
    point.vector, point.lanes = None, 1
    stride, pitch = source.coefficient(nest.vector) or 0, nest.index.coefficient(nest.inside) or 0
    read = b.register(point.index(source).expr, dtype="int32").value
    write = b.register(point.index(nest.index).expr, dtype="int32").value
    dtype = nest.root.dtype
    rows = [b.register(pointers[name].vector(read + i * stride, n), n, dtype).value for i in range(n)]
    d = n // 2
    while d:
        # swap the off-diagonal d x d blocks of each pair of rows i, i + d
        low = [const(j if not j & d else n + j - d) for j in range(n)]
        high = [const(j + d if not j & d else n + j) for j in range(n)]
        for i in range(n):
            if not i & d:
                pair = [rows[i], rows[i + d]]
                rows[i] = b.register(tirx.Shuffle(pair, low), n, dtype).value
                rows[i + d] = b.register(tirx.Shuffle(pair, high), n, dtype).value
        d //= 2
    for j, row in enumerate(rows):
        b.store(out, write + j * pitch, row, n)


def _runs(nest: Nest, lanes: int, chunk: Any) -> list[tuple[Any, Any, int]]:
    """(first element, steps, width) for the vector axis: whole vectors, then ever narrower ones."""
    assert nest.vector is not None
    extent = nest.vector.extent
    reducing = bool(reductions_of(nest.root))
    widths = [4 * lanes] if reducing else []
    widths += [lanes >> s for s in range(lanes.bit_length())]
    if chunk is None:
        runs: list[tuple[Any, Any, int]] = []
        done = 0
        for width in widths:
            steps = (extent - done) // width
            if steps:
                runs.append((const(done), const(steps), width))
                done += steps * width
        return runs
    # chunks are whole vectors; what is left belongs to the last chunk
    whole = extent // lanes
    start = chunk * nest.chunk
    steps = tirx.Min(const(nest.chunk // lanes), const(whole) - chunk * (nest.chunk // lanes))
    runs = [(start, steps, lanes)]
    done = whole * lanes
    last = tirx.Cast("int32", tirx.EQ(chunk, const(-(-extent // nest.chunk) - 1)))
    for width in widths[-lanes.bit_length() + 1 :] if lanes > 1 else []:
        if (extent - done) // width:
            runs.append((const(done), last, width))
            done += width
    return runs
