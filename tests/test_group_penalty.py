"""Regularisers on groups: their values, what they empty in training, and that `replay` changes little."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.errors import UsageError, VerificationError
from sparsecc.group_penalty import GroupPenalty, k_support
from sparsecc.ir.evaluate import evaluate


class Residual(nn.Module):
    """The stem's channels are those of the shortcut; the inner ones are free."""

    def __init__(self, inner: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.first = nn.Conv2d(6, inner, 3, padding=1)
        self.second = nn.Conv2d(inner, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(image)))
        return self.head((x + self.second(functional.relu(self.first(x)))).mean((2, 3)))


IMAGES = torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(1))
CLASSES = (IMAGES.mean((2, 3)) @ torch.randn(3, 4, generator=torch.Generator().manual_seed(2))).argmax(1)


@pytest.fixture(scope="module")
def model() -> ir.Model:
    torch.manual_seed(0)
    return sparsecc.capture(Residual().eval(), (IMAGES,))


def trained(
    model: ir.Model, strength: float, **options: object
) -> tuple[nn.Module, GroupPenalty, GroupPenalty]:
    """The module after some steps, its penalty, and that of all groups."""
    module = sparsecc.to_torch(model).train()
    penalty = GroupPenalty(module, model, **options)  # pyright: ignore[reportArgumentType]
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 250)
    for _ in range(250):
        optimizer.zero_grad()
        loss = functional.cross_entropy(module(IMAGES), CLASSES) + strength * penalty()
        loss.backward()
        optimizer.step()
        schedule.step()
    return module.eval(), penalty, GroupPenalty(module, model)


def test_the_group_lasso_is_the_sum_of_norms_over_everything_that_goes_with_an_index(model: ir.Model) -> None:
    module = sparsecc.to_torch(model)
    expected = 0.0
    arrays = {
        name: value.const_value.numpy()
        for name, value in model.graph.initializers.items()
        if value.const_value
    }
    trained_names = {module.initializer_names[path] for path, _ in module.named_parameters()}
    for group in sparsecc.groups(model).prunable:
        elements, norms = 0, []
        for index in range(group.size):
            parts = [
                arrays[axis.parameter].take(axis.positions(index), axis.axis).reshape(-1)
                for axis in group.axes
                if axis.parameter in trained_names
            ]
            norms.append(np.linalg.norm(np.concatenate(parts)))
            elements += sum(part.size for part in parts)
        expected += math.sqrt(elements / group.size) * sum(norms)
    assert GroupPenalty(module, model)().item() == pytest.approx(expected, rel=1e-5)


def test_a_plan_empties_what_it_deletes_and_nothing_else(model: ir.Model) -> None:
    plan = sparsecc.prune(model, 0.5, round_to=1).plan
    module, penalty, everything = trained(model, 0.02, plan=plan)
    gone = {group.name: np.setdiff1d(np.arange(group.size), group.kept) for group in plan.groups}
    assert set(penalty.names) == set(gone)
    free, _, _ = trained(model, 0.0)
    plain = GroupPenalty(free, model).norms()
    for name, norms in everything.norms().items():
        assert norms[gone[name]].max() < 0.05 * plain[name].mean()
        assert np.delete(norms, gone[name]).mean() > 0.5 * plain[name].mean()
    emptied = sparsecc.capture(module, (IMAGES,))
    small = sparsecc.replay(emptied, plan).model
    before, after = (
        evaluate(each, {each.graph.inputs[0].name or "": IMAGES.numpy()}) for each in (emptied, small)
    )
    for one, other in zip(before.values(), after.values(), strict=True):
        assert np.abs(one - other).max() < 0.05 * np.abs(one).max()


def test_a_ratio_leaves_about_as_many_indices_as_it_says(model: ir.Model) -> None:
    found = trained(model, 0.003, ratio=0.5)[1].norms()
    plain = trained(model, 0.0, ratio=0.5)[1].norms()
    for name, norms in found.items():
        alive = int((norms > 0.02 * norms.max()).sum())
        assert abs(alive - len(norms) // 2) <= 1 < len(norms) // 2
        assert (plain[name] > 0.02 * plain[name].max()).all()


@pytest.mark.parametrize("size, count", [(1, 1), (5, 1), (5, 2), (6, 5), (7, 7), (40, 13)])
def test_the_k_support_norm_and_its_gradient_are_each_others_duals(size: int, count: int) -> None:
    """½ |a|² = max over y of a y - ½ (sum of the k largest y²), which the gradient attains (Fenchel)."""
    generator = torch.Generator().manual_seed(size * 50 + count)
    for scale in (0.1, 1.0, 30.0):
        norms = torch.rand(size, generator=generator).pow(3).mul(scale).requires_grad_()
        value = k_support(norms, count)
        (slope,) = torch.autograd.grad(value, norms)
        largest = slope.square().sort(descending=True).values[:count].sum()
        assert value.item() == pytest.approx(((norms * slope).sum() - largest / 2).item(), rel=1e-4)


def test_the_k_support_norm_of_few_entries_is_half_their_squares() -> None:
    few = torch.tensor([0.0, 3.0, 0.0, 1.0, 2.0])
    assert float(k_support(few, 3)) == pytest.approx(7)
    assert float(k_support(few, 5)) == pytest.approx(7)
    assert float(k_support(few, 1)) == pytest.approx(18)  # half the squared sum
    values = [float(k_support(few, count)) for count in range(1, 6)]
    assert all(one >= other - 1e-6 for one, other in itertools.pairwise(values))


def test_masks_of_sparse_training_are_looked_through(model: ir.Model) -> None:
    training = sparsecc.SparseTraining(model, "unstructured", 0.5, min_size=0, steps=10)
    plain = GroupPenalty(sparsecc.to_torch(model), model)
    masked = GroupPenalty(training.module, model)
    assert masked.names == plain.names
    assert masked().item() == pytest.approx(plain().item(), rel=1e-6)


def test_bad_arguments(model: ir.Model) -> None:
    module = sparsecc.to_torch(model)
    plan = sparsecc.prune(model, 0.5, round_to=1).plan
    with pytest.raises(UsageError, match="a plan or a ratio"):
        GroupPenalty(module, model, plan=plan, ratio=0.5)
    with pytest.raises(UsageError, match="over 0 and under 1, not 1"):
        GroupPenalty(module, model, ratio=1.0)
    with pytest.raises(UsageError, match="a Residual has no parameters by the names of a model"):
        GroupPenalty(Residual(), model)
    other = sparsecc.capture(Residual(inner=10).eval(), (IMAGES,))
    with pytest.raises(
        UsageError, match=r"first\.weight is \[8, 6, 3, 3\] in the module and \[10, 6, 3, 3\]"
    ):
        GroupPenalty(module, other)
    with pytest.raises(VerificationError):
        GroupPenalty(sparsecc.to_torch(other), other, plan=plan)
