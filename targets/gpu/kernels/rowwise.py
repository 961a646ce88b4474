"""Softmax and normalisations: threads share rows, partial results fold through shared memory.

Where an outer dimension is contiguous (feature-major data), neighbouring threads have neighbouring rows, else
neighbouring elements of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from sparsecc.targets.gpu.tir import GpuBuilder, Shared
from sparsecc.targets.kernels import vector_math
from sparsecc.targets.kernels.rowwise import RowForm
from sparsecc.targets.tir import Expr, const

_THREADS = 128
_ACROSS = 16  # rows of a group where threads run across rows
_LONG = 256  # elements of a row that a whole group shares


@dataclass(frozen=True)
class NormForm:
    """Layer or RMS normalisation of rows; the tensors of `rows` are X, Y, and scale and bias if any."""

    rows: RowForm
    epsilon: float
    centered: bool
    scaled: bool
    biased: bool


def grid_of(form: RowForm) -> tuple[int, int]:
    """Groups of threads."""
    return -(-prod(n for n, _ in form.outer) // _shape(form)[0]), 1


def block_of() -> tuple[int, int, int]:
    """Threads of a group."""
    return _THREADS, 1, 1


def _shape(form: RowForm) -> tuple[int, int]:
    """Rows of a group and threads of a row."""
    rows = _ACROSS if form.across else (1 if form.count >= _LONG else 4)
    return rows, _THREADS // rows


class _Rows:
    """This thread's part of its row."""

    def __init__(self, b: GpuBuilder, form: RowForm) -> None:
        self.b, self.form = b, form
        self._scratch: Shared = b.shared(_THREADS)
        rows, self.parts = _shape(form)
        thread = b.thread(0)
        if form.across:
            self.slot = b.register(tirx.Mod(thread, const(rows)), dtype="int32").value
            self.part = b.register(tirx.Div(thread, const(rows)), dtype="int32").value
            self._slot_step, self._part_step = 1, rows
        else:
            self.slot = b.register(tirx.Div(thread, const(self.parts)), dtype="int32").value
            self.part = b.register(tirx.Mod(thread, const(self.parts)), dtype="int32").value
            self._slot_step, self._part_step = self.parts, 1
        row = b.register(b.group(0) * rows + self.slot, dtype="int32").value
        self.live = row < prod(n for n, _ in form.outer)
        self._first = self._places(row, form.outer, form.origins)

    def _places(self, number: Expr, dims: Any, origins: Any) -> list[Expr]:
        """Element index per tensor of the `number`-th combination of `dims`."""
        b = self.b
        found: list[Any] = list(origins)
        for n, strides in reversed(dims):
            rest = b.register(tirx.Div(number, const(n)), dtype="int32").value
            i = b.register(number - rest * n, dtype="int32").value
            found = [at + i * stride if stride else at for at, stride in zip(found, strides, strict=True)]
            number = rest
        return [b.register(at if not isinstance(at, int) else const(at), dtype="int32").value for at in found]

    def each(self, visit: Callable[[list[Expr]], None]) -> None:
        """Call `visit` with the indices, per tensor, of every element of this thread."""
        b, count = self.b, self.form.count
        with b.branch(self.live), b.loop(-(-count // self.parts)) as i:
            j = b.register(i * self.parts + self.part, dtype="int32").value
            with b.branch(j < count):
                visit(self._places(j, self.form.reduced, self._first))

    def fold(self, mine: Expr, combine: Any) -> Expr:
        """`combine` over all threads of the row."""
        b = self.b
        at = b.register(self.slot * self._slot_step + self.part * self._part_step, dtype="int32").value
        b.put_shared(self._scratch, at, mine)
        b.barrier()
        width = self.parts // 2
        while width:
            with b.branch(self.part < width):
                both = combine(self._scratch[at], self._scratch[at + width * self._part_step])
                b.put_shared(self._scratch, at, both)
            b.barrier()
            width //= 2
        result = b.register(self._scratch[self.slot * self._slot_step]).value
        b.barrier()
        return result


def softmax_kernel(form: RowForm, symbol: str) -> tirx.PrimFunc:
    """exp(x - max) / sum of it, along each row. Pointers: X, Y. Grid: groups of rows."""
    b = GpuBuilder(block_of())
    x, y = b.pointer("x"), b.pointer("y")
    rows = _Rows(b, form)
    largest = b.register(const(float("-inf"), "float32"))
    rows.each(lambda at: b.set(largest, tirx.Max(largest.value, x[at[0]])))
    top = rows.fold(largest.value, tirx.Max)
    total = b.register(const(0.0, "float32"))

    def add(at: list[Expr]) -> None:
        value = b.register(vector_math.exp(b, x[at[0]] - top, 1)).value
        b.store(y, at[1], value)
        b.set(total, total.value + value)

    rows.each(add)
    scale = b.register(const(1.0, "float32") / rows.fold(total.value, tirx.Add)).value
    rows.each(lambda at: b.store(y, at[1], y[at[1]] * scale))
    return b.function(symbol)


def norm_kernel(form: NormForm, symbol: str) -> tirx.PrimFunc:
    """(x - mean) / sqrt(variance + epsilon), scaled and shifted. Pointers: X, [scale, [bias]], Y."""
    b = GpuBuilder(block_of())
    x = b.pointer("x")
    scale = b.pointer("scale") if form.scaled else None
    bias = b.pointer("bias") if form.biased else None
    y = b.pointer("y")
    rows = _Rows(b, form.rows)
    part = const(1.0 / form.rows.count, "float32")
    mean: Expr = const(0.0, "float32")
    if form.centered:
        total = b.register(const(0.0, "float32"))
        rows.each(lambda at: b.set(total, total.value + x[at[0]]))
        mean = b.register(rows.fold(total.value, tirx.Add) * part).value
    squares = b.register(const(0.0, "float32"))

    def square(at: list[Expr]) -> None:
        distance = b.register(x[at[0]] - mean).value
        b.set(squares, squares.value + distance * distance)

    rows.each(square)
    variance = rows.fold(squares.value, tirx.Add) * part + const(form.epsilon, "float32")
    factor = b.register(const(1.0, "float32") / tirx.sqrt(variance)).value

    def write(at: list[Expr]) -> None:
        value = (x[at[0]] - mean) * factor
        if scale is not None:
            value = value * scale[at[2]]
        if bias is not None:
            value = value + bias[at[3]]
        b.store(y, at[1], value)

    rows.each(write)
    return b.function(symbol)
