"""The front: values as a run of the whole model has them, weights that change behind it, what it forgets."""

from __future__ import annotations

import numpy as np
import pytest
from criteria_graphs import CNN, CNN_WEIGHTS, array
from pass_graphs import graph

from sparsecc.ir import random_inputs
from sparsecc.ir.edit import replace_constant
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.moments import Values
from sparsecc.passes.frontier import Frontier
from sparsecc.passes.hooks import relative_difference

ORDER = (["a"], ["n"], ["r"], ["c", "r"], ["f"])


def data(seed: int = 0) -> Calibration:
    """Three batches of inputs of the network."""
    model = graph(CNN, CNN_WEIGHTS)
    return Calibration([random_inputs(model, seed + number) for number in range(3)])


@pytest.mark.parametrize("advance", [True, False])
def test_values_are_those_of_a_whole_run(advance: bool) -> None:
    model, calibration = graph(CNN, CNN_WEIGHTS), data()
    front = Frontier(model, calibration)
    for names in ORDER:
        whole = Values(model, names)
        found = list(front.read(names, advance=advance))
        assert len(found) == 3
        for (batch, _), values in zip(calibration.stream(model), found, strict=True):
            expected = whole.run(batch)
            for name in names:
                assert relative_difference(values[name], expected[name]) < 1e-6


def test_a_weight_may_change_behind_the_front() -> None:
    model, calibration = graph(CNN, CNN_WEIGHTS), data()
    front = Frontier(model, calibration)
    before = [values["r"].copy() for values in front.read(["r"])]
    weight = model.graph.initializers["c.weight"]
    replace_constant(weight, 2 * array(model, "c.weight"))
    replace_constant(model.graph.initializers["a.weight"], 0 * array(model, "a.weight"))
    whole = Values(graph(CNN, CNN_WEIGHTS), ["c", "r"])
    for (batch, _), values, kept in zip(
        calibration.stream(model), front.read(["c", "r"]), before, strict=True
    ):
        expected = whole.run(batch)
        np.testing.assert_array_equal(values["r"], kept)
        assert relative_difference(values["c"], 2 * expected["c"]) < 1e-6


def test_what_is_peeked_at_sees_weights_that_change_later() -> None:
    model = graph(CNN, CNN_WEIGHTS)
    front = Frontier(model, data())
    first = [values["c"] for values in front.read(["c"], advance=False)]
    replace_constant(model.graph.initializers["c.weight"], 3 * array(model, "c.weight"))
    for before, values in zip(first, front.read(["c"]), strict=True):
        assert relative_difference(values["c"], 3 * before) < 1e-6


def test_a_branch_stays_until_its_last_reader() -> None:
    text = """(float[4,3] x) => (float[4,3] y) {
        a = Relu(x)  b = MatMul(a, v)  c = MatMul(b, w)  y = Add(c, a) }"""
    model = graph(text, {"v": (3, 3), "w": (3, 3)})
    calibration = Calibration([random_inputs(model)])
    front = Frontier(model, calibration)
    for names in (["a"], ["b"], ["c"], ["y"]):
        (found,) = front.read(names)
    ((batch, _),) = calibration.stream(model)
    np.testing.assert_allclose(found["y"], Values(model, ["y"]).run(batch)["y"], rtol=1e-6)
