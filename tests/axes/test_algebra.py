"""Random layouts: axis expressions and numpy arrays of kept bits go through the same ops and must agree."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsecc.axes.algebra import cut, join, reshape, select, split, unify
from sparsecc.axes.dims import AxisExpr, Dim, freeze, is_frozen, keep_mask, kept_size, size_of, terminals
from sparsecc.errors import Refusal

WHY = Refusal("a test says so", "here", "test")
SIZES = st.sampled_from([2, 3, 4, 6, 8, 12])


class Layout:
    """Axes of a tensor beside an array whose entries name the tensor's own entries before any op.

    Deleting indices of the free dimensions and then replaying the ops must give the entries that the masks
    of the axes keep.
    """

    def __init__(self, shape: tuple[int, ...], start: int = 0) -> None:
        self.axes: list[AxisExpr] = [
            (Dim(size, f"d{n}"),) if size > 1 else () for n, size in enumerate(shape)
        ]
        self.sources = list(self.axes)
        self.shapes = shape
        self.array = np.arange(start, start + math.prod(shape)).reshape(shape)

    def reshape(self, shape: list[int]) -> None:
        self.axes = reshape(self.axes, shape, "reshape")
        self.array = self.array.reshape(shape)

    def transpose(self, order: list[int]) -> None:
        self.axes = [self.axes[n] for n in order]
        self.array = self.array.transpose(order)

    def take(self, axis: int, indices: np.ndarray) -> None:
        self.axes[axis] = select(self.axes[axis], indices, "select")
        self.array = np.take(self.array, indices, axis)

    def concatenate(self, axis: int, other: Layout) -> None:
        for n, (one, two) in enumerate(zip(self.axes, other.axes, strict=True)):
            if n != axis:
                unify(one, two, "concat")
        self.axes[axis] = join([self.axes[axis], other.axes[axis]])
        self.array = np.concatenate([self.array, other.array], axis)

    def alive(self, kept: dict[Dim, np.ndarray]) -> np.ndarray:
        """Which entries of the source stay."""
        alive = np.ones(self.shapes, bool)
        for axis, mask in enumerate(keep_mask(axis, kept) for axis in self.sources):
            alive &= np.expand_dims(mask, tuple(n for n in range(alive.ndim) if n != axis))
        return alive.reshape(-1)


def kept_of(layouts: list[Layout], seed: int) -> dict[Dim, np.ndarray]:
    """Random masks of all dimensions that may go."""
    generator = np.random.default_rng(seed)
    kept: dict[Dim, np.ndarray] = {}
    for layout in layouts:
        for axis in (*layout.sources, *layout.axes):
            for dim in terminals(axis):
                if dim not in kept and not dim.frozen:
                    kept[dim] = generator.random(dim.size) < 0.6
    return kept


def check(layouts: list[Layout], result: Layout, seed: int) -> None:
    """Sizes are right, and the entries that stay are those whose source stays."""
    assert tuple(map(size_of, result.axes)) == result.array.shape
    kept = kept_of(layouts, seed)
    masks = [keep_mask(axis, kept) for axis in result.axes]
    counts = {dim: int(mask.sum()) for dim, mask in kept.items()}
    assert [kept_size(axis, counts) for axis in result.axes] == [int(mask.sum()) for mask in masks]
    stays = np.ones(result.array.shape, bool)
    for axis, mask in enumerate(masks):
        stays &= np.expand_dims(mask, tuple(n for n in range(stays.ndim) if n != axis))
    alive = np.concatenate([layout.alive(kept) for layout in layouts])
    assert np.array_equal(stays, alive[result.array])


def factorisations(size: int) -> list[list[int]]:
    """Ways to write a size as one to three factors."""
    found = [[size]]
    for first in range(1, size + 1):
        if size % first == 0:
            rest = size // first
            found.append([first, rest])
            found += [[first, second, rest // second] for second in range(1, rest + 1) if rest % second == 0]
    return found


@st.composite
def steps(draw: st.DrawFn, layout: Layout) -> None:
    """Apply one random op to a layout."""
    kind = draw(st.sampled_from(["reshape", "merge", "transpose", "slice", "take", "flip"]))
    shape = layout.array.shape
    axis = draw(st.integers(0, len(shape) - 1))
    size = shape[axis]
    if kind == "reshape" and len(shape) < 6:
        factors = draw(st.sampled_from(factorisations(size)))
        layout.reshape([*shape[:axis], *factors, *shape[axis + 1 :]])
    elif kind == "merge" and axis + 1 < len(shape):
        layout.reshape([*shape[:axis], size * shape[axis + 1], *shape[axis + 2 :]])
    elif kind == "transpose":
        layout.transpose(draw(st.permutations(range(len(shape)))))
    elif kind == "slice":
        start = draw(st.integers(0, size - 1))
        layout.take(axis, np.arange(start, draw(st.integers(start + 1, size)), draw(st.integers(1, 3))))
    elif kind == "take" and size <= 12:
        indices = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=2 * size))
        layout.take(axis, np.array(indices))
    elif kind == "flip" and size <= 12:
        layout.take(axis, np.arange(size)[::-1])


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_masks_follow_numpy(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(SIZES, min_size=1, max_size=3)))
    layout = Layout(shape)
    for _ in range(data.draw(st.integers(1, 6))):
        data.draw(steps(layout))
    check([layout], layout, data.draw(st.integers(0, 2**16)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_masks_follow_numpy_through_concatenation(data: st.DataObject) -> None:
    shape = data.draw(st.lists(SIZES, min_size=2, max_size=3))
    axis = data.draw(st.integers(0, len(shape) - 1))
    other_shape = [*shape[:axis], data.draw(SIZES), *shape[axis + 1 :]]
    first = Layout(tuple(shape))
    second = Layout(tuple(other_shape), first.array.size)
    first.concatenate(axis, second)
    for _ in range(data.draw(st.integers(0, 4))):
        data.draw(steps(first))
    check([first, second], first, data.draw(st.integers(0, 2**16)))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_unified_axes_keep_the_same(data: st.DataObject) -> None:
    """Two layouts of equal shape are added: afterwards both have the same masks, or are frozen."""
    shape = data.draw(st.lists(SIZES, min_size=1, max_size=2))
    layouts = [Layout(tuple(shape)), Layout(tuple(shape))]
    for layout in layouts:
        for _ in range(data.draw(st.integers(0, 3))):
            data.draw(steps(layout))
    sizes = data.draw(st.sampled_from(factorisations(24)))
    whole: list[AxisExpr] = []
    for layout in layouts:
        axis = join([*layout.axes[:1], (Dim(48, "rest"),)])
        whole.append(select(axis, np.arange(24) + data.draw(st.integers(0, 4)), "select"))
    one, two = (reshape([axis], sizes, "reshape") for axis in whole)
    for left, right in zip(one, two, strict=True):
        unify(left, right, "add")
    generator = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    dims = {dim for axis in (*one, *two) for dim in terminals(axis) if not dim.frozen}
    kept = {dim: generator.random(dim.size) < 0.6 for dim in sorted(dims, key=repr)}
    for left, right in zip(one, two, strict=True):
        assert np.array_equal(keep_mask(left, kept), keep_mask(right, kept))


@pytest.mark.parametrize("shape", itertools.product([2, 3, 4, 6], repeat=3), ids=str)
def test_every_regrouping_of_three_axes(shape: tuple[int, int, int]) -> None:
    for factors in factorisations(math.prod(shape)):
        layout = Layout(shape)
        layout.reshape([math.prod(shape)])
        layout.reshape(factors)
        check([layout], layout, sum(factors))


@settings(max_examples=200, deadline=None)
@given(size=st.integers(2, 40), data=st.data())
def test_pieces_of_a_cut_are_the_axis(size: int, data: st.DataObject) -> None:
    axis: AxisExpr = (Dim(size, "d"),)
    points = sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=5)))
    pieces = [join(piece) for piece in cut(axis, points)]
    assert [size_of(piece) for piece in pieces] == np.diff([0, *points, size]).tolist()
    kept = {dim: np.arange(dim.size) % 2 == 0 for dim in terminals(axis)}
    assert np.array_equal(np.concatenate([keep_mask(piece, kept) for piece in pieces]), keep_mask(axis, kept))


def test_a_head_is_found_where_an_axis_is_split() -> None:
    dim = Dim(768, "hidden")
    heads, width = split((dim,), 64)
    assert [size_of(heads), size_of(width)] == [12, 64]
    kept = {heads[0]: np.arange(12) < 3, width[0]: np.ones(64, bool)}
    assert keep_mask((dim,), kept).tolist() == [n < 192 for n in range(768)]


def test_rotated_halves_are_tied() -> None:
    """(a|b) = (b|a), as in x + rotate_half(x), says that both halves are one."""
    axis: AxisExpr = (Dim(8, "head_dim"),)
    unify(axis, select(axis, np.array([4, 5, 6, 7, 0, 1, 2, 3]), "rotate"), "add")
    (half,) = terminals(axis)
    assert half.size == 4


def test_factors_that_do_not_fit_freeze_with_the_reason() -> None:
    six, four = Dim(6, "six"), Dim(4, "four")
    other = (Dim(4, "a"), Dim(6, "b"))
    unify((six, four), other, "add")
    for dim in (six, four, *other):
        assert dim.root.frozen is not None
        assert "6 x 4" in dim.root.frozen.reason or "4 x 6" in dim.root.frozen.reason


def test_different_sizes_freeze_both() -> None:
    one, two = (Dim(3, "a"),), (Dim(4, "b"),)
    unify(one, two, "add")
    assert is_frozen(one)
    assert is_frozen(two)


@pytest.mark.parametrize("first", [True, False])
def test_frozen_spreads_over_whatever_is_the_same(first: bool) -> None:
    one, two = (Dim(12, "a"),), (Dim(12, "b"),)
    parts = reshape([one], [3, 4], "reshape")
    freeze(one if first else two, WHY)
    unify(one, two, "add")
    assert all(is_frozen(axis) for axis in (one, two, *parts))
    assert {dim.frozen for axis in (one, two) for dim in terminals(axis)} == {WHY}
