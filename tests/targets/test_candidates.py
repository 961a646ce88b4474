"""Every candidate of every kind of layer computes what ONNX Runtime does; selectors get what they ask for."""

from __future__ import annotations

import numpy as np
import pytest
from forms import KINDS, Nth
from networks import pruned
from stepping import V3, V4, assert_close, lowered, reference, run_steps

from sparsecc.cost import VectorMachine
from sparsecc.targets.lower.layers import RowsLayer, SpmmLayer
from sparsecc.targets.lower.select import (
    choose_rows,
    choose_spmm,
    priced,
    rows_candidates,
    spmm_candidates,
    vector_machine,
)
from sparsecc.targets.registry import MACHINES

VNNI = "x86-64-v4+vnni"


@pytest.mark.parametrize("target", [V3, V4, VNNI])
@pytest.mark.parametrize("kind", KINDS)
def test_every_candidate_is_right(kind: str, target: str) -> None:
    if target == VNNI and kind != "codes":
        pytest.skip("as without VNNI")
    net = KINDS[kind]()
    proto = net.proto()
    expected = reference(proto, net.feeds)
    index, most, seen = 0, 1, set[str]()
    while index < most:
        selector = Nth(index)
        lowering, plan = lowered(proto, target, selector=selector)
        for layer in lowering.low.layers:
            assert layer.reason == f"number {index}"
        found = run_steps(lowering, plan, net.feeds)
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs, f"{selector.taken}")
        index, most = index + 1, selector.most
        seen.update(selector.taken.values())
    assert len(seen) == most or kind == "shiftable"


@pytest.mark.parametrize("target", [V3, V4])
def test_the_cheapest_is_chosen(target: str) -> None:
    """Whatever the model's constants: the least of all prices, dense where nothing is 3 % below it."""
    machine = MACHINES[target]
    model = vector_machine(machine)
    rng = np.random.default_rng(0)
    for pattern in ("dense", "unstructured 50", "unstructured 95", "4x1 80", "zero"):
        matrix = pruned(rng.standard_normal((48, 96)).astype(np.float32), pattern, rng).astype(np.float32)
        spmm, rows = SpmmLayer(matrix, 13, 1, 48, 1), RowsLayer(matrix, 2)
        for chosen, candidates in (
            (choose_spmm(spmm, machine, dense_only=False), spmm_candidates(spmm, machine, dense_only=False)),
            (choose_rows(rows, machine, dense_only=False), rows_candidates(rows, machine, dense_only=False)),
        ):
            prices = {c.form: c.cost(model) for c in candidates}
            assert len(prices) == len(candidates), "forms have names of their own"
            dense = min(prices[c.form] for c in candidates if c.dense)
            least = min(prices.values())
            assert chosen.seconds == prices[chosen.form] == (least if least < 0.97 * dense else dense)
            assert chosen.dense_seconds == dense


def test_prices_follow_the_clock() -> None:
    layer = SpmmLayer(np.ones((16, 16), np.float32), 4, 1, 16, 1)
    candidates = spmm_candidates(layer, MACHINES[V4], dense_only=False)
    slow, fast = (priced(candidates, VectorMachine(16, clock=clock)) for clock in (1e9, 2e9))
    for a, b in zip(slow, fast, strict=True):
        assert a.seconds == pytest.approx(2 * b.seconds)


def test_only_dense_forms_where_dense_is_wanted() -> None:
    matrix = np.eye(64, dtype=np.float32)
    machine = MACHINES[V4]
    assert all(c.dense for c in spmm_candidates(SpmmLayer(matrix, 9, 1, 64, 1), machine, dense_only=True))
    for bits in (32, 8, 4):
        assert all(
            c.dense for c in rows_candidates(RowsLayer(matrix, 1, bits=bits), machine, dense_only=True)
        )
