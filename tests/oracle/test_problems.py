"""Models and plans that cannot be compared give a sentence, never an exception and never a pass."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from oracle_cases import computed_constant, model_of, normal, residual_block

from sparsecc.oracle import OracleResult, check

CASE = residual_block()


def checked(plan: Any = None, pruned: onnx.ModelProto | None = None, **options: Any) -> OracleResult:
    result = check(CASE.original_model(), pruned or CASE.pruned_model(), plan or CASE.plan, **options)
    assert result.problems
    assert not result.passed(math.inf, vacuous=True)
    return result


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"format": 2, "kept": {}}, "the plan is of format 2, where 1 is understood"),
        ({"format": 1}, "the plan has no entry named kept"),
        ({"format": 1, "kept": []}, "entry kept of the plan is list, not a mapping of names"),
        ({"format": 1, "kept": {"w": [1]}}, "kept of w is list, not a mapping of axes"),
        (
            {"format": 1, "kept": {"w": {"-1": [1]}}},
            "kept of w names axis '-1', which is no number from 0 on",
        ),
        ({"format": 1, "kept": {"w": {"0": [0.5]}}}, "kept of w on axis 0 is no list of integers"),
        (
            {"format": 1, "kept": {"w": {"0": [2, 1]}}},
            "kept of w on axis 0 does not ascend from 0 on without repetition",
        ),
        (
            {"format": 1, "kept": {"w": {"0": [-1, 1]}}},
            "kept of w on axis 0 does not ascend from 0 on without repetition",
        ),
    ],
)
def test_no_plan(plan: dict[str, object], sentence: str) -> None:
    result = checked(plan)
    assert result.problems == (sentence,)
    assert result.difference == math.inf


@pytest.mark.parametrize(
    ("section", "entry", "sentence"),
    [
        ("kept", {"nothing": {"0": [0]}}, "the plan slices nothing, which is no tensor of the original"),
        ("kept", {"b0": {"1": [0]}}, "the plan does not fit b0: axis 1 does not exist in shape [8]"),
        ("kept", {"b0": {"0": [8]}}, "the plan does not fit b0: position 8 lies outside axis 0 of shape [8]"),
        ("constants", {"h": {"2": [0]}}, "the plan slices h, which depends on the inputs"),
        (
            "constants",
            {"b0": {"0": [0, 1]}},
            "the plan slices b0 both as an initializer and as a constant",
        ),
        (
            "normalizations",
            {"nothing": {"2": [0]}},
            "the plan names normalization nothing, which no node of the main graph computes",
        ),
        (
            "normalizations",
            {"r2": {"2": [0]}},
            "the plan names Relu r2, which is no normalization with a masked form",
        ),
        (
            "normalizations",
            {"n4": {"2": [9]}},
            "the plan does not fit the input of LayerNormalization n4: position 9 lies outside axis 2 of "
            "shape [2, 3, 8]",
        ),
    ],
)
def test_plan_that_does_not_fit(section: str, entry: dict[str, object], sentence: str) -> None:
    assert sentence in checked({**CASE.plan, section: {**getattr(CASE, section), **entry}}).problems


def test_constant_computed_otherwise() -> None:
    case = computed_constant()
    pruned = replace(case, pruned=case.pruned | {"ramp": np.array([1, 2, 5, 6], np.float32)}).pruned_model()
    result = check(case.original_model(), pruned, case.plan)
    assert not result.taken
    assert result.difference > 1e-3


def test_inputs_of_other_names() -> None:
    result = checked(inputs={"z": np.zeros((2, 3, 6), np.float32)})
    assert result.problems == ("inputs ['z'] were given, where the model has ['x']",)


def test_inputs_that_cannot_be_drawn() -> None:
    original = CASE.original_model()
    original.graph.input[0].type.tensor_type.ClearField("shape")
    result = check(original, CASE.pruned_model(), CASE.plan)
    assert result.problems == ("input x has no known rank, so no array can be drawn; give inputs",)


def test_weights_in_another_file() -> None:
    pruned = CASE.pruned_model()
    pruned.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    (sentence,) = checked(pruned=pruned).problems
    assert "lies in a file of its own; load the model with its external data" in sentence


def test_outputs_of_other_names() -> None:
    pruned = replace(CASE, cut={"y = MatMul(n4, w5)": "z = MatMul(n4, w5)", "[2,3,5] y": "[2,3,5] z"})
    result = checked(pruned=pruned.pruned_model())
    assert result.problems == ("the outputs of the pruned model are ['z'], not ['y']",)
    assert result.difference == math.inf


def test_outputs_of_another_shape() -> None:
    pruned = CASE.spoiled(lambda whole: whole)
    pruned = replace(CASE, pruned=pruned.pruned | CASE.pruned | {"w5": CASE.pruned["w5"][:, :4]})
    assert (
        "y of the pruned model has shape [2, 3, 4], not [2, 3, 5]"
        in checked(pruned=pruned.pruned_model()).problems
    )


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_pruned_model_that_does_not_run(precision: str) -> None:
    pruned = CASE.spoiled(lambda whole: whole).pruned_model()
    result = checked(pruned=pruned, precision=precision)
    assert result.difference == math.inf
    assert result.moved > 0.05
    assert "the pruned model does not run" in result.problems[-1]


def test_untaken_weight_is_named_with_the_count_of_elements() -> None:
    pruned = replace(CASE, pruned=CASE.pruned | {"b2": CASE.pruned["b2"] + np.float32(1)}).pruned_model()
    result = checked(pruned=pruned)
    assert "b2 of the pruned model is not what the plan takes from the original: 5 of 5 elements differ" in (
        result.problems
    )
    assert not result.taken


def test_weight_outside_the_plan_must_be_equal() -> None:
    text = "(float[2,6] x) => (float[2,8] y) { h = MatMul(x, w0) y = Add(h, b0) }"
    weights = normal(w0=(6, 8), b0=(8,))
    other = weights | {"b0": np.nextafter(weights["b0"], np.float32(9))}
    result = check(model_of(text, weights), model_of(text, other), {"format": 1, "kept": {}})
    assert not result.taken


def test_type_of_a_slice_must_stay() -> None:
    pruned = CASE.pruned_model()
    for tensor in pruned.graph.initializer:
        if tensor.name == "b2":
            tensor.CopyFrom(numpy_helper.from_array(CASE.pruned["b2"].astype(np.float64), "b2"))
    assert any(
        "is float64[5], where the plan takes float32[5]" in text for text in checked(pruned=pruned).problems
    )


@pytest.mark.parametrize("enlarge", [True, False])
def test_not_a_number_in_the_original(enlarge: bool) -> None:
    text = "(float[2,6] x) => (float[2,8] y) { h = MatMul(x, w0) y = Add(h, b0) }"
    weights = normal(w0=(6, 8)) | {"b0": np.array([np.nan] + [0.0] * 7, np.float32)}
    model = model_of(text, weights)
    result = check(model, model, {"format": 1, "kept": {}}, enlarge=enlarge)
    assert result.problems == ("the original gives NaN or infinity",)


def test_not_a_number_that_only_pruning_makes() -> None:
    """Logarithms of what is masked to zero, at the same places in both models."""
    text = "(float[2,6] x) => (float[2,5] y) { h = MatMul(x, w0) s = Abs(h) l = Log(s) y = MatMul(l, w1) }"
    weights = normal(w0=(6, 8), w1=(8, 5))
    plan = {"format": 1, "kept": {"w0": {"1": [0, 1]}, "w1": {"0": [0, 1]}}}
    pruned = {"w0": weights["w0"][:, :2], "w1": weights["w1"][:2]}
    result = check(model_of(text, weights), model_of(text, pruned), plan)
    assert result.problems == ("y of the masked original holds NaN or infinity",)
    assert result.difference == math.inf


def test_enlarging_gives_way_where_it_breaks_the_original() -> None:
    """Square roots of one weight through arithmetic that hides what it is for."""
    text = (
        "(float[2,6] x) => (float[2,6] y) { e = Neg(w) f = Neg(e) g = Sqrt(f) h = Mul(w, x) y = Mul(h, g) }"
    )
    model = model_of(text, {"w": np.full(6, 1e8, np.float32)})
    result = check(model, model, {"format": 1, "kept": {}})
    assert not result.enlarged
    assert result.passed(0.0, vacuous=True)


def test_unknown_precision() -> None:
    with pytest.raises(ValueError, match="precision is float32 or float64, not 'float16'"):
        checked(precision="float16")
