"""Integer index algebra: linear forms over loop axes, quotients and loaded integers.

An index is const + sum_i c_i * atom_i. Division keeps it linear where it can,
    (k * A + B) // k = A + B // k,      x % k = x - k * (x // k),
so the quotients that reshapes bring cancel by themselves once the loop axes are split at the right places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import gcd
from typing import Any


@dataclass(frozen=True)
class Axis:
    """A loop variable in [0, extent); its name is unique within a kernel."""

    key: str
    extent: int = field(compare=False)


@dataclass(frozen=True)
class Quotient:
    """floor(of / by), by > 0."""

    key: str
    of: Index = field(compare=False)
    by: int = field(compare=False)


@dataclass(frozen=True)
class Loaded:
    """An integer that a value node (`node`) yields; nothing is known of its range."""

    key: str
    node: Any = field(compare=False)


Atom = Axis | Quotient | Loaded
_FAR = 2**31 - 1


@dataclass(frozen=True)
class Index:
    """const + sum of coefficient * atom; equal indices have equal keys."""

    key: str
    terms: tuple[tuple[Atom, int], ...] = field(compare=False)
    const: int = field(compare=False)

    @staticmethod
    def of(terms: dict[Atom, int], const: int = 0) -> Index:
        kept = sorted(((a, c) for a, c in terms.items() if c), key=lambda t: t[0].key)
        key = "+".join([*(f"{c}*{a.key}" for a, c in kept), str(const)])
        return Index(key, tuple(kept), const)

    @staticmethod
    def constant(value: int) -> Index:
        return Index(str(value), (), value)

    @staticmethod
    def atom(atom: Atom) -> Index:
        return Index.of({atom: 1})

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index.of(dict(self.terms), self.const + other)
        terms = dict(self.terms)
        for atom, c in other.terms:
            terms[atom] = terms.get(atom, 0) + c
        return Index.of(terms, self.const + other.const)

    def __mul__(self, factor: int) -> Index:
        return Index.of({a: c * factor for a, c in self.terms}, self.const * factor)

    def __sub__(self, other: Index) -> Index:
        return self + other * -1

    def __floordiv__(self, by: int) -> Index:
        if by == 1:
            return self
        whole = {a: c // by for a, c in self.terms if c % by == 0}
        rest = Index.of({a: c for a, c in self.terms if c % by}, self.const % by)
        result = Index.of(whole, self.const // by)
        low, high = rest.bounds()
        if low // by == high // by:
            return result + low // by
        common = gcd(by, rest.const, *(c for _, c in rest.terms))
        rest = Index.of({a: c // common for a, c in rest.terms}, rest.const // common)
        by //= common
        if by == 1:
            return result + rest
        if len(rest.terms) == 1 and rest.const == 0 and rest.terms[0][1] == 1:
            inner = rest.terms[0][0]
            if isinstance(inner, Quotient):
                rest, by = inner.of, inner.by * by
        return result + Index.atom(Quotient(f"({rest.key})/{by}", rest, by))

    def __mod__(self, by: int) -> Index:
        return self - (self // by) * by

    def bounds(self) -> tuple[int, int]:
        """An interval that holds every value."""
        low = high = self.const
        for atom, c in self.terms:
            ends = [c * e for e in _atom_bounds(atom)]
            low, high = low + min(ends), high + max(ends)
        for atom, c in self.terms:
            # c' * (of % by) is tighter than its two parts
            if isinstance(atom, Quotient) and c % atom.by == 0:
                factor = -c // atom.by
                rest = self - (atom.of - Index.of({atom: atom.by})) * factor
                if len(rest.terms) >= len(self.terms):
                    continue
                bottom, top = rest.bounds()
                ends = [0, factor * (atom.by - 1)]
                low, high = max(low, bottom + min(ends)), min(high, top + max(ends))
        return low, high

    def replace(self, axis: Axis, by: Index) -> Index:
        """The index with `axis` replaced, loaded integers excepted."""
        result = Index.constant(self.const)
        for atom, c in self.terms:
            if atom == axis:
                result = result + by * c
            elif isinstance(atom, Quotient):
                result = result + (atom.of.replace(axis, by) // atom.by) * c
            else:
                result = result + Index.of({atom: c})
        return result

    def coefficient(self, axis: Axis) -> int | None:
        """The factor of `axis`, or None where the index depends on it in another way too."""
        if any(not isinstance(a, Axis) and axis in atom_axes(a) for a, _ in self.terms):
            return None
        return next((c for a, c in self.terms if a == axis), 0)

    def axes(self) -> Iterator[Axis]:
        for atom, _ in self.terms:
            yield from atom_axes(atom)

    def quotients(self) -> Iterator[Quotient]:
        """All quotients, nested ones too."""
        for atom, _ in self.terms:
            if isinstance(atom, Quotient):
                yield atom
                yield from atom.of.quotients()


def atom_axes(atom: Atom) -> Iterator[Axis]:
    """The axes an atom depends on; a loaded integer knows its own."""
    if isinstance(atom, Axis):
        yield atom
    elif isinstance(atom, Quotient):
        yield from atom.of.axes()
    else:
        yield from atom.node.axes


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, Axis):
        return 0, atom.extent - 1
    if isinstance(atom, Quotient):
        low, high = atom.of.bounds()
        return low // atom.by, high // atom.by
    return -_FAR, _FAR


def strides_index(indices: list[Index], strides: tuple[int, ...], origin: int) -> Index:
    """The flat element index origin + sum_d indices[d] * strides[d]."""
    terms: dict[Atom, int] = {}
    const = origin
    for index, stride in zip(indices, strides, strict=True):
        const += index.const * stride
        for atom, c in index.terms:
            terms[atom] = terms.get(atom, 0) + c * stride
    return Index.of(terms, const)


def split_factor(index: Index) -> tuple[Axis, int] | None:
    """An axis and the factor to split it by such that a quotient in `index` becomes linear, if any."""
    for quotient in index.quotients():
        for atom, c in quotient.of.terms:
            if isinstance(atom, Axis) and c > 0 and quotient.by % c == 0:
                factor = quotient.by // c
                if 1 < factor < atom.extent and atom.extent % factor == 0:
                    return atom, factor
    return None


Condition = tuple[str, Index]  # index < 0 ("lt"), <= 0 ("le"), == 0 ("eq"), != 0 ("ne")


def breakpoints(condition: Condition) -> tuple[Axis, list[int]] | None:
    """Where along its only axis the condition's truth changes: positions p such that it differs at p - 1
    and p; None where it depends on more than one axis."""
    op, index = condition
    if len(index.terms) != 1 or not isinstance(index.terms[0][0], Axis):
        return None
    axis, c = index.terms[0]
    assert isinstance(axis, Axis)
    root = -index.const / c
    test: Callable[[int], bool] = lambda v: decide(op, c * v + index.const)  # noqa: E731
    near = range(max(1, int(root) - 2), min(axis.extent, int(root) + 4))
    return axis, [p for p in near if test(p - 1) != test(p)]


def decide(op: str, value: int) -> bool:
    return {"lt": value < 0, "le": value <= 0, "eq": value == 0, "ne": value != 0}[op]


def truth(condition: Condition) -> bool | None:
    """What the condition is for every value of its axes, or None."""
    op, index = condition
    low, high = index.bounds()
    if op in ("lt", "le"):
        first, last = decide(op, low), decide(op, high)
        return first if first == last else None
    if low == high:
        return decide(op, low)
    return op == "ne" if low > 0 or high < 0 else None
