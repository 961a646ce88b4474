"""Statements for an expression tree: scalar where nothing varies along the vector axis, vectors elsewhere.

Reductions become loops in front of the expression that uses them: lanes along an output axis keep one
vector state; lanes along the reduced axis keep partial results of several widths, folded at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.expressions import Node, Reduction
from sparsecc.targets.kernels.indexing import Atom, Axis, Index, Loaded, Quotient, atom_axes
from sparsecc.targets.kernels.intrinsics import call, cast, number, typed
from sparsecc.targets.kernels.rowwise import fold, strided
from sparsecc.targets.tir import KernelBuilder, Pointer, Register, const, vector_of

_NODES: dict[str, Any] = {
    "add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul, "div": tirx.Div, "mod": tirx.Mod, "min": tirx.Min,
    "max": tirx.Max, "floordiv": tirx.FloorDiv, "floormod": tirx.FloorMod, "and": tirx.And, "or": tirx.Or,
    "eq": tirx.EQ, "ne": tirx.NE, "lt": tirx.LT, "le": tirx.LE, "gt": tirx.GT, "ge": tirx.GE,
    "bitand": tirx.BitwiseAnd, "bitor": tirx.BitwiseOr, "bitxor": tirx.BitwiseXor, "bitnot": tirx.BitwiseNot,
    "shl": tirx.LShift, "shr": tirx.RShift,
}  # fmt: skip
_IDENTITY = {"add": 0.0, "mul": 1.0}


@dataclass(frozen=True)
class Value:
    """A TIR expression of `lanes` elements."""

    expr: Any
    lanes: int

    def at(self, lanes: int) -> Any:
        """The expression with `lanes` lanes."""
        return self.expr if self.lanes == lanes else vector_of(self.expr, lanes)


def combiner(reduction: Reduction) -> tuple[str, Node] | None:
    """(op, term) where the reduction is state = op(state, term) with an associative op, else None."""
    if len(reduction.update) != 1 or reduction.update[0].op not in ("add", "mul", "min", "max"):
        return None
    a, b = reduction.update[0].args
    if a.op != "state":
        a, b = b, a
    return (reduction.update[0].op, b) if a.op == "state" else None


@dataclass
class Emitter:
    """Emits values at one point of a loop nest.

    Attributes:
        axes: the loop variables; the vector axis's is its first lane.
        vector, lanes: the axis along which lanes run, and how many.
        reduce_vector, reduce_lanes: the same for an axis of a reduction.
    """

    b: KernelBuilder
    pointers: Mapping[str, Pointer]
    axes: dict[Axis, Any]
    vector: Axis | None = None
    lanes: int = 1
    reduce_vector: Axis | None = None
    reduce_lanes: int = 1
    memo: dict[int, Value] = field(default_factory=dict[int, Value])
    reduced: dict[Reduction, list[Value]] = field(default_factory=dict[Reduction, list[Value]])
    states: tuple[Value, ...] = ()

    def inner(self, **changes: Any) -> Emitter:
        """The same point inside one more block."""
        own = {"memo": dict(self.memo), "reduced": dict(self.reduced), "axes": dict(self.axes)}
        return replace(self, **{**own, **changes})

    # indices
    def index(self, index: Index) -> Value:
        """An int32 index; a vector of consecutive elements is a Ramp."""
        scalar, vector, stride = const(index.const), None, 0
        for atom, c in index.terms:
            if atom == self.vector and self.lanes > 1:
                stride = c
            if isinstance(atom, Axis) or self.lanes == 1 or self.vector not in set(atom_axes(atom)):
                term = self._atom(atom).expr
                scalar = scalar + (term if c == 1 else term * const(c))
            else:
                term = self._atom(atom).at(self.lanes) * vector_of(const(c), self.lanes)
                vector = term if vector is None else vector + term
        if stride:
            ramp = strided(scalar, stride, self.lanes)
            return Value(ramp if vector is None else vector + ramp, self.lanes)
        if vector is not None:
            return Value(vector + vector_of(scalar, self.lanes), self.lanes)
        return Value(scalar, 1)

    def _atom(self, atom: Atom) -> Value:
        if isinstance(atom, Axis):
            return Value(self.axes[atom], 1)
        if isinstance(atom, Loaded):
            value = self.value(atom.node)
            return Value(tirx.Cast(typed("int32", value.lanes), value.expr), value.lanes)
        assert isinstance(atom, Quotient)
        value = self.index(atom.of)
        divide = tirx.Div if atom.of.bounds()[0] >= 0 else tirx.FloorDiv
        return Value(divide(value.expr, number(atom.by, "int32", value.lanes)), value.lanes)

    # values
    def value(self, node: Node) -> Value:
        """The node's value, computed once per point."""
        if node.op == "state":
            return self.states[node.data]
        if id(node) not in self.memo:
            self.memo[id(node)] = self._named(node, self._compute(node))
        return self.memo[id(node)]

    def _named(self, node: Node, value: Value) -> Value:
        if node.op in ("const", "index", "cond", "reduce", "if") or node.dtype == "bool":
            return value
        return Value(self.b.register(value.expr, value.lanes, node.dtype).value, value.lanes)

    def _compute(self, node: Node) -> Value:
        if node.op == "const":
            return Value(const(node.data, node.dtype), 1)
        if node.op == "index":
            at = self.index(node.data)
            expr = at.expr if node.dtype == "int32" else tirx.Cast(typed(node.dtype, at.lanes), at.expr)
            return Value(expr, at.lanes)
        if node.op == "cond":
            op, index = node.data
            at = self.index(index)
            return Value(_NODES[op](at.expr, number(0, "int32", at.lanes)), at.lanes)
        if node.op == "load":
            name, index = node.data
            return self._load(name, index, node.dtype)
        if node.op == "reduce":
            reduction, slot = node.data
            return self._reduce(reduction, slot)
        if node.op == "if":
            return self._branches(node)
        args = [self.value(a) for a in node.args]
        lanes = max(a.lanes for a in args)
        exprs = [a.at(lanes) for a in args]
        if node.op == "not":
            return Value(tirx.Not(exprs[0]), lanes)
        if node.op == "cast":
            return Value(cast(exprs[0], node.args[0].dtype, node.dtype, lanes), lanes)
        if node.op == "select":
            return Value(tirx.Select(exprs[0], exprs[1], exprs[2]), lanes)
        if node.op == "call":
            last = node.args[-1]
            constant = float(last.data) if last.op == "const" else None
            return Value(call(self.b, node.data, node.dtype, exprs, constant, lanes), lanes)
        if node.args[0].dtype == "bool" and node.op in ("eq", "ne"):
            exprs = [cast(e, "bool", "int32", lanes) for e in exprs]
        return Value(_NODES[node.op](*exprs), lanes)

    def _load(self, name: str, index: Index, dtype: str) -> Value:
        at = self.index(index)
        loaded = self.pointers[name][at.expr]
        if dtype == "bool":
            # a register, so that a later store to the same memory cannot come first
            kept = self.b.register(loaded, at.lanes, "int8").value
            return Value(kept != number(0, "int8", at.lanes), at.lanes)
        return Value(loaded, at.lanes)

    def _branches(self, node: Node) -> Value:
        """A lazily evaluated choice: the branch not taken reads nothing."""
        test = self.value(node.args[0])
        lanes = self.lanes if self.vector in node.axes else 1
        is_bool = node.dtype == "bool"
        dtype = "int8" if is_bool else node.dtype
        result = self.b.register(number(0, dtype, lanes), lanes, dtype)
        for condition, branch in ((test.expr, node.args[1]), (tirx.Not(test.expr), node.args[2])):
            with self.b.branch(condition):
                value = self.inner().value(branch).at(lanes)
                self.b.set(result, cast(value, "bool", dtype, lanes) if is_bool else value)
        return Value(cast(result.value, dtype, "bool", lanes) if is_bool else result.value, lanes)

    # reductions
    def _reduce(self, reduction: Reduction, slot: int) -> Value:
        if reduction not in self.reduced:
            across = self.reduce_vector in reduction.axes
            self.reduced[reduction] = [self._across(reduction)] if across else self._along(reduction)
        return self.reduced[reduction][slot]

    def _along(self, reduction: Reduction) -> list[Value]:
        """One state per lane of the output axis."""
        outer = set[Axis]().union(*(u.axes for u in reduction.update)) - set(reduction.axes)
        lanes = self.lanes if self.vector in outer else 1
        states = [
            self.b.register(self.value(i).at(lanes), lanes, t)
            for i, t in zip(reduction.init, reduction.dtypes, strict=True)
        ]
        self._loops(reduction, list(reduction.axes), states, lanes)
        return [Value(s.value, lanes) for s in states]

    def _loops(self, reduction: Reduction, axes: list[Axis], states: list[Register], lanes: int) -> None:
        if axes:
            with self.b.loop(axes[0].extent) as i:
                inner = self.inner()
                inner.axes[axes[0]] = i
                inner._loops(reduction, axes[1:], states, lanes)
            return
        point = self.inner(states=tuple(Value(s.value, lanes) for s in states))
        # all new states before any is set: they depend on each other
        new = [
            self.b.register(point.value(u).at(lanes), lanes, t).value
            for u, t in zip(reduction.update, reduction.dtypes, strict=True)
        ]
        for state, value in zip(states, new, strict=True):
            self.b.set(state, value)

    def _across(self, reduction: Reduction) -> Value:
        """Partial results along the vector axis, folded to a scalar."""
        found = combiner(reduction)
        assert found is not None and self.reduce_vector is not None
        op, term = found
        dtype = reduction.dtypes[0]
        vector = self.reduce_vector
        first = self.value(reduction.init[0]).expr
        total = self.b.register(first, 1, dtype)
        done = 0
        for width in (4 * self.reduce_lanes, self.reduce_lanes, self.reduce_lanes // 4, 1):
            steps = (vector.extent - done) // width if width else 0
            if not steps:
                continue
            identity = const(_IDENTITY[op], dtype) if op in _IDENTITY else first
            state = self.b.register(vector_of(identity, width), width, dtype) if width > 1 else total
            self._partial(op, term, [a for a in reduction.axes if a != vector], state, (done, steps, width))
            if width > 1:
                self.b.set(total, _NODES[op](total.value, fold(self.b, _NODES[op], state)))
            done += steps * width
        return Value(total.value, 1)

    def _partial(
        self, op: str, term: Node, axes: list[Axis], state: Register, run: tuple[int, int, int]
    ) -> None:
        if axes:
            with self.b.loop(axes[0].extent) as i:
                inner = self.inner()
                inner.axes[axes[0]] = i
                inner._partial(op, term, axes[1:], state, run)
            return
        start, steps, width = run
        with self.b.loop(steps) as i:
            inner = self.inner(vector=self.reduce_vector, lanes=width)
            assert self.reduce_vector is not None
            inner.axes[self.reduce_vector] = i * width + start
            self.b.set(state, _NODES[op](state.value, inner.value(term).at(width)))


def store(emitter: Emitter, pointer: Pointer, index: Index, value: Value, dtype: str) -> None:
    """Write one element or vector at `index` of the output."""
    at = emitter.index(index)
    expr = value.at(at.lanes)
    if dtype == "bool":
        expr = cast(expr, "bool", "int8", at.lanes)
    emitter.b.emit(tirx.BufferStore(pointer.buffer, expr, [at.expr]))
