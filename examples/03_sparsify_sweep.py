"""Patterns and sparsities of one network side by side: zeros, size and time.

python examples/03_sparsify_sweep.py
"""

import tempfile
from pathlib import Path

import torch

import sparsecc

torch.manual_seed(0)
module = torch.nn.Sequential(
    torch.nn.Linear(512, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 512), torch.nn.Softmax(-1)
).eval()
model = sparsecc.capture(module, torch.zeros(64, 512))

print("pattern       zeros  weights kB  ms   ms with dense kernels")
with tempfile.TemporaryDirectory() as folder:
    for pattern, sparsity in (
        ("4x1", 0.5),
        ("4x1", 0.8),
        ("4x1", 0.9),
        ("2:4", None),
        ("unstructured", 0.9),
    ):
        result = sparsecc.sparsify(model, pattern, sparsity)
        artifact = sparsecc.compile(result.model, out=Path(folder) / "model.scc", overwrite=True)
        report = artifact.report
        assert report.measured_seconds is not None
        assert report.measured_dense_seconds is not None
        print(
            f"{pattern:12} {result.zeros:6.1%} {artifact.manifest.weights_bytes / 1e3:11.0f}"
            f" {report.measured_seconds * 1e3:.3f}  {report.measured_dense_seconds * 1e3:.3f}"
        )
