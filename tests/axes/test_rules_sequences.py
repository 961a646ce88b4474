"""Sequences of tensors."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "t = SplitToSequence<axis = 1>(x, n)\ny = SequenceAt(t, i)",
        {"x": (2, 5), "n": [2, 3], "i": np.array(1, np.int64)},
        "x[a,(b|c)] y[a,c]",
    ),
    Case(
        "t = SplitToSequence<axis = 1>(x, n)\ny = SequenceAt(t, i)",
        {"x": (2, 5), "n": np.array(2, np.int64), "i": np.array(-1, np.int64)},
        "x[a,(b|c|d)] y[a,d]",
    ),
    Case(
        "t = SplitToSequence<axis = 0, keepdims = 0>(x)\ny = SequenceAt(t, i)",
        {"x": (2, 5), "i": np.array(1, np.int64)},
        "x[(!unbound|!unbound),a] y[a]",
    ),
    Case(
        "t = SequenceConstruct(a, b)\ny = ConcatFromSequence<axis = 1>(t)",
        {"a": (2, 3), "b": (2, 4)},
        "a[a,b] b[a,c] y[a,(b|c)]",
    ),
    Case(
        "t = SequenceConstruct(a, b)\ny = ConcatFromSequence<axis = 1, new_axis = 1>(t)",
        {"a": (2, 3), "b": (2, 3)},
        "a[a,b] b[a,b] y[a,!slot,b]",
    ),
    Case(
        "t = SequenceConstruct(a)\nu = SequenceInsert(t, b, p)\ny = ConcatFromSequence<axis = 0>(u)",
        {"a": (2, 3), "b": (4, 3), "p": np.array(0, np.int64)},
        "a[a,b] b[c,b] y[(c|a),b]",
    ),
    Case(
        "t = SequenceConstruct(a, b)\nu = SequenceErase(t, p)\ny = SequenceAt(u, p)",
        {"a": (2, 3), "b": (4, 5), "p": np.array(0, np.int64)},
        "a[a,b] b[c,d] y[c,d]",
    ),
    Case(
        "t = SequenceEmpty()\nu = SequenceInsert(t, a)\nv = Identity(u)\ny = SequenceAt(v, p)",
        {"a": (2, 3), "p": np.array(0, np.int64)},
        "a[a,b] y[a,b]",
    ),
    Case(
        "t = SequenceConstruct(a, b)\ny = SequenceLength(t)", {"a": (2, 3), "b": (4, 5)}, "a[a,b] b[c,d] y[]"
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
