"""Structured pruning: groups, a budget, the proof, the same module smaller, an artifact that is faster.

python examples/05_prune.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn

import sparsecc
from sparsecc.pruner import verify


class Residual(nn.Module):
    """Two convolutions around which the input is added: their channels are tied."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(2 * channels)
        self.second = nn.Conv2d(2 * channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(torch.relu(self.norm(self.first(x))))


torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv2d(3, 64, 3, stride=2, padding=1),
    Residual(64),
    Residual(64),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(64, 10),
).eval()
x = torch.randn(1, 3, 64, 64)

model = sparsecc.capture(module, (x,))
for group in sparsecc.groups(model).prunable:
    print(f"{group.name:24} {group.kind.value:12} {group.size:4}  slices {len(group.parameters)} parameters")

# Half of the FLOPs, widths in multiples of 16 for the vectors of the target.
result = sparsecc.prune(model, target={"flops": 0.5}, criterion="l2", round_to=16)
print(f"{result.after.flops / result.before.flops:.1%} of the FLOPs stay")

# Pruned equals masked: checked by code that knows nothing of the analysis.
print(f"relative difference to the masked original: {verify(model, result).difference:.1e}")

# The module itself, with its own parameters sliced; go on training it as before.
result.apply_to(module, (x,))
print(f"the module has {sum(p.numel() for p in module.parameters())} parameters now")

with tempfile.TemporaryDirectory() as folder:
    dense = sparsecc.compile(model, out=Path(folder) / "dense.scc")
    small = sparsecc.compile(result.model, out=Path(folder) / "small.scc")
    seconds = [artifact.report.measured_seconds or 0.0 for artifact in (dense, small)]
    print(f"time over dense: {seconds[1] / seconds[0]:.2f}")
