"""From TE stages to one expression per output element: what TVM's legalisation wrote, inlined and indexed.

A stage computes one buffer (or the tuple of a reduction) element by element. `Resolver` turns the element
at given indices into a tree of `Node`s over loads with flat `Index`es; producers that are not kept in
memory are inlined, and conditions that the loop ranges decide vanish.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from tvm import tirx

from sparsecc.targets.kernels.indexing import (
    Atom,
    Axis,
    Condition,
    Index,
    Loaded,
    Quotient,
    strides_index,
    truth,
)
from sparsecc.targets.kernels.intrinsics import VECTOR_CALLS
from sparsecc.targets.kernels.stages import BINARY, Stage
from sparsecc.targets.layout import Layout


@dataclass(frozen=True, eq=False)
class Node:
    """One value of an element's expression.

    op and data: "const" (a number), "index" (an `Index`), "load" ((buffer, `Index`)), "cond" (a
    `Condition`), "reduce" ((`Reduction`, slot)), "state" (slot), "call" (an intrinsic's name), "select",
    "if" (its branches are evaluated lazily), "cast", or an arithmetic or comparison op.
    """

    op: str
    dtype: str
    args: tuple[Node, ...] = ()
    data: Any = None
    axes: frozenset[Axis] = frozenset()


@dataclass(eq=False)
class Reduction:
    """states = init; for the axes: states = update(states). One state per slot."""

    axes: tuple[Axis, ...]
    dtypes: tuple[str, ...]
    init: tuple[Node, ...] = ()
    update: tuple[Node, ...] = ()


_COMPARE = {"lt", "le", "gt", "ge", "eq", "ne"}


@dataclass
class Resolver:
    """Resolves elements of one kernel.

    Attributes:
        producers: the stages that may be inlined, by output.
        layouts: of the values that lie in memory.
        constants: values that are one number.
        reduce_axes: replacements for a reduction's axes, by its first output: (loop axes, index per axis).
    """

    producers: Mapping[str, Stage]
    layouts: Mapping[str, Layout]
    dtypes: Mapping[str, str]
    constants: Mapping[str, float]
    reduce_axes: dict[str, tuple[tuple[Axis, ...], tuple[Index, ...]]] = field(
        default_factory=dict[str, tuple[tuple[Axis, ...], tuple[Index, ...]]]
    )
    _memo: dict[tuple[str, ...], tuple[Node, ...]] = field(
        default_factory=dict[tuple[str, ...], tuple[Node, ...]]
    )
    _loads: dict[tuple[str, str], Node] = field(default_factory=dict[tuple[str, str], Node])
    _inside: dict[tuple[str, int], Index] = field(default_factory=dict[tuple[str, int], Index])
    _serial: Any = field(default_factory=count)

    def element(self, name: str, indices: Sequence[Index]) -> Node:
        """The value of `name` at `indices`, loaded where it lies in memory."""
        if name in self.constants:
            return Node("const", self.dtypes[name], data=self.constants[name])
        if name in self.layouts:
            layout = self.layouts[name]
            at = strides_index(list(indices), layout.strides, layout.origin)
            if (name, at.key) not in self._loads:
                node = Node("load", self.dtypes[name], data=(name, at), axes=frozenset(at.axes()))
                self._loads[name, at.key] = node
            return self._loads[name, at.key]
        return self.computed(name, indices)

    def inside(self, index: Index, size: int) -> Index:
        """`index` itself, or where data decide it, the nearest that is in [0, size).

        Such data may come from the user, and no input may read what is not its own.
        """
        if not any(_is_loaded(atom) for atom, _ in index.terms):
            return index
        if (index.key, size) not in self._inside:
            atom = index.terms[0][0]
            whole = len(index.terms) == 1 and index == Index.atom(atom) and isinstance(atom, Loaded)
            node = atom.node if whole and atom.node.dtype.startswith("int") else index_node(index, "int32")
            for op, limit in (("max", 0), ("min", size - 1)):
                node = make(op, node.dtype, node, Node("const", node.dtype, data=limit))
            self._inside[index.key, size] = Index.atom(Loaded(f"@{id(node):x}", node))
        return self._inside[index.key, size]

    def computed(self, name: str, indices: Sequence[Index]) -> Node:
        """The value of `name` at `indices` from its stage."""
        stage = self.producers[name]
        key = (stage.outputs[0], *(i.key for i in indices))
        if key not in self._memo:
            env = {handle: i for (handle, _), i in zip(stage.axes, indices, strict=True)}
            self._memo[key] = self._stage(stage, env)
        return self._memo[key][stage.outputs.index(name)]

    def _stage(self, stage: Stage, env: dict[int, Index]) -> tuple[Node, ...]:
        if not stage.reduce:
            scope = _Scope(self, stage, env, {}, {})
            for handle, value in stage.lets:
                scope.lets[handle] = scope.value(value)
            return tuple(scope.value(v) for v in stage.values)
        if stage.outputs[0] in self.reduce_axes:
            axes, indices = self.reduce_axes[stage.outputs[0]]
        else:
            serial = next(self._serial)
            kept = [Axis(f"k{serial}_{d}", n) for d, (_, n) in enumerate(stage.reduce)]
            indices = tuple(Index.atom(a) if a.extent > 1 else Index.constant(0) for a in kept)
            axes = tuple(a for a in kept if a.extent > 1)
            self.reduce_axes[stage.outputs[0]] = (axes, indices)
        inner = env | {handle: i for (handle, _), i in zip(stage.reduce, indices, strict=True)}
        dtypes = tuple(self.dtypes[o] for o in stage.outputs)
        states = {
            o: Node("state", t, data=s) for s, (o, t) in enumerate(zip(stage.outputs, dtypes, strict=True))
        }
        scope = _Scope(self, stage, inner, states, {})
        init = tuple(_Scope(self, stage, env, {}, {}).value(v) for v in stage.init)
        for handle, value in stage.lets:
            scope.lets[handle] = scope.value(value)
        update = tuple(scope.value(v) for v in stage.values)
        reduction = Reduction(axes, dtypes, init, update)
        outer = frozenset[Axis]().union(*(u.axes for u in update)) - set(axes)
        return tuple(Node("reduce", t, data=(reduction, s), axes=outer) for s, t in enumerate(dtypes))


@dataclass
class _Scope:
    """Evaluation of one stage's expressions with its axes bound to indices."""

    resolver: Resolver
    stage: Stage
    env: dict[int, Index]
    states: dict[str, Node]
    lets: dict[int, Node]

    def value(self, e: Any) -> Node:
        kind, dtype = type(e).__name__, str(e.ty)
        if kind in ("IntImm", "FloatImm"):
            return Node("const", dtype, data=e.value)
        if kind == "Var" and hash(e) in self.lets:
            return self.lets[hash(e)]
        if kind == "TensorLoad":
            name = self.stage.buffers[hash(e.source)]
            if name in self.states:
                return self.states[name]
            sizes = [int(n) for n in e.source.shape]
            return self.resolver.element(
                name, [self.resolver.inside(self.index(i), n) for i, n in zip(e.indices, sizes, strict=True)]
            )
        if kind in BINARY and BINARY[kind] in _COMPARE:
            return self._compare(BINARY[kind], e.a, e.b)
        if not dtype.startswith(("float", "bool")):
            pure = self._pure(e)
            if pure is not None:
                return index_node(pure, dtype)
        if kind in ("And", "Or"):
            return self._logical(kind == "And", e)
        if kind in BINARY:
            return make(BINARY[kind], dtype, self.value(e.a), self.value(e.b))
        if kind == "Not":
            inner = self.value(e.a)
            return _bool(not inner.data) if inner.op == "const" else make("not", dtype, inner)
        if kind == "BitwiseNot":
            return make("bitnot", dtype, self.value(e.a))
        if kind == "Cast":
            inner = self.value(e.value)
            return inner if inner.dtype == dtype else make("cast", dtype, inner)
        if kind == "Select":
            return self._choose("select", dtype, e.condition, e.true_value, e.false_value)
        if kind == "Call":
            name = str(e.op.name).rsplit(".", 1)[-1]
            if name == "if_then_else":
                return self._choose("if", dtype, *e.args)
            if name not in VECTOR_CALLS and not hasattr(tirx, name):
                raise NotImplementedError(f"the intrinsic {name}")
            return make("call", dtype, *(self.value(a) for a in e.args), data=name)
        raise NotImplementedError(f"TIR expression {kind} in stage {self.stage.outputs[0]}")

    def index(self, e: Any) -> Index:
        """`e` as a subscript."""
        pure = self._pure(e)
        if pure is not None:
            return pure
        kind = type(e).__name__
        if kind in ("Add", "Sub"):
            a, b = self.index(e.a), self.index(e.b)
            return a + b if kind == "Add" else a - b
        if kind == "Mul" and type(e.b).__name__ == "IntImm":
            return self.index(e.a) * int(e.b.value)
        node = self.value(e)
        while node.op == "cast":
            node = node.args[0]
        if node.op == "const":
            return Index.constant(int(node.data))
        return Index.atom(Loaded(f"@{id(node):x}", node))

    def _pure(self, e: Any) -> Index | None:
        """`e` as an index of loop axes alone, or None."""
        kind = type(e).__name__
        if kind == "IntImm":
            return Index.constant(int(e.value)) if abs(int(e.value)) < 2**31 else None
        if kind == "Var":
            return self.env.get(hash(e))
        if kind == "Cast" and str(e.ty).startswith("int"):
            return self._pure(e.value)
        if kind not in ("Add", "Sub", "Mul", "FloorDiv", "FloorMod"):
            return None
        a = self._pure(e.a)
        b = self._pure(e.b) if a is not None else None
        if a is None or b is None:
            return None
        if kind in ("Add", "Sub"):
            return a + b if kind == "Add" else a - b
        if kind == "Mul":
            if not b.terms:
                return a * b.const
            return b * a.const if not a.terms else None
        if b.terms or b.const <= 0:
            return None
        return a // b.const if kind == "FloorDiv" else a % b.const

    def _compare(self, op: str, left: Any, right: Any) -> Node:
        a, b = self._pure(left), self._pure(right)
        if a is None or b is None:
            return make(op, "bool", self.value(left), self.value(right))
        if op in ("gt", "ge"):
            a, b, op = b, a, {"gt": "lt", "ge": "le"}[op]
        condition: Condition = (op, a - b)
        known = truth(condition)
        return (
            Node("cond", "bool", data=condition, axes=frozenset(condition[1].axes()))
            if known is None
            else _bool(known)
        )

    def _logical(self, is_and: bool, e: Any) -> Node:
        a = self.value(e.a)
        if a.op == "const" and bool(a.data) is not is_and:
            return a
        b = self.value(e.b)
        if a.op == "const" or (b.op == "const" and bool(b.data) is not is_and):
            return b
        return a if b.op == "const" else make("and" if is_and else "or", "bool", a, b)

    def _choose(self, op: str, dtype: str, condition: Any, yes: Any, no: Any) -> Node:
        test = self.value(condition)
        if test.op == "const":
            return self.value(yes if test.data else no)
        return make(op, dtype, test, self.value(yes), self.value(no))


def _is_loaded(atom: Atom) -> bool:
    if isinstance(atom, Quotient):
        return any(_is_loaded(inner) for inner, _ in atom.of.terms)
    return isinstance(atom, Loaded)


def make(op: str, dtype: str, *args: Node, data: Any = None) -> Node:
    return Node(op, dtype, args, data, frozenset[Axis]().union(*(a.axes for a in args)))


def index_node(index: Index, dtype: str) -> Node:
    return (
        Node("const", dtype, data=index.const)
        if not index.terms
        else Node("index", dtype, data=index, axes=frozenset(index.axes()))
    )


def _bool(value: bool) -> Node:
    return Node("const", "bool", data=int(value))


def walk(root: Node, visit: Callable[[Node], None]) -> None:
    """Every node below `root` once, reductions and loaded indices included."""
    seen: set[int] = set()

    def go(node: Node) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        visit(node)
        below: list[Node] = list(node.args)
        if node.op == "reduce":
            below += [*node.data[0].init, *node.data[0].update]
        for index in indices_of(node):
            stack = [a for a, _ in index.terms]
            while stack:
                atom = stack.pop()
                if isinstance(atom, Loaded):
                    below.append(atom.node)
                elif not isinstance(atom, Axis):
                    stack += [a for a, _ in atom.of.terms]
        for child in below:
            go(child)

    go(root)


def indices_of(node: Node) -> list[Index]:
    """The indices that a node holds itself."""
    if node.op == "index":
        return [node.data]
    return [node.data[1]] if node.op in ("load", "cond") else []
