"""Elementwise ops: equal axes by broadcasting, and what they make of zeros."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

from sparsecc.axes.rules.registry import all_rules

CASES: list[Case] = [
    Case("y = Relu(x)", {"x": (3, 4)}, "x[a,b] y[a,b]"),
    Case("y = Add(x, b)", {"x": (2, 3, 4), "b": (3, 1)}, "x[a,b,c] b[b,1] y[a,b,c]"),
    Case("y = Mul(x, b)", {"x": (2, 3, 4), "b": (3, 1)}, "x[a,b,c] b[b,1] y[a,b,c]"),
    Case("y = Mul(x, one)", {"x": (2, 3), "one": 0.5}, "x[a,b] one[] y[a,b]"),
    Case("y = Div(a, b)", {"a": (2, 3), "b": (2, 3)}, "a[a,b] b[a,b] y[a,b]"),
    Case("y = Sum(a, b, c)", {"a": (2, 3), "b": (3,), "c": (2, 1)}, "a[a,b] b[b] c[a,1] y[a,b]"),
    Case("y = Mean(a, b)", {"a": (2, 3), "b": (2, 3)}, "a[a,b] b[a,b] y[a,b]"),
    Case("y = PRelu(x, slope)", {"x": (2, 3, 4), "slope": (3, 1)}, "x[a,b,c] slope[b,1] y[a,b,c]"),
    Case("y = Clip(x, low, high)", {"x": (2, 3), "low": 0.0, "high": 6.0}, "x[a,b] y[a,b]"),
    Case("y = Clip(x, low)", {"x": (2, 3), "low": 0.1}, "x[a,b] y[a,b]"),
    Case("y = Clip(x, , high)", {"x": (2, 3), "high": -0.5}, "x[a,b] y[a,b]"),
    Case("y = Pow(x, two)", {"x": (2, 3), "two": 2.0}, "x[a,b] two[] y[a,b]"),
    Case("y = Pow(x, none)", {"x": (2, 3), "none": 0.0}, "x[a,b] none[] y[a,b]"),
    Case("y = Pow(x, e)", {"x": (2, 3), "e": np.array([1.0, 2.0, 0.0], np.float32)}, "x[a,b] e[b] y[a,b]"),
    Case("y = Shrink<bias = 1.0, lambd = 0.3>(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = Shrink<bias = 1.0, lambd = -0.5>(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = ThresholdedRelu<alpha = -1.0>(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = HardSigmoid(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = HardSigmoid<beta = 0.0>(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case(
        "y = Where(c, a, b)",
        {"c": np.array([True, False, True], np.bool_), "a": (2, 3), "b": (2, 3)},
        "c[a] a[b,a] b[b,a] y[b,a]",
    ),
    Case("y = Less(a, b)", {"a": (2, 3), "b": (2, 3)}, "a[a,b] b[a,b] y[a,b]"),
    Case("y = Equal(a, b)", {"a": (2, 3), "b": (2, 3)}, "a[a,b] b[a,b] y[a,b]"),
    Case("y = Identity(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y, mask = Dropout(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case(
        "z, mask = Dropout(x)\ny = Cast<to = 1>(mask)",
        {"x": (2, 3)},
        "x[!dropout-mask,!dropout-mask] y[!dropout-mask,!dropout-mask]",
    ),
    Case("y = CastLike(x, like)", {"x": (2, 3), "like": (5,)}, "x[a,b] like[c] y[a,b]"),
    Case("y = Mod<fmod = 1>(a, b)", {"a": (2, 3), "b": (2, 3)}, "a[a,b] b[a,b] y[a,b]"),
    Case("y = com.microsoft.BiasGelu(a, b)", {"a": (2, 3), "b": (3,)}, "a[a,b] b[b] y[a,b]"),
    Case(
        "a = Cast<to = 9>(p)\nb = Cast<to = 9>(q)\ny = And(a, b)",
        {"p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32), "q": (2, 3)},
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case(
        "a = Cast<to = 9>(p)\nb = Cast<to = 9>(q)\ny = Or(a, b)",
        {"p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32), "q": (2, 3)},
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case(
        "a = Cast<to = 9>(p)\nb = Cast<to = 9>(q)\ny = Xor(a, b)",
        {"p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32), "q": (2, 3)},
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case(
        "a = Cast<to = 6>(p)\nb = Cast<to = 6>(q)\ny = BitwiseAnd(a, b)",
        {
            "p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
            "q": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
        },
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case(
        "a = Cast<to = 6>(p)\nb = Cast<to = 6>(q)\ny = BitwiseOr(a, b)",
        {
            "p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
            "q": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
        },
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case(
        "a = Cast<to = 6>(p)\nb = Cast<to = 6>(q)\ny = BitwiseXor(a, b)",
        {
            "p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
            "q": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
        },
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case(
        'a = Cast<to = 12>(p)\nb = Cast<to = 12>(q)\ny = BitShift<direction = "LEFT">(a, b)',
        {
            "p": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
            "q": np.array([[1.0, 2.0, 3.0], [4.0, 0.0, 6.0]], np.float32),
        },
        "p[a,b] q[a,b] y[a,b]",
    ),
    Case("a = Cast<to = 9>(x)\ny = Not(a)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("a = Cast<to = 6>(x)\ny = BitwiseNot(a)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = Sub(a, b)", {"a": (2, 3), "b": (2, 1)}, "a[a,b] b[a,1] y[a,b]"),
    Case("y = Max(a, b)", {"a": (2, 3), "b": (2, 1)}, "a[a,b] b[a,1] y[a,b]"),
    Case("y = Min(a, b)", {"a": (2, 3), "b": (2, 1)}, "a[a,b] b[a,1] y[a,b]"),
    Case("y = Greater(a, b)", {"a": (2, 3), "b": (2, 1)}, "a[a,b] b[a,1] y[a,b]"),
    Case("y = LessOrEqual(a, b)", {"a": (2, 3), "b": (2, 1)}, "a[a,b] b[a,1] y[a,b]"),
    Case("y = GreaterOrEqual(a, b)", {"a": (2, 3), "b": (2, 1)}, "a[a,b] b[a,1] y[a,b]"),
    Case("y = com.microsoft.Gelu(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = com.microsoft.FastGelu(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = com.microsoft.QuickGelu(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = Cast<to = 10>(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)


OTHER_TYPES = {"Not", "BitwiseNot", "Cast"}
YOUNGER = {"Swish", "BitCast"}
"""Not in opset 23."""
UNARY = sorted(
    row.op
    for row in all_rules()
    if row.pattern == "x[*s] -> y[*s]" and not row.domain and row.op not in OTHER_TYPES | YOUNGER
)


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str) -> None:
    check_rule(Case(f"y = {op}(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"))
