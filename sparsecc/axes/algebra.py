"""Operations on axis expressions: cut, join, split, unify, reshape, select. Knows nothing of ONNX.

A failed unification freezes what it touched with a reason; a frozen expression is opaque, so that the
arithmetic on spatial and batch axes costs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from sparsecc.axes.dims import (
    AxisExpr,
    Dim,
    UnificationError,
    expand,
    fixed,
    freeze,
    frozen_reason,
    is_frozen,
    occurs,
    size_of,
)
from sparsecc.errors import Refusal

MAX_REPEATS = 4
"""A selection with repeated indices longer than this many times the axis freezes it."""


def join(parts: Sequence[AxisExpr]) -> AxisExpr:
    """The concatenation of axes; nested sums are flattened."""
    flat: list[AxisExpr] = []
    for part in map(expand, parts):
        if len(part) == 1 and part[0].terms is not None:
            flat.extend(part[0].terms)
        else:
            flat.append(part)
    if len(flat) == 1:
        return flat[0]
    size = sum(map(size_of, flat))
    if all(map(is_frozen, flat)):
        return fixed(size, next((frozen_reason(part) for part in flat if part), frozen_reason(())))
    dim = Dim(size)
    dim.terms = tuple(flat)
    return (dim,)


def cut(axis: AxisExpr, points: Sequence[int]) -> list[list[AxisExpr]]:
    """Cut at interior points, which refines the axis; len(points) + 1 pieces, each the terms of a sum."""
    axis = expand(axis)
    if not points:
        return [[axis]]
    edges = [0, *points, size_of(axis)]
    if is_frozen(axis):
        why = frozen_reason(axis)
        return [[fixed(b - a, why)] for a, b in itertools.pairwise(edges)]
    if len(axis) == 1:
        if axis[0].free:
            name = axis[0].name
            parts = tuple((Dim(b - a, name),) for a, b in itertools.pairwise(edges))
            axis[0].bind_sum(parts)
            return [[part] for part in parts]
        return _cut_sum(axis[0], points)
    return _cut_product(axis, points)


def _cut_sum(dim: Dim, points: Sequence[int]) -> list[list[AxisExpr]]:
    assert dim.terms is not None
    at = set(points)
    pieces: list[list[AxisExpr]] = [[]]
    refined: list[AxisExpr] = []
    offset = 0
    remaining = list(points)
    for term in dim.terms:
        size = size_of(term)
        if size == 0:
            continue
        if offset in at:
            pieces.append([])
        inside: list[int] = []
        while remaining and remaining[0] < offset + size:
            point = remaining.pop(0)
            if point > offset:
                inside.append(point - offset)
        for number, piece in enumerate(cut(term, inside)):
            if number:
                pieces.append([])
            pieces[-1].extend(piece)
            refined.extend(piece)
        offset += size
    dim.terms = tuple(refined)
    return pieces


def _cut_product(axis: AxisExpr, points: Sequence[int]) -> list[list[AxisExpr]]:
    """A point inside row i of the first factor isolates that row and cuts the other factors there."""
    head, rest = axis[:1], axis[1:]
    row = size_of(rest)
    at = set(points)
    inside: dict[int, list[int]] = {}
    cuts: set[int] = set()
    for point in points:
        index, offset = divmod(point, row)
        if offset:
            inside.setdefault(index, []).append(offset)
            cuts |= {index, index + 1}
        else:
            cuts.add(index)
    edges = sorted(index for index in cuts if 0 < index < head[0].size)
    pieces: list[list[AxisExpr]] = [[]]
    for start, heads in zip([0, *edges], cut(head, edges), strict=True):
        if start * row in at:
            pieces.append([])
        if start in inside:
            for number, piece in enumerate(cut(rest, inside[start])):
                if number:
                    pieces.append([])
                pieces[-1].extend(heads[0] + part for part in piece)
        else:
            pieces[-1].extend(part + rest for part in heads)
    return pieces


def split(axis: AxisExpr, size: int) -> tuple[AxisExpr, AxisExpr]:
    """Row-major (prefix, suffix) with `size` indices in the suffix.

    Raises:
        UnificationError: the factors do not allow it.
    """
    left = list(expand(axis))
    suffix: AxisExpr = ()
    while size > 1:
        if not left:
            raise UnificationError("the axis is too short to be split")
        last = left.pop()
        if size % last.size == 0:
            suffix = (last, *suffix)
            size //= last.size
        elif last.size % size == 0:
            prefix, tail = _split_dim(last, size)
            left.extend(prefix)
            suffix = tail + suffix
            size = 1
        else:
            raise UnificationError(f"a factor of {last.size} does not divide into groups of {size}")
    return tuple(left), suffix


def _split_dim(dim: Dim, size: int) -> tuple[AxisExpr, AxisExpr]:
    if dim.free:
        prefix, suffix = (Dim(dim.size // size, dim.name),), (Dim(size, dim.name),)
        dim.bind_product(prefix + suffix)
        return prefix, suffix
    groups = _groups_of(dim, size)
    prefixes: list[AxisExpr] = []
    suffix: AxisExpr | None = None
    for group in groups:
        if len(group) == 1 and size_of(group[0]) > size:
            prefix, tail = split(group[0], size)
        else:
            prefix, tail = (), join(group)
        prefixes.append(prefix)
        if suffix is None:
            suffix = tail
        else:
            unify(suffix, tail, "a sum of equal groups")
    assert suffix is not None
    if all(not prefix for prefix in prefixes):
        slots = Refusal("it counts parts that were stacked, which are not alike", "", "stacked-parts")
        front = fixed(len(prefixes), slots)
    else:
        front = join(prefixes)
    if occurs(dim, front + suffix):
        raise UnificationError("a dimension would have to contain itself")
    dim.terms = None
    dim.product = front + suffix
    return front, expand(suffix)


def _groups_of(dim: Dim, size: int) -> list[list[AxisExpr]]:
    """The terms of a sum regrouped so that each group is a multiple of `size`, cutting where one crosses."""
    assert dim.terms is not None
    groups: list[list[AxisExpr]] = []
    current: list[AxisExpr] = []
    filled = 0
    queue = list(reversed(dim.terms))
    while queue:
        part = queue.pop()
        length = size_of(part)
        if filled == 0 and length % size == 0:
            groups.append([part])
        elif filled + length > size:
            before, after = cut(part, [size - filled])
            queue.extend(reversed([*before, *after]))
        else:
            current.append(part)
            filled += length
            if filled == size:
                groups.append(current)
                current, filled = [], 0
    if filled:
        raise UnificationError(f"the parts of a concatenation do not divide into groups of {size}")
    return groups


def unify(left: AxisExpr, right: AxisExpr, where: str) -> None:
    """Make two axes the same; where that fails both are frozen with the reason.

    Args:
        left: an axis.
        right: another.
        where: the op and node that say so, for the reason.
    """
    left, right = expand(left), expand(right)
    if left == right:
        return
    try:
        if size_of(left) != size_of(right):
            raise UnificationError(f"sizes {size_of(left)} and {size_of(right)} differ")
        _unify(left, right, where)
    except UnificationError as error:
        why = Refusal(f"two layouts of the axis do not fit together: {error}", where, "unification")
        freeze(left, why)
        freeze(right, why)


def _unify(left: AxisExpr, right: AxisExpr, where: str) -> None:
    if is_frozen(left):
        freeze(right, frozen_reason(left))
        return
    if is_frozen(right):
        freeze(left, frozen_reason(right))
        return
    if _unify_free(left, right) or _unify_free(right, left):
        return
    if any(dim.size == 1 for dim in left + right):
        _unify_units(left, right, where)
        return
    sums = [axis[0] for axis in (left, right) if len(axis) == 1 and axis[0].terms is not None]
    if sums:
        _unify_sums(left, right, sums, where)
        return
    for first, second in segments([dim.size for dim in left], [dim.size for dim in right]):
        _unify_products(tuple(left[i] for i in first), tuple(right[i] for i in second), where)


def _unify_free(one: AxisExpr, other: AxisExpr) -> bool:
    """Unite or bind where one side is a single free dimension; whether it was."""
    if len(one) != 1 or not one[0].free:
        return False
    if len(other) == 1 and other[0].free:
        one[0].unite(other[0])
        return True
    if occurs(one[0], other):
        return False
    if len(other) == 1:
        one[0].unite(other[0])
    else:
        one[0].bind_product(other)
    return True


def _unify_units(left: AxisExpr, right: AxisExpr, where: str) -> None:
    """Dimensions of size 1 arise from cuts: they pair up in order or stay as they are."""
    units = [tuple(dim for dim in axis if dim.size == 1) for axis in (left, right)]
    if len(units[0]) == len(units[1]):
        for one, other in zip(*units, strict=True):
            unify((one,), (other,), where)
    else:
        why = Refusal("a slice of one index meets an axis that has no such slice", where, "unit-dropped")
        freeze(units[0] + units[1], why)
    unify(tuple(dim for dim in left if dim.size > 1), tuple(dim for dim in right if dim.size > 1), where)


def _unify_sums(left: AxisExpr, right: AxisExpr, sums: Sequence[Dim], where: str) -> None:
    """Cut both sides at the part boundaries of all sums, then unify piece by piece."""
    points: set[int] = set()
    for dim in sums:
        offset = 0
        for term in (dim.terms or ())[:-1]:
            offset += size_of(term)
            points.add(offset)
    inner = sorted(points - {0, size_of(left)})
    firsts = [join(piece) for piece in cut(left, inner)]
    seconds = [join(piece) for piece in cut(right, inner)]
    for first, second in zip(firsts, seconds, strict=True):
        unify(first, second, where)


def _unify_products(left: AxisExpr, right: AxisExpr, where: str) -> None:
    if len(left) == 1 or len(right) == 1:
        unify(left, right, where)
        return
    try:
        if left[0].size > right[0].size:
            left, right = right, left
        if right[0].size % left[0].size == 0:
            _split_dim(right[0], right[0].size // left[0].size)
        else:
            short, long = sorted((left, right), key=lambda axis: axis[-1].size)
            if long[-1].size % short[-1].size:
                raise UnificationError(
                    f"factors {_sizes(left)} and {_sizes(right)} have no common refinement"
                )
            split(long, short[-1].size)
        unify(left, right, where)
    except UnificationError as error:
        why = Refusal(f"two layouts of the axis do not fit together: {error}", where, "unification")
        freeze(left + right, why)


def _sizes(axis: AxisExpr) -> str:
    return " x ".join(str(dim.size) for dim in axis)


def segments(left: Sequence[int], right: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Cut two factorisations of one number where their prefix products agree: positions left and right."""
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) or j < len(right):
        first: list[int] = []
        second: list[int] = []
        product_left = product_right = 1
        while i < len(left) or j < len(right):
            if i < len(left) and (product_left <= product_right or j >= len(right)):
                product_left *= left[i]
                first.append(i)
                i += 1
            else:
                product_right *= right[j]
                second.append(j)
                j += 1
            if product_left == product_right and first and second:
                break
        found.append((first, second))
    return found


def reshape(axes: Sequence[AxisExpr], shape: Sequence[int], where: str) -> list[AxisExpr]:
    """Regroup axes row-major to a new shape; a segment whose factors do not fit is frozen alone.

    Args:
        axes: of the input.
        shape: of the output, as many elements.
        where: the op and node, for the reason.
    """
    unit = Refusal("a slice of one index loses its place in a reshape", where, "unit-reshaped")
    flat: list[Dim] = []
    for axis in axes:
        for dim in expand(axis):
            if dim.size == 1:
                freeze((dim,), unit)
            else:
                flat.append(dim)
    long = [i for i, size in enumerate(shape) if size != 1]
    result: list[AxisExpr] = [()] * len(shape)
    for first, second in segments([dim.size for dim in flat], [shape[i] for i in long]):
        group = tuple(flat[i] for i in first)
        targets = [long[i] for i in second]
        if len(targets) == 1:
            result[targets[0]] = group
        elif targets:
            _regroup(group, targets, shape, result, where)
    return result


def _regroup(
    group: AxisExpr, targets: Sequence[int], shape: Sequence[int], result: list[AxisExpr], where: str
) -> None:
    if not is_frozen(group):
        try:
            rest = group
            found: dict[int, AxisExpr] = {}
            for target in reversed(targets[1:]):
                rest, found[target] = split(rest, shape[target])
            found[targets[0]] = rest
            if size_of(rest) != shape[targets[0]]:
                raise UnificationError("the sizes do not fit")
            for target in targets:
                result[target] = found[target]
            return
        except UnificationError as error:
            new = " x ".join(str(shape[target]) for target in targets)
            freeze(group, Refusal(f"reshape of {_sizes(group)} to {new}: {error}", where, "reshape"))
    for target in targets:
        result[target] = fixed(shape[target], frozen_reason(group))


def select(axis: AxisExpr, indices: np.ndarray, where: str) -> AxisExpr:
    """The axis of x[indices].

    Args:
        axis: of x.
        indices: 1-D, none negative.
        where: the op and node, for the reason.
    """
    axis = expand(axis)
    size = size_of(axis)
    if len(indices) == 0:
        return (Dim(0, "empty"),)
    if len(indices) == size and bool((indices == np.arange(size)).all()):
        return axis
    if is_frozen(axis):
        return fixed(len(indices), frozen_reason(axis))
    if len(indices) > MAX_REPEATS * size:
        why = Refusal("a lookup repeats its entries", where, "repeats")
        freeze(axis, why)
        return fixed(len(indices), why)
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    starts = indices[np.concatenate([[0], breaks])].tolist()
    ends = (indices[np.concatenate([breaks - 1, [len(indices) - 1]])] + 1).tolist()
    points = sorted({point for point in (*starts, *ends) if 0 < point < size})
    pieces = cut(axis, points)
    first = dict(zip([0, *points], range(len(pieces)), strict=True))
    last = dict(zip([*points, size], range(len(pieces)), strict=True))
    terms: list[AxisExpr] = []
    for start, end in zip(starts, ends, strict=True):
        for number in range(first[start], last[end] + 1):
            terms.extend(pieces[number])
    return join(terms)
