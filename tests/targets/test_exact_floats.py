"""Layers of codes that run in fp32: equal to ONNX Runtime in every code, on every kind of machine.

Scales are powers of two and biases lie on their grid, as in test_lower_codes.py.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
from networks import Network
from stepping import EVERY, V3, V4, check, lowered
from test_lower_codes import EXACT, conv8, convolved
from test_lower_conv import GEOMETRIES

from sparsecc.targets.lower import exact_floats
from sparsecc.targets.lower.layers import SpmmLayer
from sparsecc.targets.lower.select import SpmmChoice, priced, spmm_candidates, vector_machine
from sparsecc.targets.machine import Machine
from sparsecc.tuning.selectors import Fixed, Survey

MACHINES = [*EVERY, f"{V4}+vnni"]
SPARSE = "unstructured 80"


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is exact in fp32 and has zeros runs so, in the last sparse form."""

    def chosen(layer: SpmmLayer, machine: Machine, **options: Any) -> SpmmChoice:
        forms = priced(spmm_candidates(layer, machine, dense_only=False), vector_machine(machine))
        return next((form for form in reversed(forms) if not form.dense), forms[0])

    monkeypatch.setattr(exact_floats, "GAIN", inf)
    monkeypatch.setattr(exact_floats, "choose_spmm", chosen)


def kernels(net: Network, target: str) -> list[str]:
    """What the layers run as."""
    return [layer.kernel for layer in lowered(net.proto(), target)[0].low.layers]


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize(("kernel", "attributes"), GEOMETRIES, ids=str)
def test_geometry(kernel: tuple[int, int], attributes: dict[str, Any], target: str) -> None:
    net = convolved(kernel, attributes, (SPARSE, SPARSE))
    assert sum(kernel.startswith("int8 in fp32 sparse") for kernel in kernels(net, target)) >= 2
    check(net, target, tolerance=EXACT)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("target", MACHINES)
def test_patterns(target: str) -> None:
    """Convolutions, with groups too, and linear layers; several readers of one value."""
    net = Network()
    x = net.coded(net.input(2, 18, 9, 7), zero=128)
    for rows in (3, 17, 64):
        for pattern in (SPARSE, "4x1 80"):
            net.output(conv8(net, x, 18, rows, pattern=pattern, block=4))
            y = conv8(net, x, 18, rows, (3, 3), pads=[1] * 4, pattern=pattern, block=4)
            net.output(net.coded(y, 2.0**-3, 128))
    grouped = net.coded(net.input(1, 16, 5, 9), zero=60)
    y = conv8(net, grouped, 16, 24, (3, 3), group=2, pads=[1] * 4, pattern=SPARSE)
    net.output(net.coded(y, 2.0**-3, 128))
    tokens = net.coded(net.input(2, 11, 24), zero=128)
    for rows in (3, 40):
        transposed = net.add("Transpose", net.weight8(rows, 24, pattern=SPARSE), perm=[1, 0])
        y = net.add("Add", net.add("MatMul", tokens, transposed), net.bias8(rows))
        net.output(y, net.coded(y, 2.0**-3, 128))
    check(net, target, tolerance=EXACT)


@pytest.mark.usefixtures("forced")
@pytest.mark.parametrize("target", MACHINES)
def test_epilogues(target: str) -> None:
    """Activations folded into the limits of codes or not, residuals in codes or fp32 on either side."""
    net = Network()
    raw = net.input(1, 8, 6, 10)
    x = net.coded(raw, zero=120)
    limits = [net.constant(v, np.float32) for v in (-0.5, 1.5)]
    for op in (["Relu"], ["Clip", *limits], ["LeakyRelu"], ["Neg"]):
        net.output(net.coded(net.add(op[0], conv8(net, x, 8, 12, pattern=SPARSE), *op[1:]), 2.0**-4, 30))
    shortcut = net.coded(conv8(net, x, 8, 12), 2.0**-4, 77)
    plain = net.add("Conv", raw, net.constant(np.ones((12, 8, 1, 1)) / 8, np.float32))
    for residual in (shortcut, plain):
        for swap in (False, True):
            y = conv8(net, x, 8, 12, (3, 3), pads=[1] * 4, pattern=SPARSE)
            total = net.add("Add", *((residual, y) if swap else (y, residual)))
            net.output(net.coded(net.add("Relu", total), 2.0**-3, 5), net.add("Mul", total, total))
    factors = net.constant(2.0 ** np.arange(-6, 6).reshape(12, 1, 1), np.float32)
    net.output(net.coded(net.add("Mul", conv8(net, x, 8, 12, pattern=SPARSE), factors), 2.0**-3, 128))
    check(net, target, tolerance=2e-6)


@pytest.mark.usefixtures("forced")
def test_sums_that_floats_do_not_hold() -> None:
    """Rows of weights whose sums could reach 2^24 stay products of bytes."""
    net = Network()
    x = net.coded(net.input(1, 1200, 3, 5, values=np.full((1, 1200, 3, 5), 9.0, np.float32)))
    for count in (500, 600):
        codes = np.zeros((8, 1200, 1, 1), np.int8)
        codes[:, :count] = 127
        scale = net.constant(np.full(8, 2.0**-12), np.float32)
        weight = net.add("DequantizeLinear", net.constant(codes), scale, axis=0)
        net.output(net.coded(net.add("Conv", x, weight), 2.0**4))
    assert [kernel.startswith("int8 in fp32") for kernel in kernels(net, V4)] == [True, False]
    check(net, V4, tolerance=EXACT)


def test_chosen_where_products_of_bytes_take_many_instructions() -> None:
    """By the predicted times: not with one instruction for four products, and never without zeros."""
    net = Network()
    x = net.coded(net.input(1, 512, 14, 14), zero=3)
    net.output(conv8(net, x, 512, 512, pattern=SPARSE))
    assert kernels(net, V3)[0].startswith("int8 in fp32 sparse")
    assert not kernels(net, f"{V4}+vnni")[0].startswith("int8 in fp32")
    dense = Network()
    x = dense.coded(dense.input(1, 512, 14, 14), zero=3)
    dense.output(conv8(dense, x, 512, 512))
    assert not kernels(dense, V3)[0].startswith("int8 in fp32")
    check(net, V3, tolerance=EXACT)


def test_what_a_selector_wants_stays_a_product_of_bytes() -> None:
    """Tuning surveys layers of codes as such, and measures the form that it asks for."""
    net = Network()
    x = net.coded(net.input(1, 512, 14, 14), zero=3)
    net.output(conv8(net, x, 512, 512, pattern=SPARSE))
    survey = Survey()
    assert lowered(net.proto(), V3, selector=survey)[0].low.layers[0].kernel.startswith("int8 in fp32")
    ((node, surveyed),) = survey.layers.items()
    assert all(form.startswith("dots") for form in surveyed.forms)
    fixed = lowered(net.proto(), V3, selector=Fixed({node: surveyed.best}))[0].low.layers[0]
    assert not fixed.kernel.startswith("int8 in fp32") and fixed.reason == "to be measured"
