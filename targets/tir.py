"""A small builder for lowered TIR: flat pointers, explicit vectors, plain C functions.

Kernels whose loop extents depend on data cannot be vectorised by a schedule, and parsing TVMScript costs
more than compiling it; so kernel families write their nodes through this builder. A built function takes
pointers, int32 scalars and the range [begin, end) of its parallel extent, and returns 0.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import ir, tirx

Expr = Any  # a TIR expression; TVM's operators are untyped
_untyped: Any = tirx  # its stubs are narrower than its constructors
_UNBOUNDED = 2**31 - 1


def const(value: float, dtype: str = "int32") -> Expr:
    """A scalar constant."""
    return tirx.FloatImm(dtype, float(value)) if dtype.startswith("float") else tirx.IntImm(dtype, int(value))


def vector_of(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return value if lanes == 1 else _untyped.Broadcast(value, lanes)


def ramp(base: Expr, lanes: int) -> Expr:
    """base, base + 1, ... base + lanes - 1."""
    return strided(base, 1, lanes)


def strided(base: Expr, stride: int, lanes: int) -> Expr:
    """base, base + stride, base + 2 stride, ..."""
    base = const(base) if isinstance(base, int) else base
    return _untyped.Ramp(base, const(stride, str(base.ty)), lanes)


def shuffle(vectors: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """A vector of the given lanes of the concatenated `vectors`."""
    return _untyped.Shuffle(list(vectors), list(lanes))


PERMUTED_LANES = 16
"""Lanes of the vectors that `permute` takes; it needs AVX-512."""


def permute(vector: Expr, indices: Expr) -> Expr:
    """Lane i is lane `indices[i]` modulo 16 of a float32 vector; the indices are int32."""
    intrinsic = "llvm.x86.avx512.permvar.sf.512"
    return tirx.call_llvm_pure_intrin(f"float32x{PERMUTED_LANES}", intrinsic, vector, indices)


class Pointer:
    """A flat array, of any length, that a kernel reads or writes."""

    def __init__(self, name: str, dtype: str) -> None:
        self.dtype = dtype
        self.var = tirx.Var(name + "_p", ir.PointerType(ir.PrimType(dtype), "global"))
        self.buffer = tirx.decl_buffer((_UNBOUNDED,), dtype, name)

    def __getitem__(self, index: Expr) -> Expr:
        return tirx.BufferLoad(self.buffer, [index if not isinstance(index, int) else const(index)])

    def vector(self, index: Expr, lanes: int) -> Expr:
        """The `lanes` consecutive elements from `index` on."""
        return self[index] if lanes == 1 else self[ramp(index, lanes)]


class Register:
    """A vector (or scalar) variable that LLVM keeps in a register."""

    def __init__(self, name: str, lanes: int, dtype: str) -> None:
        self.lanes, self.dtype = lanes, dtype
        self.buffer = tirx.decl_buffer((lanes,), dtype, name, scope="global")

    @property
    def _index(self) -> Expr:
        return const(0) if self.lanes == 1 else ramp(0, self.lanes)

    @property
    def value(self) -> Expr:
        return tirx.BufferLoad(self.buffer, [self._index])

    def store(self, value: Expr) -> Expr:
        return tirx.BufferStore(self.buffer, value, [self._index])

    def put(self, builder: KernelBuilder, index: Expr, value: Expr, lanes: int = 1) -> None:
        """Set one lane, or some from `index` on; the variable then lives in memory."""
        builder.emit(tirx.BufferStore(self.buffer, value, [index if lanes == 1 else ramp(index, lanes)]))


class KernelBuilder:
    """Collects the parameters and statements of one kernel."""

    def __init__(self) -> None:
        self._pointers: list[Pointer] = []
        self._scalars: list[Expr] = []
        self._blocks: list[list[Expr]] = [[]]
        self._names = 0
        self.begin, self.end = tirx.Var("begin", "int32"), tirx.Var("end", "int32")

    # parameters, in the order of the calls
    def pointer(self, name: str, dtype: str = "float32") -> Pointer:
        self._pointers.append(Pointer(name, dtype))
        return self._pointers[-1]

    def scalar(self, name: str) -> Expr:
        self._scalars.append(tirx.Var(name, "int32"))
        return self._scalars[-1]

    # statements
    def emit(self, statement: Expr) -> None:
        self._blocks[-1].append(statement)

    def store(self, pointer: Pointer, index: Expr, value: Expr, lanes: int = 1) -> None:
        index = const(index) if isinstance(index, int) else index
        self.emit(tirx.BufferStore(pointer.buffer, value, [index if lanes == 1 else ramp(index, lanes)]))

    def prefetch(self, pointer: Pointer, index: Expr) -> None:
        """Ask for the cache line of an element that will be read soon; the address need not exist."""
        operands = [tirx.address_of(pointer[index]), const(0), const(3), const(1)]
        self.emit(tirx.Evaluate(tirx.call_intrin("void", "tirx.prefetch", *operands)))

    def register(self, value: Expr, lanes: int = 1, dtype: str = "float32") -> Register:
        """A new variable holding `value`."""
        self._names += 1
        made = Register(f"r{self._names}", lanes, dtype)
        self.emit(tirx.AllocBuffer(made.buffer))
        self.emit(made.store(value))
        return made

    def local(self, lanes: int, dtype: str = "float32") -> Register:
        """A new vector variable whose lanes are set one by one."""
        self._names += 1
        made = Register(f"r{self._names}", lanes, dtype)
        self.emit(tirx.AllocBuffer(made.buffer))
        return made

    def set(self, register: Register, value: Expr) -> None:
        self.emit(register.store(value))

    @contextmanager
    def loop(self, extent: Expr, start: Expr = 0) -> Generator[Expr]:
        """for i in [start, start + extent)."""
        self._names += 1
        var = tirx.Var(f"i{self._names}", "int32")
        self._blocks.append([])
        yield var
        body = self._close()
        start = const(start) if isinstance(start, int) else start
        extent = const(extent) if isinstance(extent, int) else extent
        self.emit(tirx.For(var, start, extent, tirx.ForKind.SERIAL, body))

    @contextmanager
    def branch(self, condition: Expr) -> Generator[None]:
        """if condition: ..."""
        self._blocks.append([])
        yield
        self.emit(tirx.IfThenElse(condition, self._close(), None))

    def _close(self) -> Expr:
        block = self._blocks.pop()
        return block[0] if len(block) == 1 else tirx.SeqStmt(block)

    def function(self, symbol: str) -> tirx.PrimFunc:
        """The finished kernel as a PrimFunc with a plain C signature."""
        body: Sequence[Expr] = [
            *(tirx.DeclBuffer(p.buffer, data=p.var) for p in self._pointers),
            *self._blocks[0],
        ]
        return plain_function(
            symbol,
            [*(p.var for p in self._pointers), *self._scalars, self.begin, self.end],
            tirx.SeqStmt(list(body)),
        )


def broadcasts(
    b: KernelBuilder, pointer: Pointer, index: Expr, count: int, lanes: int, *, by_lane: bool
) -> list[Expr]:
    """Each of `count` consecutive elements in all lanes.

    Args:
        by_lane: the machine multiplies by one lane of a register, so that one load brings several; others
            fill a vector when they load.
    """
    if not by_lane or count % lanes:
        return [vector_of(pointer[index + i], lanes) for i in range(count)]
    loaded = [
        b.register(pointer.vector(index + first, lanes), lanes, pointer.dtype).value
        for first in range(0, count, lanes)
    ]
    return [shuffle([loaded[i // lanes]], [i % lanes] * lanes) for i in range(count)]


def plain_function(symbol: str, params: Sequence[Expr], body: Expr) -> tirx.PrimFunc:
    """A PrimFunc that compiles to `int32_t symbol(params)`: device attributes around, 0 returned."""
    for key, value in (("device_id", 0), ("device_type", 1)):
        body = tirx.AttrStmt("default", key, const(value), body)
    body = tirx.SeqStmt([body, tirx.Return(const(0))])
    func: Any = tirx.PrimFunc(list(params), body, ret_type=ir.PrimType("int32"))
    return func.with_attr({"global_symbol": symbol, "tirx.noalias": True})
