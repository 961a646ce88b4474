"""Compute at compile time what does not depend on inputs, including arithmetic on static shapes.

Transpose(w) -> w transposed;  Reshape(x, Concat(Gather(Shape(x), 0), [-1])) -> Reshape(x, [2, -1])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.ir.edit import (
    add_initializer,
    attribute_int,
    attribute_ints,
    constant_tensor,
    fresh_name,
    is_output,
    owner_graph,
    used_names,
)
from sparsecc.ir.evaluate import evaluate
from sparsecc.ir.opset import IR_VERSION, OPSET
from sparsecc.ir.provenance import inherit, record, record_transform
from sparsecc.ir.shapes import infer_shapes
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult

NEVER = frozenset(
    [
        "Constant",
        "If",
        "Loop",
        "Scan",
        "SequenceMap",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Bernoulli",
        "Multinomial",
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Dropout",
    ]
)
LAYOUT_OPS = frozenset(
    ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast", "CastLike")
)
SMALL_BYTES = 1 << 20
FILL_BYTES = 64 << 20
MAX_ROUNDS = 8


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes with constant inputs by initializers; nodes that read only shapes become constants too.

    A parameter that is merely transposed, reshaped or cast keeps its name, history and encoding.

    Options:
        max_growth: largest result, as a multiple of the inputs' bytes; results up to 1 MiB always fold, and
            ConstantOfShape folds up to 64 MiB.
    """

    max_growth: float = 8.0

    name: ClassVar[str] = "fold-constants"
    summary: ClassVar[str] = "compute what does not depend on inputs"

    def __post_init__(self) -> None:
        if not self.max_growth >= 0:
            raise UsageError(
                f"option max-growth of pass {self.name} must not be negative, not {self.max_growth}"
            )

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Fold until nothing changes; results that would be too large are refusals."""
        folded = 0
        refusals: dict[str, Refusal] = {}
        for _ in range(MAX_ROUNDS):
            refusals.clear()
            count = self._sweep(model, refusals)
            folded += count
            if not count or not infer_shapes(model):
                break
        notes = (f"folded {folded} nodes",) if folded else ()
        return PassResult(bool(folded), tuple(refusals.values()), notes)

    def _sweep(self, model: ir.Model, refusals: dict[str, Refusal]) -> int:
        taken = used_names(model)
        done: dict[object, ir.Value] = {}
        folded = 0
        for node in list(model.graph.all_nodes()):
            if node.graph is None or node.domain != "" or node.op_type in NEVER:
                continue
            earlier = done.get(_key(model, node))
            if earlier is not None and not is_output(node.outputs[0]):
                node.outputs[0].replace_all_uses_with(earlier)
                owner_graph(node).remove(node, safe=True)
                folded += 1
                continue
            results = _shape_result(node)
            if results is None:
                results = self._evaluated(node, refusals)
            if results is not None:
                key = _key(model, node)
                values = _replace(node, results, taken)
                if key is not None and len(values) == 1:
                    done[key] = values[0]
                folded += 1
        return folded

    def _evaluated(self, node: ir.Node, refusals: dict[str, Refusal]) -> list[np.ndarray] | None:
        tensors = [constant_tensor(value) for value in node.inputs]
        if node.op_type == "CastLike" and tensors[0] is not None:
            tensors[1] = _zero_like(node.inputs[1])
        given = [tensor for tensor in tensors if tensor is not None]
        if not node.inputs or len(given) != sum(value is not None for value in node.inputs):
            return None
        where = node.name or node.op_type
        size = sum(tensor.nbytes for tensor in given)
        limit = (
            FILL_BYTES if node.op_type == "ConstantOfShape" else max(SMALL_BYTES, int(self.max_growth * size))
        )
        if _expected_bytes(node, tensors) > limit:
            reason = f"{node_text(node)} would grow its inputs of {size} bytes to more than {limit} bytes"
            refusals[where] = Refusal(reason, where, "too-large")
            return None
        try:
            return evaluate_node(node, [None if tensor is None else tensor.numpy() for tensor in tensors])
        except VerificationError as error:
            refusals[where] = Refusal(
                f"{node_text(node)} cannot be evaluated: {error}", where, "not-evaluated"
            )
            return None


def evaluate_node(node: ir.Node, arrays: list[np.ndarray | None]) -> list[np.ndarray]:
    """Run one node through ONNX Runtime on given inputs.

    Raises:
        VerificationError: it has no kernel for these types, or the inputs do not fit.
    """
    inputs = [None if array is None else _argument(f"i{index}", array) for index, array in enumerate(arrays)]
    copy = ir.Node(
        "", node.op_type, inputs, dict(node.attributes), num_outputs=len(node.outputs), name="node"
    )
    for index, (output, original) in enumerate(zip(copy.outputs, node.outputs, strict=True)):
        output.name, output.type = f"o{index}", original.type
    given = [value for value in inputs if value is not None]
    graph = ir.Graph(given, copy.outputs, nodes=[copy], opset_imports={"": OPSET}, name="fold")
    feeds = {
        value.name or "": array
        for value, array in zip(inputs, arrays, strict=True)
        if value and array is not None
    }
    return list(evaluate(ir.Model(graph, ir_version=IR_VERSION), feeds).values())


def _argument(name: str, array: np.ndarray) -> ir.Value:
    dtype = ir.DataType.from_numpy(array.dtype)
    return ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype))


def _shape_result(node: ir.Node) -> list[np.ndarray] | None:
    """Shape and Size of a value whose dimensions are known, and Gather or Slice of known parts of a Shape."""
    source = node.inputs[0] if node.inputs else None
    if source is None:
        return None
    if node.op_type == "Shape":
        dims = _shape_dims(node)
        return [np.array(dims, np.int64)] if dims is not None and _known(dims) else None
    if node.op_type == "Size" and source.shape is not None and source.shape.is_static():
        return [np.array(int(np.prod(source.shape.numpy())), np.int64)]
    producer = source.producer()
    if (
        producer is None
        or producer.op_type != "Shape"
        or producer.domain != ""
        or node.op_type not in ("Gather", "Slice")
    ):
        return None
    dims = _shape_dims(producer)
    tensors = [constant_tensor(value) for value in node.inputs[1:]]
    if dims is None or not all(tensor is not None for tensor in tensors):
        return None
    positions = np.arange(len(dims))
    arrays = [None if tensor is None else tensor.numpy() for tensor in tensors]
    try:
        (chosen,) = evaluate_node(node, [positions, *arrays])
    except VerificationError:
        return None
    picked = [dims[int(position)] for position in chosen.reshape(-1)]
    return [np.array(picked, np.int64).reshape(chosen.shape)] if _known(picked) else None


def _shape_dims(node: ir.Node) -> list[int | None] | None:
    """What a Shape node gives: numbers, None where unknown; None if the rank is unknown."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else None for dim in source.shape]
    end = attribute_int(node, "end", len(dims))
    return dims[slice(attribute_int(node, "start", 0), end)]


def _known(dims: list[int | None]) -> bool:
    return all(dim is not None for dim in dims)


def _expected_bytes(node: ir.Node, tensors: list[ir.TensorProtocol | None]) -> int:
    """Bytes of the results, from inferred shapes; for ops that fill a shape, from that input."""
    total = 0
    for value in node.outputs:
        width = value.dtype.itemsize if value.dtype is not None else 4
        if value.shape is not None and value.shape.is_static():
            total += int(np.prod(value.shape.numpy(), dtype=np.float64) * width)
    shape = {"ConstantOfShape": 0, "Expand": 1}.get(node.op_type)
    if not total and shape is not None and (tensor := tensors[shape]) is not None:
        total = int(np.prod(tensor.numpy(), dtype=np.float64) * 4)
    return total


def _zero_like(value: ir.Value | None) -> ir.TensorProtocol | None:
    """A stand-in for the second input of CastLike, of which only the type matters."""
    if value is None or value.dtype is None or value.dtype == ir.DataType.STRING:
        return None
    return ir.tensor(np.zeros((), value.dtype.numpy()))


def _key(model: ir.Model, node: ir.Node) -> object:
    """Equal for nodes of the main graph that transpose the same constant alike, to share the result."""
    if node.op_type != "Transpose" or owner_graph(node) is not model.graph:
        return None
    return node.inputs[0], attribute_ints(node, "perm")


def _replace(node: ir.Node, results: list[np.ndarray], taken: set[str]) -> list[ir.Value]:
    """Put initializers in place of outputs; a parameter keeps its name where its last use goes."""
    origin = _parameter_of(node)
    graph = owner_graph(node)
    sole = origin is not None and not is_output(origin) and len(origin.uses()) == 1
    kept_name = origin.name if origin is not None and sole and origin.graph is graph else None
    outputs = list(node.outputs)
    if any(is_output(output) for output in outputs):
        _as_constant_node(node, results)
        return []
    values: list[ir.Value] = []
    if kept_name is not None and origin is not None:
        node.replace_input_with(0, None)
        graph.initializers.pop(kept_name)
        taken.discard(kept_name)
    for output, array in zip(outputs, results, strict=True):
        if not output.uses():
            continue
        wanted = output.name or "folded"
        if origin is not None:
            wanted = origin.name or wanted
        else:
            taken.discard(wanted)
            output.name = None
        value = add_initializer(graph, fresh_name(taken, wanted), np.asarray(array, order="C"))
        if origin is not None:
            inherit(value, origin)
            record_transform(value, _transform_text(node, array))
            record(value, FoldConstants.name)
        output.replace_all_uses_with(value)
        values.append(value)
    graph.remove(node, safe=True)
    return values


def _as_constant_node(node: ir.Node, results: list[np.ndarray]) -> None:
    """A folded graph output stays the output of a node, since graph outputs must keep their names."""
    graph = owner_graph(node)
    for output, array in zip(list(node.outputs), results, strict=True):
        tensor = ir.tensor(np.asarray(array, order="C"))
        attribute = ir.AttrTensor("value", tensor)
        constant = ir.Node(
            "", "Constant", [], [attribute], num_outputs=1, name=f"{node.name}_{output.index()}"
        )
        result = constant.outputs[0]
        result.shape, result.type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        name = output.name
        graph.insert_before(node, constant)
        output.replace_all_uses_with(result, replace_graph_outputs=True)
        output.name = None
        result.name = name
    graph.remove(node, safe=True)


def _parameter_of(node: ir.Node) -> ir.Value | None:
    """The floating-point initializer that a layout op merely rearranges."""
    source = node.inputs[0]
    if node.op_type not in LAYOUT_OPS or source is None or not source.is_initializer():
        return None
    if source.dtype is None or not source.dtype.is_floating_point():
        return None
    return source


def _transform_text(node: ir.Node, array: np.ndarray) -> str:
    if node.op_type == "Transpose":
        perm = attribute_ints(node, "perm") or tuple(reversed(range(array.ndim)))
        return f"transpose({','.join(map(str, perm))})"
    if node.op_type in ("Cast", "CastLike"):
        return f"cast({array.dtype.name})"
    return "copy" if node.op_type == "Identity" else f"reshape({','.join(map(str, array.shape))})"
