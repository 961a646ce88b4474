"""Pruned by hand equals masked by the oracle, and every kind of mistake moves the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle_cases import CASES, Case, H, conv_batch_norm, model_of, normal, residual_block

from sparsecc.oracle import check

CAUGHT = 1e-3
WITH_STATISTICS = [case for case in CASES if case.normalizations]


def name(case: Case) -> str:
    return case.name


def shifted(positions: list[int], size: int) -> list[int]:
    """As many positions, moved on by one."""
    return sorted((position + 1) % size for position in positions)


def victim_shifted(case: Case) -> list[int]:
    victim, axis = case.victim
    return shifted(case.kept[victim][str(axis)], case.weights[victim].shape[axis])


def replan(case: Case, positions: list[int]) -> dict[str, dict[str, list[int]]]:
    victim, axis = case.victim
    return case.kept | {victim: case.kept[victim] | {str(axis): positions}}


@pytest.mark.parametrize("case", CASES, ids=name)
@pytest.mark.parametrize("enlarge", [True, False])
def test_float32(case: Case, enlarge: bool) -> None:
    result = check(case.original_model(), case.pruned_model(), case.plan, enlarge=enlarge)
    assert result.problems == ()
    assert result.taken
    assert result.enlarged == enlarge
    assert result.difference < 2e-6
    assert result.moved > 0.05
    assert result.passed(2e-6)


@pytest.mark.parametrize("case", CASES, ids=name)
@pytest.mark.parametrize("seed", [0, 1])
def test_float64(case: Case, seed: int) -> None:
    result = check(case.original_model(), case.pruned_model(), case.plan, seed=seed, precision="float64")
    assert result.problems == ()
    assert result.difference < 1e-14
    assert result.moved > 0.05


@pytest.mark.parametrize("case", CASES, ids=name)
def test_plan_shifted_by_one(case: Case) -> None:
    result = check(
        case.original_model(),
        case.pruned_model(),
        replace(case, kept=replan(case, victim_shifted(case))).plan,
    )
    assert result.difference > CAUGHT
    assert not result.taken


@pytest.mark.parametrize("case", CASES, ids=name)
def test_slice_shifted_by_one(case: Case) -> None:
    """A weight of the right shape whose indices are not those of its neighbours."""
    axes = case.kept[case.victim[0]] | {str(case.victim[1]): victim_shifted(case)}

    def take(array: np.ndarray) -> np.ndarray:
        for axis, positions in axes.items():
            array = np.take(array, positions, int(axis))
        return array

    result = check(case.original_model(), case.spoiled(take).pruned_model(), case.plan)
    assert result.difference > CAUGHT
    assert not result.taken


@pytest.mark.parametrize("case", CASES, ids=name)
def test_plan_and_slice_shifted_together(case: Case) -> None:
    """Only the numbers can tell: the weight is exactly what the plan takes."""
    positions = victim_shifted(case)
    plan = replan(case, positions)

    def take(array: np.ndarray) -> np.ndarray:
        for axis, kept in plan[case.victim[0]].items():
            array = np.take(array, kept, int(axis))
        return array

    spoiled = replace(case.spoiled(take), kept=plan)
    result = check(spoiled.original_model(), spoiled.pruned_model(), spoiled.plan)
    assert result.taken
    assert result.difference > CAUGHT


@pytest.mark.parametrize("case", CASES, ids=name)
def test_permuted_slice(case: Case) -> None:
    victim, axis = case.victim
    kept = case.pruned[victim]
    result = check(
        case.original_model(), case.spoiled(lambda _: np.flip(kept, axis).copy()).pruned_model(), case.plan
    )
    assert result.difference > CAUGHT
    assert not result.taken


@pytest.mark.parametrize("case", CASES, ids=name)
def test_forgotten_slice(case: Case) -> None:
    result = check(case.original_model(), case.spoiled(lambda whole: whole).pruned_model(), case.plan)
    assert result.difference > CAUGHT
    assert not result.taken
    assert any("the pruned model does not run" in problem for problem in result.problems)


@pytest.mark.parametrize("case", WITH_STATISTICS, ids=name)
def test_wrong_statistics(case: Case) -> None:
    """Means over as many, but other positions."""
    wrong = {
        node: {axis: shifted(positions, case.reduced) for axis, positions in axes.items()}
        for node, axes in case.normalizations.items()
    }
    result = check(case.original_model(), case.pruned_model(), replace(case, normalizations=wrong).plan)
    assert result.difference > CAUGHT
    assert result.taken


@pytest.mark.parametrize("case", WITH_STATISTICS, ids=name)
def test_forgotten_statistics(case: Case) -> None:
    result = check(case.original_model(), case.pruned_model(), replace(case, normalizations={}).plan)
    assert result.difference > CAUGHT
    assert result.taken


def test_statistics_that_contradict_the_scale() -> None:
    case = residual_block()
    wrong = case.normalizations | {"n4": {"2": [0, 1, 2, 3]}}
    result = check(case.original_model(), case.pruned_model(), replace(case, normalizations=wrong).plan)
    assert result.problems == (
        "statistics of LayerNormalization n4 run over 4 positions of axis 2, which are not the 4 that the "
        "plan keeps of its scale g4",
    )
    assert not result.passed(np.inf)


@pytest.mark.parametrize("shift", [0, 1])
def test_weights_as_initialised_hide_what_enlarged_ones_show(shift: int) -> None:
    """A zero bias is the same in all its slices."""
    case = conv_batch_norm()
    case = replace(
        case,
        weights=case.weights | {"b1": np.zeros(8, np.float32)},
        pruned=case.pruned | {"b1": np.zeros(4, np.float32)},
        kept=replan(case, shifted(H, 8) if shift else H),
    )
    plain = check(case.original_model(), case.pruned_model(), case.plan, enlarge=False)
    large = check(case.original_model(), case.pruned_model(), case.plan)
    assert plain.passed(2e-6)
    assert large.taken
    assert large.passed(2e-6) == (not shift)
    assert (large.difference > CAUGHT) == bool(shift)


def test_masking_that_moves_nothing_proves_nothing() -> None:
    case = residual_block()
    nothing = check(case.original_model(), case.original_model(), {"format": 1, "kept": {}})
    assert (nothing.moved, nothing.difference) == (0.0, 0.0)
    assert not nothing.passed(1.0)
    assert nothing.passed(0.0, vacuous=True)


def test_zeros_removed_from_the_weights_as_they_are_move_nothing() -> None:
    weights = normal(w0=(6, 8), w1=(8, 5))
    weights["w0"][:, [1, 3, 4, 7]] = 0
    text = "(float[2,6] x) => (float[2,5] y) { h = MatMul(x, w0) r = Relu(h) y = MatMul(r, w1) }"
    pruned = {"w0": weights["w0"][:, H], "w1": weights["w1"][H]}
    plan = {"format": 1, "kept": {"w0": {"1": H}, "w1": {"0": H}}}
    models = model_of(text, weights), model_of(text, pruned)
    plain = check(*models, plan, enlarge=False)
    assert plain.moved == 0.0
    assert plain.passed(2e-6, vacuous=True)
    assert check(*models, plan).moved > 0.05


def test_one_spoiled_output_of_several_is_enough() -> None:
    weights = normal(w0=(6, 8), w1=(8, 5), w2=(8, 5))
    text = """(float[2,6] x) => (float[2,5] y, float[2,5] z) {
        h = MatMul(x, w0) r = Tanh(h) y = MatMul(r, w1) z = MatMul(r, w2) }"""
    pruned = {"w0": weights["w0"][:, H], "w1": weights["w1"][H], "w2": weights["w2"][shifted(H, 8)]}
    plan = {"format": 1, "kept": {"w0": {"1": H}, "w1": {"0": H}, "w2": {"0": H}}}
    result = check(model_of(text, weights), model_of(text, pruned), plan)
    assert result.difference > CAUGHT


def test_given_inputs_are_used() -> None:
    case = residual_block()
    models = case.original_model(), case.pruned_model()
    zeros = check(*models, case.plan, {"x": np.zeros((2, 3, 6), np.float32)})
    drawn = check(*models, case.plan)
    assert zeros.passed(2e-6)
    assert zeros.moved != drawn.moved


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-6), ("float64", 1e-14)])
def test_whole_branch_removed(precision: str, tolerance: float) -> None:
    assert precision in ("float32", "float64")
    weights = normal(w0=(6, 8), w1=(8, 4), g2=(4,), b2=(4,), w3=(4, 8), b3=(8,))
    text = """(float[2,6] x) => (float[2,8] y) {
        h = MatMul(x, w0) d = MatMul(h, w1) n = LayerNormalization(d, g2, b2) u = MatMul(n, w3)
        a = Add(u, b3) y = Add(h, a) }"""
    rest = "(float[2,6] x) => (float[2,8] y) { h = MatMul(x, w0) y = Add(h, b3) }"
    plan = {
        "format": 1,
        "kept": {"w1": {"1": []}, "g2": {"0": []}, "b2": {"0": []}, "w3": {"0": []}},
        "normalizations": {"n": {"1": []}},
    }
    result = check(model_of(text, weights), model_of(rest, weights), plan, precision=precision)
    assert result.problems == ()
    assert result.passed(tolerance)


def test_weight_normalisation_of_removed_rows() -> None:
    """0 / 0 among weights is a removed slice, not a fault."""
    weights = normal(v=(8, 6), gain=(8, 1), w1=(8, 5)) | {"rows": np.array([1], np.int64)}
    text = """(float[2,6] x) => (float[2,5] y) {
        length = ReduceL2(v, rows) unit = Div(v, length) w = Mul(unit, gain) turned = Transpose(w)
        h = MatMul(x, turned) r = Relu(h) y = MatMul(r, w1) }"""
    pruned = weights | {name: weights[name][H] for name in ("v", "gain", "w1")}
    plan = {"format": 1, "kept": {name: {"0": H} for name in ("v", "gain", "w1")}}
    models = model_of(text, weights), model_of(text, pruned)
    assert check(*models, plan).passed(2e-6)
    assert check(*models, plan, precision="float64").passed(1e-14)


def test_constants_folded_in_single_precision_are_no_difference_in_double() -> None:
    weights = normal(w0=(6, 8), w1=(8, 5)) | {"three": np.array(3, np.float32)}
    text = """(float[2,6] x) => (float[2,5] y) {
        like = CastLike(three, x) root = Sqrt(like)
        h = MatMul(x, w0) s = Div(h, root) r = Tanh(s) y = MatMul(r, w1) }"""
    folded = text.replace("like = CastLike(three, x) root = Sqrt(like)", "")
    pruned = {"w0": weights["w0"][:, H], "w1": weights["w1"][H], "root": np.sqrt(np.array(3, np.float32))}
    plan = {"format": 1, "kept": {"w0": {"1": H}, "w1": {"0": H}}}
    models = model_of(text, weights), model_of(folded, pruned)
    assert check(*models, plan).passed(2e-6)
    assert check(*models, plan, precision="float64").passed(1e-14)


def test_half_precision_is_widened() -> None:
    weights = {key: array.astype(np.float16) for key, array in normal(w0=(6, 8), w1=(8, 5)).items()}
    text = """(float16[2,6] x) => (float16[2,5] y) {
        h = MatMul(x, w0) w = Cast <to = 1> (h) r = Relu(w) s = Cast <to = 10> (r) y = MatMul(s, w1) }"""
    pruned = {"w0": weights["w0"][:, H], "w1": weights["w1"][H]}
    plan = {"format": 1, "kept": {"w0": {"1": H}, "w1": {"0": H}}}
    models = model_of(text, weights), model_of(text, pruned)
    assert check(*models, plan).passed(2e-6)
    assert check(*models, plan, precision="float64").passed(1e-14)


def test_models_are_left_as_they_are() -> None:
    case = residual_block()
    original, pruned = case.original_model(), case.pruned_model()
    before = original.SerializeToString(), pruned.SerializeToString()
    check(original, pruned, case.plan)
    assert (original.SerializeToString(), pruned.SerializeToString()) == before


def test_squashed_outputs_are_compared_before_squashing() -> None:
    """All outputs are exactly one, whatever the slice."""
    weights = {name: np.abs(array) for name, array in normal(w0=(6, 8), w1=(8, 5)).items()}
    weights["factor"] = np.array(1e6, np.float32)
    text = """(float[2,6] x) => (float[2,5] y) {
        h = MatMul(x, w0) r = Relu(h) m = MatMul(r, w1) s = Mul(m, factor) y = Tanh(s) }"""
    pruned = weights | {"w0": weights["w0"][:, H], "w1": weights["w1"][shifted(H, 8)]}
    plan = {"format": 1, "kept": {"w0": {"1": H}, "w1": {"0": shifted(H, 8)}}}
    ones = {"x": np.ones((2, 6), np.float32)}
    result = check(model_of(text, weights), model_of(text, pruned), plan, ones, enlarge=False)
    assert result.taken
    assert result.difference > 0.05
    assert result.moved > 0.05
