"""Axis expressions: every axis of every tensor is a row-major product of dimensions.

axis (12 heads x 64)  =  (heads, head_dim);  axis of size 1  =  ();  concatenation a|b  =  one dimension
bound to the ordered sum of the products a and b. Dimensions are union-find nodes: binding one refines every
axis that was written with it before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from sparsecc.errors import Refusal

AxisExpr: TypeAlias = "tuple[Dim, ...]"
"""A row-major product of dimensions; `()` is an axis of size 1."""


class UnificationError(Exception):
    """Two axis expressions cannot be one; caught where the expressions are frozen with this as the reason."""


class Dim:
    """A dimension: an unknown number of slices that live or go one by one.

    Attributes:
        size: number of indices before pruning.
        name: where it was first seen, for messages.
        frozen: why none of its indices may go, or None.
        norms: the normalising nodes whose statistics run over it.
    """

    __slots__ = ("_parent", "frozen", "name", "norms", "product", "size", "terms")

    def __init__(self, size: int, name: str = "", frozen: Refusal | None = None) -> None:
        self.size = size
        self.name = name
        self.frozen = frozen
        self.norms: set[str] = set()
        self.product: AxisExpr | None = None
        self.terms: tuple[AxisExpr, ...] | None = None
        self._parent: Dim | None = None

    def __repr__(self) -> str:
        return f"{self.name or 'dim'}:{self.size}{'!' if self.frozen else ''}"

    @property
    def root(self) -> Dim:
        """The dimension that stands for all that were united with this one."""
        dim = self
        while dim._parent is not None:
            if dim._parent._parent is not None:
                dim._parent = dim._parent._parent
            dim = dim._parent
        return dim

    @property
    def free(self) -> bool:
        """Whether a root is neither a product nor a sum."""
        return self.product is None and self.terms is None

    def unite(self, other: Dim) -> None:
        """Make a free root the same as another root; what froze or normalised one holds for both."""
        self._parent = other
        other.name = other.name or self.name
        if self.frozen is not None:
            freeze((other,), self.frozen)
        for norm in self.norms:
            mark_norm((other,), norm)

    def bind_product(self, factors: AxisExpr) -> None:
        """Refine a free root to a product.

        Raises:
            UnificationError: it would contain itself.
        """
        self._check_occurs(factors)
        self.product = factors
        self._inherit((factors,))

    def bind_sum(self, terms: tuple[AxisExpr, ...]) -> None:
        """Refine a free root to an ordered sum.

        Raises:
            UnificationError: it would contain itself.
        """
        for term in terms:
            self._check_occurs(term)
        self.terms = terms
        self._inherit(terms)

    def _check_occurs(self, axis: AxisExpr) -> None:
        if occurs(self, axis):
            raise UnificationError("a dimension would have to contain itself")

    def _inherit(self, parts: Iterable[AxisExpr]) -> None:
        for part in parts:
            if self.frozen is not None:
                freeze(part, self.frozen)
            for norm in self.norms:
                mark_norm(part, norm)


def fixed(size: int, why: Refusal) -> AxisExpr:
    """A frozen axis of its own."""
    return () if size == 1 else (Dim(size, "", why),)


def expand(axis: AxisExpr) -> AxisExpr:
    """The axis in roots that are free or sums, products spliced in."""
    roots: list[Dim] = []
    stack = list(reversed(axis))
    while stack:
        dim = stack.pop().root
        if dim.product is not None:
            stack.extend(reversed(dim.product))
        else:
            roots.append(dim)
    return tuple(roots)


def size_of(axis: AxisExpr) -> int:
    """Number of indices before pruning."""
    return math.prod(dim.size for dim in axis)


def terminals(axis: AxisExpr) -> Iterator[Dim]:
    """The free roots an axis consists of, each once, left to right."""
    seen: set[Dim] = set()
    stack = list(reversed(axis))
    while stack:
        dim = stack.pop().root
        if dim in seen:
            continue
        seen.add(dim)
        if dim.product is not None:
            stack.extend(reversed(dim.product))
        elif dim.terms is not None:
            for term in reversed(dim.terms):
                stack.extend(reversed(term))
        else:
            yield dim


def is_frozen(axis: AxisExpr) -> bool:
    """Whether no index of the axis can go."""
    return all(dim.frozen for dim in terminals(axis))


def freeze(axis: AxisExpr, why: Refusal) -> None:
    """Keep all indices of an axis; the first reason stays."""
    for dim in terminals(axis):
        dim.frozen = dim.frozen or why


def frozen_reason(axis: AxisExpr) -> Refusal:
    """Why an axis, or the first frozen part of it, is frozen."""
    for dim in terminals(axis):
        if dim.frozen is not None:
            return dim.frozen
    return Refusal("it has one index only", "", "size-one")


def mark_norm(axis: AxisExpr, node: str) -> None:
    """Note that statistics of the node named `node` run over the axis."""
    for dim in terminals(axis):
        dim.norms.add(node)


def occurs(dim: Dim, axis: AxisExpr) -> bool:
    """Whether a root is part of an axis."""
    for root in expand(axis):
        if root is dim or (root.terms is not None and any(occurs(dim, term) for term in root.terms)):
            return True
    return False


def keep_mask(axis: AxisExpr, kept: Mapping[Dim, np.ndarray]) -> np.ndarray:
    """Boolean mask [size] of the indices that stay: a product is an outer AND, a sum a concatenation.

    Args:
        axis: the expression.
        kept: mask [dim.size] per free root; a root that is absent keeps all.
    """
    mask = np.ones(1, bool)
    for root in expand(axis):
        if root.terms is not None:
            part = np.concatenate([keep_mask(term, kept) for term in root.terms])
        else:
            found = kept.get(root)
            part = np.ones(root.size, bool) if found is None else found
        mask = (mask[:, None] & part[None]).reshape(-1)
    return mask


def indices_by_dim(axis: AxisExpr) -> Counter[Dim]:
    """How many indices of the axis go with one index of each free root that is not frozen."""
    roots = expand(axis)
    total: Counter[Dim] = Counter()
    for root in roots:
        others = size_of(axis) // root.size
        own: Counter[Dim] = Counter()
        if root.terms is None:
            own[root] = 1
        else:
            for term in root.terms:
                own += indices_by_dim(term)
        for dim, count in own.items():
            if not dim.frozen:
                total[dim] += count * others
    return total


def kept_size(axis: AxisExpr, counts: Mapping[Dim, int]) -> int:
    """Number of indices that stay when each free root keeps `counts` of its own (all if absent)."""
    total = 1
    for root in expand(axis):
        if root.terms is not None:
            total *= sum(kept_size(term, counts) for term in root.terms)
        else:
            total *= counts.get(root, root.size)
    return total
