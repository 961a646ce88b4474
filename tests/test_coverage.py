"""The coverage tables' own code on the fastest networks of the zoo, and on mistakes that it must see."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import sparsecc
from benchmarks import coverage_checks as checks
from benchmarks.coverage_children import Failure, each
from benchmarks.coverage_minimality import minimality
from benchmarks.coverage_page import page
from benchmarks.coverage_wide import page as wide_page
from sparsecc.axes.groups import groups
from tests.zoo import MODELS

FASTEST = ("functional-linear", "flip-channels", "rms-norm", "overlapping-slices", "gated-linear-unit")


@pytest.mark.parametrize("name", FASTEST)
def test_line_of_a_network(name: str) -> None:
    found = checks.cover(MODELS[name].build(), MODELS[name].inputs, (0, 1))
    assert found.outcome == "proved" and found.runs
    assert found.share >= 0.9
    assert found.inner_share is None or found.inner_share >= 0.9
    assert found.double is not None and found.double.difference <= checks.TOLERANCE_FP64
    assert {verdict.group for verdict in found.alone} == set(found.groups)
    assert found.minimality.tried > 0 and not found.minimality.harmless


def test_a_wrong_pruning_is_not_proved() -> None:
    """What stays of one weight is shifted by one position."""
    model = MODELS["functional-linear"].build()
    found = groups(model, MODELS["functional-linear"].inputs(0))
    kept = checks.halves(found, 0)
    pruned, plan = checks.prune_with(found, kept)
    name, axes = next(iter(plan.kept.items()))
    axis, indices = next(iter(axes.items()))
    value = pruned.graph.initializers[name]
    original = model.graph.initializers[name]
    assert value.const_value is not None and original.const_value is not None
    size = original.const_value.numpy().shape[int(axis)]
    shifted = sorted((index + 1) % size for index in indices)
    array = original.const_value.numpy()
    for number, stays in axes.items():
        array = np.take(array, shifted if number == axis else stays, int(number))
    value.const_value = ir.tensor(array, name=name)
    result = checks.check(ir.to_proto(model), ir.to_proto(pruned), plan.to_json(), seed=0)
    assert not checks.verdict_of(result, 0).exact()


class Dead(nn.Module):
    """A parameter whose sum is multiplied by zero: no output depends on it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.second = nn.Linear(8, 2)
        self.dead = nn.Parameter(torch.ones(6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Two layers, and nothing."""
        return self.second(self.first(x)) + 0 * self.dead.sum()


def test_a_slice_that_need_not_be_cut_is_named() -> None:
    inputs = {"x": np.ones((2, 3), np.float32)}
    found = groups(sparsecc.capture(Dead(), (torch.ones(2, 3),)), inputs)
    result = minimality(found, checks.halves(found, 0), inputs)
    (harmless,) = result.harmless
    assert harmless.endswith(": dead.0")
    assert (result.tried, result.unrunnable, result.different) == (4, 3, 0)


def test_shares_leave_out_tables_inputs_and_outputs() -> None:
    model = MODELS["tied-embedding"].build()
    found = groups(model, MODELS["tied-embedding"].inputs(0))
    _, outside = checks.shares(found)
    tables = {node.inputs[0].name for node in model.graph if node.op_type == "Gather" and node.inputs[0]}
    assert tables & set(outside)
    assert set(outside) < {value.name for value in found.analysis.parameters}


def test_children_report_errors_deaths_and_limits() -> None:
    def raising() -> None:
        raise ValueError("first line\nsecond line")

    def dying() -> None:
        os._exit(3)

    def sleeping() -> None:
        time.sleep(600)

    def working() -> None:
        while True:
            pass

    ending = [("value", lambda: 7), ("raising", raising), ("dying", dying)]
    found: dict[str, Any] = dict(each(ending, jobs=2))
    before = signal.signal(signal.SIGXCPU, signal.SIG_IGN)  # as libraries do
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGXCPU})
    try:
        found |= dict(each([("working", working), ("sleeping", sleeping)], jobs=2, seconds=1))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGXCPU})
        signal.signal(signal.SIGXCPU, before)
    assert found["value"] == 7
    assert (found["raising"].kind, found["raising"].reason) == ("ValueError", "first line")
    assert found["dying"] == Failure("process died", "exit code 3")
    assert found["working"].kind == found["sleeping"].kind == "time limit"


def test_pages_name_every_network_and_mark_what_failed() -> None:
    name = "functional-linear"
    found = checks.cover(MODELS[name].build(), MODELS[name].inputs, (0,), thorough=False)
    bad = replace(found.together[0], difference=0.5)
    wrong = replace(found, together=(bad,))
    peer = {"outcome": "wrong", "detail": "", "difference": 0.3}
    models = {
        "good": {"family": "probe", **found.to_json()},
        "wrong": {"family": "probe", **wrong.to_json()},
        "broken": {"family": "probe", "outcome": "failed", "failure": "ValueError: a | b", "trace": ""},
    }
    assert (found.outcome, wrong.outcome) == ("proved", "not equal")
    data = {
        "command": "make coverage",
        "seeds": [0],
        "versions": {"onnx": "1"},
        "models": models,
        "peers": {"version": "1.6.1", "models": {"good": peer}},
    }
    text = page(data)
    assert "3 networks: 2 captured and analysed, 1 proved equal to masking, 1 not equal" in text
    assert "| **5e-01** |" in text and "wrong (3e-01)" in text and "a \\| b" in text


def test_wide_page_groups_causes() -> None:
    rows = {
        "a": {"status": "not built", "reason": "KeyError: 'x'"},
        "b": {"status": "not built", "reason": "KeyError: 'y'"},
        "c": {"status": "proved", "class": "C", "nodes": 3, "groups": 1, "share": 1.0, "difference": 1e-7},
    }
    text = wide_page({"command": "c", "seeds": [0], "versions": {}, "models": rows})
    assert "- 2 x KeyError: …: a, b" in text
    assert "3 model types: 1 captured, 1 of them" in text
