"""Evaluation through ONNX Runtime, the oracle for every pass: one thread, CPU, numpy in and out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.shapes import first_line, value_text

if TYPE_CHECKING:
    import onnxruntime

LARGEST_IN_MEMORY = 1_500_000_000
"""Bytes of weights above which a model goes to ONNX Runtime through files (protobuf ends at 2 GB)."""


class Evaluator:
    """A model loaded into ONNX Runtime once, to be run many times.

    Args:
        model: any valid model, fused ones included.
        threads: intra-op threads.

    Raises:
        VerificationError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: ir.Model, threads: int = 1) -> None:
        self._inputs = {value.name or "": value for value in model.graph.inputs}
        self._outputs = [value.name or "" for value in model.graph.outputs]
        self._session = _session(model, threads)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
            inputs: an array for every graph input, by name.

        Raises:
            UsageError: a name is missing or unknown.
            VerificationError: ONNX Runtime fails on the arrays.
        """
        for name in self._inputs.keys() - inputs.keys():
            raise UsageError(f"input {name}: {value_text(self._inputs[name])} is not given")
        for name in inputs.keys() - self._inputs.keys():
            raise UsageError(f"the model has no input {name}; its inputs are {', '.join(self._inputs)}")
        feeds = {name: np.asarray(array, order="C") for name, array in inputs.items()}
        try:
            results = self._session.run(self._outputs, feeds)
        except _runtime_errors() as error:
            raise VerificationError(f"ONNX Runtime failed to run the model: {first_line(error)}") from error
        return {name: np.asarray(result) for name, result in zip(self._outputs, results, strict=True)}


def evaluate(model: ir.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name of one run; see `Evaluator`."""
    return Evaluator(model).run(inputs)


def random_inputs(model: ir.Model, seed: int = 0, default_dim: int = 1) -> dict[str, np.ndarray]:
    """Seeded inputs for checks: standard normal floats; integers and booleans are 0 or 1, safe as indices.

    Args:
        model: its graph inputs must have a known rank.
        seed: of numpy's generator.
        default_dim: number that stands for every symbolic dimension.

    Raises:
        UsageError: an input without rank or of a type with no numbers.
    """
    generator = np.random.default_rng(seed)
    return {value.name or "": _random_array(value, generator, default_dim) for value in model.graph.inputs}


def _random_array(value: ir.Value, generator: np.random.Generator, default_dim: int) -> np.ndarray:
    if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(f"input {value.name} is {value_text(value)}, for which no random array can be made")
    dims = [dim if isinstance(dim, int) else default_dim for dim in value.shape]
    dtype = value.dtype.numpy()
    if value.dtype.is_floating_point():
        return generator.standard_normal(dims, dtype=np.float32).astype(dtype)
    return generator.integers(0, 2, dims).astype(dtype)


def _session(model: ir.Model, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    weights = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    try:
        if weights <= LARGEST_IN_MEMORY:
            payload = ir.to_proto(model).SerializeToString()
            return onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
            path = Path(folder) / "model.onnx"
            ir.save(model, path, external_data="model.data")
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except _runtime_errors() as error:
        raise VerificationError(f"ONNX Runtime refused the model: {first_line(error)}") from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exception types, which share no base class of their own."""
    import importlib

    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    found = [getattr(state, name) for name in (*names, "NoSuchFile", "RuntimeException")]
    return (*found, RuntimeError, ValueError)
