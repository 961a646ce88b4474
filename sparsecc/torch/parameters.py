"""Which initializers are trained: a graph does not say, so their readers and names decide.

Floats are parameters, except running statistics, what configures an op, the frequencies that positions are
multiplied by, and constants of a formula such as the 0.5 of a GELU, known by a generated name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

LAYOUT_OPS = frozenset(
    ("Cast", "CastLike", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
)
WEIGHT_OPS = frozenset(("Conv", "ConvTranspose", "GRU", "Gemm", "LSTM", "MatMul", "RNN"))
CONFIGURES = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "ConstantOfShape": (0,),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Pow": (1,),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
}
"""Op -> positions of inputs that are settings or statistics, not weights."""

GENERATED = re.compile(
    r"(^|[./:])_?(val|lifted_tensor|const\w*|\w*constant\w*|scalar\w*|epsilon|eps)([._:]?\d+)*(_output)?([._:]?\d+)*$",
    re.IGNORECASE,
)
"""Names that exporters give to constants: val_12, encoder.lifted_tensor_3, /layer/Constant_1_output_0."""


def is_parameter(value: ir.Value) -> bool:
    """Whether an initializer is to be trained.

    A generated name is a parameter only where it has two axes or more and is a weight of a layer: some
    exporters store a transposed weight so. A single number needs a name such as a module has, without any
    slash or colon, which mark paths of operations.
    """
    if value.dtype is None or not value.dtype.is_floating_point():
        return False
    uses = list(_uses(value))
    if any(index in CONFIGURES.get(node.op_type, ()) for node, index in uses):
        return False
    if any(_multiplies_integers(node, index) for node, index in uses):
        return False
    name = value.name or ""
    shape = value.const_value.shape.numpy() if value.const_value is not None else ()
    if GENERATED.search(name):
        return len(shape) >= 2 and any(node.op_type in WEIGHT_OPS for node, _ in uses)
    if all(dim == 1 for dim in shape):
        return name.replace(".", "_").isidentifier() or any(node.op_type == "PRelu" for node, _ in uses)
    return True


def _uses(value: ir.Value) -> Iterator[tuple[ir.Node, int]]:
    """Readers of the contents, through ops that only rearrange them."""
    for node, index in value.uses():
        if node.op_type in LAYOUT_OPS and node.domain == "":
            if index == 0:
                yield from _uses(node.outputs[0])
        elif node.op_type not in ("Shape", "Size"):
            yield node, index


def _multiplies_integers(node: ir.Node, index: int) -> bool:
    """Whether the other operand of a product is made of integers: positions, times rotary frequencies."""
    if node.op_type not in ("Mul", "MatMul") or len(node.inputs) != 2:
        return False
    other = node.inputs[1 - index]
    while other is not None and (producer := other.producer()) is not None and producer.op_type in LAYOUT_OPS:
        source = producer.inputs[0]
        if producer.op_type == "Cast" and source is not None and source.dtype is not None:
            kind = source.dtype
            if not kind.is_floating_point() and kind != ir.DataType.BOOL:
                return True
        other = source
    return False
