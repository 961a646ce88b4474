"""Slices, gathers and scatters with constant and computed indices."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case("y = Slice(x, b, e, a)", {"x": (2, 6), "b": [1], "e": [4], "a": [1]}, "x[a,(b|c|d)] y[a,c]"),
    Case(
        "y = Slice(x, b, e, a, t)",
        {"x": (2, 6), "b": [-1], "e": [-100], "a": [-1], "t": [-1]},
        "x[a,(b|c|d|e|f|g)] y[a,(g|f|e|d|c|b)]",
    ),
    Case(
        "y = Slice(x, b, e, a, t)",
        {"x": (2, 6), "b": [0], "e": [100], "a": [1], "t": [2]},
        "x[a,(b|c|d|e|f|g)] y[a,(b|d|f)]",
    ),
    Case(
        "y = Slice(x, b, e, a, t)",
        {"x": (2, 6), "b": [-100], "e": [-100], "a": [1], "t": [-1]},
        "x[a,(b|c)] y[a,b]",
    ),
    Case("y = Slice(x, b, e)", {"x": (4, 6), "b": [1, 0], "e": [3, 6]}, "x[(a|b|c),d] y[b,d]"),
    Case("y = Gather<axis = 1>(x, i)", {"x": (2, 4), "i": [3, -4, 2]}, "x[a,(b|c|d|e)] y[a,(e|b|d)]"),
    Case("y = Gather<axis = -1>(x, i)", {"x": (2, 4), "i": np.array(2, np.int64)}, "x[a,!lookup] y[a]"),
    Case(
        "y = Gather(x, i)",
        {"x": (5, 3), "i": np.array([[0, 1], [4, 2]], np.int64)},
        "x[!lookup,a] y[!lookup,!lookup,a]",
    ),
    Case(
        "j = Cast<to = 7>(i)\ny = Gather(x, j)",
        {"x": (5, 3), "i": (2, 4)},
        "x[!lookup,a] i[!lookup,!lookup] y[!lookup,!lookup,a]",
    ),
    Case(
        "y = GatherElements<axis = 1>(x, i)",
        {"x": (2, 4), "i": np.array([[0, 1, 3], [1, 2, 2]], np.int64)},
        "x[a,!lookup] i[a,!lookup] y[a,!lookup]",
    ),
    Case(
        "y = GatherElements<axis = 0>(x, i)",
        {"x": (3, 4), "i": np.array([[0, 1, 2], [1, 2, 2]], np.int64)},
        "x[!lookup,!lookup] i[!lookup,!lookup] y[!lookup,!lookup]",
    ),
    Case(
        "y = GatherND(x, i)",
        {"x": (3, 4, 5), "i": np.array([[0, 1], [2, 2]], np.int64)},
        "x[!lookup,!lookup,a] i[!lookup,!lookup] y[!lookup,a]",
    ),
    Case(
        "y = GatherND<batch_dims = 1>(x, i)",
        {"x": (2, 4, 5), "i": np.array([[1], [2]], np.int64)},
        "x[a,!lookup,b] i[a,1] y[a,b]",
    ),
    Case(
        "y = ScatterND(x, i, u)",
        {"x": (4, 3), "i": np.array([[1], [3]], np.int64), "u": (2, 3)},
        "x[(a|b|c|d),e] u[(b|d),e] y[(a|b|c|d),e]",
    ),
    Case(
        'y = ScatterND<reduction = "add">(x, i, u)',
        {"x": (4, 3), "i": np.array([[1], [3]], np.int64), "u": (2, 3)},
        "x[!lookup,a] i[!lookup,1] u[!lookup,a] y[!lookup,a]",
    ),
    Case(
        "y = ScatterND(x, i, u)",
        {"x": (4, 3, 2), "i": np.array([[1, 2], [3, 0]], np.int64), "u": (2, 2)},
        "x[!lookup,!lookup,a] i[!lookup,!lookup] u[!lookup,a] y[!lookup,!lookup,a]",
    ),
    Case(
        "y = ScatterElements<axis = 1>(x, i, u)",
        {"x": (2, 4), "i": np.array([[0, 1], [3, 2]], np.int64), "u": (2, 2)},
        "x[a,!lookup] i[a,!lookup] u[a,!lookup] y[a,!lookup]",
    ),
    Case(
        "y = ScatterElements<axis = 0>(x, i, u)",
        {"x": (3, 4), "i": np.array([[0, 1], [2, 2]], np.int64), "u": (2, 2)},
        "x[!lookup,!lookup] i[!lookup,!lookup] u[!lookup,!lookup] y[!lookup,!lookup]",
    ),
    Case(
        "j = Cast<to = 7>(i)\ny = OneHot(j, d, v)",
        {"i": (2, 3), "d": [4], "v": np.array([0.0, 1.0], np.float32)},
        "i[a,b] v[!no-data] y[a,b,!lookup]",
    ),
    Case(
        "y = Compress<axis = 1>(x, c)",
        {"x": (2, 3), "c": np.array([True, False, True], np.bool_)},
        "x[a,!lookup] c[!lookup] y[a,!lookup]",
    ),
    Case(
        "y = Compress(x, c)",
        {"x": (2, 3), "c": np.array([True, False, True], np.bool_)},
        "x[!lookup,!lookup] c[!lookup] y[!lookup]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
