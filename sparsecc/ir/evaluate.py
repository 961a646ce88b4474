"""Evaluation through ONNX Runtime, the oracle for every pass: one thread, CPU, numpy in and out."""

from __future__ import annotations

import tempfile
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.shapes import first_line, light_proto, static_shape, value_text

if TYPE_CHECKING:
    import onnx
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


def outputs_of(model: ir.Model, batches: Iterable[Mapping[str, np.ndarray]]) -> list[tuple[np.ndarray, ...]]:
    """Outputs in the graph's order for each batch; errors as of `Evaluator`."""
    evaluator = Evaluator(model)
    return [tuple(evaluator.run(batch).values()) for batch in batches]


def random_inputs(
    model: ir.Model, seed: int = 0, default_dim: int = 1, dims: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Seeded inputs for checks: standard normal floats; integers and booleans are 0 or 1, safe as indices.

    Args:
        model: its graph inputs must have a known rank.
        seed: of numpy's generator.
        default_dim: number that stands for every symbolic dimension.
        dims: numbers for symbolic dimensions by name, before the default.

    Raises:
        UsageError: an input without rank or of a type with no numbers.
    """
    generator = np.random.default_rng(seed)
    named = dims or {}
    return {
        value.name or "": _random_array(value, generator, default_dim, named) for value in model.graph.inputs
    }


def _random_array(
    value: ir.Value, generator: np.random.Generator, default_dim: int, named: Mapping[str, int]
) -> np.ndarray:
    if value.shape is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        raise UsageError(f"input {value.name} is {value_text(value)}, for which no random array can be made")
    dims = [dim if isinstance(dim, int) else named.get(str(dim.value), default_dim) for dim in value.shape]
    dtype = value.dtype.numpy()
    if value.dtype.is_floating_point():
        return generator.standard_normal(dims, dtype=np.float32).astype(dtype)
    return generator.integers(0, 2, dims).astype(dtype)


def run_all_values(
    model: ir.Model, inputs: Mapping[str, np.ndarray], wanted: Container[ir.Value]
) -> dict[ir.Value, np.ndarray | tuple[int, ...] | list[tuple[int, ...]]]:
    """One run in which every value of the main graph is seen: the array if `wanted`, else only its shape.

    Large weights are fed as zeros that take no memory, so only values that do not depend on them mean
    anything. Nodes of a domain that ONNX Runtime does not know, and copies of large weights, are left out;
    their outputs are fed as zeros of their declared shapes. A sequence gives the shapes of its elements; a
    value that was not computed, and constants of types that numpy has no arrays for, are absent.

    Args:
        model: unchanged afterwards.
        inputs: an array for every graph input, by name.
        wanted: values whose arrays are returned.

    Raises:
        UsageError: a node of an unknown domain whose outputs have no declared shape.
        VerificationError: ONNX Runtime refuses the model or fails on the arrays.
    """
    import onnx
    import onnxruntime

    proto = light_proto(model)
    feeds = {name: np.asarray(array, order="C") for name, array in inputs.items()}
    for value in _fed_as_zeros(model, proto):
        shape = static_shape(value)
        if shape is None or value.dtype is None:
            raise UsageError(
                f"{value.name} comes from an op that ONNX Runtime does not know and has no fixed shape; "
                f"declare its type and shape in the model"
            )
        feeds[value.name or ""] = np.zeros(shape, value.dtype.numpy())
    given = {entry.name for entry in proto.graph.input}
    outputs = {output.name for output in proto.graph.output}
    computed = [name for node in proto.graph.node for name in node.output if name]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results = session.run(computed, {name: feeds[name] for name in given})
    except _runtime_errors() as error:
        raise VerificationError(
            f"ONNX Runtime cannot run the model as it is given: {first_line(error)}"
        ) from error
    seen: dict[ir.Value, np.ndarray | tuple[int, ...] | list[tuple[int, ...]]] = {}
    found = dict(zip(computed, results, strict=True))
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        array = feeds.get(value.name or "")
        if value in wanted and value.const_value is not None:
            seen[value] = value.const_value.numpy()
        else:
            tensor = value.const_value
            shape = tuple(tensor.shape.numpy()) if tensor is not None else None
            seen[value] = array.shape if array is not None else shape or ()
    for node in model.graph:
        for value in node.outputs:
            result = found.get(value.name or "", feeds.get(value.name or ""))
            if isinstance(result, list):
                seen[value] = [np.shape(item) for item in result]
            elif isinstance(result, np.ndarray):
                seen[value] = result if value in wanted else result.shape
    return seen


def _fed_as_zeros(model: ir.Model, proto: onnx.ModelProto) -> list[ir.Value]:
    """Weights that `proto` has as inputs, and what is computed by nodes that are taken out of `proto`.

    Those are nodes of unknown domains, and those that would only write a large weight out once more.
    """
    given = {value.name for value in model.graph.inputs}
    weights = [model.graph.initializers[entry.name] for entry in proto.graph.input if entry.name not in given]
    known = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"} | {
        function.domain for function in model.functions.values()
    }
    zeros = set(weights)
    left_out: list[ir.Value] = []
    for node in model.graph:
        copies = node.domain == "" and node.op_type in ("Transpose", "Identity", "Cast")
        if node.domain not in known:
            left_out.extend(node.outputs)
        elif copies and node.inputs[0] in zeros and static_shape(node.outputs[0]) is not None:
            left_out.append(node.outputs[0])
            zeros.add(node.outputs[0])
    if left_out:
        names = {value.name for value in left_out}
        kept = [node for node in proto.graph.node if not names & set(node.output)]
        del proto.graph.node[:]
        proto.graph.node.extend(kept)
        made = {output.name for output in proto.graph.output}
        for value in left_out:
            if value.shape is not None and value.dtype is not None and value.name not in made:
                proto.graph.input.append(ir.to_proto(value))
        _drop_outputs(proto, names & made)
    return weights + left_out


def _drop_outputs(proto: onnx.ModelProto, names: set[str | None]) -> None:
    """Graph outputs that no node computes any more."""
    kept = [output for output in proto.graph.output if output.name not in names]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)


def _session(model: ir.Model, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # a product of dequantised weights would be computed in 8 bits, 1 % away from what the nodes say
    options.add_session_config_entry("session.disable_quant_qdq", "1")
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
