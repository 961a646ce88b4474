"""Convolutions, matrix products and Einsum: what is contracted, what passes."""

from __future__ import annotations

import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "y = Conv(x, w, b)",
        {"x": (1, 4, 5, 5), "w": (6, 4, 3, 3), "b": (6,)},
        "x[1,a,!spatial,!spatial] w[b,a,!spatial,!spatial] b[b] y[1,b,!spatial,!spatial]",
    ),
    Case(
        "y = Conv<group = 2>(x, w, b)",
        {"x": (1, 4, 5), "w": (6, 2, 3), "b": (6,)},
        "x[1,(a b),!spatial] w[(a c),b,!spatial] b[(a c)] y[1,(a c),!spatial]",
    ),
    Case(
        "y = Conv<group = 4>(x, w)",
        {"x": (1, 4, 5), "w": (4, 1, 3)},
        "x[1,a,!spatial] w[a,1,!spatial] y[1,a,!spatial]",
    ),
    Case(
        "y = Conv<group = 4>(x, w, b)",
        {"x": (1, 4, 5), "w": (12, 1, 3), "b": (12,)},
        "x[1,a,!spatial] w[(a b),1,!spatial] b[(a b)] y[1,(a b),!spatial]",
    ),
    Case(
        "y = ConvTranspose(x, w, b)",
        {"x": (1, 4, 5), "w": (4, 6, 3), "b": (6,)},
        "x[1,a,!spatial] w[a,b,!spatial] b[b] y[1,b,!spatial]",
    ),
    Case(
        "y = ConvTranspose<group = 2>(x, w, b)",
        {"x": (1, 4, 5), "w": (4, 3, 3), "b": (6,)},
        "x[1,(a b),!spatial] w[(a b),c,!spatial] b[(a c)] y[1,(a c),!spatial]",
    ),
    Case(
        "y = DeformConv(x, w, o, b)",
        {"x": (1, 4, 5, 5), "w": (6, 4, 3, 3), "o": (1, 18, 3, 3), "b": (6,)},
        "x[1,a,!spatial,!spatial] w[b,a,!spatial,!spatial] o[1,!spatial,!spatial,!spatial] b[b] "
        "y[1,b,!spatial,!spatial]",
    ),
    Case(
        "y = DeformConv<offset_group = 2>(x, w, o, , m)",
        {"x": (1, 4, 5, 5), "w": (6, 4, 3, 3), "o": (1, 36, 3, 3), "m": (1, 18, 3, 3)},
        "x[1,(!offset-group a),!spatial,!spatial] w[b,(!offset-group a),!spatial,!spatial] "
        "o[1,!spatial,!spatial,!spatial] m[1,!spatial,!spatial,!spatial] y[1,b,!spatial,!spatial]",
    ),
    Case("y = MatMul(a, b)", {"a": (2, 3, 4), "b": (4, 5)}, "a[a,b,c] b[c,d] y[a,b,d]"),
    Case("y = MatMul(a, b)", {"a": (2, 3, 4), "b": (2, 4, 5)}, "a[a,b,c] b[a,c,d] y[a,b,d]"),
    Case("y = MatMul(a, b)", {"a": (4,), "b": (2, 4, 5)}, "a[a] b[b,a,c] y[b,c]"),
    Case("y = MatMul(a, b)", {"a": (2, 3, 4), "b": (4,)}, "a[a,b,c] b[c] y[a,b]"),
    Case("y = MatMul(a, b)", {"a": (4,), "b": (4,)}, "a[a] b[a] y[]"),
    Case("y = Gemm(a, b, c)", {"a": (2, 4), "b": (4, 5), "c": (5,)}, "a[a,b] b[b,c] c[c] y[a,c]"),
    Case(
        "y = Gemm<transA = 1, transB = 1, alpha = 0.5, beta = 2.0>(a, b, c)",
        {"a": (4, 2), "b": (5, 4), "c": (2, 1)},
        "a[a,b] b[c,a] c[b,1] y[b,c]",
    ),
    Case("y = Gemm(a, b)", {"a": (2, 4), "b": (4, 5)}, "a[a,b] b[b,c] y[a,c]"),
    Case(
        'y = Einsum<equation = "bhid,bhjd->bhij">(a, b)',
        {"a": (2, 3, 4, 5), "b": (2, 3, 6, 5)},
        "a[a,b,c,d] b[a,b,e,d] y[a,b,c,e]",
    ),
    Case(
        'y = Einsum<equation = "...ij,jk">(a, b)', {"a": (2, 3, 4), "b": (4, 5)}, "a[a,b,c] b[c,d] y[a,b,d]"
    ),
    Case(
        'y = Einsum<equation = "...ij,...jk->...ik">(a, b)',
        {"a": (2, 3, 4), "b": (2, 4, 5)},
        "a[a,b,c] b[a,c,d] y[a,b,d]",
    ),
    Case('y = Einsum<equation = "ii->i">(a)', {"a": (4, 4)}, "a[a,a] y[a]"),
    Case('y = Einsum<equation = "ij->ji">(a)', {"a": (3, 4)}, "a[a,b] y[b,a]"),
    Case(
        'y = Einsum<equation = "i,j,ij->ij">(a, b, c)',
        {"a": (3,), "b": (4,), "c": (3, 4)},
        "a[a] b[b] c[a,b] y[a,b]",
    ),
    Case('y = Einsum<equation = "ij->">(a)', {"a": (3, 4)}, "a[a,b] y[]"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
