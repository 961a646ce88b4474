"""Everything that has no family of its own: TVM's legalisation, one thread for each output element.

The expressions are those of the CPU's generic kernels (sparsecc/targets/kernels/generic.py), with one lane:
elementwise chains, gathers, reductions, pools, copies between layouts. Neighbouring threads write
neighbouring elements.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

from tvm import tirx

from sparsecc.targets.gpu.tir import GpuBuilder
from sparsecc.targets.kernels.call import KernelCall
from sparsecc.targets.kernels.emit import Emitter, store
from sparsecc.targets.kernels.schedule import LoopKernel, Nest
from sparsecc.targets.tir import Pointer, const

THREADS = 256
"""Of a group."""


def nest_call(kernel: LoopKernel, symbol: str) -> KernelCall:
    """The call of planned loops (lanes: 1); its extent is threads."""
    return KernelCall(symbol, partial(nest_kernel, kernel, symbol), (), sum(map(_elements, kernel.nests)))


def nest_kernel(kernel: LoopKernel, symbol: str) -> tirx.PrimFunc:
    """Pointers of `kernel.loads`, then the output. Grid: groups of `THREADS` elements, box after box."""
    b = GpuBuilder((THREADS,))
    pointers = {n: b.pointer(f"p{i}", _stored(kernel.dtypes[n])) for i, n in enumerate(kernel.loads)}
    out = b.pointer("out", _stored(kernel.dtypes[kernel.output]))
    thread = b.register(b.group(0) * THREADS + b.thread(0), dtype="int32").value
    base = 0
    for nest in kernel.nests:
        end = base + _elements(nest)
        inside = tirx.all(thread >= base, thread < end) if base else thread < end
        with b.branch(inside):
            _element(b, pointers, out, nest, b.register(thread - base, dtype="int32").value, kernel)
        base = end
    return b.function(symbol)


def _elements(nest: Nest) -> int:
    return prod(axis.extent for axis in (*nest.parallel, *nest.serial))


def _stored(dtype: str) -> str:
    return "int8" if dtype == "bool" else dtype


def _element(
    b: GpuBuilder, pointers: dict[str, Pointer], out: Pointer, nest: Nest, at: Any, kernel: LoopKernel
) -> None:
    point = Emitter(b, pointers, {})
    for axis in reversed((*nest.parallel, *nest.serial)):
        rest = b.register(tirx.Div(at, const(axis.extent)), dtype="int32").value
        point.axes[axis] = b.register(at - rest * axis.extent, dtype="int32").value
        at = rest
    store(point, out, nest.index, point.value(nest.root), kernel.dtypes[kernel.output])
