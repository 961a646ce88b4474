"""Exact shapes and the values of constants by running the graph once in ONNX Runtime, weights as zeros.

Shape inference gives up on the shape arithmetic that exporters write; a run does not. A graph with symbolic
dimensions is run at two sizes: what differs between the runs is not constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir.evaluate import random_inputs, run_all_values
from sparsecc.ir.shapes import value_text

SOURCES = ("Shape", "Size")
"""Ops whose output depends on the shape of the input only."""

SHAPED_BY_DATA = frozenset({"NonZero", "Unique", "Compress", "NonMaxSuppression", "StringSplit"})
"""Ops whose output has as many entries as the data say."""

SHAPED_BY_INPUT: Mapping[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "MaxUnpool": (2,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (2, 3),
    "SequenceAt": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "SplitToSequence": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Upsample": (1,),
}
"""Op -> inputs whose values decide the shape of the output."""

SHAPED_LIKE_FIRST = frozenset({"Scatter", "ScatterElements", "ScatterND", "TensorScatter"})
"""Ops whose output has the shape of the first input, whatever the others have."""

RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
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
        unshaped: values whose shapes depend on data: what the run showed is one case of many.
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
    unshaped: set[ir.Value] = field(default_factory=set[ir.Value])


def trace(model: ir.Model, inputs: Mapping[str, np.ndarray] | None = None) -> Trace:
    """Run the main graph.

    Args:
        model: at the pinned opset.
        inputs: arrays for all graph inputs; random ones if None, with 2, 3, ... for symbolic dimensions.

    Raises:
        UsageError: an input for which no array can be made up, or given arrays that do not fit.
        VerificationError: ONNX Runtime cannot run the model as it is.
    """
    symbols = _symbols(model)
    arrays = dict(inputs) if inputs is not None else random_inputs(model, dims=_sizes(symbols, 2))
    _check_inputs(model, arrays)
    constant, sources, unshaped = _constants(model)
    result = Trace(shape_sources=sources, unshaped=unshaped)
    for name, found in run_all_values(model, arrays, constant).items():
        if isinstance(found, list):
            result.sequences[name] = found
        elif isinstance(found, tuple):
            result.shapes[name] = found
        else:
            result.shapes[name] = found.shape
            result.constants[name] = found
    if symbols:
        second = _second_inputs(model, symbols, arrays)
        _mark_dynamic(model, second, constant, result)
    return result


def _check_inputs(model: ir.Model, arrays: Mapping[str, np.ndarray]) -> None:
    """Refuse arrays that are not what the graph inputs ask for."""
    names = [value.name or "" for value in model.graph.inputs]
    if set(names) != set(arrays):
        raise UsageError(
            f"the model has the inputs {', '.join(names) or 'none'}, but arrays were given for "
            f"{', '.join(sorted(arrays)) or 'none'}"
        )
    for value in model.graph.inputs:
        found = np.asarray(arrays[value.name or ""])
        if value.shape is None or value.dtype is None:
            continue
        fits = len(value.shape) == found.ndim and all(
            not isinstance(dim, int) or dim == size
            for dim, size in zip(value.shape, found.shape, strict=True)
        )
        if not fits or found.dtype != value.dtype.numpy():
            raise UsageError(
                f"input {value.name} is {value_text(value)}, but an array {found.dtype}{list(found.shape)} "
                f"was given"
            )


def _symbols(model: ir.Model) -> list[str]:
    """Names of the symbolic dimensions of the inputs, in order."""
    found: dict[str, None] = {}
    for value in model.graph.inputs:
        if value.shape is None:
            raise UsageError(f"input {value.name} is {value_text(value)}; give its shape with --shape")
        for dim in value.shape:
            if isinstance(dim, ir.SymbolicDim):
                found[str(dim.value)] = None
    return list(found)


def _sizes(symbols: Sequence[str], first: int) -> dict[str, int]:
    """A size of its own for every symbol, so that none are equal by accident."""
    return {symbol: first + 2 * number for number, symbol in enumerate(symbols)}


def _second_inputs(
    model: ir.Model, symbols: Sequence[str], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Inputs in which every symbol is larger than in the first run by a number of its own."""
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        for dim, size in zip(value.shape or (), arrays[value.name or ""].shape, strict=True):
            if isinstance(dim, ir.SymbolicDim):
                sizes[str(dim.value)] = size + 1 + symbols.index(str(dim.value))
    return random_inputs(model, dims=sizes)


def _mark_dynamic(
    model: ir.Model, inputs: Mapping[str, np.ndarray], constant: set[ir.Value], result: Trace
) -> None:
    try:
        second = run_all_values(model, inputs, constant)
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


def _constants(
    model: ir.Model,
) -> tuple[set[ir.Value], dict[ir.Value, frozenset[ir.Value]], set[ir.Value]]:
    """Values that no weight or graph input reaches, whose shapes each depends on, and shapes by data."""
    constant = {value for value in model.graph.initializers.values() if _is_constant_initializer(value)}
    sources: dict[ir.Value, frozenset[ir.Value]] = {}
    unshaped: set[ir.Value] = set()
    for node in model.graph:
        inputs = [value for value in node.inputs if value is not None]
        if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
            unshaped.update(node.outputs)
            continue
        if _is_unshaped(node, constant, unshaped):
            unshaped.update(node.outputs)
        if node.op_type in RANDOM or (node.op_type in SOURCES and unshaped & set(inputs)):
            continue
        if node.op_type in SOURCES and node.domain == "":
            depends = frozenset(inputs)
        elif node.op_type == "CastLike" and inputs[0] in constant:
            depends = sources.get(inputs[0], frozenset())
        elif all(value in constant for value in inputs):
            depends = frozenset[ir.Value]().union(*(sources.get(value, ()) for value in inputs))
        else:
            continue
        unshaped.difference_update(node.outputs)
        for value in node.outputs:
            constant.add(value)
            if depends:
                sources[value] = depends
    return constant, sources, unshaped


def _is_unshaped(node: ir.Node, constant: set[ir.Value], unshaped: set[ir.Value]) -> bool:
    """Whether the shapes of the outputs depend on data."""
    if node.op_type in SOURCES:
        return False
    if node.op_type in SHAPED_BY_DATA:
        return True
    seen = node.inputs[:1] if node.op_type in SHAPED_LIKE_FIRST else node.inputs
    return any(value in unshaped for value in seen) or any(
        value is not None and value not in constant for value in shaping_inputs(node)
    )


def shaping_inputs(node: ir.Node) -> list[ir.Value | None]:
    """The inputs whose values decide the shape of the output."""
    numbers = SHAPED_BY_INPUT.get(node.op_type, ())
    return [node.inputs[number] for number in numbers if number < len(node.inputs)]


_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def _is_constant_initializer(value: ir.Value) -> bool:
    """Integers, booleans and texts always; floats only as single numbers, which have no axis to prune."""
    tensor = value.const_value
    if tensor is None or value.is_graph_input():
        return False
    return not tensor.dtype.is_floating_point() or tensor.size == 1
