"""The networks in 8 bits, weights and activations: ours and ONNX Runtime's, calibrated on the same inputs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import sparsecc
from benchmarks.models import ONNX_FOLDER, inputs_of, onnx_file

SAMPLES = 4
"""Calibration inputs; random ones, as speed does not depend on the ranges."""


class _Reader(CalibrationDataReader):
    """Samples as ONNX Runtime asks for them."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        self._left = list(batches)

    def get_next(self) -> Any:
        return self._left.pop(0) if self._left else None


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


def ort_int8_file(name: str, *, signed: bool = False, prepared: bool = True) -> Path:
    """The network as ONNX Runtime's own static quantiser writes it, calibrated by minmax; kept in build/.

    QDQ nodes, activations of 8 bits, int8 weights with a scale per channel, its default ops.

    Args:
        name: of the network.
        signed: activations int8, not uint8.
        prepared: run its `quant_pre_process` first, as its documentation says.
    """
    kind = ("s8" if signed else "u8") + ("" if prepared else "-raw")
    path = ONNX_FOLDER / f"{name}-ort-{kind}.onnx"
    if path.exists():
        return path
    file = onnx_file(name)
    names = [value.name for value in onnx.load(file, load_external_data=False).graph.input]
    batches = [dict(zip(names, arrays, strict=True)) for arrays in samples_of(name)]
    with tempfile.TemporaryDirectory(prefix="sparsecc-int8-") as folder:
        source, made = file, Path(folder) / "int8.onnx"
        if prepared:
            source = Path(folder) / "prepared.onnx"
            quant_pre_process(file, source)
        quantize_static(
            source, made, _Reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(made.read_bytes())
        temporary.replace(path)
    return path
