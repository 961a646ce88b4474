"""Shape inference over a whole model, and specialisation of symbolic input shapes to numbers.

x: float32[batch,3,8,8], shapes {"x": (1, 3, 8, 8)}  ->  every value of the graph has a static shape
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import onnx
import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError, UsageError, VerificationError

T = TypeVar("T")
MESSAGE_LENGTH = 240
"""Characters of a foreign error message that are shown."""
SMALL_TENSOR_BYTES = 1024
"""Constants up to this size are shown to shape inference: they are shapes, axes and the like."""


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape as numbers, or None where a dimension or the rank is unknown."""
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(dim) for dim in value.shape.numpy())


def value_text(value: ir.Value) -> str:
    """`float32[1,3,8,8]` of a value; unknown parts are `?`."""
    dtype = "?" if value.dtype is None else ir_type_name(value.dtype)
    if value.shape is None:
        return f"{dtype}[?]"
    dims = ["?" if _dim_text(dim) is None else str(_dim_text(dim)) for dim in value.shape]
    return f"{dtype}[{','.join(dims)}]"


def ir_type_name(dtype: ir.DataType) -> str:
    """Element type in numpy's spelling, such as float32."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())


def call_onnx(model: ir.Model, function: Callable[[onnx.ModelProto], T]) -> T:
    """Run a function of the onnx package on a copy of the model in which large weights are mere inputs.

    The onnx package works on serialised models, at most 2 GB: this keeps weights out of it.
    """
    proto = light_proto(model)
    return function(proto)


def light_proto(model: ir.Model) -> onnx.ModelProto:
    """Serialise with large initializers as mere graph inputs; the model is unchanged."""
    graph = model.graph
    for value in graph.initializers.values():
        # What stays inside must not refer to a file, whose folder the onnx package does not know.
        if (
            isinstance(value.const_value, ir.ExternalTensor)
            and value.const_value.nbytes <= SMALL_TENSOR_BYTES
        ):
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)
    heavy = [
        (value, value.const_value)
        for value in graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > SMALL_TENSOR_BYTES
    ]
    given = len(graph.inputs)
    order = list(graph.initializers.values())
    already = set(graph.inputs)
    try:
        for value, tensor in heavy:
            if value.shape is None:
                value.shape = ir.Shape(tensor.shape.numpy())
            value.dtype = value.dtype or tensor.dtype
            graph.initializers.pop(value.name or "")
            if value not in already:
                graph.inputs.append(value)
        return ir.to_proto(model)
    finally:
        kept = graph.inputs[:given]
        graph.inputs.clear()
        graph.inputs.extend(kept)
        graph.initializers.clear()
        for value in order:
            graph.initializers.add(value)


def infer_shapes(model: ir.Model) -> bool:
    """Give every value the type and shape that ONNX infers; returns whether anything changed.

    Raises:
        VerificationError: a node's inputs do not fit its op.
    """

    def infer(proto: onnx.ModelProto) -> onnx.ModelProto:
        try:
            return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            # Propagating the values of shapes goes wrong on some arithmetic that is valid.
            return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)

    try:
        inferred = call_onnx(model, infer)
    except (onnx.shape_inference.InferenceError, ValueError) as error:
        raise VerificationError(f"shape inference failed: {first_line(error)}") from error
    changed = False
    for graph, answer in zip(model.graphs(), _quietly_parsed(inferred).graphs(), strict=True):
        found = ir.convenience.create_value_mapping(answer)
        for name, value in ir.convenience.create_value_mapping(graph).items():
            if name in found and not value.is_initializer():
                changed |= _merge(value, found[name])
    return changed


def specialize_shapes(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> None:
    """Set the shapes of graph inputs and infer all others anew, in place.

    Args:
        model: changed in place.
        shapes: input name -> dims, each at least 1.

    Raises:
        UsageError: no such input, wrong rank, or a fixed dimension asked to be another number.
        VerificationError: the graph does not fit the shapes.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    for name, dims in shapes.items():
        value = inputs.get(name)
        if value is None:
            raise UsageError(f"the model has no input {name}; its inputs are {', '.join(map(str, inputs))}")
        _set_input_shape(value, tuple(dims))
    bound = _bound_symbols(model, shapes)
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    bound.get(dim.value or "", dim) if isinstance(dim, ir.SymbolicDim) else dim
                    for dim in value.shape
                ]
            )
    for value in _computed(model.graph):
        if value.type is not None and not (value.shape is not None and value.shape.is_static()):
            value.shape = None
    infer_shapes(model)


def require_static(model: ir.Model) -> None:
    """Refuse symbolic dimensions.

    Raises:
        UnsupportedOpError: names the first input, else the first node, with an unknown dimension.
    """
    for value in model.graph.inputs:
        if static_shape(value) is None:
            dims = ",".join("1" if isinstance(d, ir.SymbolicDim) else str(d) for d in value.shape or ())
            raise UnsupportedOpError(
                f"input {value.name} has the shape {value_text(value)}; "
                f"fix it with --shape {value.name}={dims or 'D0,D1'}"
            )
    for node in model.graph:
        for value in node.outputs:
            if static_shape(value) is None and isinstance(value.type, ir.TensorType | None):
                raise UnsupportedOpError(
                    f"{node.op_type} node {node.name} makes {value.name} of shape {value_text(value)}, "
                    f"which depends on data; give all input shapes with --shape name=dims or remove the node"
                )


def first_line(error: BaseException) -> str:
    """The first non-empty line of an exception's text, for use inside our sentences."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(".") if lines else type(error).__name__
    return text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 3] + "..."


def _set_input_shape(value: ir.Value, dims: tuple[int, ...]) -> None:
    if any(dim < 1 for dim in dims):
        raise UsageError(f"shape {dims} of input {value.name} needs dimensions of at least 1")
    if value.shape is not None:
        if len(value.shape) != len(dims):
            raise UsageError(f"input {value.name} is {value_text(value)}, so shape {dims} has the wrong rank")
        for old, new in zip(value.shape, dims, strict=True):
            if isinstance(old, int) and old != new:
                raise UsageError(f"input {value.name} is {value_text(value)}, so it cannot become {dims}")


def _bound_symbols(model: ir.Model, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Symbol -> number from the given inputs; other inputs with the same symbol get the number too."""
    bound: dict[str, int] = {}
    for value in model.graph.inputs:
        dims = shapes.get(value.name or "")
        if dims is None:
            continue
        for old, new in zip(value.shape or (), dims, strict=False):
            symbol = old.value if isinstance(old, ir.SymbolicDim) else None
            if symbol and bound.setdefault(symbol, new) != new:
                raise UsageError(
                    f"dimension {symbol} is asked to be both {bound[symbol]} and {new} by the given shapes"
                )
        value.shape = ir.Shape(dims)
    return bound


def _computed(graph: ir.Graph) -> Iterator[ir.Value]:
    for node in graph.all_nodes():
        yield from node.outputs


def _merge(value: ir.Value, found: ir.Value) -> bool:
    changed = False
    if found.type is not None and value.type != found.type:
        value.type = found.type
        changed = True
    if found.shape is not None and value.shape != found.shape:
        if value.shape is not None and value.shape.is_static() and not found.shape.is_static():
            return changed
        value.shape = found.shape.copy()
        changed = True
    return changed


def _quietly_parsed(proto: onnx.ModelProto) -> ir.Model:
    """Parse a model whose stripped initializers make onnx_ir log warnings that mean nothing here."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return ir.from_proto(proto)
    finally:
        logger.setLevel(level)


def _dim_text(dim: int | ir.SymbolicDim) -> str | None:
    return dim.value if isinstance(dim, ir.SymbolicDim) else str(dim)
