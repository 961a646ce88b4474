"""Distillation: the sparse model comes closer to the dense one, zeros stay, and runs can be gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc import distiller
from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.edit import constant_of
from sparsecc.ir.encoding import get_encoding
from sparsecc.ir.evaluate import Evaluator
from sparsecc.ir.weights import weight_uses


class Network(nn.Module):
    """Two layers and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.head = nn.Linear(64, 8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inner = self.layers(x)
        return self.head(inner) * 16, functional.normalize(inner, dim=1)


@pytest.fixture(scope="module")
def dense() -> ir.Model:
    torch.manual_seed(0)
    return sparsecc.capture(Network().eval(), (torch.zeros(32, 24),))


@pytest.fixture(scope="module")
def sparse(dense: ir.Model) -> ir.Model:
    return sparsecc.sparsify(dense, "4x1", 0.75).model


def samples(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.standard_normal((32, 24)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def data() -> sparsecc.Calibration:
    return sparsecc.Calibration(samples(48, 0))


def divergence(model: ir.Model, dense: ir.Model) -> float:
    """Kullback-Leibler divergence of the classes on data that no training saw."""
    found: list[float] = []
    for batch in samples(4, 1):
        ours, theirs = (
            torch.from_numpy(next(iter(Evaluator(one).run(batch).values()))).log_softmax(1)
            for one in (model, dense)
        )
        found.append(float((theirs.exp() * (theirs - ours)).sum(1).mean()))
    return float(np.mean(found))


def zeros(model: ir.Model) -> dict[str, np.ndarray]:
    return {
        use.value.name or "": use.value.const_value.numpy() == 0
        for use in weight_uses(model)
        if use.value.const_value is not None
    }


def same_weights(first: ir.Model, second: ir.Model) -> bool:
    for name, value in first.graph.initializers.items():
        mine, other = constant_of(value), constant_of(second.graph.initializers[name])
        assert mine is not None and other is not None
        if not np.array_equal(mine, other):
            return False
    return True


def test_comes_closer_and_keeps_its_zeros(
    dense: ir.Model, sparse: ir.Model, data: sparsecc.Calibration
) -> None:
    before = zeros(sparse)
    result = sparsecc.distill(sparse, dense, data, steps=400, rate=0.01)
    assert result.steps == 400 and result.after < 0.7 * result.before
    assert divergence(result.model, dense) < 0.7 * divergence(sparse, dense)
    for name, gone in zeros(result.model).items():
        assert np.array_equal(gone, before[name]), name
    patterns = [get_encoding(use.value).pattern for use in weight_uses(result.model)]
    assert patterns == ["block", "block", "dense"]
    assert zeros(sparse).keys() == before.keys() and not same_weights(sparse, result.model)


def test_both_losses_are_those_that_are_reported(
    dense: ir.Model, sparse: ir.Model, data: sparsecc.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distiller, "multiplies_bfloat16", lambda: False)
    order = np.random.default_rng(3).permutation(48)
    batches = list(data.again())
    expected = {"kl": 0.0, "squared": 0.0}
    for place in order[:3]:  # three of 48 are held out
        (ours, inner), (theirs, wanted) = (
            tuple(map(torch.from_numpy, Evaluator(model).run(batches[place]).values()))
            for model in (sparse, dense)
        )
        p, q = theirs.log_softmax(1), ours.log_softmax(1)
        expected["kl"] += float((p.exp() * (p - q)).sum(1).mean()) / 3
        for one, other in ((ours, theirs), (inner, wanted)):
            expected["squared"] += float((one - other).square().mean() / other.square().mean()) / 3
    for loss, value in expected.items():
        found = sparsecc.distill(sparse, dense, data, steps=1, loss=loss, seed=3)
        assert found.before == pytest.approx(value, rel=1e-4)


def test_an_interrupted_run_ends_as_one_that_was_not(
    dense: ir.Model, sparse: ir.Model, data: sparsecc.Calibration, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(distiller, "KEEP_SECONDS", 0.0)
    seen: list[int] = []

    def interrupt(phase: str, done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 30:
            raise KeyboardInterrupt

    whole = sparsecc.distill(sparse, dense, data, steps=60)
    folder = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        sparsecc.distill(sparse, dense, data, steps=60, resume=folder, progress=interrupt)
    told: list[int] = []
    found = sparsecc.distill(
        sparse, dense, data, steps=60, resume=folder, progress=lambda phase, done, total: told.append(done)
    )
    assert len(told) < 50, "it started again from nothing"
    assert found.steps == 60 and found.after == whole.after
    assert same_weights(found.model, whole.model)
    with pytest.raises(UsageError, match="another model, data or options"):
        sparsecc.distill(sparse, dense, data, steps=61, resume=folder)


def test_weights_from_before_stay_where_training_does_not_help(
    dense: ir.Model, sparse: ir.Model, data: sparsecc.Calibration
) -> None:
    result = sparsecc.distill(sparse, dense, data, steps=8, rate=100.0)
    assert result.after == result.before and same_weights(result.model, sparse)


def test_minutes_end_it(dense: ir.Model, sparse: ir.Model, data: sparsecc.Calibration) -> None:
    result = sparsecc.distill(sparse, dense, data, minutes=0.001)
    assert result.steps >= 1 and result.seconds >= 0.06


def test_bad_input_is_named(dense: ir.Model, sparse: ir.Model, data: sparsecc.Calibration) -> None:
    with pytest.raises(UsageError, match="at least two batches"):
        sparsecc.distill(sparse, dense, sparsecc.Calibration(samples(1, 0)))
    with pytest.raises(UsageError, match="positive"):
        sparsecc.distill(sparse, dense, data, minutes=0)
    with pytest.raises(UsageError, match="kl, squared"):
        sparsecc.distill(sparse, dense, data, loss="l1")
    with pytest.raises(UsageError, match="no layer"):
        sparsecc.distill(dense, dense, data)
    other = sparsecc.capture(nn.Linear(24, 5), (torch.zeros(32, 24),))
    other.graph.inputs[0].name = "x"
    with pytest.raises(UsageError, match="other"):
        sparsecc.distill(sparse, other, data)
    broken = [{"x": np.full((32, 24), np.nan, np.float32)}] * 2
    with pytest.raises(UsageError, match="NaN"):
        sparsecc.distill(sparse, dense, sparsecc.Calibration(broken))
    huge = [{"x": np.full((32, 24), 3e38, np.float32)}] * 2
    with pytest.raises(VerificationError, match="loss"):
        sparsecc.distill(sparse, dense, sparsecc.Calibration(huge))
