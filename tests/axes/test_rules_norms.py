"""Normalisations: statistics run over marked axes, softmax keeps its axis."""

from __future__ import annotations

import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "y = BatchNormalization(x, s, b, m, v)",
        {"x": (2, 3, 4), "s": (3,), "b": (3,), "m": (3,), "v": (3,)},
        "x[a,b,c] s[b] b[b] m[b] v[b] y[a,b,c]",
    ),
    Case(
        "y = InstanceNormalization(x, s, b)",
        {"x": (2, 3, 4), "s": (3,), "b": (3,)},
        "x[a,b,c~] s[b] b[b] y[a,b,c~]",
    ),
    Case(
        "y = GroupNormalization<num_groups = 2>(x, s, b)",
        {"x": (2, 6, 4), "s": (6,), "b": (6,)},
        "x[a,(b~ c~),d~] s[(b~ c~)] b[(b~ c~)] y[a,(b~ c~),d~]",
    ),
    Case(
        "y = LayerNormalization(x, s, b)",
        {"x": (2, 3, 4), "s": (4,), "b": (4,)},
        "x[a,b,c~] s[c~] b[c~] y[a,b,c~]",
    ),
    Case(
        "y = LayerNormalization<axis = 1>(x, s)",
        {"x": (2, 3, 4), "s": (3, 4)},
        "x[a,b~,c~] s[b~,c~] y[a,b~,c~]",
    ),
    Case(
        "y = LayerNormalization<axis = 1>(x, s)", {"x": (2, 3, 4), "s": (4,)}, "x[a,b~,c~] s[c~] y[a,b~,c~]"
    ),
    Case("y, mean, inv = LayerNormalization(x, s)", {"x": (2, 3, 4), "s": (4,)}, "x[a,b,c~] s[c~] y[a,b,c~]"),
    Case(
        "z, y = LayerNormalization(x, s)",
        {"x": (2, 3, 4), "s": (4,)},
        "x[!statistic,!statistic,a~] s[a~] y[!statistic,!statistic,1]",
    ),
    Case("y = RMSNormalization(x, s)", {"x": (2, 3, 4), "s": (4,)}, "x[a,b,c~] s[c~] y[a,b,c~]"),
    Case("y = SimplifiedLayerNormalization(x, s)", {"x": (2, 3, 4), "s": (4,)}, "x[a,b,c~] s[c~] y[a,b,c~]"),
    Case("y = LpNormalization<axis = 1, p = 1>(x)", {"x": (2, 3, 4)}, "x[a,b~,c] y[a,b~,c]"),
    Case("y = MeanVarianceNormalization(x)", {"x": (2, 3, 4, 5)}, "x[a~,b,c~,d~] y[a~,b,c~,d~]"),
    Case("y = LRN<size = 3>(x)", {"x": (2, 3, 4, 5)}, "x[a,!neighbours,b,c] y[a,!neighbours,b,c]"),
    Case("y = Softmax(x)", {"x": (2, 3, 4)}, "x[a,b,!softmax] y[a,b,!softmax]"),
    Case("y = Softmax<axis = 1>(x)", {"x": (2, 3, 4)}, "x[a,!softmax,b] y[a,!softmax,b]"),
    Case("y = LogSoftmax<axis = 0>(x)", {"x": (2, 3)}, "x[!softmax,a] y[!softmax,a]"),
    Case("y = Hardmax(x)", {"x": (2, 3)}, "x[a,!softmax] y[a,!softmax]"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
