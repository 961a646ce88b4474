"""Sparse weights from data: solvers against least squares and each other, layers in networks, bad input."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import graph
from test_round_to_outputs import NETWORKS, inputs

import sparsecc
from sparsecc.errors import UsageError
from sparsecc.ir import evaluate, verify
from sparsecc.ir.encoding import Encoding, as_matrix, fits, get_encoding
from sparsecc.ir.weights import weight_uses
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.one_shot import OneShot, one_shot
from sparsecc.passes.one_shot_solvers import SOLVERS, Inputs, Problem, refit, sparsegpt, wanda
from sparsecc.passes.sparsify import Sparsify, keep_mask

PATTERNS = ["unstructured", "2:4", "2x1", "4x1", "4x4", "fan-in"]


def problem(pattern: str, outputs: int = 24, columns: int = 32, seed: int = 0, zeros: float = 0.0) -> Problem:
    """Correlated inputs of different scale in two groups."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((2, outputs, columns)) * (rng.random((2, outputs, columns)) >= zeros)
    mixing = rng.standard_normal((2, columns, columns)) * rng.uniform(0.1, 3, (2, 1, columns))
    inputs = rng.standard_normal((2, 4 * columns, columns)) @ mixing
    return dense_problem(weights, inputs.swapaxes(1, 2) @ inputs, pattern)


def dense_problem(weights: np.ndarray, gram: np.ndarray, pattern: str, damping: float = 0.01) -> Problem:
    """Half of the weights go, and the outputs of the dense ones are wanted."""
    return Problem.of(weights, Inputs(gram, damping), weights @ gram, Encoding.parse(pattern), 0.5)


def magnitude(case: Problem) -> np.ndarray:
    return np.where(case.keep(case.weights), case.weights, 0)


BLOCKS = ["2x1", "4x1", "4x4"]


@pytest.mark.parametrize(
    ("method", "pattern"),
    [(m, p) for m in SOLVERS for p in PATTERNS if not (m == "dsnot" and p in BLOCKS)],
)
def test_zeros_follow_the_pattern(method: str, pattern: str) -> None:
    case = problem(pattern)
    matrix = SOLVERS[method](case).reshape(48, 32)
    assert np.isfinite(matrix).all()
    assert fits(matrix, case.encoding)
    assert np.count_nonzero(matrix) == matrix.size // 2


@pytest.mark.parametrize("method", SOLVERS)
def test_zeros_stay(method: str) -> None:
    case = problem("unstructured", zeros=0.3)
    found = SOLVERS[method](case)
    assert not found[case.weights == 0].any()
    assert abs(np.mean(found == 0) - 0.5) < 0.02


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", SOLVERS)
def test_an_input_that_never_changes(method: str) -> None:
    """Its variance may be rounded to a little below 0."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((1, 128, 32))
    gram = inputs.swapaxes(1, 2) @ inputs
    gram[:, 5], gram[:, :, 5] = 0, 0
    gram[:, 5, 5] = -1e-7
    case = dense_problem(rng.standard_normal((1, 24, 32)), gram, "unstructured")
    found = SOLVERS[method](case)
    assert np.isfinite(found).all()
    assert np.count_nonzero(found) <= found.size // 2


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_method_beats_the_one_before(pattern: str, seed: int) -> None:
    case = problem(pattern, seed=seed)
    errors = [
        case.error(magnitude(case)),
        *(case.error(SOLVERS[m](case)) for m in ("wanda", "sparsegpt", "alps")),
    ]
    assert errors == sorted(errors, reverse=True)


def test_independent_inputs_are_magnitude() -> None:
    """With H = I nothing can be made up for, and what is least goes."""
    weights = np.random.default_rng(0).standard_normal((1, 8, 32))
    case = dense_problem(weights, np.eye(32)[None] * 7, "4x1")
    for name, method in SOLVERS.items():
        if name != "dsnot":
            np.testing.assert_allclose(method(case), magnitude(case), atol=1e-5)


def test_wanda_by_hand() -> None:
    weights = np.array([[[3.0, 2.0, -1.0, 4.0], [1.0, 1.0, 1.0, 1.0]]])
    gram = np.diag([1.0, 9.0, 100.0, 0.01])[None]
    case = dense_problem(weights, gram, "unstructured", 1e-9)
    assert np.array_equal(wanda(case), [[[0, 2, -1, 0], [0, 1, 1, 0]]])


def test_gradients_decide_where_inputs_do_not() -> None:
    """|w| (norm of the input + norm of the gradient), each over its root mean square."""
    weights, slopes = np.ones((1, 1, 4)), np.array([[[3.0, 0, 1, 0]]])
    case = Problem.of(
        weights,
        Inputs(np.diag([1.0, 4, 4, 1])[None], 1e-9),
        weights,
        Encoding.parse("unstructured"),
        0.5,
        slopes,
    )
    assert np.array_equal(SOLVERS["gblm"](case), [[[1, 0, 1, 0]]])
    assert np.array_equal(wanda(case), [[[0, 1, 1, 0]]])


def means(case: Problem, found: np.ndarray) -> np.ndarray:
    """Error of the mean of each output."""
    return np.abs(((found - case.weights) * case.inputs.mean).sum(axis=2))


@pytest.mark.parametrize(("pattern", "left"), [("unstructured", 0.3), ("2:4", 0.7)])
def test_exchanges_bring_means_nearer_and_keep_counts(pattern: str, left: float) -> None:
    rng = np.random.default_rng(0)
    weights, data = rng.standard_normal((1, 24, 32)), rng.standard_normal((200, 32)) + rng.uniform(-2, 2, 32)
    gram, mean = (data.T @ data)[None], data.sum(axis=0)[None, None] / np.sqrt(200)
    case = Problem.of(weights, Inputs(gram, 0.01, mean), weights @ gram, Encoding.parse(pattern), 0.5)
    before, after = wanda(case), SOLVERS["dsnot"](case)
    assert np.array_equal((before != 0).sum(axis=2), (after != 0).sum(axis=2))
    assert np.array_equal(after, np.where(after != 0, weights, 0))
    assert (means(case, after) <= means(case, before)).all()
    assert means(case, after).mean() < left * means(case, before).mean()
    with pytest.raises(UsageError, match="exchanges single weights"):
        SOLVERS["dsnot"](problem("4x1"))


def test_refit_is_least_squares_on_the_support() -> None:
    case = problem("unstructured")
    keep = np.random.default_rng(1).random(case.weights.shape) < 0.4
    found = refit(case.weights, keep, case.gram, case.target, steps=500)
    assert not found[~keep].any()
    for group, row in itertools.product(range(2), range(24)):
        support = np.flatnonzero(keep[group, row])
        exact = np.linalg.solve(case.gram[group][np.ix_(support, support)], case.target[group, row, support])
        np.testing.assert_allclose(found[group, row, support], exact, rtol=1e-3, atol=1e-4)


def test_sparsegpt_is_the_sequence_of_exact_updates() -> None:
    """Removing one weight after the other as optimal brain surgeons do, zeros chosen beforehand."""
    case = problem("unstructured", outputs=3, columns=12)
    found = sparsegpt(case)
    for group, row in itertools.product(range(2), range(3)):
        weights, inverse = case.weights[group, row].copy(), np.linalg.inv(case.gram[group])
        for column in range(12):
            if found[group, row, column] == 0:
                weights -= weights[column] / inverse[0, 0] * np.concatenate([np.zeros(column), inverse[0]])
            inverse = (inverse - np.outer(inverse[0], inverse[0]) / inverse[0, 0])[1:, 1:]
        np.testing.assert_allclose(found[group, row], weights, atol=1e-8)


def test_alps_finds_the_best_support_of_small_problems() -> None:
    """Of all 20 supports of 3 of 6 weights, in most problems."""
    best = 0
    for seed in range(30):
        case = problem("unstructured", outputs=1, columns=6, seed=seed)
        one = Problem(case.weights[:1], Inputs(case.gram[:1], 1e-12), case.target[:1], case.encoding, 0.5)
        errors: list[float] = []
        for support in itertools.combinations(range(6), 3):
            chosen = list(support)
            weights = np.zeros((1, 1, 6))
            weights[0, 0, chosen] = np.linalg.solve(
                one.gram[0][np.ix_(chosen, chosen)], one.target[0, 0, chosen]
            )
            errors.append(one.error(weights))
        found = one.error(SOLVERS["alps"](one))
        assert found >= min(errors) - 1e-6 * abs(min(errors))
        best += found <= min(errors) + 1e-4 * abs(min(errors))
    assert best >= 20


def test_masks_are_those_of_magnitude() -> None:
    matrix = np.random.default_rng(0).standard_normal((10, 12)).astype(np.float32)
    for pattern in PATTERNS:
        keep = keep_mask(matrix, Encoding.parse(pattern), 0.5)
        assert keep.shape == matrix.shape
        assert fits(np.where(keep, matrix, 0), Encoding.parse(pattern))


def lost(model: ir.Model, dense: ir.Model, shape: tuple[int, ...]) -> float:
    """Squared error of outputs on other data over the outputs' squares."""
    error = total = 0.0
    for batch in inputs(shape, 4, seed=50):
        wanted, found = evaluate(dense, batch)["y"], evaluate(model, batch)["y"]
        error += float(np.sum(np.square(wanted - found, dtype=np.float64)))
        total += float(np.sum(np.square(wanted - wanted.mean(), dtype=np.float64)))
    return error / total


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("pattern", ["unstructured", "2x1"])
def test_networks(name: str, pattern: str) -> None:
    """Groups, strides, biases of both kinds, weights that are used twice: less is lost than by magnitude."""
    text, weights, shape = NETWORKS[name]
    model = graph(text, weights)
    data = Calibration(inputs(shape, 12))
    item = Sparsify(pattern=pattern, sparsity=0.5, min_size=0)
    plain = sparsecc.sparsify(model, pattern, 0.5, min_size=0)
    losses = {"magnitude": lost(plain.model, model, shape)}
    for method in SOLVERS:
        if method == "dsnot" and pattern in BLOCKS:
            continue
        found = model.clone()
        result = one_shot(model, found, item, data, OneShot(method))
        assert not verify(found)
        assert [r.code for r in result.refusals] == [r.code for r in plain.refusals]
        for use in weight_uses(found):
            if not use.depthwise:
                matrix = as_matrix(use.value.const_value.numpy(), use.axis)  # pyright: ignore[reportOptionalMemberAccess]
                assert fits(matrix, Encoding.parse(pattern))
                assert str(get_encoding(use.value, use.axis)) == pattern
                assert abs(np.mean(matrix == 0) - 0.5) < 0.1
        losses[method] = lost(found, model, shape)
    assert losses["alps"] < 0.5 * losses["magnitude"]
    assert losses["sparsegpt"] < losses["magnitude"]


def test_errors_of_the_layers_before_are_repaired() -> None:
    text, weights, shape = NETWORKS["linear"]
    model = graph(text, weights)
    losses: list[float] = []
    for regress in (True, False):
        found = model.clone()
        item = Sparsify(pattern="unstructured", sparsity=0.5, min_size=0)
        one_shot(model, found, item, Calibration(inputs(shape, 12)), OneShot(regress=regress))
        losses.append(lost(found, model, shape))
    assert losses[0] < losses[1]


def test_what_is_sparse_already_stays() -> None:
    text, weights, shape = NETWORKS["linear"]
    model = graph(text, weights)
    data = Calibration(inputs(shape, 4))
    once = sparsecc.sparsify(model, "4x1", 0.5, min_size=0, method="alps", calibration=data)
    again = sparsecc.sparsify(once.model, "4x1", 0.5, min_size=0, method="alps", calibration=data)
    assert once.zeros == again.zeros > 0.45
    for batch in inputs(shape, 2, seed=7):
        a, b = evaluate(once.model, batch)["y"], evaluate(again.model, batch)["y"]
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2 * np.abs(a).max())


def test_bad_input() -> None:
    text, weights, shape = NETWORKS["linear"]
    model = graph(text, weights)
    data = Calibration(inputs(shape, 1))
    with pytest.raises(UsageError, match="needs calibration data"):
        sparsecc.sparsify(model, method="alps")
    with pytest.raises(UsageError, match="needs no calibration data"):
        sparsecc.sparsify(model, calibration=data)
    with pytest.raises(UsageError, match="one of magnitude, wanda, gblm, dsnot, sparsegpt, alps, not 'obs'"):
        sparsecc.sparsify(model, method="obs", calibration=data)
    with pytest.raises(UsageError, match="global scope is for magnitude"):
        sparsecc.sparsify(model, "4x1", 0.5, scope="global", method="alps", calibration=data)
    nan = {"x": np.full(shape, np.nan, np.float32)}
    with pytest.raises(UsageError, match="holds NaN"):
        sparsecc.sparsify(model, method="alps", calibration=Calibration([nan]))
