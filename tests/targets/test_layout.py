"""Layouts against numpy: every view of a layout is the same view of an array of its indices."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Array

from sparsecc.targets.layout import ROW_SLACK, Layout, PlaneSpec, odd_lines

DIMS = st.integers(1, 6)


def places(layout: Layout, shape: tuple[int, ...]) -> Array:
    """The element index of every element."""
    grid = np.indices(shape).reshape(len(shape), -1)
    return (layout.origin + np.asarray(layout.strides, int) @ grid).reshape(shape)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Layout, tuple[int, ...]]:
    dims: list[int] = draw(st.lists(DIMS, min_size=1, max_size=4))
    shape = tuple(dims)
    kinds = ["rows", "features"] if len(shape) > 1 else ["rows"]
    kind = draw(st.sampled_from([*kinds, "planes"] if len(shape) == 4 else kinds))
    if kind == "rows":
        return Layout.rows(shape), shape
    lanes = draw(st.sampled_from([8, 16]))
    if kind == "features":
        return Layout.features(shape, lanes), shape
    top, bottom, left, wider = (draw(st.integers(0, 2)) for _ in range(4))
    spec = PlaneSpec(dims[-1] + wider, top, bottom, left, True)
    return spec.layout(shape, lanes), shape


@settings(max_examples=300, deadline=None)
@given(layouts(), st.data())
def test_views(made: tuple[Layout, tuple[int, ...]], data: st.DataObject) -> None:
    layout, shape = made
    index = places(layout, shape)
    assert len(np.unique(index)) == index.size and index.min() >= 0 and index.max() < layout.size
    perm = data.draw(st.permutations(range(len(shape))))
    np.testing.assert_array_equal(
        places(layout.transpose(perm), tuple(shape[p] for p in perm)), index.transpose(perm)
    )
    axis = data.draw(st.integers(0, len(shape) - 1))
    start = data.draw(st.integers(0, shape[axis] - 1))
    step = data.draw(st.integers(1, 3))
    cut = index[(slice(None),) * axis + (slice(start, None, step),)]
    np.testing.assert_array_equal(places(layout.narrow(axis, start, step), cut.shape), cut)


@settings(max_examples=300, deadline=None)
@given(layouts(), st.data())
def test_reshape(made: tuple[Layout, tuple[int, ...]], data: st.DataObject) -> None:
    """A reshape that strides can express is found, and only then; behind any transposition."""
    layout, shape = made
    perm = data.draw(st.permutations(range(len(shape))))
    layout, shape = layout.transpose(perm), tuple(shape[p] for p in perm)
    size = int(np.prod(shape))
    first = data.draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    second = data.draw(st.sampled_from([n for n in range(1, size // first + 1) if (size // first) % n == 0]))
    new = tuple(data.draw(st.permutations([first, second, size // first // second, 1])))
    found = layout.reshape(shape, new)
    index = places(layout, shape).reshape(new)
    strides: list[int] = []
    for axis in range(4):
        ahead = np.diff(index, axis=axis)
        strides.append(int(ahead.flat[0]) if ahead.size else 0)
    affine = bool(np.array_equal(places(Layout(tuple(strides), int(index.flat[0]), 0), new), index))
    if found is not None:
        np.testing.assert_array_equal(places(found, new), index)
        assert layout.same_elements(layout, shape) and found.size == layout.size
    else:
        assert not affine or 1 in shape


def test_reshape_of_a_broadcast() -> None:
    layout = Layout((0, 1), 0, 5)
    assert layout.reshape((3, 5), (15,)) is None
    assert Layout((0, 0, 1), 0, 5).reshape((2, 3, 5), (6, 5)) == Layout((0, 1), 0, 5)


def test_planes_have_room_for_what_kernels_touch() -> None:
    spec = PlaneSpec(row_pitch=8, top=1, bottom=2, left=1, zero=True)
    for lanes in (8, 16):
        layout = spec.layout((2, 3, 5, 7), lanes)
        batch, channel, row, column = layout.strides
        assert (row, column) == (8, 1) and channel % 32 == 16 and batch == channel * (3 + ROW_SLACK)
        assert layout.origin % lanes == 0 and layout.origin >= 8 + 1
        assert channel - layout.origin >= 5 * 8 + 2 * 8 + 1
        assert channel - layout.origin >= 4 * 8 + lanes


def test_odd_lines() -> None:
    assert [odd_lines(n) for n in (1, 16, 17, 32, 33, 48, 49)] == [16, 16, 48, 48, 48, 48, 80]
