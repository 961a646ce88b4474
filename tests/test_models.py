"""Real networks, end to end: an artifact computes what ONNX Runtime computes on the same sparse network.

By default every network runs at a small size in a few patterns; with SPARSECC_ALL_MODELS=1 (`make models`)
at its usual size, dense and in all patterns and sparsities, batch 1 and 3. Threads are always 1 and 2.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import sparsecc
from benchmarks.models import MODELS, inputs_of, onnx_file
from sparsecc.peers import OnnxRuntime
from sparsecc.side_by_side import compare

TOLERANCE = 1e-4
EVERYTHING = os.environ.get("SPARSECC_ALL_MODELS") == "1"
SMALL = {
    "mobilenet-v1": 64,
    "mobilenet-v2": 64,
    "efficientnet-lite0": 64,
    "resnet-18": 64,
    "resnet-50": 64,
    "minilm": 24,
    "mlp": 784,
}
DENSE = ("dense", 0.0)
PATTERNS = [("2:4", 0.5)] + [(p, s) for p in ("4x1", "2x1", "unstructured") for s in (0.5, 0.7, 0.8, 0.9)]
FEW = [(DENSE, 1), (("4x1", 0.8), 3), (("2x1", 0.7), 1), (("2:4", 0.5), 1), (("unstructured", 0.9), 3)]
CONFIGURATIONS = [(p, batch) for p in (DENSE, *PATTERNS) for batch in (1, 3)] if EVERYTHING else FEW


@pytest.mark.parametrize(
    ("pattern", "sparsity", "batch"), [(pattern, share, batch) for (pattern, share), batch in CONFIGURATIONS]
)
@pytest.mark.parametrize("name", list(MODELS))
def test_matches_onnx_runtime(name: str, pattern: str, sparsity: float, batch: int, tmp_path: Path) -> None:
    size = None if EVERYTHING else SMALL[name]
    model = sparsecc.capture(onnx_file(name, batch, size))
    if pattern != "dense":
        result = sparsecc.sparsify(model, pattern, sparsity)
        assert result.zeros > 0.8 * sparsity, "nearly all weights are in layers that may be sparse"
        model = result.model
    file = tmp_path / "sparse.onnx"
    ir.save(model, file)
    names = [value.name or "" for value in model.graph.inputs]
    inputs = dict(zip(names, inputs_of(name, batch, size), strict=True))
    expected = OnnxRuntime(file, threads=1).run(inputs)
    artifact = sparsecc.compile(file, out=tmp_path / "model.scc", measure=False)
    sparse = [layer for layer in artifact.report.layers if "sparse" in layer.kernel]
    assert not (sparse and pattern == "dense")
    assert sparse or not (pattern == "4x1" and sparsity >= 0.8)
    first: dict[str, np.ndarray] = {}
    for threads in (1, 2):
        with artifact.load(threads) as session:
            for _ in range(2):
                found = session.run(inputs)
                for output, difference in compare(found, expected).items():
                    assert difference.relative < TOLERANCE, (output, threads)
                first = first or found
                assert all(np.array_equal(found[key], first[key]) for key in found), "the numbers are fixed"


def test_measured_selection_is_never_slower(tmp_path: Path) -> None:
    """At 50 % unstructured zeros dense kernels are faster for many layers, and measuring finds them."""
    model = sparsecc.capture(onnx_file("mobilenet-v2", 1, SMALL["mobilenet-v2"]))
    sparse = sparsecc.sparsify(model, "unstructured", 0.5).model
    report = sparsecc.compile(sparse, out=tmp_path / "model.scc").report
    assert report.measured_seconds is not None
    assert report.measured_dense_seconds is not None
    assert report.measured_seconds <= report.measured_dense_seconds
    assert all(layer.measured_seconds is not None for layer in report.layers)


def test_library_is_small_and_needs_nothing(tmp_path: Path) -> None:
    """MobileNet-v1 without its weights is under 500 kB and links libc, libm and pthread at most."""
    from sparsecc.cli.elf import needed_libraries

    model = sparsecc.capture(onnx_file("mobilenet-v1", 1, SMALL["mobilenet-v1"]))
    artifact = sparsecc.compile(
        sparsecc.sparsify(model, "4x1", 0.8).model, out=tmp_path / "model.scc", measure=False
    )
    library = artifact.path / "libmodel.so"
    assert library.stat().st_size < 500_000
    assert set(needed_libraries(library)) <= {"libc.so.6", "libm.so.6", "libpthread.so.0"}


def test_module_is_compiled_as_it_is(tmp_path: Path) -> None:
    """A PyTorch module goes in without an ONNX file, and computes what PyTorch computes."""
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Flatten(1)
    ).eval()
    x = torch.randn(2, 3, 10, 10)
    artifact = sparsecc.compile(
        module, out=tmp_path / "m.scc", example_inputs=(x,), archive=True, measure=False
    )
    with torch.no_grad():
        expected = module(x).numpy()
    with artifact.load() as session:
        (found,) = session.run({session.inputs[0].name: x.numpy()}).values()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
