"""Attention and rotary embeddings of opset 23."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "y = Attention(q, k, v)",
        {"q": (2, 4, 3, 6), "k": (2, 4, 5, 6), "v": (2, 4, 5, 6)},
        "q[a,b,!position,c] k[a,b,!position,c] v[a,b,!position,d] y[a,b,!position,d]",
    ),
    Case(
        "y = Attention(q, k, v)",
        {"q": (2, 6, 3, 6), "k": (2, 2, 5, 6), "v": (2, 2, 5, 4)},
        "q[a,(b c),!position,d] k[a,b,!position,d] v[a,b,!position,e] y[a,(b c),!position,e]",
    ),
    Case(
        "y = Attention<is_causal = 1>(q, k, v)",
        {"q": (2, 4, 3, 6), "k": (2, 1, 3, 6), "v": (2, 1, 3, 4)},
        "q[a,b,!position,c] k[a,1,!position,c] v[a,1,!position,d] y[a,b,!position,d]",
    ),
    Case(
        "y = Attention<q_num_heads = 6, kv_num_heads = 2>(q, k, v)",
        {"q": (2, 3, 36), "k": (2, 5, 12), "v": (2, 5, 8)},
        "q[a,!position,(b c d)] k[a,!position,(b d)] v[a,!position,(b e)] y[a,!position,(b c e)]",
    ),
    Case(
        "y = Attention<q_num_heads = 4, kv_num_heads = 2, softcap = 2.0, scale = 0.3>(q, k, v, m)",
        {"q": (2, 3, 24), "k": (2, 5, 12), "v": (2, 5, 8), "m": (3, 5)},
        "q[a,!position,(b c d)] k[a,!position,(b d)] v[a,!position,(b e)] m[!position,!position] "
        "y[a,!position,(b c e)]",
    ),
    Case(
        "y = Attention(q, k, v, m)",
        {"q": (2, 4, 3, 6), "k": (2, 2, 5, 6), "v": (2, 2, 5, 4), "m": (4, 3, 5)},
        "q[a,(b c),!position,d] k[a,b,!position,d] v[a,b,!position,e] m[(b "
        "c),!position,!position] y[a,(b c),!position,e]",
    ),
    Case(
        "y, pk, pv, sc = Attention(q, k, v)",
        {"q": (2, 4, 3, 6), "k": (2, 4, 5, 6), "v": (2, 4, 5, 4)},
        "q[a,b,!position,c] k[a,b,!position,c] v[a,b,!position,d] y[a,b,!position,d]",
    ),
    Case(
        "z, y, pv = Attention(q, k, v)",
        {"q": (2, 4, 3, 6), "k": (2, 2, 5, 6), "v": (2, 2, 5, 4)},
        "q[a,(!cache b),!position,!cache] k[a,!cache,!position,!cache] v[a,!cache,!position,c] "
        "y[a,!cache,!position,!cache]",
    ),
    Case(
        "z, pk, pv, y = Attention(q, k, v)",
        {"q": (2, 4, 3, 6), "k": (2, 2, 5, 6), "v": (2, 2, 5, 4)},
        "q[a,(!scores !scores),!position,b] k[a,!scores,!position,b] v[a,!scores,!position,c] "
        "y[a,(!scores !scores),!position,!position]",
    ),
    Case(
        "y = RotaryEmbedding(x, c, s)",
        {"x": (2, 3, 4, 8), "c": (2, 4, 4), "s": (2, 4, 4)},
        "x[a,b,c,(d|d)] c[a,c,d] s[a,c,d] y[a,b,c,(d|d)]",
    ),
    Case(
        "y = RotaryEmbedding<interleaved = 1>(x, c, s)",
        {"x": (2, 3, 4, 8), "c": (2, 4, 4), "s": (2, 4, 4)},
        "x[a,b,c,(d !rotated-pair)] c[a,c,d] s[a,c,d] y[a,b,c,(d !rotated-pair)]",
    ),
    Case(
        "y = RotaryEmbedding<num_heads = 3, rotary_embedding_dim = 4>(x, c, s)",
        {"x": (2, 4, 24), "c": (2, 4, 2), "s": (2, 4, 2)},
        "x[a,b,(c ((d|d)|e))] c[a,b,d] s[a,b,d] y[a,b,(c ((d|d)|e))]",
    ),
    Case(
        "y = RotaryEmbedding<num_heads = 3, interleaved = 1, rotary_embedding_dim = 4>(x, c, s, p)",
        {"x": (2, 4, 24), "c": (9, 2), "s": (9, 2), "p": np.arange(0, 8, dtype=np.int64).reshape(2, 4)},
        "x[a,b,(c ((d !rotated-pair)|e))] c[!position,d] s[!position,d] p[a,b] y[a,b,(c ((d "
        "!rotated-pair)|e))]",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
