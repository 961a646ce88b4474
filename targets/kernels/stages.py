"""TE stages: what one s_tir block of a legalised PrimFunc computes, element by element."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Mod": "mod", "FloorDiv": "floordiv",
    "FloorMod": "floormod", "Min": "min", "Max": "max", "And": "and", "Or": "or", "EQ": "eq", "NE": "ne",
    "LT": "lt", "LE": "le", "GT": "gt", "GE": "ge", "BitwiseAnd": "bitand", "BitwiseOr": "bitor",
    "BitwiseXor": "bitxor", "LShift": "shl", "RShift": "shr",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stage:
    """One s_tir block: `outputs` element by element over `axes`, reduced over `reduce`.

    Attributes:
        axes, reduce: block variables (as hashable handles) and their extents.
        init: per output the first value of a reduction.
        lets: local variables of the body, in order.
        values: per output the expression stored.
        buffers: value names of the buffers that the expressions load, by variable handle.
    """

    outputs: tuple[str, ...]
    axes: tuple[tuple[int, int], ...]
    reduce: tuple[tuple[int, int], ...]
    init: tuple[Any, ...]
    lets: tuple[tuple[int, Any], ...]
    values: tuple[Any, ...]
    buffers: Mapping[int, str]

    def loaded(self) -> set[str]:
        """Names of all buffers it reads, its own states excepted."""
        found: set[str] = set()

        def visit(e: Any) -> None:
            if type(e).__name__ == "TensorLoad":
                found.add(self.buffers[hash(e.source)])
            for child in children(e):
                visit(child)

        for e in (*self.init, *self.values, *(v for _, v in self.lets)):
            visit(e)
        return found - set(self.outputs)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(n for _, n in self.axes)


def children(e: Any) -> list[Any]:
    """The direct subexpressions of a TIR expression."""
    kind = type(e).__name__
    if kind in BINARY:
        return [e.a, e.b]
    if kind == "TensorLoad":
        return list(e.indices)
    if kind == "Call":
        return list(e.args)
    if kind == "Select":
        return [e.condition, e.true_value, e.false_value]
    if kind == "Cast":
        return [e.value]
    return [e.a] if kind in ("Not", "BitwiseNot") else []


TensorTypes = dict[str, tuple[tuple[int, ...], str]]  # shape and dtype by value name


def stages_of(func: Any, names: Sequence[str], fresh: Callable[[], str]) -> tuple[list[Stage], TensorTypes]:
    """The stages of an s_tir PrimFunc whose buffer parameters are the values `names`.

    Returns the stages in order, and shape and dtype of the internal buffers, named by `fresh`.
    Raises NotImplementedError for blocks that are not one store per element.
    """
    buffers = {hash(p): n for p, n in zip(func.params, names, strict=True)}
    root = func.body.block
    internal: dict[str, tuple[tuple[int, ...], str]] = {}
    for buffer in root.alloc_buffers:
        buffers[hash(buffer)] = fresh()
        internal[buffers[hash(buffer)]] = (tuple(int(n) for n in buffer.shape), str(buffer.dtype))
    body = root.body
    stages: list[Stage] = []
    for statement in body.seq if isinstance(body, tirx.SeqStmt) else [body]:
        inner: Any = statement
        while type(inner).__name__ == "For":
            inner = inner.body
        if type(inner).__name__ != "SBlockRealize" or len(inner.block.alloc_buffers):
            raise NotImplementedError(f"statement {type(inner).__name__}")
        stages.append(_stage(inner.block, buffers))
    return stages, internal


def _stage(block: Any, buffers: Mapping[int, str]) -> Stage:
    spatial = [(hash(v.var), int(v.dom.extent)) for v in block.iter_vars if v.iter_type == 0]
    reduce = [(hash(v.var), int(v.dom.extent)) for v in block.iter_vars if v.iter_type == 2]
    if len(spatial) + len(reduce) != len(block.iter_vars):
        raise NotImplementedError("block with an ordered axis")
    lets: list[tuple[int, Any]] = []
    stores: dict[str, Any] = {}
    for s in block.body.seq if isinstance(block.body, tirx.SeqStmt) else [block.body]:
        if isinstance(s, tirx.Bind):
            lets.append((hash(s.var), s.value))
            continue
        if not isinstance(s, tirx.BufferStore):
            raise NotImplementedError(f"statement {type(s).__name__} in a block")
        if not s.indices and all(extent == 1 for _, extent in spatial):
            spatial = []  # a number; TVM gives its block an axis that nothing uses
        if [hash(i) for i in s.indices] != [h for h, _ in spatial]:
            raise NotImplementedError("a store that is not at the block's own axes")
        stores[buffers[hash(s.buffer)]] = s.value
    first: dict[str, Any] = {}
    if reduce:
        init = block.init
        stores_first: Any = init.seq if isinstance(init, tirx.SeqStmt) else [init]
        first = {buffers[hash(s.buffer)]: s.value for s in stores_first}
    return Stage(
        tuple(stores), tuple(spatial), tuple(reduce), tuple(first[o] for o in stores) if reduce else (),
        tuple(lets), tuple(stores.values()), buffers,
    )  # fmt: skip
