"""Running a network: float32 in ONNX Runtime without optimisations, float64 in ONNX's reference evaluator."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from onnx import ModelProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsecc.oracle.network import Network, Tensors, is_weight
from sparsecc.oracle.reference_ops import REFERENCE_OPS

SYMBOLIC_SIZE = 2
"""Stands for every symbolic dimension of an input that is drawn."""


class RunError(RuntimeError):
    """A network that does not run on its inputs; one sentence."""


def run(
    network: Network, tensors: Tensors, inputs: Tensors, outputs: Sequence[str]
) -> dict[str, list[np.ndarray]]:
    """Values by name, sequences as their elements and tensors as lists of one.

    Args:
        network: its graph is run; its own tensors are not looked at.
        tensors: by name, all that the graph reads.
        inputs: an array for every graph input.
        outputs: names of any values of the main graph.

    Raises:
        RunError: the evaluator refuses the graph or fails on the arrays.
    """
    proto, feeds = _runnable(network, tensors, outputs)
    feeds.update(inputs)
    evaluate = _in_runtime if network.precision == "float32" else _in_reference
    results = evaluate(proto, feeds, list(outputs))
    return {name: _arrays(value) for name, value in zip(outputs, results, strict=True)}


def drawn_inputs(network: Network, seed: int) -> Tensors:
    """Seeded inputs: standard normal floats, integers of 0 and 1, True; symbolic dimensions are 2.

    Raises:
        RunError: an input of unknown rank, or of texts or sequences.
    """
    generator = np.random.default_rng(seed)
    result: Tensors = {}
    for value in network.proto.graph.input:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise RunError(f"input {value.name} has no known rank, so no array can be drawn; give inputs")
        shape = [dim.dim_value if dim.HasField("dim_value") else SYMBOLIC_SIZE for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if dtype.kind == "f":
            result[value.name] = generator.standard_normal(shape).astype(dtype)
        elif dtype.kind in "iu":
            result[value.name] = generator.integers(0, 2, shape).astype(dtype)
        elif dtype.kind == "b":
            result[value.name] = np.ones(shape, np.bool_)
        else:
            raise RunError(f"input {value.name} is of type {dtype}, so no array can be drawn; give inputs")
    return result


def cast_inputs(network: Network, inputs: Mapping[str, np.ndarray]) -> Tensors:
    """The caller's inputs in the types of the network, which may have been widened.

    Raises:
        RunError: an input is missing or unknown.
    """
    declared = {value.name: value.type.tensor_type.elem_type for value in network.proto.graph.input}
    if declared.keys() != inputs.keys():
        raise RunError(f"inputs {sorted(inputs)} were given, where the model has {sorted(declared)}")
    return {
        name: np.asarray(array, helper.tensor_dtype_to_np_dtype(declared[name]), order="C")
        for name, array in inputs.items()
    }


def _runnable(network: Network, tensors: Tensors, outputs: Sequence[str]) -> tuple[ModelProto, Tensors]:
    """A model whose weights are inputs, and these weights; other tensors are initializers."""
    proto, feeds = ModelProto(), dict[str, np.ndarray]()
    proto.CopyFrom(network.proto)
    for name, array in tensors.items():
        if is_weight(array):
            feeds[name] = array
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            proto.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
        else:
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    known = {value.name for value in proto.graph.output}
    for name in outputs:
        if name not in known:
            proto.graph.output.add().name = name
    return proto, feeds


def _in_runtime(proto: ModelProto, feeds: Tensors, outputs: list[str]) -> list[object]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(outputs, feeds))
    except _runtime_errors() as error:
        raise RunError(f"ONNX Runtime says: {_first_line(error)}") from error


def _in_reference(proto: ModelProto, feeds: Tensors, outputs: list[str]) -> list[object]:
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(proto, new_ops=REFERENCE_OPS)
            return list(evaluator.run(outputs, feeds))
    # The kernels are numpy code on whatever the graph hands them, so these all mean a graph that is wrong.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(
            f"the reference evaluator says: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exception types, which share no base class of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented")
    found = [getattr(state, name) for name in (*names, "NoSuchFile", "RuntimeException")]
    return (*found, RuntimeError, ValueError)


def _arrays(value: object) -> list[np.ndarray]:
    if value is None:
        return []
    return [np.asarray(item) for item in value] if isinstance(value, list) else [np.asarray(value)]


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
