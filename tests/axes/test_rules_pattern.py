"""Rules of custom ops from patterns, and the table that they join."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from axis_graphs import Weights, model_of, pattern_of

import sparsecc
from sparsecc.axes.analysis import Analysis, analyse
from sparsecc.axes.exactness import check_exactness
from sparsecc.axes.rules import registry
from sparsecc.axes.rules.registry import FAMILIES, Zero, all_rules, rule_for
from sparsecc.errors import UsageError


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    """Rules that a test registers are gone after it."""
    all_rules()
    before = dict(registry._RULES)  # pyright: ignore[reportPrivateUsage]
    yield
    registry._RULES.clear()  # pyright: ignore[reportPrivateUsage]
    registry._RULES.update(before)  # pyright: ignore[reportPrivateUsage]


def analysed(
    pattern: str, weights: Weights, shape: tuple[int, ...], zero: str = "lost", outputs: str = "y"
) -> Analysis:
    """A node my::Op of the weights in front of the rule of a pattern; ONNX Runtime does not know it."""
    sparsecc.register_rule("my::Op", pattern, zero)
    model = model_of(f"{outputs} = my.Op({', '.join(weights)})", weights)
    for value in next(node for node in model.graph if node.domain == "my").outputs:
        value.shape = ir.Shape(shape)
        value.dtype = ir.DataType.FLOAT
    return analyse(model)


@pytest.mark.parametrize(
    ("pattern", "weights", "shape", "expected"),
    [
        (
            "x[n,c,*s] k[c] -> y[n,c,*s]",
            {"x": (2, 3, 4, 5), "k": (3,)},
            (2, 3, 4, 5),
            "x[a,b,c,d] k[b] y[a,b,c,d]",
        ),
        ("x[n,c] -> y[c,n]", {"x": (2, 3)}, (3, 2), "x[a,b] y[b,a]"),
        ("x[n,c!] -> y[n,c]", {"x": (2, 3)}, (2, 3), "x[a,!pattern] y[a,!pattern]"),
        ("x[n,c] -> y[n,c!]", {"x": (2, 3)}, (2, 3), "x[a,!pattern] y[a,!pattern]"),
        ("x[n,c~] k[c] -> y[n,c]", {"x": (2, 3), "k": (3,)}, (2, 3), "x[a,b~] k[b~] y[a,b~]"),
        ("x[n,1,c] -> y[n,c]", {"x": (2, 1, 3)}, (2, 3), "x[a,1,b] y[a,b]"),
        ("x[n] k[] -> y[n]", {"x": (3,), "k": 2.0}, (3,), "x[a] k[] y[a]"),
        ("x[n,c] bias[c] scale[c] -> y[n,c]", {"x": (2, 3), "bias": (3,)}, (2, 3), "x[a,b] bias[b] y[a,b]"),
        ("x[n] -> y[n,t]", {"x": (2,)}, (2, 7), "x[a] y[a,!new-axis]"),
        ("x[n,c] -> y[n]", {"x": (2, 3)}, (2,), "x[a,!pattern] y[a]"),
        ("x[n,*s] -> y[n,*t]", {"x": (2, 3, 4)}, (2, 6), "x[a,!pattern,!pattern] y[a,!new-axis]"),
        (
            "x[n,(g i),*s!] w[(g o),i,*k!] h[g] -> y[n,(g o),*t!]",
            {"x": (1, 6, 5), "w": (9, 2, 3), "h": (3,)},
            (1, 9, 3),
            "x[1,(a !pattern),!pattern] w[(a b),!pattern,!pattern] h[a] y[1,(a b),!new-axis]",
        ),
        ("x[(h d)] k[h] -> y[h,d]", {"x": (12,), "k": (3,)}, (3, 4), "x[(a b)] k[a] y[a,b]"),
        ("x[h,d] -> y[(h d)]", {"x": (3, 4)}, (12,), "x[a,b] y[(a b)]"),
        ("x[h] -> y[(h d)]", {"x": (3,)}, (12,), "x[a] y[(a !new-axis)]"),
    ],
)
def test_axes(pattern: str, weights: Weights, shape: tuple[int, ...], expected: str) -> None:
    analysis = analysed(pattern, weights, shape)
    assert not analysis.uncovered
    assert pattern_of(analysis, [*weights, "y"]) == expected


def test_several_outputs() -> None:
    analysis = analysed("x[n,c] -> y[n,c] z[c,n] t[n]", {"x": (3, 3)}, (3, 3), outputs="y, z")
    assert pattern_of(analysis, ["x", "y", "z"]) == "x[a,b] y[a,b] z[b,a]"


def test_an_op_that_sums_contracts() -> None:
    shapes = {"x": (2, 3), "w": (4, 3)}
    analysis = analysed("x[n,i] w[o,i] -> y[n,o]", shapes, (2, 4), "contraction")
    assert pattern_of(analysis, ["x", "w", "y"]) == "x[a,b] w[c,b] y[a,c]"
    facts = next(facts for node, facts in analysis.facts.items() if node.domain == "my")
    assert facts.contracted == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("zero", "statistics"), [("reduction", ()), ("statistic", (1,))])
def test_an_op_that_reduces_loses_the_axis(zero: str, statistics: tuple[int, ...]) -> None:
    analysis = analysed("x[n,c] -> y[n]", {"x": (2, 3)}, (2,), zero)
    facts = next(facts for node, facts in analysis.facts.items() if node.domain == "my")
    assert facts.reduced == (1,)
    assert facts.statistics == statistics
    assert pattern_of(analysis, ["x", "y"]) == ("x[a,b~] y[a]" if statistics else "x[a,b] y[a]")


@pytest.mark.parametrize(("zero", "exact"), [("keeps", True), ("lost", False)])
def test_zero_decides_what_a_sum_after_it_may_lose(zero: str, exact: bool) -> None:
    analysis = analysed("x[n,c] -> y[n,c]", {"x": (2, 3)}, (2, 3), zero)
    assert bool(check_exactness(analysis).inexact) is not exact


@pytest.mark.parametrize(
    ("pattern", "weights", "shape", "says"),
    [
        ("x[n,c] -> y[n,c]", {"x": (2, 3, 4)}, (2, 3, 4), "x has 3 axes, its pattern 2"),
        ("x[n] -> y[n]", {"x": (3,), "k": (3,)}, (3,), "its pattern has 1 inputs"),
        ("x[n] k[n] -> y[n]", {"x": (3,), "k": (4,)}, (3,), "axis n has the sizes 3 and 4"),
        ("x[n,*s] k[*s] -> y[n]", {"x": (3, 2), "k": (4,)}, (3,), "different sizes"),
        ("x[(a b)] -> y[(a b)]", {"x": (12,)}, (12,), "a and b cannot be told apart"),
        ("x[(a b)] k[a] -> y[(a b)]", {"x": (12,), "k": (5,)}, (12,), "no product of a and b"),
        ("x[n,1] -> y[n]", {"x": (3, 2)}, (3,), "size 2, not 1"),
        ("x[n] -> y[n]", {"x": (3,)}, (4,), "its pattern does not give"),
        ("x[n] -> y[n,(a b)]", {"x": (3,)}, (3, 4), "cannot be told apart"),
    ],
)
def test_a_node_that_does_not_fit_is_frozen_with_the_reason(
    pattern: str, weights: Weights, shape: tuple[int, ...], says: str
) -> None:
    analysis = analysed(pattern, weights, shape)
    (why,) = analysis.uncovered.values()
    assert says in why.reason
    assert "!no-rule" in pattern_of(analysis, ["x", "y"])


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("x[n]", "one arrow"),
        ("x[n] -> y[n] -> z[n]", "one arrow"),
        (" -> y[n]", "at least one input and one output"),
        ("x[n] ->", "at least one input and one output"),
        ("x -> y[n]", "expected an operand such as x[n,c] at 'x'"),
        ("x[n,,c] -> y[n]", "instead of ''"),
        ("x[n,2] -> y[n]", "instead of '2'"),
        ("x[*] -> y[n]", "instead of '*'"),
        ("x[(n)] -> y[n]", "two or more names in '(n)'"),
        ("x[(n 2)] -> y[n]", "two or more names in '(n 2)'"),
        ("x[*(n c)] -> y[n]", "only names can have"),
        ("x[1!] -> y[1]", "only names can have"),
        ("x[*s,*t] -> y[*s]", "more than one *"),
        ("x[s,*s] -> y[s]", "s is one axis and *s many"),
        ("x[n] x[n] -> y[n]", "two operands have the name x"),
        ("x[n] k[n~] -> y[n]", "only axes of the first input can have ~"),
    ],
)
def test_patterns_that_cannot_be_read(pattern: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        sparsecc.register_rule("my::Op", pattern)
    assert says in str(raised.value)
    assert pattern in str(raised.value)


@pytest.mark.parametrize(
    ("op", "zero", "says"),
    [
        ("Op", "lost", "domain::Name"),
        ("::Op", "lost", "domain::Name"),
        ("my::Op", "sometimes", "keeps"),
        ("my::Op", "recurrent", "zero behaviour"),
    ],
)
def test_rules_that_cannot_be_added(op: str, zero: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        sparsecc.register_rule(op, "x[n] -> y[n]", zero)


def test_a_later_rule_replaces_an_earlier_one() -> None:
    sparsecc.register_rule("my::Op", "x[n] -> y[n]")
    sparsecc.register_rule("my::Op", "x[n!] -> y[n]", "keeps")
    row = rule_for("my", "Op")
    assert row is not None
    assert (row.pattern, row.zero, row.family) == ("x[n!] -> y[n]", Zero.KEEPS, "user")


def test_an_op_without_a_rule_freezes_what_it_touches() -> None:
    model = model_of("y = my.Unknown(x)", {"x": np.ones((2, 3), np.float32)})
    node = next(node for node in model.graph if node.domain == "my")
    node.outputs[0].shape = ir.Shape((2, 3))
    node.outputs[0].dtype = ir.DataType.FLOAT
    analysis = analyse(model)
    assert pattern_of(analysis, ["x", "y"]) == "x[!no-rule,!no-rule] y[!no-rule,!no-rule]"
    assert "my::Unknown" in analysis.uncovered[node].reason


def test_training_dropout_is_not_covered() -> None:
    weights: Weights = {"x": (2, 3), "ratio": 0.5, "training": np.array(True)}
    analysis = analyse(model_of("y = Dropout(x, ratio, training)", weights))
    (why,) = analysis.uncovered.values()
    assert "training mode" in why.reason


UNTESTED = {
    # ONNX Runtime has no kernel of them, or none at all at opset 23.
    *("BitCast", "CumProd", "Swish", "TensorScatter", "StringConcat", "StringNormalizer", "StringSplit"),
    *("RegexFullMatch", "TfIdfVectorizer", "AffineGrid", "Bernoulli", "SequenceMap", "Scan", "Loop"),
    # Always constant unless data decides a size.
    *("Constant", "ConstantOfShape", "Shape", "Size", "Range", "HannWindow", "HammingWindow"),
    *("BlackmanWindow", "MelWeightMatrix", "RandomNormal", "RandomUniform"),
    # As others of their row.
    *("RandomUniformLike", "NonMaxSuppression", "Scatter", "Upsample"),
}


def test_every_row_is_tested_or_says_why_not() -> None:
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_rules_*.py"))
    for row in all_rules():
        unary = row.pattern == "x[*s] -> y[*s]" and row.op not in UNTESTED
        tested = unary or any(
            f"{mark}{row.op}{end}" in texts for mark in ("= ", "microsoft.") for end in "(<"
        )
        assert tested is not (row.op in UNTESTED), row.op


def test_rows_are_complete() -> None:
    rows = all_rules()
    assert len(rows) >= 190
    for row in rows:
        assert row.family in FAMILIES
        assert row.pattern
        assert row.axes.__doc__
