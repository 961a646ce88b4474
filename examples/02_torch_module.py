"""From a PyTorch module to an artifact, without an ONNX file in between.

python examples/02_torch_module.py
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

import sparsecc

torch.manual_seed(0)
pointwise = torch.nn.Conv2d(32, 64, 1)
module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, 3, stride=2, padding=1),
    torch.nn.BatchNorm2d(32),
    torch.nn.ReLU(),
    pointwise,
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(64, 10),
).eval()

# Zeros may come from anywhere, such as training with masks; here half of the 4x1 blocks of one layer.
with torch.no_grad():
    blocks = pointwise.weight.view(16, 4, 32)
    blocks[torch.rand(16, 1, 32).expand_as(blocks) < 0.5] = 0.0

x = torch.randn(1, 3, 64, 64)
with tempfile.TemporaryDirectory() as folder:
    artifact = sparsecc.compile(module, out=Path(folder) / "model.scc", example_inputs=(x,))
    for layer in artifact.report.layers:
        print(f"{layer.name:20} {layer.pattern:6} {layer.zeros:5.0%} zeros  {layer.kernel}")
    with artifact.load() as session:
        (found,) = session.run({session.inputs[0].name: x.numpy()}).values()

with torch.no_grad():
    expected = module(x).numpy()
print(f"largest difference to PyTorch: {np.abs(found - expected).max():.2e}")
