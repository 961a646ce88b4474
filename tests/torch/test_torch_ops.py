"""Every op of the table against ONNX Runtime, its settings known or computed at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch_cases import X, floats, ints, node
from torch_cases_arrays import ARRAYS
from torch_cases_layers import LAYERS
from torch_graphs import Feeds, agree, graph_of, reference, run

from sparsecc.torch import to_torch
from sparsecc.torch.numbers import NUMBER_OPS, SOURCES
from sparsecc.torch.table import OPS

CASES = [*ARRAYS, *LAYERS]
RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@pytest.mark.parametrize(("nodes", "feeds", "constants", "outputs"), CASES)
def test_op(nodes: Any, feeds: Feeds, constants: Feeds, outputs: list[str]) -> None:
    model = graph_of(nodes, feeds, constants, outputs)
    agree(run(to_torch(model), feeds), reference(model, feeds))


@pytest.mark.parametrize(
    ("nodes", "feeds", "constants", "outputs"), [item for item in CASES if item.values[2]]
)
def test_settings_that_are_computed(nodes: Any, feeds: Feeds, constants: Feeds, outputs: list[str]) -> None:
    """What `test_op` has as constants are inputs of the graph here, read when the module runs."""
    expected = reference(graph_of(nodes, feeds, constants, outputs), feeds)
    inputs = {**feeds, **constants}
    agree(run(to_torch(graph_of(nodes, inputs, {}, outputs)), inputs), expected)


def test_what_onnx_runtime_has_no_kernel_for() -> None:
    """Against the formulas of the ONNX specification."""
    squares = np.pad(X.astype(np.float64) ** 2, ((0, 0), (1, 2), (0, 0), (0, 0)))
    window = sum(squares[:, k : k + 6] for k in range(4))
    nothing = floats(2, 0, 3)
    cases: list[tuple[Any, Any, Any]] = [
        (node("GlobalLpPool", ["x"], ["y"], p=3), X, (np.abs(X) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)),
        (
            node("LRN", ["x"], ["y"], size=4, alpha=0.3),
            X,
            (X / (1 + 0.3 / 4 * window) ** 0.75).astype(np.float32),
        ),
        (node("ReduceMax", ["x", "a"], ["y"]), nothing, np.full((2, 1, 3), -np.inf, np.float32)),
        (node("ReduceMin", ["x", "a"], ["y"], keepdims=0), nothing, np.full((2, 3), np.inf, np.float32)),
    ]
    for made, x, expected in cases:
        constants = {"a": ints(1)} if made.op_type.startswith("Reduce") else {}
        model = graph_of([made], {"x": x}, constants, ["y"])
        agree(run(to_torch(model), {"x": x}), [expected])


def nodes_of(parameters: Any) -> list[Any]:
    return parameters.values[0]


def test_every_op_has_a_case() -> None:
    tested = {made.op_type for item in CASES for made in nodes_of(item)}
    assert OPS.keys() - tested == RANDOM | {"GlobalLpPool"}
    assert len(OPS) + len(SOURCES) >= 150
    assert NUMBER_OPS.keys() <= OPS.keys()


@pytest.mark.parametrize("op", sorted(RANDOM))
def test_random_ops_give_the_type_and_shape(op: str) -> None:
    like = op in ("Bernoulli", "Multinomial") or op.endswith("Like")
    attributes: dict[str, Any] = {} if like else {"shape": [200, 300]}
    x = np.full((200, 300), 0.25, np.float32)
    model = graph_of([node(op, ["x"] if like else [], ["y"], **attributes)], {"x": x}, {}, ["y"])
    (found,) = run(to_torch(model), {"x": x})
    assert found.shape == ((200, 1) if op == "Multinomial" else (200, 300))
    mean = {"Bernoulli": 0.25, "Multinomial": 149.5}.get(op, 0.5 if "Uniform" in op else 0.0)
    # Six deviations of the mean of this many draws.
    spread = {"Multinomial": 6 * 87 / 200**0.5}.get(op, 6 / 60000**0.5)
    assert abs(float(found.mean()) - mean) < spread
