"""Outputs that are classes: their divergence, estimates of it, and which graphs have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

import sparsecc
from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.evaluate import outputs_of
from sparsecc.ir.weights import weight_uses
from sparsecc.passes.criteria.classes import class_axis, class_divergence, loss_of
from sparsecc.passes.criteria.differentiation import class_logits
from sparsecc.passes.criteria.sensitivity import Sensitivity

FEATURES, CLASSES = 16, 600
"""More answers and classes than are compared at a time."""


def graph(*tail: onnx.NodeProto, outputs: Sequence[str] = ("y",), head: int = CLASSES) -> ir.Model:
    """A layer of features `f`, a classifier `c` of [tokens, classes] on them, and what is behind them."""
    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal((FEATURES, size)) / np.sqrt(FEATURES)).astype(np.float32), name
        )
        for name, size in (("w", FEATURES), ("classes", head))
    ]
    weights.append(numpy_helper.from_array(np.array([2.0], np.float32), "two"))
    weights.append(numpy_helper.from_array(np.ones(FEATURES, np.float32), "scale"))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["f"]),
        helper.make_node("MatMul", ["f", "classes"], ["c"]),
        *tail,
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [400, FEATURES])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    proto = helper.make_graph(nodes, "g", [x], infos, weights)
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return sparsecc.capture(onnx.shape_inference.infer_shapes(model))


def data(count: int = 2) -> sparsecc.Calibration:
    rng = np.random.default_rng(1)
    return sparsecc.Calibration(
        [{"x": rng.standard_normal((400, FEATURES)).astype(np.float32)} for _ in range(count)]
    )


@pytest.mark.parametrize(
    ("shape", "axis"), [((), None), ((5,), 0), ((4, 1), None), ((4, 7), 1), ((2, 3, 7), 2), ((2, 3, 8, 8), 1)]
)
def test_axis_of_the_classes(shape: tuple[int, ...], axis: int | None) -> None:
    assert class_axis(shape) == axis


@pytest.mark.parametrize("shape", [(300, 11), (2, 150, 11), (2, 11, 5, 30)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_divergence_is_that_of_torch(shape: tuple[int, ...], probabilities: bool) -> None:
    axis = 1 if len(shape) == 4 else -1
    generator = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(shape, generator=generator) * 3 for _ in range(2)] for _ in range(2)]
    expected = [
        functional.kl_div(
            one.movedim(axis, -1).reshape(-1, 11).log_softmax(-1),
            other.movedim(axis, -1).reshape(-1, 11).log_softmax(-1),
            reduction="batchmean", log_target=True,
        )
        for one, other in pairs
    ]  # fmt: skip
    if probabilities:
        pairs = [[each.softmax(axis) for each in pair] for pair in pairs]
    outputs, wanted = ([(pair[side].numpy(),) for pair in pairs] for side in (0, 1))
    assert class_divergence(outputs, wanted) == pytest.approx(float(np.mean(expected)), rel=1e-5)
    logits = class_logits(pairs[0][0])
    assert logits is not None
    torch.testing.assert_close(logits.softmax(-1).sum(-1), torch.ones(logits.shape[:-1]))


def test_the_first_output_of_floats_counts() -> None:
    wanted = [(np.arange(3), np.array([[0.0, 3.0]], np.float32), np.array([[5.0, 1.0]], np.float32))]
    found = [(np.arange(3), np.array([[7.0, 10.0]], np.float32), np.array([[1.0, 5.0]], np.float32))]
    assert class_divergence(found, wanted) == pytest.approx(0, abs=1e-12)  # logits but for a constant


def test_outputs_without_classes_are_refused() -> None:
    for arrays in ((np.zeros((4, 1), np.float32),), (np.arange(3),)):
        with pytest.raises(UsageError, match="no classes"):
            class_divergence([arrays], [arrays])
    broken = np.array([[0.0, np.nan]], np.float32)
    with pytest.raises(VerificationError, match="output 0 of the model is NaN"):
        class_divergence([(broken,)], [(broken,)])
    with pytest.raises(UsageError, match="no classes"):
        Sensitivity(graph(outputs=["c"], head=1), data(), "kl").estimates({"w": {}})


def test_estimates_are_the_divergence_of_small_changes() -> None:
    model = graph(outputs=["c"])
    sensitivity = Sensitivity(model, data(), "kl")
    (first, last) = (use.value for use in weight_uses(model))
    assert first.const_value is not None and last.const_value is not None
    rng = np.random.default_rng(2)
    changes = {
        value.name or "": {
            value.name or "": value.const_value.numpy()
            + rng.normal(0, 0.01, value.const_value.numpy().shape).astype(np.float32)
        }
        for value in (first, last)
        if value.const_value is not None
    }
    # a sum that is the same for all classes changes no answer
    shift = rng.standard_normal((FEATURES, 1)).astype(np.float32)
    changes["shift"] = {last.name or "": last.const_value.numpy() + shift}
    found = [sensitivity.estimates(changes, seed=seed) for seed in range(20)]
    for name, change in changes.items():
        exact, mean = sensitivity.of(change), float(np.mean([one[name] for one in found]))
        if name == "shift":
            assert exact < 1e-6 and mean < 1e-3
        else:
            assert mean == pytest.approx(exact, rel=0.2)
    before = outputs_of(model, [batch for batch, _ in data().stream(model)])
    assert class_divergence(before, before) == 0


def node(op: str, *inputs: str) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), ["y"])


@pytest.mark.parametrize(
    ("tail", "loss"),
    [
        (node("Softmax", "c"), "kl"),
        (node("Softmax", "f"), "kl"),
        (node("Mul", "c", "two"), "kl"),
        (node("Identity", "c"), "kl"),
        (node("LayerNormalization", "f", "scale"), "squared"),
        (node("Tanh", "c"), "squared"),
        (node("Mul", "f", "f"), "squared"),
        (node("MatMul", "x", "f2"), "squared"),
    ],
)
def test_what_looks_like_a_classifier(tail: onnx.NodeProto, loss: str) -> None:
    extra = [helper.make_node("Transpose", ["f"], ["f2"], perm=[1, 0])] if "f2" in tail.input else []
    assert loss_of(graph(*extra, tail)) == loss


def test_several_outputs_and_single_numbers_do_not() -> None:
    assert loss_of(graph(outputs=["c"])) == "kl"
    assert loss_of(graph(outputs=["f", "c"])) == "squared"
    assert loss_of(graph(outputs=["c"], head=1)) == "squared"
