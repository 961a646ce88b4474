"""The builder of kernels for GPUs: as the one for CPUs, with threads, shared memory and barriers.

A kernel runs on a grid of groups of threads. Its parameters are pointers to global memory, then int32
scalars; every pointer is at its buffer's first element, and the kernel adds the layout's origin.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import tvm
from tvm import tirx

from sparsecc.targets.tir import Expr, KernelBuilder, Register, const, ramp

_AXES = "xyz"
_DEVICE_KERNEL = 2  # TVM's calling convention of functions that a driver launches


class Private(Register):
    """Scalars of one thread, addressed by constant lanes so that they stay in registers."""

    def __init__(self, name: str, lanes: int, dtype: str) -> None:
        super().__init__(name, lanes, dtype)
        self.buffer = tirx.decl_buffer((lanes,), dtype, name, scope="local")

    def at(self, lane: int) -> Expr:
        """One lane."""
        return tirx.BufferLoad(self.buffer, [const(lane)])


class Shared:
    """An array that the threads of a group share."""

    def __init__(self, name: str, size: int, dtype: str) -> None:
        self.buffer = tirx.decl_buffer((size,), dtype, name, scope="shared")

    def __getitem__(self, index: Expr) -> Expr:
        return tirx.BufferLoad(self.buffer, [const(index) if isinstance(index, int) else index])

    def vector(self, index: Expr, lanes: int) -> Expr:
        """The `lanes` consecutive elements from `index` on."""
        return self[index] if lanes == 1 else self[ramp(index, lanes)]


class GpuBuilder(KernelBuilder):
    """Collects the parameters and statements of one kernel.

    Args:
        block: threads of a group along x, y and z.
    """

    def __init__(self, block: Sequence[int]) -> None:
        super().__init__()
        self.block = (*block, *(1 for _ in range(3 - len(block))))
        self._group = [_index("blockIdx", axis, None) for axis in _AXES]
        self._thread = [_index("threadIdx", axis, n) for axis, n in zip(_AXES, self.block, strict=True)]
        self._grid: dict[int, Expr] = {}

    def group(self, axis: int) -> Expr:
        """This thread's group in the grid."""
        self._grid.setdefault(axis, tirx.Var(f"grid_{_AXES[axis]}", "int32"))
        return self._group[axis].var

    def thread(self, axis: int) -> Expr:
        """This thread in its group; 0 where groups have one along that axis."""
        return self._thread[axis].var if self.block[axis] > 1 else const(0)

    def register(self, value: Expr, lanes: int = 1, dtype: str = "float32") -> Private:
        made = self.local(lanes, dtype)
        self.emit(made.store(value))
        return made

    def local(self, lanes: int, dtype: str = "float32") -> Private:
        self._names += 1
        made = Private(f"r{self._names}", lanes, dtype)
        self.emit(tirx.AllocBuffer(made.buffer))
        return made

    def shared(self, size: int, dtype: str = "float32") -> Shared:
        """A new shared array; declare it outside of all loops."""
        self._names += 1
        made = Shared(f"s{self._names}", size, dtype)
        self.emit(tirx.AllocBuffer(made.buffer))
        return made

    def put_shared(self, shared: Shared, index: Expr, value: Expr, lanes: int = 1) -> None:
        """Store one element, or some from `index` on."""
        index = const(index) if isinstance(index, int) else index
        self.emit(tirx.BufferStore(shared.buffer, value, [index if lanes == 1 else ramp(index, lanes)]))

    def barrier(self) -> None:
        """Wait for all threads of the group; what they wrote to shared memory is seen then."""
        self.emit(tirx.Evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared")))

    @contextmanager
    def unrolled(self, extent: int) -> Generator[Expr]:
        """for i in [0, extent), unrolled by the device's compiler."""
        self._names += 1
        var = tirx.Var(f"i{self._names}", "int32")
        self._blocks.append([])
        yield var
        self.emit(tirx.For(var, const(0), const(extent), tirx.ForKind.UNROLLED, self._close()))

    def function(self, symbol: str) -> tirx.PrimFunc:
        body: Any = tirx.SeqStmt(
            [*(tirx.DeclBuffer(p.buffer, data=p.var) for p in self._pointers), *self._blocks[0]]
        )
        launched = [
            *((i, const(n)) for i, n in zip(self._thread, self.block, strict=True) if n > 1),
            *((self._group[axis], extent) for axis, extent in sorted(self._grid.items())),
        ]
        for index, extent in launched:
            body = tirx.AttrStmt(index, "thread_extent", extent, body)
        func: Any = tirx.PrimFunc([*(p.var for p in self._pointers), *self._scalars], body)
        return func.with_attr(
            {
                "global_symbol": symbol,
                "tirx.noalias": True,
                "tirx.is_global_func": True,
                "tirx.kernel_launch_params": [index.thread_tag for index, _ in launched],
                "calling_conv": _DEVICE_KERNEL,
            }
        )


def _index(kind: str, axis: str, extent: int | None) -> Any:
    name = f"{kind}.{axis}"
    domain = None if extent is None else tvm.ir.Range(0, extent)
    return tirx.IterVar(domain, tirx.Var(name, "int32"), tirx.IterVar.ThreadIndex, name)
