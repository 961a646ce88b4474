"""Scores of groups: criteria of weights against formulas written out, votes, scales, names and refusals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from criteria_graphs import CNN, CNN_WEIGHTS, array, mlp
from pass_graphs import Weights, graph

from sparsecc.axes.groups import GroupAxis, Groups, groups
from sparsecc.capture import capture
from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.passes.criteria import (
    Criterion,
    Evidence,
    Vote,
    criterion_names,
    get_criterion,
    group_scores,
    register_criterion,
)
from sparsecc.passes.criteria.base import scatter
from sparsecc.passes.criteria.magnitude import sum_of_distances


def cnn(**changed: np.ndarray) -> Groups:
    """Groups of the small network with some weights replaced, `__` for a dot."""
    weights: Weights = {**CNN_WEIGHTS, **{name.replace("__", "."): value for name, value in changed.items()}}
    return groups(graph(CNN, weights))


def axis_norm(weight: np.ndarray, axis: int, order: int) -> np.ndarray:
    """Norm of each slice, one slice after the other."""
    weight = weight.astype(np.float64)
    return np.array(
        [np.linalg.norm(np.take(weight, i, axis).ravel(), order) for i in range(weight.shape[axis])]
    )


def votes_of_first_layer(found: Groups, order: int) -> list[np.ndarray]:
    """What every parameter says about the channels of the first layer."""
    places = [("a.weight", 0), ("a.bias", 0), ("n.scale", 0), ("n.bias", 0), ("c.weight", 1)]
    return [axis_norm(array(found.model, name), axis, order) for name, axis in places]


@pytest.mark.parametrize(("criterion", "order"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("aggregation", ["sum", "mean", "max"])
def test_norms(criterion: str, order: int, aggregation: str) -> None:
    found = cnn()
    votes = np.stack(votes_of_first_layer(found, order))
    expected = {"sum": votes.sum(0), "mean": votes.mean(0), "max": votes.max(0)}[aggregation]
    scores = group_scores(found, criterion, aggregation=aggregation, normalization="none")
    assert list(scores) == ["a.channels", "c.channels"]
    assert scores["a.channels"].dtype == np.float64
    np.testing.assert_allclose(scores["a.channels"], expected, rtol=1e-12)


@pytest.mark.parametrize("normalization", ["none", "mean", "max", "sum", "l2"])
def test_normalization_divides_each_group_by_one_number(normalization: str) -> None:
    found = cnn()
    plain = group_scores(found, "l1", normalization="none")
    for name, scores in group_scores(found, "l1", normalization=normalization).items():
        raw = plain[name]
        divisors = {
            "none": 1.0,
            "mean": raw.sum() / raw.size,
            "max": max(raw),
            "sum": sum(raw),
            "l2": np.sqrt(raw @ raw),
        }
        np.testing.assert_allclose(scores, raw / divisors[normalization], rtol=1e-12)


def test_running_statistics_do_not_vote() -> None:
    before = group_scores(cnn(), "l2", normalization="none")
    moved = cnn(n__mean=np.full(8, 1e6, np.float32), n__variance=np.full(8, 1e6, np.float32))
    after = group_scores(moved, "l2", normalization="none")
    for name, scores in before.items():
        np.testing.assert_array_equal(after[name], scores)


def test_distances_to_all_others() -> None:
    weight = np.random.default_rng(0).standard_normal((300, 2, 3)) + 5
    expected = [sum(float(np.linalg.norm(own - other)) for other in weight) for own in weight]
    np.testing.assert_allclose(sum_of_distances(weight, 0), expected, rtol=1e-10)
    np.testing.assert_allclose(sum_of_distances(weight.transpose(1, 0, 2), 1), expected, rtol=1e-10)


def test_geometric_median_removes_what_has_a_double() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    weight[5] = weight[2] * np.float32(1.001)
    reader = np.random.default_rng(1).standard_normal((6, 8, 3, 3)).astype(np.float32)
    reader[:, 5] = reader[:, 2] * np.float32(1.001)
    found = cnn(a__weight=weight, c__weight=reader)
    scores = group_scores(found, "fpgm", normalization="none")
    distances = [axis_distances(weight, 0), axis_distances(reader, 1)]
    (first,) = [scores[group.name] for group in found.prunable if "a.weight" in group.parameters]
    np.testing.assert_allclose(first, np.mean(distances, axis=0), rtol=1e-10)


def axis_distances(weight: np.ndarray, axis: int) -> np.ndarray:
    """Sum of distances of each slice to all others, pair by pair."""
    slices = np.moveaxis(weight.astype(np.float64), axis, 0)
    return np.array([sum(np.linalg.norm((own - other).ravel()) for other in slices) for own in slices])


def test_batch_norm_scale_and_what_it_says_nothing_about() -> None:
    found = cnn()
    refusals: list[Refusal] = []
    scores = group_scores(found, "bn-scale", normalization="none", refusals=refusals)
    norms = group_scores(found, "l2", normalization="none")
    first, second = found.prunable
    np.testing.assert_array_equal(
        scores[first.name], np.abs(array(found.model, "n.scale")).astype(np.float64)
    )
    np.testing.assert_array_equal(scores[second.name], norms[second.name])
    assert [(refusal.where, refusal.code) for refusal in refusals] == [(second.name, "no-vote")]
    assert "scored by l2" in refusals[0].reason


def test_random_depends_on_seed_and_group_only() -> None:
    found = cnn()
    first, second = group_scores(found, "random", seed=3), group_scores(cnn(), "random", seed=3)
    for name, scores in first.items():
        np.testing.assert_array_equal(scores, second[name])
        assert len(set(scores)) == len(scores)
    other = group_scores(found, "random", seed=4)
    assert all((scores != other[name]).all() for name, scores in first.items())


def test_scatter_follows_labels() -> None:
    labels = (np.array([0, 0, -1, 2, 2]), np.array([-1, 1, 1, -1, 2]))
    sums = scatter(np.array([1.0, 2, 4, 8, 16]), GroupAxis("w", 0, labels), 4)
    assert sums.tolist() == [3, 6, 40, 0]


def test_heads_are_scored_whole() -> None:
    text = """(float[2,7,12] x) => (float y) {
        q = MatMul(x, q__weight)  s = Reshape(q, shape)  t = Transpose<perm=[0,2,1,3]>(s)
        k = MatMul(x, k__weight)  l = Reshape(k, shape)  u = Transpose<perm=[0,2,3,1]>(l)
        a = MatMul(t, u)  p = Softmax(a)
        v = MatMul(x, v__weight)  w = Reshape(v, shape)  z = Transpose<perm=[0,2,1,3]>(w)
        c = MatMul(p, z)  d = Transpose<perm=[0,2,1,3]>(c)  e = Reshape(d, flat)
        y = MatMul(e, o__weight) }"""
    shapes: Weights = {f"{name}.weight": (12, 12) for name in "qkvo"}
    found = groups(graph(text, {**shapes, "shape": [2, 7, 3, 4], "flat": [2, 7, 12]}))
    (heads,) = [group for group in found.prunable if group.size == 3]
    scores = group_scores(found, "l1", normalization="none", aggregation="sum")[heads.name]
    expected = np.zeros(3)
    for name in "qkvo":
        weight = np.abs(array(found.model, f"{name}.weight").astype(np.float64))
        expected += (weight.sum(1) if name == "o" else weight.sum(0)).reshape(3, 4).sum(1)
    np.testing.assert_allclose(scores, expected, rtol=1e-12)


@dataclass(frozen=True)
class Third(Criterion):
    """Sum of |w|³."""

    name: ClassVar[str] = "third"
    summary: ClassVar[str] = "sum of cubes"

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per axis."""
        return evidence.elementwise(lambda _, rows, __: np.abs(rows) ** 3)


def test_a_criterion_of_ones_own() -> None:
    model, w, v = mlp()
    register_criterion("third", Third)
    register_criterion("third", Third)
    assert "third" in criterion_names() and get_criterion("third") is Third
    (scores,) = group_scores(groups(model), "third", normalization="none").values()
    np.testing.assert_allclose(scores, ((np.abs(w) ** 3).sum(0) + (np.abs(v) ** 3).sum(1)) / 2, rtol=1e-12)
    with pytest.raises(UsageError, match="'l2' is taken"):
        register_criterion("l2", Third)
    with pytest.raises(UsageError, match="must be a subclass"):
        register_criterion("fourth", int)  # pyright: ignore[reportArgumentType]


def test_all_names_give_their_class() -> None:
    for name in ("l1", "l2", "fpgm", "bn-scale", "random", "taylor", "snip", "grasp", "crop", "obspa"):
        assert name in criterion_names()
        assert get_criterion(name).name == name


def test_bad_options() -> None:
    found = cnn()
    with pytest.raises(UsageError, match="there is no criterion 'l3'; criteria are bn-scale, crop"):
        group_scores(found, "l3")
    with pytest.raises(UsageError, match="aggregation is one of sum, mean, max, not 'median'"):
        group_scores(found, aggregation="median")
    with pytest.raises(UsageError, match="normalization is one of none, mean"):
        group_scores(found, normalization="std")
    with pytest.raises(UsageError, match="criterion taylor needs calibration data"):
        group_scores(found, "taylor")


@dataclass(frozen=True)
class Endless(Criterion):
    """Infinity for every index."""

    name: ClassVar[str] = "endless"
    summary: ClassVar[str] = "infinity"

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per group."""
        return [Vote(group.name, np.full(group.size, np.inf)) for group in evidence.wanted]


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(VerificationError, match=r"criterion endless gave scores of group .* not finite"):
        group_scores(cnn(), Endless())


@dataclass(frozen=True)
class Nothing(Criterion):
    """Zero for every index."""

    name: ClassVar[str] = "nothing"
    summary: ClassVar[str] = "zero"

    def votes(self, evidence: Evidence) -> Iterable[Vote]:
        """One vote per group."""
        return [Vote(group.name, np.zeros(group.size)) for group in evidence.wanted]


@pytest.mark.parametrize("aggregation", ["sum", "mean", "max"])
def test_a_group_of_zeros_is_scored_by_l2(aggregation: str) -> None:
    found = cnn()
    refusals: list[Refusal] = []
    scores = group_scores(found, Nothing(), aggregation=aggregation, refusals=refusals)
    for name, expected in group_scores(found, "l2", aggregation=aggregation).items():
        np.testing.assert_array_equal(scores[name], expected)
    assert [refusal.where for refusal in refusals] == list(scores)


def test_nothing_to_score() -> None:
    found = groups(graph("(float[2,3] x) => (float y) { y = MatMul(x, w) }", {"w": (3, 4)}))
    assert group_scores(found, "l2") == {} and not found.prunable


def test_weights_stay_as_they_are_and_are_read_from_files_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "cnn.onnx"
    ir.save(graph(CNN, CNN_WEIGHTS), path, external_data="cnn.data", size_threshold_bytes=1024)
    before = (tmp_path / "cnn.data").read_bytes()
    found = groups(capture(path))
    for criterion in ("l1", "l2", "fpgm", "bn-scale"):
        expected = group_scores(cnn(), criterion)
        for name, scores in group_scores(found, criterion).items():
            np.testing.assert_array_equal(scores, expected[name])
    assert (tmp_path / "cnn.data").read_bytes() == before
