"""Selection: dense is always a candidate, tiles fit the machine and the groups, wishes for dense are kept."""

from __future__ import annotations

import numpy as np
import pytest
from networks import Array, Network, pruned
from stepping import EVERY, V3, V4, check

from sparsecc.targets.kernels.spmm import block_mask
from sparsecc.targets.lower.layers import RowsLayer, SpmmLayer, block_masks
from sparsecc.targets.lower.select import choose_rows, choose_spmm
from sparsecc.targets.machine import Machine
from sparsecc.targets.registry import MACHINES


def weights(rows: int, columns: int, pattern: str) -> Array:
    rng = np.random.default_rng(0)
    return pruned(rng.standard_normal((rows, columns)).astype(np.float32), pattern, rng).astype(np.float32)


@pytest.fixture(params=EVERY)
def machine(request: pytest.FixtureRequest) -> Machine:
    return MACHINES[request.param]


@pytest.mark.parametrize("pattern", ["dense", "unstructured 50", "4x1 80", "2:4", "zero"])
def test_a_choice_is_never_predicted_slower_than_dense(machine: Machine, pattern: str) -> None:
    for rows, columns, vectors in ((64, 64, 49), (17, 3, 1), (256, 1152, 13), (1, 1, 1)):
        matrix = weights(rows, columns, pattern)
        found = choose_spmm(SpmmLayer(matrix, vectors, 1, rows, 1), machine, dense_only=False)
        assert 0 <= found.seconds <= found.dense_seconds
        assert 1 <= found.chunk <= columns
        # accumulators, a row of X and a weight stay in registers
        assert found.rows * found.width + found.width + 1 <= machine.registers
        few = choose_rows(RowsLayer(matrix, 2), machine, dense_only=False)
        assert 0 <= few.seconds <= few.dense_seconds
        assert few.reason and found.reason and found.label


def test_dense_stays_dense(machine: Machine) -> None:
    matrix = weights(64, 64, "dense")
    assert choose_spmm(SpmmLayer(matrix, 49, 1, 64, 1), machine, dense_only=False).dense
    assert choose_rows(RowsLayer(matrix, 1), machine, dense_only=False).kind == "dense"


def test_very_sparse_is_sparse(machine: Machine) -> None:
    for pattern in ("unstructured 95", "4x1 80", "2x1 90"):
        matrix = weights(256, 256, pattern)
        found = choose_spmm(SpmmLayer(matrix, 49, 1, 256, 1), machine, dense_only=False)
        assert not found.dense and found.dense_seconds > 2 * found.seconds
    assert (
        choose_rows(RowsLayer(weights(1024, 1024, "unstructured 95"), 1), machine, dense_only=False).kind
        != "dense"
    )
    assert (
        choose_rows(RowsLayer(weights(1024, 1024, "16x1 90"), 1), machine, dense_only=False).kind != "dense"
    )


def test_blocks_of_the_pattern_are_used(machine: Machine) -> None:
    layer = SpmmLayer(weights(256, 256, "4x1 90"), 49, 1, 256, 1)
    found = choose_spmm(layer, machine, dense_only=False)
    assert found.rows == 4


@pytest.mark.parametrize("group_rows", [1, 2, 3, 4, 5, 6, 12])
def test_rows_of_a_block_share_their_group(machine: Machine, group_rows: int) -> None:
    matrix = weights(5 * group_rows, 36, "unstructured 50")
    for dense_only in (True, False):
        layer = SpmmLayer(matrix, 7, 9, group_rows, 1)
        found = choose_spmm(layer, machine, dense_only=dense_only)
        assert group_rows % found.rows == 0
        assert found.dense or not dense_only


@pytest.mark.parametrize("target", [V3, V4])
def test_dense_on_request(target: str) -> None:
    """All kinds of layers run with dense kernels, and still right."""
    net = Network()
    x = net.conv(net.input(2, 6, 9, 15), 6, 12, (3, 3), pads=[1] * 4, pattern="unstructured 95")
    x = net.conv(x, 12, 12, (3, 3), pads=[1] * 4, group=3, pattern="unstructured 80")
    net.output(
        net.conv(x, 12, 33, (1, 1), pattern="4x1 80"),
        net.conv(x, 12, 5, (3, 3), strides=[2, 2], pattern="zero"),
    )
    for columns in (1, 5, 40):
        net.output(net.linear(net.input(columns, 30), 30, 35, pattern="unstructured 95"))
    plan = check(net, target, dense_only=True)[target]
    layers: list[dict[str, object]] = plan.report["layers"]  # type: ignore[assignment]
    assert len(layers) == 7
    assert all(str(layer["kernel"]).startswith("dense") for layer in layers)
    assert {step.kind for step in plan.steps} <= {"spmm", "rows", "split", "copy", "zeros"}


def test_a_report_explains_every_layer() -> None:
    net = Network()
    net.output(net.linear(net.input(40, 64), 64, 64, pattern="4x1 80"))
    net.output(net.linear(net.input(40, 64), 64, 64))
    (sparse, dense) = check(net, V4)[V4].report["layers"]  # type: ignore[misc]
    assert (
        sparse["pattern"] == "4x1"
        and "times as fast as dense" in sparse["reason"]
        and 0.6 < sparse["zeros"] < 0.95
    )
    assert dense["pattern"] == "dense" and dense["reason"] == "dense is predicted fastest for these zeros"


def test_masks_of_all_heights() -> None:
    matrix = weights(37, 20, "unstructured 90")
    for height, mask in block_masks(matrix, {8, 6, 4, 2, 1}).items():
        np.testing.assert_array_equal(mask, block_mask(matrix, height))
        np.testing.assert_array_equal(mask[-1], (matrix[-(37 % height or height) :] != 0).any(axis=0))
