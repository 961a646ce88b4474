"""Exact shapes and the values of constants by running the graph once in ONNX Runtime, weights as zeros.

Shape inference gives up on the shape arithmetic that exporters write; a run does not. A graph with symbolic
dimensions is run at two sizes: what differs between the runs is not constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.evaluate import random_inputs, run_all_values
from sparsecc.ir.shapes import value_text

SOURCES = ("Shape", "Size")
"""Ops whose output depends on the shape of the input only."""

RANDOM = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial"})
"""Ops whose output is no constant although their inputs may be."""


@dataclass
class Trace:
    """What one run (two with symbolic dimensions) showed.

    Attributes:
        shapes: of every tensor value that was computed.
        sequences: shapes of the elements of every sequence value.
        constants: values that depend on no weight and no graph input, but perhaps on shapes.
        dynamic: constants that change with the size of a symbolic dimension -> which entries do; all of them
            where the constant's own shape changes.
        shape_sources: constant -> the values whose shapes it was computed from.
    """

    shapes: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict[ir.Value, tuple[int, ...]])
    sequences: dict[ir.Value, list[tuple[int, ...]]] = field(
        default_factory=dict[ir.Value, list[tuple[int, ...]]]
    )
    constants: dict[ir.Value, np.ndarray] = field(default_factory=dict[ir.Value, np.ndarray])
    dynamic: dict[ir.Value, np.ndarray] = field(default_factory=dict[ir.Value, np.ndarray])
    shape_sources: dict[ir.Value, frozenset[ir.Value]] = field(
        default_factory=dict[ir.Value, "frozenset[ir.Value]"]
    )


def trace(model: ir.Model, inputs: Mapping[str, np.ndarray] | None = None) -> Trace:
    """Run the main graph.

    Args:
        model: at the pinned opset.
        inputs: arrays for all graph inputs; random ones if None, with 2, 3, ... for symbolic dimensions.

    Raises:
        UsageError: an input for which no array can be made up, or given arrays that do not fit.
        VerificationError: ONNX Runtime cannot run the model as it is.
    """
    symbolic = any(not isinstance(dim, int) for value in model.graph.inputs for dim in value.shape or ())
    arrays = dict(inputs) if inputs is not None else _example_inputs(model, 2)
    names = {value.name for value in model.graph.inputs}
    if inputs is not None and names != inputs.keys():
        raise UsageError(
            f"the model has the inputs {', '.join(sorted(map(str, names)))}, but arrays were given for "
            f"{', '.join(sorted(inputs)) or 'none'}"
        )
    constant, sources = _constants(model)
    result = Trace(shape_sources=sources)
    for name, found in run_all_values(model, arrays, constant).items():
        if isinstance(found, list):
            result.sequences[name] = [item if isinstance(item, tuple) else item.shape for item in found]
        elif isinstance(found, tuple):
            result.shapes[name] = found
        else:
            result.shapes[name] = found.shape
            result.constants[name] = found
    if symbolic and inputs is None:
        _mark_dynamic(model, constant, result)
    return result


def _mark_dynamic(model: ir.Model, constant: set[ir.Value], result: Trace) -> None:
    try:
        second = run_all_values(model, _example_inputs(model, 3), constant)
    except VerificationError:
        # Sizes that are tied by arithmetic in the graph cannot be varied: all shape constants may move.
        for value, found in result.constants.items():
            if result.shape_sources.get(value):
                result.dynamic[value] = np.ones(found.shape, bool)
        return
    for value, found in result.constants.items():
        other = second.get(value)
        if not isinstance(other, np.ndarray) or other.shape != found.shape:
            result.dynamic[value] = np.ones(found.shape, bool)
        elif not np.array_equal(found, other, equal_nan=found.dtype.kind == "f"):
            result.dynamic[value] = found != other


def _example_inputs(model: ir.Model, first: int) -> dict[str, np.ndarray]:
    """Seeded arrays in which every symbol has a size of its own."""
    symbols: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.shape is None:
            raise UsageError(f"input {value.name} is {value_text(value)}; give its shape with --shape")
        for dim in value.shape:
            if isinstance(dim, ir.SymbolicDim):
                symbols.setdefault(str(dim.value), first + 2 * len(symbols))
    return random_inputs(model, dims=symbols)


def _constants(model: ir.Model) -> tuple[set[ir.Value], dict[ir.Value, frozenset[ir.Value]]]:
    """Values that no weight or graph input reaches, and whose shapes each depends on."""
    constant = {value for value in model.graph.initializers.values() if _is_constant_initializer(value)}
    sources: dict[ir.Value, frozenset[ir.Value]] = {}
    for node in model.graph:
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            continue
        if node.op_type in RANDOM:
            continue
        inputs = [value for value in node.inputs if value is not None]
        if node.op_type in SOURCES and node.domain == "":
            depends = frozenset(inputs)
        elif node.op_type == "CastLike" and inputs[0] in constant:
            depends = sources.get(inputs[0], frozenset())
        elif all(value in constant for value in inputs):
            depends = frozenset[ir.Value]().union(*(sources.get(value, ()) for value in inputs))
        else:
            continue
        for value in node.outputs:
            constant.add(value)
            if depends:
                sources[value] = depends
    return constant, sources


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _is_constant_initializer(value: ir.Value) -> bool:
    """Integers, booleans and texts always; floats only as single numbers, which have no axis to prune."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input():
        return False
    return not tensor.dtype.is_floating_point() or tensor.size == 1
