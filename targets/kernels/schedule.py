"""Loop nests for element-wise expressions: which axes are split, merged, vectorised, run in parallel.

1. An axis that a quotient divides is split there, so that reshapes become linear.
2. Where conditions change along an axis (Concat, Pad) the output is cut into boxes without them.
3. Neighbouring axes are merged where all accesses stay linear: contiguous data becomes one long loop.
4. The vector axis is the one with the fewest scalar accesses; the others follow the output's strides.
5. Outer loops are the parallel extent, until a unit of work would be smaller than `UNIT` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Protocol

from sparsecc.targets.kernels.emit import combiner
from sparsecc.targets.kernels.expressions import Node, Reduction, indices_of, walk
from sparsecc.targets.kernels.indexing import Axis, Index, breakpoints, split_factor, strides_index
from sparsecc.targets.kernels.intrinsics import VECTOR_CALLS
from sparsecc.targets.layout import Layout

UNIT = 2048  # elements (reduced ones included) below which a unit of parallel work is not cut further
CHUNK = 4096  # elements of a unit where one long loop is cut
_MOST_BOXES = 16


@dataclass(frozen=True)
class Nest:
    """One box of the output.

    Attributes:
        root: the element's expression, stored at `index`.
        parallel, serial: loops outside the vector loop, outermost first.
        vector: the axis of the lanes (None: scalar), in chunks of `chunk` elements if not 0.
        inside: an axis that runs inside the vector loop, for accesses that are contiguous along it.
        reduce_vector: the reduction's axis that takes the lanes instead.
    """

    root: Node
    index: Index
    parallel: tuple[Axis, ...]
    serial: tuple[Axis, ...]
    vector: Axis | None
    inside: Axis | None
    reduce_vector: Axis | None
    chunk: int

    @property
    def extent(self) -> int:
        chunks = -(-self.vector.extent // self.chunk) if self.vector and self.chunk else 1
        return prod(a.extent for a in self.parallel) * chunks


@dataclass(frozen=True)
class LoopKernel:
    """A kernel that computes one value; pointers: the values that it loads, then the output."""

    nests: tuple[Nest, ...]
    loads: tuple[str, ...]
    output: str
    dtypes: Mapping[str, str]
    lanes: int

    @property
    def extent(self) -> int:
        return sum(n.extent for n in self.nests)


class Elements(Protocol):
    """What the planner needs of a resolver."""

    reduce_axes: dict[str, tuple[tuple[Axis, ...], tuple[Index, ...]]]

    def computed(self, name: str, indices: Sequence[Index]) -> Node: ...


MakeElements = Callable[[], Elements]


def plan_loops(
    resolver: MakeElements, output: str, shape: Sequence[int], layout: Layout, lanes: int
) -> LoopKernel:
    """Decide the loops for `output`; `resolver` gives a fresh resolver per attempt."""
    boxes = [tuple((0, n) for n in shape)]
    cuts = _cuts(resolver, output, shape)
    if cuts:
        runs = [list(zip([0, *c], [*c, n], strict=True)) for c, n in zip(cuts, shape, strict=True)]
        boxes = [tuple((lo, hi - lo) for lo, hi in box) for box in product(*runs)]
    nests = [_nest(resolver, output, box, layout, lanes) for box in boxes]
    loads: dict[str, None] = {}
    dtypes: dict[str, str] = {}

    def visit(node: Node) -> None:
        if node.op == "load":
            loads[node.data[0]] = None
            dtypes[node.data[0]] = node.dtype

    for nest in nests:
        walk(nest.root, visit)
    dtypes[output] = nests[0].root.dtype
    return LoopKernel(tuple(nests), tuple(loads), output, dtypes, lanes)


def _cuts(resolver: MakeElements, output: str, shape: Sequence[int]) -> list[list[int]] | None:
    """Per dimension the positions where some condition changes; None if there are none or too many."""
    axes = [Axis(f"a{d}", n) for d, n in enumerate(shape)]
    root = resolver().computed(output, [Index.atom(a) if a.extent > 1 else Index.constant(0) for a in axes])
    found: list[set[int]] = [set() for _ in shape]

    def visit(node: Node) -> None:
        change = breakpoints(node.data) if node.op == "cond" else None
        if change and change[0] in axes:
            found[axes.index(change[0])] |= set(change[1])

    walk(root, visit)
    if not any(found) or prod(len(f) + 1 for f in found) > _MOST_BOXES:
        return None
    return [sorted(f) for f in found]


def _nest(
    resolver: MakeElements, output: str, box: Sequence[tuple[int, int]], layout: Layout, lanes: int
) -> Nest:
    axes = [Axis(f"a{d}", n) for d, (_, n) in enumerate(box)]
    where = {a: Index.atom(a) if a.extent > 1 else Index.constant(0) for a in axes}
    env = [where[a] + lo for a, (lo, _) in zip(axes, box, strict=True)]
    loops = [a for a in axes if a.extent > 1]
    made = resolver()
    root = made.computed(output, env)
    for _ in range(8):
        split = next((s for i in _all_indices(root) if (s := split_factor(i))), None)
        if split is None or split[0] not in loops:
            break
        axis, factor = split
        outer, inner = Axis(axis.key + "o", axis.extent // factor), Axis(axis.key + "i", factor)
        env = [i.replace(axis, Index.of({outer: factor, inner: 1})) for i in env]
        at = loops.index(axis)
        loops[at : at + 1] = [outer, inner]
        made = resolver()
        root = made.computed(output, env)
    loops.sort(key=lambda a: -abs(_stride(strides_index(env, layout.strides, layout.origin), a)))
    stored = strides_index(env, layout.strides, layout.origin)
    merged, env = _merge(loops, env, [*_all_indices(root), stored])
    first = resolver()
    root = first.computed(output, env)
    made = resolver()
    _merge_reductions(root, first, made)
    root = made.computed(output, env)
    return _order(root, strides_index(env, layout.strides, layout.origin), list(merged), lanes)


def _stride(index: Index, axis: Axis) -> int:
    return index.coefficient(axis) or 0


def _all_indices(root: Node) -> list[Index]:
    found: list[Index] = []
    walk(root, lambda node: found.extend(indices_of(node)))
    return found


def _mergeable(indices: Sequence[Index], outer: Axis, inner: Axis) -> bool:
    for index in indices:
        a, b = index.coefficient(outer), index.coefficient(inner)
        if a is None or b is None or a != b * inner.extent:
            return False
    return True


def _merge(
    loops: Sequence[Axis], env: list[Index], used: list[Index]
) -> tuple[tuple[Axis, ...], list[Index]]:
    """Merge neighbours of `loops` where all `used` indices allow it; the loops left and `env` in them."""
    kept: list[Axis] = []
    for axis in loops:
        if kept and _mergeable(used, kept[-1], axis):
            outer = kept.pop()
            merged = Axis(outer.key + "_" + axis.key, outer.extent * axis.extent)
            whole = Index.atom(merged)
            for old, new in ((outer, whole // axis.extent), (axis, whole % axis.extent)):
                env = [i.replace(old, new) for i in env]
                used = [i.replace(old, new) for i in used]
            kept.append(merged)
        else:
            kept.append(axis)
    return tuple(kept), env


def reductions_of(root: Node) -> list[Reduction]:
    found: list[Reduction] = []

    def visit(node: Node) -> None:
        if node.op == "reduce" and node.data[0] not in found:
            found.append(node.data[0])

    walk(root, visit)
    return found


def _merge_reductions(root: Node, first: Elements, made: Elements) -> None:
    """Order each reduction's axes by descending stride and merge them, for `made` to use."""
    for name, (axes, indices) in first.reduce_axes.items():
        reduction = next((r for r in reductions_of(root) if r.axes == axes), None)
        if reduction is None:
            continue
        used = [i for u in reduction.update for i in _all_indices(u)]
        loops = sorted(axes, key=lambda a: -max((abs(_stride(i, a)) for i in used), default=0))
        kept, env = _merge(loops, list(indices), used)
        made.reduce_axes[name] = (kept, tuple(env))


@dataclass(frozen=True)
class _Candidate:
    cost: float
    axis: Axis | None
    is_reduce: bool


def _order(root: Node, index: Index, loops: list[Axis], lanes: int) -> Nest:
    accesses: list[Index] = [index]
    calls: list[str] = []
    conditions: list[Node] = []
    count = 0

    def visit(node: Node) -> None:
        nonlocal count
        count += 1
        if node.op == "load":
            accesses.append(node.data[1])
        if node.op == "call":
            calls.append(node.data)
        if node.op == "if":
            conditions.append(node.args[0])

    walk(root, visit)
    scalar_only = not set(calls) <= VECTOR_CALLS
    reductions = reductions_of(root)
    reduced = prod(a.extent for r in reductions for a in r.axes)

    def cost(axis: Axis) -> float:
        groups = _vector_steps(axis.extent, lanes) / axis.extent
        total = count * groups
        for access in accesses:
            c = access.coefficient(axis)
            scalar = 3.0 if access is index else 2.0  # a scattered store costs more than a gathered load
            total += groups if c in (0, 1) else scalar
        return total

    candidates = [_Candidate(float(count + len(accesses)), None, False)]
    if not scalar_only:
        for axis in loops:
            if not any(axis in c.axes for c in conditions):
                candidates.append(_Candidate(cost(axis), axis, False))
        if len(reductions) == 1 and combiner(reductions[0]):
            for axis in reductions[0].axes:
                if not any(axis in c.axes for c in conditions):
                    candidates.append(_Candidate(cost(axis) + 16 / reduced, axis, True))
    best = min(candidates, key=lambda c: c.cost)
    if best.is_reduce or best.axis is None:
        vector, inside = None, None
        rest = loops
    else:
        vector = best.axis
        rest = [a for a in loops if a != vector]
        strided = [a for a in accesses if a.coefficient(vector) not in (0, 1)]
        inside = next((w for w in reversed(rest) if any(a.coefficient(w) == 1 for a in strided)), None)
        rest = [a for a in rest if a != inside]
    parallel, serial, chunk = _units(rest, vector, inside, reduced)
    return Nest(root, index, parallel, serial, vector, inside, best.axis if best.is_reduce else None, chunk)


def _vector_steps(extent: int, lanes: int) -> int:
    return extent // lanes + (extent % lanes).bit_count()


def _units(
    loops: list[Axis], vector: Axis | None, inside: Axis | None, reduced: int
) -> tuple[tuple[Axis, ...], tuple[Axis, ...], int]:
    """(parallel, serial, chunk): the innermost loops that together are one unit of work are serial."""
    work = reduced * (vector.extent if vector else 1) * (inside.extent if inside else 1)
    outer = list(loops)
    serial: list[Axis] = []
    while outer and work < UNIT:
        serial.insert(0, outer.pop())
        work *= serial[0].extent
    chunk = 0
    if vector and not serial and vector.extent * (inside.extent if inside else 1) * reduced > 2 * CHUNK:
        per_element = reduced * (inside.extent if inside else 1)
        chunk = max(64, CHUNK // per_element // 64 * 64)
    return tuple(outer), tuple(serial), chunk if vector and chunk < vector.extent else 0
