"""What keeps its indices by its nature, and why."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "c = NonZero(x)\ny = Cast<to = 1>(c)",
        {"x": (2, 3)},
        "x[!positions,!positions] y[!positions,!positions]",
    ),
    Case("y, i = Unique<axis = 0>(x)", {"x": (2, 3)}, "x[!positions,!positions] y[!positions,!positions]"),
    Case("y = EyeLike(x)", {"x": (3, 3)}, "x[!generated,!generated] y[!generated,!generated]"),
    Case("y = RandomNormalLike(x)", {"x": (2, 3)}, "x[!random,!random] y[!random,!random]", 16),
    Case("y = Multinomial<sample_size = 2>(x)", {"x": (2, 3)}, "x[!random,!random] y[!random,!random]", 16),
    Case("y = Det(x)", {"x": (2, 3, 3)}, "x[a,!matrix,!matrix] y[a]"),
    Case(
        "y = DFT(x, , a)",
        {"x": (2, 4, 3, 1), "a": np.array(1, np.int64)},
        "x[a,!frequency,b,1] y[a,!frequency,b,!frequency]",
    ),
    Case(
        "y = STFT(x, t, w)",
        {"x": (2, 16, 1), "t": np.array(4, np.int64), "w": (8,)},
        "x[a,!frequency,1] w[!frequency] y[a,!frequency,!frequency,!frequency]",
    ),
    Case("y = SoftmaxCrossEntropyLoss(x, l)", {"x": (2, 3), "l": [0, 2]}, "x[!loss,!loss] l[!loss] y[]"),
    Case("y = NegativeLogLikelihoodLoss(x, l)", {"x": (2, 3), "l": [0, 2]}, "x[!loss,!loss] l[!loss] y[]"),
    Case("o = Optional(x)\ny = OptionalGetElement(o)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = OptionalHasElement(x)", {"x": (2, 3)}, "x[a,b] y[]"),
    Case(
        "p, i = MaxPool<kernel_shape = [2, 2]>(x)\ny = MaxUnpool<kernel_shape = [2, 2]>(p, i)",
        {"x": (1, 2, 4, 4)},
        "x[1,!flat-indices,!spatial,!spatial] y[1,!flat-indices,!flat-indices,!flat-indices]",
    ),
    Case(
        "y = If<then_branch = g1 () => (float[2, 3] p) { p = Neg(x) }, else_branch = g2 () => "
        "(float[2, 3] q) { q = Exp(x) }>(c)",
        {"x": (2, 3), "c": np.array(True, np.bool_)},
        "x[!control-flow,!control-flow] c[] y[!control-flow,!control-flow]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
