"""The networks in 8 bits, weights and activations: ours and ONNX Runtime's, calibrated on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

import sparsecc
from benchmarks.models import inputs_of, onnx_file

SAMPLES = 4
"""Calibration inputs; random ones, as speed does not depend on the ranges."""


def samples_of(name: str) -> Iterator[list[np.ndarray]]:
    """The example inputs, and others like them."""
    first = inputs_of(name)
    yield first
    generator = np.random.default_rng(1)
    for _ in range(SAMPLES - 1):
        yield [
            generator.standard_normal(array.shape, dtype=np.float32)
            if array.dtype == np.float32
            else np.where(array > 1, generator.integers(1000, 20000, array.shape), array)
            for array in first
        ]


def our_int8(name: str, pattern: str = "dense", sparsity: float = 0.0) -> ir.Model:
    """Captured, made sparse unless `pattern` is dense, and quantised with calibration."""
    model = sparsecc.capture(onnx_file(name))
    if pattern != "dense":
        model = sparsecc.sparsify(model, pattern, None if ":" in pattern else sparsity).model
    names = [value.name or "" for value in model.graph.inputs]
    batches = [dict(zip(names, arrays, strict=True)) for arrays in samples_of(name)]
    return sparsecc.quantize(model, calibration=sparsecc.Calibration(batches)).model
