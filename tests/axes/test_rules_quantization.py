"""Quantised tensors, their scales and zero points."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case("y = QuantizeLinear(x, s)", {"x": (2, 3), "s": 0.1}, "x[a,b] s[] y[a,b]"),
    Case(
        "y = QuantizeLinear(x, s, z)",
        {"x": (2, 3), "s": 0.1, "z": np.array(3, np.uint8)},
        "x[a,b] s[] z[] y[a,b]",
    ),
    Case(
        "y = QuantizeLinear<axis = 1>(x, s, z)",
        {"x": (2, 3), "s": (3,), "z": np.array([0, 0, 0], np.int8)},
        "x[a,b] s[b] z[b] y[a,b]",
    ),
    Case(
        "y = QuantizeLinear<axis = 1, block_size = 2>(x, s)",
        {"x": (2, 6), "s": (2, 3)},
        "x[a,(b !block)] s[a,b] y[a,(b !block)]",
    ),
    Case(
        "q = QuantizeLinear<axis = 0>(x, s)\ny = DequantizeLinear<axis = 0>(q, s)",
        {"x": (4, 6), "s": (4,)},
        "x[a,b] s[a] y[a,b]",
    ),
    Case(
        "y = DequantizeLinear<axis = 0>(w, s)",
        {"w": np.arange(-6, 6, dtype=np.int8).reshape(3, 4), "s": (3,)},
        "w[a,b] s[a] y[a,b]",
    ),
    Case(
        "q, a, b = DynamicQuantizeLinear(x)\ny = Cast<to = 1>(q)",
        {"x": (2, 3)},
        "x[!extremum,!extremum] y[!extremum,!extremum]",
    ),
    Case(
        "q = Cast<to = 3>(x)\nv = Cast<to = 3>(w)\ny = ConvInteger(q, v)",
        {"x": (1, 4, 5), "w": (6, 4, 3)},
        "x[1,a,!spatial] w[b,a,!spatial] y[1,b,!spatial]",
    ),
    Case(
        "q = QuantizeLinear(x, s, z)\nv = QuantizeLinear(w, s, z)\ny = ConvInteger(q, v, z)",
        {"x": (1, 4, 5, 5), "w": (6, 4, 3, 3), "s": 0.01, "z": np.array(0, np.uint8)},
        "x[1,a,!spatial,!spatial] w[b,a,!spatial,!spatial] s[] z[] y[1,b,!spatial,!spatial]",
    ),
    Case(
        "q = QuantizeLinear(x, s, z)\nv = QuantizeLinear<axis = 0>(w, t, n)\ny = QLinearConv(q, s, "
        "z, v, t, n, s, z, b)",
        {
            "x": (1, 4, 5, 5),
            "w": (6, 4, 3, 3),
            "s": 0.05,
            "z": np.array(0, np.uint8),
            "t": (6,),
            "n": np.array([0, 0, 0, 0, 0, 0], np.int8),
            "b": np.arange(0, 6, dtype=np.int32).reshape(
                6,
            ),
        },
        "x[1,a,!spatial,!spatial] w[b,a,!spatial,!spatial] s[] z[] t[b] n[b] b[b] y[1,b,!spatial,!spatial]",
    ),
    Case(
        "q = QuantizeLinear(x, s, z)\nv = QuantizeLinear(w, s, z)\ny = MatMulInteger(q, v, z, z)",
        {"x": (3, 4), "w": (4, 5), "s": 0.01, "z": np.array(0, np.uint8)},
        "x[a,b] w[b,c] s[] z[] y[a,c]",
    ),
    Case(
        "q = QuantizeLinear(x, s, z)\nv = QuantizeLinear(w, s, z)\ny = QLinearMatMul(q, s, z, v, s, z, s, z)",
        {"x": (3, 4), "w": (4, 5), "s": 0.05, "z": np.array(0, np.uint8)},
        "x[a,b] w[b,c] s[] z[] y[a,c]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
