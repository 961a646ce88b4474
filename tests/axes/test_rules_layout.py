"""Permuting, regrouping, cutting, joining and repeating."""

from __future__ import annotations

import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case("y = Transpose<perm = [2, 0, 1]>(x)", {"x": (2, 3, 4)}, "x[a,b,c] y[c,a,b]"),
    Case("y = Transpose(x)", {"x": (2, 3, 4)}, "x[a,b,c] y[c,b,a]"),
    Case("y = Reshape(x, s)", {"x": (2, 12), "s": [2, 3, 4]}, "x[a,(b c)] y[a,b,c]"),
    Case("y = Reshape(x, s)", {"x": (2, 3, 4), "s": [6, -1]}, "x[a,b,c] y[(a b),c]"),
    Case("y = Reshape(x, s)", {"x": (2, 3, 4), "s": [0, 0, 2, 2]}, "x[a,b,(c d)] y[a,b,c,d]"),
    Case("y = Reshape(x, s)", {"x": (6, 4), "s": [4, 6]}, "x[!reshape,!reshape] y[!reshape,!reshape]"),
    Case("y = Flatten(x)", {"x": (2, 3, 4)}, "x[a,b,c] y[a,(b c)]"),
    Case("y = Flatten<axis = 0>(x)", {"x": (2, 3)}, "x[a,b] y[1,(a b)]"),
    Case("y = Squeeze(x, a)", {"x": (2, 1, 3), "a": [1]}, "x[a,1,b] y[a,b]"),
    Case("y = Squeeze(x)", {"x": (2, 1, 3, 1)}, "x[a,1,b,1] y[a,b]"),
    Case("y = Unsqueeze(x, a)", {"x": (2, 3), "a": [0, -1]}, "x[a,b] y[1,a,b,1]"),
    Case("y = Expand(x, s)", {"x": (3, 1), "s": [2, 3, 4]}, "x[a,1] y[b,a,c]"),
    Case("y = Expand(x, s)", {"x": (3, 4), "s": [1, 1]}, "x[a,b] y[a,b]"),
    Case("y = Tile(x, r)", {"x": (3, 2), "r": [2, 1]}, "x[a,b] y[(c a),b]"),
    Case("y = Concat<axis = 1>(a, b)", {"a": (2, 3), "b": (2, 4)}, "a[a,b] b[a,c] y[a,(b|c)]"),
    Case("y = Concat<axis = -1>(a, b)", {"a": (2, 1), "b": (2, 4)}, "a[a,1] b[a,b] y[a,(!slot|b)]"),
    Case("y, z = Split<axis = 1>(x, s)", {"x": (2, 5), "s": [2, 3]}, "x[a,(b|c)] y[a,b]"),
    Case("y, z, t = Split<axis = 1, num_outputs = 3>(x)", {"x": (2, 8)}, "x[a,(b|c|d)] y[a,b]"),
    Case("y = Trilu(x)", {"x": (2, 3, 3)}, "x[a,!triangle,!triangle] y[a,!triangle,!triangle]"),
    Case(
        "y = ReverseSequence(x, n)",
        {"x": (3, 2, 4), "n": [1, 3]},
        "x[!time,!time,a] n[!time] y[!time,!time,a]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
