"""Recurrent layers: all gates, directions and states share the hidden units."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "y = LSTM<hidden_size = 5>(x, w, r, b)",
        {"x": (3, 2, 4), "w": (1, 20, 4), "r": (1, 20, 5), "b": (1, 40)},
        "x[!time,a,b] w[1,(!gate c),b] r[1,(!gate c),c] b[1,(!gate c)] y[!time,1,a,c]",
    ),
    Case(
        'y = LSTM<hidden_size = 5, direction = "bidirectional">(x, w, r, b, n, h, c, p)',
        {
            "x": (3, 2, 4),
            "w": (2, 20, 4),
            "r": (2, 20, 5),
            "b": (2, 40),
            "n": np.array([3, 2], np.int32),
            "h": (2, 2, 5),
            "c": (2, 2, 5),
            "p": (2, 15),
        },
        "x[!time,a,b] w[!direction,(!gate c),b] r[!direction,(!gate c),c] b[!direction,(!gate "
        "c)] n[a] h[!direction,a,c] c[!direction,a,c] p[!direction,(!gate c)] "
        "y[!time,!direction,a,c]",
    ),
    Case(
        "z, h, y = LSTM<hidden_size = 5, input_forget = 1>(x, w, r)",
        {"x": (3, 2, 4), "w": (1, 20, 4), "r": (1, 20, 5)},
        "x[!time,a,b] w[1,(!gate c),b] r[1,(!gate c),c] y[1,a,c]",
    ),
    Case(
        'y = LSTM<hidden_size = 5, activations = ["Sigmoid", "Sigmoid", "Tanh"]>(x, w, r)',
        {"x": (3, 2, 4), "w": (1, 20, 4), "r": (1, 20, 5)},
        "x[!time,a,b] w[1,(!gate c),b] r[1,(!gate c),c] y[!time,1,a,c]",
    ),
    Case(
        "y = GRU<hidden_size = 5>(x, w, r, b)",
        {"x": (3, 2, 4), "w": (1, 15, 4), "r": (1, 15, 5), "b": (1, 30)},
        "x[!time,a,b] w[1,(!gate c),b] r[1,(!gate c),c] b[1,(!gate c)] y[!time,1,a,c]",
    ),
    Case(
        'y = GRU<hidden_size = 5, linear_before_reset = 1, direction = "bidirectional">(x, w, r, b)',
        {"x": (3, 2, 4), "w": (2, 15, 4), "r": (2, 15, 5), "b": (2, 30)},
        "x[!time,a,b] w[!direction,(!gate c),b] r[!direction,(!gate c),c] b[!direction,(!gate "
        "c)] y[!time,!direction,a,c]",
    ),
    Case(
        "y = GRU<hidden_size = 5>(x, w, r, , , h)",
        {"x": (3, 2, 4), "w": (1, 15, 4), "r": (1, 15, 5), "h": np.zeros((1, 2, 5), np.float32)},
        "x[!time,a,b] w[1,(!gate c),b] r[1,(!gate c),c] h[1,a,c] y[!time,1,a,c]",
    ),
    Case(
        "y = RNN<hidden_size = 5>(x, w, r, b)",
        {"x": (3, 2, 4), "w": (1, 5, 4), "r": (1, 5, 5), "b": (1, 10)},
        "x[!time,a,b] w[1,c,b] r[1,c,c] b[1,(!gate c)] y[!time,1,a,c]",
    ),
    Case(
        'z, y = RNN<hidden_size = 5, direction = "reverse">(x, w, r)',
        {"x": (3, 2, 4), "w": (1, 5, 4), "r": (1, 5, 5)},
        "x[!time,a,b] w[1,c,b] r[1,c,c] y[1,a,c]",
    ),
    Case(
        'y = RNN<hidden_size = 5, activations = ["Sigmoid"]>(x, w, r)',
        {"x": (3, 2, 4), "w": (1, 5, 4), "r": (1, 5, 5)},
        "x[!time,a,b] w[1,c,b] r[1,c,c] y[!time,1,a,c]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
