"""Searches orders of dimensions that let a pattern keep more of the weights.

An order cuts the indices of a dimension into tiles of as many as the pattern groups. From a first order,
rounds of swaps between tiles follow; every swap and, at the end, the whole order must raise what is kept.
Pool and Yu, "Channel permutations for N:M sparsity" (NeurIPS 2021), with all pairs of tiles priced at once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsecc.axes.dims import AxisExpr, Dim
from sparsecc.axes.permutation import permuted_positions, runs
from sparsecc.ir.encoding import Encoding

Floats = NDArray[np.floating]
Order = NDArray[np.int64]

ROUND_WORK = 3e7
"""Entries that one round looks at; larger weights are priced from a sample of their columns."""
SMALLEST_GAIN = 1e-4
"""Share of what is kept that a round must add, else the search is near its end."""
PATIENCE = 4
"""Rounds in a row that may add less than that."""


class Retention(ABC):
    """What a pattern keeps of a weight, as a sum over tiles that a swap changes in few places.

    Attributes:
        sides: how many rows and columns are grouped; 1 where their order has no effect.
    """

    sides: tuple[int, int]

    @abstractmethod
    def kept(self, matrix: np.ndarray) -> tuple[float, float]:
        """The sum of the norms of what stays of a weight, and the least norm that stays."""

    @abstractmethod
    def elements(self, matrix: np.ndarray, axis: int) -> Floats:
        """What groups along an axis are made of: [positions along it, others]."""

    @abstractmethod
    def worth(self, rest: Floats, own: Floats, threshold: Floats) -> Floats:
        """What a group adds for each candidate, summed over the others.

        Args:
            rest: elements that all candidates meet [places, others].
            own: elements of each candidate [candidates, places, others].
            threshold: least norm that stays [others].
        """


@dataclass(frozen=True)
class BlockRetention(Retention):
    """R x C blocks: all but a share of them, those of least norm, stay.

    With the threshold held, the sum of the largest norms is the sum of max(norm - threshold, 0) and a
    constant, hence a sum over blocks.
    """

    sides: tuple[int, int]
    sparsity: float

    def kept(self, matrix: np.ndarray) -> tuple[float, float]:
        """As `sparsify` chooses: blocks at the edge, which are smaller, compete by their mean square."""
        energy = _sums(_sums(np.square(matrix, dtype=np.float32), self.sides[0], 0), self.sides[1], 1)
        heights, widths = (_lengths(size, side) for size, side in zip(matrix.shape, self.sides, strict=True))
        norms, sizes = np.sqrt(energy).reshape(-1), np.outer(heights, widths).reshape(-1)
        gone = round(self.sparsity * norms.size)
        if gone == norms.size:
            return 0.0, math.inf
        order = np.argpartition(norms / np.sqrt(sizes), gone)
        stay = norms[order[gone:]]
        return float(stay.sum(dtype=np.float64)), float(stay.min())

    def elements(self, matrix: np.ndarray, axis: int) -> Floats:
        """Squares, summed over the blocks' other side."""
        squares = np.square(matrix if axis == 0 else matrix.T, dtype=np.float32)
        return _sums(squares, self.sides[1 - axis], 1)

    def worth(self, rest: Floats, own: Floats, threshold: Floats) -> Floats:
        """Sum of max(norm - threshold, 0)."""
        norms = own.sum(axis=1) if own.shape[1] > 1 else own[:, 0].copy()
        norms += rest.sum(axis=0)
        np.sqrt(norms, out=norms)
        norms -= threshold
        return np.maximum(norms, 0, out=norms).sum(axis=1, dtype=np.float64)


@dataclass(frozen=True)
class GroupRetention(Retention):
    """N of every M consecutive columns stay, those of largest magnitude."""

    n: int
    sides: tuple[int, int]

    def kept(self, matrix: np.ndarray) -> tuple[float, float]:
        """Magnitudes of the N largest of every group; there is no threshold."""
        groups = self.elements(matrix, 0).reshape(-1, self.sides[1])
        largest = np.partition(groups, self.sides[1] - self.n, axis=1)[:, self.sides[1] - self.n :]
        return float(largest.sum(dtype=np.float64)), 0.0

    def elements(self, matrix: np.ndarray, axis: int) -> Floats:
        """Magnitudes."""
        return np.abs(matrix if axis == 0 else matrix.T).astype(np.float32, copy=False)

    def worth(self, rest: Floats, own: Floats, threshold: Floats) -> Floats:
        """Sum of the N largest, kept as a sorted list into which one element after the other is put."""
        largest = [np.zeros(rest.shape[1], rest.dtype) for _ in range(self.n)]
        for element in (*rest, *own.transpose(1, 0, 2)):
            for place, one in enumerate(largest):
                largest[place] = np.maximum(one, element)
                element = np.minimum(one, element)  # noqa: PLW2901 - what falls out moves on
        return sum(one.sum(axis=-1, dtype=np.float64) for one in largest) + np.zeros(len(own))


def retention(encoding: Encoding, sparsity: float) -> Retention:
    """What a pattern keeps; of the others than blocks and N:M the order has no effect."""
    if encoding.pattern == "n:m":
        return GroupRetention(encoding.n, (1, encoding.m))
    return BlockRetention((encoding.rows, encoding.columns), sparsity)


@dataclass
class Weight:
    """A weight that will be made sparse.

    Attributes:
        name: of its layer.
        matrix: in the orders found so far.
        axes: expressions of its rows and columns.
        kept: the sum of the norms of what stays.
    """

    name: str
    matrix: np.ndarray
    axes: tuple[AxisExpr, AxisExpr]
    kept: float = 0.0

    def reordered(self, dim: Dim, order: Order) -> np.ndarray:
        """The matrix with the indices of a dimension in another order."""
        matrix = self.matrix
        for axis, expression in enumerate(self.axes):
            positions = permuted_positions(expression, {dim: order})
            if (positions != np.arange(positions.size)).any():
                matrix = np.take(matrix, positions, axis=axis)
        return matrix


@dataclass
class Slab:
    """Elements of all weights that a dimension moves by equal steps: [indices, step, others].

    Attributes:
        elements: in the order of the dimension's own indices.
        side: length of the groups along it.
        owners: the weight that each of the others comes from, by its place in the list of weights.
        threshold: least norm that stays, for each of the others.
    """

    elements: Floats
    side: int
    owners: NDArray[np.int64]
    threshold: Floats

    def sample(self, share: float, rng: np.random.Generator) -> Slab:
        """A part of the others, drawn without replacement."""
        count = max(1, round(share * self.owners.size))
        if count >= self.owners.size:
            return self
        chosen = np.sort(rng.choice(self.owners.size, count, replace=False))
        elements = np.ascontiguousarray(self.elements[:, :, chosen])
        return Slab(elements, self.side, self.owners[chosen], self.threshold[chosen])

    def worth(self, pattern: Retention, tile: Order, slot: int, candidates: Floats) -> Floats:
        """What the groups that a slot of a tile reaches into are worth with each candidate in the slot."""
        step = self.elements.shape[1]
        total = np.zeros(len(candidates))
        for group in range(slot * step // self.side, ((slot + 1) * step - 1) // self.side + 1):
            places = np.arange(group * self.side, (group + 1) * self.side)
            own = places // step == slot
            rest = self.elements[tile[places[~own] // step], places[~own] % step]
            total += pattern.worth(rest, candidates[:, places[own] % step], self.threshold)
        return total


def search(
    weights: Sequence[Weight],
    dims: Sequence[Dim],
    pattern: Retention,
    *,
    rounds: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> dict[Dim, Order]:
    """Better orders of dimensions, one after the other.

    Args:
        weights: what will be made sparse; their matrices are in the new order afterwards.
        dims: free roots that may be reordered.
        pattern: what will be kept.
        rounds: of swaps, for each dimension, at most.
        seed: of the swaps that are tried.
        progress: called with (done, total) dimensions.

    Returns:
        Orders of those dimensions for which what stays of all weights rises.
    """
    for weight in weights:
        weight.kept = pattern.kept(weight.matrix)[0]
    found: dict[Dim, Order] = {}
    for number, dim in enumerate(dims):
        if progress is not None:
            progress(number, len(dims))
        touched = [weight for weight in weights if any(_occurs(axis, dim) for axis in weight.axes)]
        order = _Search(touched, dim, pattern, np.random.default_rng([seed, number])).run(rounds)
        if order is not None:
            found[dim] = order
    return found


def _occurs(axis: AxisExpr, dim: Dim) -> bool:
    return next(runs(axis, dim), None) is not None


class _Search:
    """The search for the order of one dimension."""

    def __init__(self, weights: list[Weight], dim: Dim, pattern: Retention, rng: np.random.Generator) -> None:
        self._moved = weights
        self._dim = dim
        self._pattern = pattern
        self._rng = rng
        sides = pattern.sides
        self._weights = [
            weight
            for weight in weights
            if any(_occurs(axis, dim) for axis, side in zip(weight.axes, sides, strict=True) if side > 1)
        ]
        slabs = _slabs(self._weights, dim, pattern)
        self._side = max((slab.side for slab in slabs), default=1)
        self._slabs = [slab for slab in slabs if slab.side == self._side]

    def run(self, rounds: int) -> Order | None:
        """An order that keeps more than before, which the weights then have, or None."""
        if not self._slabs or self._dim.size // self._side < 2:
            return None
        before = sum(weight.kept for weight in self._weights)
        starts = [np.arange(self._dim.size), *_first_orders(self._slabs, self._pattern)]
        scores = [self._evaluate(order) for order in starts]
        best = max(range(len(starts)), key=lambda number: scores[number][0])
        order, (score, least) = starts[best], scores[best]
        idle = 0
        for _ in range(rounds):
            for slab in self._slabs:
                slab.threshold = least[slab.owners]
            changed = self._swap(order.copy())
            after, its_least = self._evaluate(changed)
            idle = 0 if after > score * (1 + SMALLEST_GAIN) else idle + 1
            if after > score:
                order, score, least = changed, after, its_least
            if idle == PATIENCE:
                break
        if not score > before * (1 + 1e-9):
            return None
        for weight in self._moved:
            weight.matrix = weight.reordered(self._dim, order)
            weight.kept = self._pattern.kept(weight.matrix)[0]
        return order

    def _evaluate(self, order: Order) -> tuple[float, Floats]:
        """The sum of the norms of what stays of all weights, and the least norm that stays of each."""
        found = [self._pattern.kept(weight.reordered(self._dim, order)) for weight in self._weights]
        return sum(kept for kept, _ in found), np.array([least for _, least in found], np.float32)

    def _swap(self, order: Order) -> Order:
        """One round: of every tile one index, of all pairs of tiles the best ones that share none."""
        count = self._dim.size // self._side
        tiles = order[: count * self._side].reshape(count, self._side)  # a view: swaps change `order`
        slots = self._rng.integers(0, self._side, count)
        work = count * count * sum(math.prod(slab.elements.shape[1:]) for slab in self._slabs)
        samples = [slab.sample(ROUND_WORK / work, self._rng) for slab in self._slabs]
        worth = np.zeros((count, count))
        chosen = tiles[np.arange(count), slots]
        for slab in samples:
            candidates = slab.elements[chosen]
            for number in range(count):
                worth[number] += slab.worth(self._pattern, tiles[number], int(slots[number]), candidates)
        own = np.diag(worth)
        for first, second in _disjoint_pairs(worth + worth.T - own[:, None] - own[None]):
            if self._gain(tiles, slots, first, second) > 0:
                places = [first, second], [slots[first], slots[second]]
                tiles[places] = tiles[places][::-1]
        return order

    def _gain(self, tiles: Order, slots: Order, first: int, second: int) -> float:
        """What a swap adds while the thresholds stay."""
        gain = 0.0
        pair = tiles[[first, second], [slots[first], slots[second]]]
        for slab in self._slabs:
            candidates = slab.elements[pair]
            for tile, sign in ((first, 1), (second, -1)):
                now, then = slab.worth(self._pattern, tiles[tile], int(slots[tile]), candidates)[::sign]
                gain += float(then - now)
        return gain


def _slabs(weights: list[Weight], dim: Dim, pattern: Retention) -> list[Slab]:
    """Elements by step and side; where groups straddle its runs, a dimension is searched without them."""
    parts: dict[tuple[int, int], list[tuple[int, Floats]]] = {}
    for owner, weight in enumerate(weights):
        for axis, side in enumerate(pattern.sides):
            if side == 1:
                continue
            places = [
                (start, step)
                for start, step in runs(weight.axes[axis], dim)
                if start % side == 0 and step % side != 0
            ]
            elements = pattern.elements(weight.matrix, axis) if places else np.zeros((0, 0))
            for start, step in places:
                part = elements[start : start + dim.size * step].reshape(dim.size, step, -1)
                parts.setdefault((step, side), []).append((owner, part))
    return [
        Slab(
            np.concatenate([part for _, part in found], axis=2),
            side,
            np.concatenate([np.full(part.shape[2], owner) for owner, part in found]),
            np.zeros(0),
        )
        for (_, side), found in parts.items()
    ]


def _first_orders(slabs: list[Slab], pattern: Retention) -> list[Order]:
    """Blocks: indices of alike magnitudes together. N:M: indices of large norm apart."""
    size, side = len(slabs[0].elements), slabs[0].side
    flat = [slab.elements.reshape(size, -1) for slab in slabs]
    norms = sum((part.sum(axis=1, dtype=np.float64) for part in flat), np.zeros(size))
    ranked = np.argsort(-norms, kind="stable")
    if isinstance(pattern, GroupRetention):
        full = size // side * side
        return [np.concatenate([ranked[:full].reshape(side, -1).T.reshape(-1), ranked[full:]])]
    magnitudes = [np.sqrt(part) for part in flat]
    alike = sum((part @ part.T for part in magnitudes), np.zeros((size, size), np.float32))
    order: list[int] = []
    free = np.ones(size, bool)
    for first in ranked:
        if not free[first]:
            continue
        together = alike[first].copy()
        order.append(int(first))
        free[first] = False
        for _ in range(min(side - 1, int(free.sum()))):
            best = int(np.argmax(np.where(free, together, -1)))
            order.append(best)
            free[best] = False
            together += alike[best]
    return [np.asarray(order, np.int64), ranked]


def _disjoint_pairs(gains: Floats) -> list[tuple[int, int]]:
    """Pairs that gain something, best first, each number once at most."""
    first, second = np.triu_indices(len(gains), 1)
    found = gains[first, second]
    order = np.argsort(-found, kind="stable")
    order = order[: np.count_nonzero(found > 0)]
    taken: set[int] = set()
    pairs: list[tuple[int, int]] = []
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        if one not in taken and other not in taken:
            taken |= {one, other}
            pairs.append((one, other))
    return pairs


def _sums(array: Floats, side: int, axis: int) -> Floats:
    """Sums of `side` neighbours along an axis; the last may be of fewer."""
    if side == 1:
        return array
    return np.add.reduceat(array, np.arange(0, array.shape[axis], side), axis=axis)


def _lengths(size: int, side: int) -> NDArray[np.int64]:
    return np.diff(np.append(np.arange(0, size, side), size))
