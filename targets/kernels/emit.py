"""Statements for an expression tree: scalar where nothing varies along the vector axis, vectors elsewhere.

Reductions become loops in front of the expression that uses them: lanes along an output axis keep one
vector state; lanes along the reduced axis keep partial results of several widths, folded at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels import vector_math
from sparsecc.targets.kernels.expressions import Node, Reduction
from sparsecc.targets.kernels.indexing import Atom, Axis, Index, Loaded, Quotient, atom_axes
from sparsecc.targets.tir import KernelBuilder, Pointer, Register, const, vector_of

_NODES: dict[str, Any] = {
    "add": tirx.Add, "sub": tirx.Sub, "mul": tirx.Mul, "div": tirx.Div, "mod": tirx.Mod, "min": tirx.Min,
    "max": tirx.Max, "floordiv": tirx.FloorDiv, "floormod": tirx.FloorMod, "and": tirx.And, "or": tirx.Or,
    "eq": tirx.EQ, "ne": tirx.NE, "lt": tirx.LT, "le": tirx.LE, "gt": tirx.GT, "ge": tirx.GE,
    "bitand": tirx.BitwiseAnd, "bitor": tirx.BitwiseOr, "bitxor": tirx.BitwiseXor, "bitnot": tirx.BitwiseNot,
    "shl": tirx.LShift, "shr": tirx.RShift,
}  # fmt: skip
_IDENTITY = {"add": 0.0, "mul": 1.0}
_LIBM = {"exp", "log", "sin", "cos", "sqrt", "fabs", "floor", "ceil", "trunc", "nearbyint", "pow", "log2", "log10"}
_POLYNOMIALS = {
    "exp": vector_math.exp, "erf": vector_math.erf, "tanh": vector_math.tanh, "sigmoid": vector_math.sigmoid,
}  # fmt: skip
VECTOR_CALLS = _LIBM | set(_POLYNOMIALS) | {
    "rsqrt", "round", "shift_left", "shift_right", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not",
    "isnan", "abs",
}  # fmt: skip


def typed(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


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
    states: tuple[Value, ...] = ()

    def inner(self, **changes: Any) -> Emitter:
        """The same point inside one more block."""
        return replace(self, **{"memo": dict(self.memo), "axes": dict(self.axes), **changes})

    # indices
    def index(self, index: Index) -> Value:
        """An int32 index; a vector of consecutive elements is a Ramp."""
        scalar, vector, stride = const(index.const), None, 0
        for atom, c in index.terms:
            if atom == self.vector and self.lanes > 1:
                stride = c
            if self.vector is None or self.lanes == 1 or isinstance(atom, Axis) or self.vector not in set(atom_axes(atom)):
                term = self._atom(atom).expr
                scalar = scalar + (term if c == 1 else term * const(c))
            else:
                term = self._atom(atom).at(self.lanes) * vector_of(const(c), self.lanes)
                vector = term if vector is None else vector + term
        if stride:
            ramp = tirx.Ramp(scalar, const(stride), self.lanes)
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
        return Value(divide(value.expr, Value(const(atom.by), 1).at(value.lanes)), value.lanes)

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
            return at if node.dtype == "int32" else Value(tirx.Cast(typed(node.dtype, at.lanes), at.expr), at.lanes)
        if node.op == "cond":
            op, index = node.data
            at = self.index(index)
            return Value(_NODES[op](at.expr, Value(const(0), 1).at(at.lanes)), at.lanes)
        if node.op == "load":
            return self._load(*node.data, node.dtype)
        if node.op == "reduce":
            return self._reduce(*node.data)
        if node.op == "if":
            return self._branches(node)
        args = [self.value(a) for a in node.args]
        lanes = max(a.lanes for a in args)
        exprs = [a.at(lanes) for a in args]
        if node.op == "not":
            return Value(tirx.Not(exprs[0]), lanes)
        if node.op == "cast":
            return Value(_cast(exprs[0], node.args[0].dtype, node.dtype, lanes), lanes)
        if node.op == "select":
            return Value(tirx.Select(*exprs), lanes)
        if node.op == "call":
            return Value(self._call(node, exprs, lanes), lanes)
        if node.args[0].dtype == "bool" and node.op in ("eq", "ne"):
            exprs = [_cast(e, "bool", "int32", lanes) for e in exprs]
        return Value(_NODES[node.op](*exprs), lanes)

    def _load(self, name: str, index: Index, dtype: str) -> Value:
        at = self.index(index)
        loaded = self.pointers[name][at.expr]
        if dtype == "bool":
            # a register, so that a later store to the same memory cannot come first
            kept = self.b.register(loaded, at.lanes, "int8").value
            return Value(kept != Value(const(0, "int8"), 1).at(at.lanes), at.lanes)
        return Value(loaded, at.lanes)

    def _call(self, node: Node, args: list[Any], lanes: int) -> Any:
        name, is_single = node.data, node.dtype == "float32"
        if is_single and name in _POLYNOMIALS:
            return _POLYNOMIALS[name](self.b, args[0], lanes)
        if name == "pow" and node.args[1].op == "const":
            exponent = float(node.args[1].data)
            if exponent in (2.0, 3.0, 4.0):
                square = self.b.register(args[0] * args[0], lanes, node.dtype).value
                return {2.0: square, 3.0: square * args[0], 4.0: square * square}[exponent]
            if exponent == 0.5:
                return tirx.sqrt(args[0])
        if name == "rsqrt":
            return Value(const(1.0, node.dtype), 1).at(lanes) / tirx.sqrt(args[0])
        if name == "round":
            return tirx.nearbyint(args[0])
        if name in ("fabs", "abs"):
            zero = Value(const(0, node.dtype), 1).at(lanes)
            return tirx.Select(tirx.LT(args[0], zero), tirx.Sub(zero, args[0]), args[0])
        if name == "isnan":
            return tirx.NE(args[0], args[0])
        return getattr(tirx, name)(*args)

    def _branches(self, node: Node) -> Value:
        """A lazily evaluated choice: the branch not taken reads nothing."""
        test = self.value(node.args[0])
        lanes = self.lanes if self.vector in node.axes else 1
        zero = Value(const(0, node.dtype), 1).at(lanes)
        result = self.b.register(zero, lanes, node.dtype)
        for condition, branch in ((test.expr, node.args[1]), (tirx.Not(test.expr), node.args[2])):
            with self.b.branch(condition):
                self.b.set(result, self.inner().value(branch).at(lanes))
        return Value(result.value, lanes)

    # reductions
    def _reduce(self, reduction: Reduction, slot: int) -> Value:
        key = id(reduction)
        if key not in self.memo:
            if self.reduce_vector in reduction.axes:
                results = [self._across(reduction)]
            else:
                results = self._along(reduction)
            # slots share one computation: kept under the reduction's own key, offset by the slot
            for s, value in enumerate(results):
                self.memo[key + s] = value
        return self.memo[key + slot]

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
        new = [self.b.register(point.value(u).at(lanes), lanes, t) for u, t in zip(reduction.update, reduction.dtypes, strict=True)]
        for state, value in zip(states, new, strict=True):
            self.b.set(state, value.value)

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
                self.b.set(total, _NODES[op](total.value, self._fold(op, state)))
            done += steps * width
        return Value(total.value, 1)

    def _partial(self, op: str, term: Node, axes: list[Axis], state: Register, run: tuple[int, int, int]) -> None:
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

    def _fold(self, op: str, state: Register) -> Any:
        value, width = state.value, state.lanes
        while width > 1:
            width //= 2
            halves = [tirx.Shuffle([value], [const(i + o) for i in range(width)]) for o in (0, width)]
            value = self.b.register(_NODES[op](*halves), width, state.dtype).value
        return value


def _cast(x: Any, source: str, target: str, lanes: int) -> Any:
    def same(value: float, dtype: str) -> Any:
        return Value(const(value, dtype), 1).at(lanes)

    if source == "bool":
        return tirx.Select(x, same(1, target), same(0, target))
    if target == "bool":
        return tirx.NE(x, same(0, source))
    return tirx.Cast(typed(target, lanes), x)


def store(emitter: Emitter, pointer: Pointer, index: Index, value: Value, dtype: str) -> None:
    """Write one element or vector at `index` of the output."""
    at = emitter.index(index)
    expr = value.at(at.lanes)
    if dtype == "bool":
        expr = _cast(expr, "bool", "int8", at.lanes)
    emitter.b.emit(tirx.BufferStore(pointer.buffer, expr, [at.expr]))
