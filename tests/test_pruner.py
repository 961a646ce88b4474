"""prune, prune_ratios, replay, verify and apply_to on PyTorch modules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

import sparsecc
from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir import evaluate
from sparsecc.pruner import verify


class Block(nn.Module):
    """A residual block with grouped and depthwise convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.grouped = nn.Conv2d(2 * channels, channels, 3, padding=1, groups=4)
        self.scale = nn.GroupNorm(4, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale(self.grouped(torch.relu(self.norm(self.depthwise(self.expand(x))))))


class Attention(nn.Module):
    """Self-attention whose code knows the number of heads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv = nn.Linear(24, 72)
        self.out = nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(q @ k.transpose(-1, -2) * 0.4, dim=-1)
        mixed = (scores @ v).transpose(1, 2).reshape(batch, length, -1)
        return self.head(self.norm(x @ torch.eye(24) + self.out(mixed)))


def convolutions() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), Block(16), Block(16), nn.Conv2d(16, 24, 1), nn.ReLU()]
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).eval()
    return module, torch.randn(2, 3, 8, 8)


def attention() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return Attention().eval(), torch.randn(2, 6, 24)


@pytest.mark.parametrize("make", [convolutions, attention])
@pytest.mark.parametrize("criterion", ["l1", "l2", "fpgm", "random"])
def test_pruned_equals_masked(make: Callable[[], tuple[nn.Module, torch.Tensor]], criterion: str) -> None:
    module, x = make()
    model = sparsecc.capture(module, (x,))
    result = sparsecc.prune(model, 0.5, criterion=criterion)
    found = verify(model, result)
    assert found.difference <= 1e-5 < found.moved
    assert result.after.parameters < 0.6 * result.before.parameters


def test_a_wrong_result_is_caught() -> None:
    module, x = convolutions()
    model = sparsecc.capture(module, (x,))
    result = sparsecc.prune(model, 0.5)
    weight = result.model.graph.initializers["0.weight"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(np.roll(weight.const_value.numpy(), 1, axis=0), name="0.weight")
    with pytest.raises(VerificationError, match="not the original with those slices zeroed"):
        verify(model, result)


def test_the_module_itself_shrinks() -> None:
    module, x = convolutions()
    model = sparsecc.capture(module, (x,))
    result = sparsecc.prune(model, 0.5)
    result.apply_to(module, (x,))
    (expected,) = evaluate(result.model, {model.graph.inputs[0].name or "": x.numpy()}).values()
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert sum(item.numel() for item in module.parameters()) < result.after.parameters
    module.train()
    module(x).sum().backward()
    assert all(item.grad is not None for item in module.parameters())
    again = sparsecc.capture(module.eval(), (x,))
    assert sparsecc.groups(again).total.parameters == result.after.parameters


def test_a_module_whose_code_knows_a_size_is_left_alone() -> None:
    module, x = attention()
    before = copy.deepcopy(module.state_dict())
    model = sparsecc.capture(module, (x,))
    result = sparsecc.prune(model, 0.5, only=["*heads*"])
    assert result.groups, [group.name for group in sparsecc.groups(model)]
    with pytest.raises(VerificationError, match=r"qkv|heads|output 0 is not that|does not work"):
        result.apply_to(module, (x,))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_a_module_that_is_another_one() -> None:
    module, x = convolutions()
    result = sparsecc.prune(sparsecc.capture(module, (x,)), 0.5)
    with pytest.raises(UsageError, match="has no parameter"):
        result.apply_to(attention()[0], (x,))
    with pytest.raises(UsageError, match="but 2 were given"):
        result.apply_to(module, (x, x))
    result.apply_to(module, (x,))
    with pytest.raises(UsageError, match="apply it to the unpruned module"):
        result.apply_to(module, (x,))


def test_iterations_reach_the_same_budget() -> None:
    module, x = convolutions()
    model = sparsecc.capture(module, (x,))
    seen: list[int] = []

    def between(pruned: ir.Model) -> ir.Model:
        seen.append(int(sparsecc.groups(pruned).total.parameters))
        return pruned

    result = sparsecc.prune(model, target={"parameters": 0.4}, iterations=3, between=between)
    assert abs(result.after.parameters / result.before.parameters / 0.4 - 1) <= 0.02
    assert len(seen) == 2
    assert seen == sorted(seen, reverse=True)
    assert verify(model, result).difference <= 1e-5
    assert sparsecc.replay(model, result.plan).plan.kept == result.plan.kept


def test_several_ratios() -> None:
    module, x = convolutions()
    results = sparsecc.prune_ratios(sparsecc.capture(module, (x,)), [0.25, 0.5, 0.75])
    sizes = [result.after.parameters for result in results]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("ratio", "target", "message"),
    [
        (0.5, {"flops": 0.5}, "not both"),
        (None, {"watts": 0.5}, "no budget of 'watts'"),
        (None, {"flops": 0.0}, "over 0 and under 1"),
        (None, {"latency": 0.5, "flops": 0.5}, "only target"),
        (None, {"latency": 2.0}, "over 0 and under 1"),
        (1.5, None, "at least 0 and under 1"),
    ],
)
def test_goals_that_contradict_themselves(
    ratio: float | None, target: dict[str, float] | None, message: str
) -> None:
    module, x = attention()
    with pytest.raises(UsageError, match=message):
        sparsecc.prune(sparsecc.capture(module, (x,)), ratio, target=target)


def test_a_latency_by_the_cost_model() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 96, 3), nn.ReLU(), nn.Conv2d(96, 8, 1)
    )
    model = sparsecc.capture(module.eval(), (torch.randn(1, 3, 20, 20),))
    result = sparsecc.prune(model, target={"predicted-latency": 0.5}, round_to=8)
    assert result.latency_share is not None
    assert abs(result.latency_share / 0.5 - 1) <= 0.1
    assert result.after.flops < 0.75 * result.before.flops


def test_symbolic_sizes_stay_symbolic() -> None:
    module, _ = attention()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=64)
    program = torch.export.export(
        module, (torch.randn(3, 7, 24),), dynamic_shapes={"x": {0: batch, 1: length}}
    )
    model = sparsecc.capture(program)
    result = sparsecc.prune(model, 0.5)
    assert {group.kind for group in result.groups} >= {"head", "head dimension"}
    for shape in ((1, 2, 24), (3, 7, 24), (5, 11, 24)):
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        assert verify(model, result, {"x": x}).difference <= 1e-5
