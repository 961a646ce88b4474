"""Modules pruned in PyTorch by hand, and both versions captured: nothing of the pruning is ours."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.oracle import check

H, F, HEADS = [0, 2, 3, 5, 7, 8, 10, 11], [1, 2, 5, 6, 9], [0, 1, 2, 3, 8, 9, 10, 11]


class Block(nn.Module):
    """A pre-norm transformer block with heads of width 4 between two projections."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.into = nn.Linear(6, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.ModuleList(nn.Linear(width, 4 * heads) for _ in range(3))
        self.out = nn.Linear(4 * heads, width)
        self.norm_2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, inner)
        self.down = nn.Linear(inner, width)
        self.back = nn.Linear(width, 6)

    def forward(self, x: Tensor) -> Tensor:
        """[n, s, 6] -> [n, s, 6]."""
        x = self.into(x)
        y = self.norm(x)
        q, k, v = (part(y).unflatten(2, (self.heads, 4)).transpose(1, 2) for part in self.qkv)
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.back(x + self.down(functional.gelu(self.up(self.norm_2(x)))))


class Convolutions(nn.Module):
    """Group and batch norm, a residual and a depthwise convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3)
        self.bn = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.gn = nn.GroupNorm(4, width)
        self.mix = nn.Conv2d(width, width, 1)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, 5]."""
        x = torch.relu(self.bn(self.stem(x)))
        return self.head((x + self.mix(self.gn(self.depthwise(x)))).mean((2, 3)))


def pruned_state(module: nn.Module, kept: dict[str, dict[str, list[int]]]) -> dict[str, Tensor]:
    state = dict(module.state_dict())
    for name, axes in kept.items():
        for axis, positions in axes.items():
            state[name] = state[name].index_select(int(axis), torch.tensor(positions))
    return state


def captured(module: nn.Module, x: Tensor) -> onnx.ModelProto:
    return ir.to_proto(sparsecc.capture(module, (x,)))


def statistics(model: onnx.ModelProto, op_type: str) -> list[str]:
    return [node.output[0] for node in model.graph.node if node.op_type == op_type]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_transformer_block(precision: str, tolerance: float) -> None:
    assert precision in ("float32", "float64")
    torch.manual_seed(0)
    kept = {
        "into.weight": {"0": H},
        "into.bias": {"0": H},
        **{f"qkv.{part}.weight": {"0": HEADS, "1": H} for part in range(3)},
        **{f"qkv.{part}.bias": {"0": HEADS} for part in range(3)},
        "out.weight": {"0": H, "1": HEADS},
        "up.weight": {"0": F, "1": H},
        "up.bias": {"0": F},
        "down.weight": {"0": H, "1": F},
        "back.weight": {"1": H},
        **{f"{name}.bias": {"0": H} for name in ("norm", "out", "norm_2", "down")},
        **{f"{name}.weight": {"0": H} for name in ("norm", "norm_2")},
    }
    module, smaller, x = Block(12, 3, 10), Block(8, 2, 5), torch.randn(2, 7, 6)
    smaller.load_state_dict(pruned_state(module, kept))
    original, pruned = captured(module, x), captured(smaller, x)
    norms = statistics(original, "LayerNormalization")
    assert len(norms) == 2
    plan = {"format": 1, "kept": kept, "normalizations": {name: {"2": H} for name in norms}}
    result = check(original, pruned, plan, precision=precision)
    assert result.problems == ()
    assert result.passed(tolerance)
    assert result.moved > 0.05
    wrong = kept | {"qkv.2.bias": {"0": [1, 2, 3, 4, 8, 9, 10, 11]}}
    assert check(original, pruned, plan | {"kept": wrong}, precision=precision).difference > 1e-3


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-6), ("float64", 1e-13)])
def test_convolutions(precision: str, tolerance: float) -> None:
    assert precision in ("float32", "float64")
    torch.manual_seed(0)
    alike = [0, 2, 3, 5, 6, 8, 9, 11]  # the same two of three in each group
    kept = {
        f"{name}.{kind}": {"0": alike}
        for name in ("stem", "bn", "depthwise", "gn")
        for kind in ("weight", "bias")
    }
    kept |= {"bn.running_mean": {"0": alike}, "bn.running_var": {"0": alike}}
    kept |= {"mix.weight": {"0": alike, "1": alike}, "mix.bias": {"0": alike}, "head.weight": {"1": alike}}
    module, smaller, x = Convolutions(12), Convolutions(8), torch.randn(2, 3, 7, 6)
    smaller.load_state_dict(pruned_state(module, kept))
    original, pruned = captured(module.eval(), x), captured(smaller.eval(), x)
    norms = statistics(original, "InstanceNormalization")
    assert len(norms) == 1
    inside = [20 * channel + pixel for channel in (0, 2) for pixel in range(20)]
    plan = {"format": 1, "kept": kept, "normalizations": {norms[0]: {"2": inside}}}
    result = check(original, pruned, plan, precision=precision)
    assert result.problems == ()
    assert result.passed(tolerance)
    assert result.moved > 0.05
    assert check(original, pruned, plan | {"normalizations": {}}, precision=precision).difference > 1e-3
