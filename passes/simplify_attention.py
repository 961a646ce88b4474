"""Take out what exporters put around scaled dot product attention for cases that cannot happen here.

MatMul(q s, k t) -> MatMul(q, k) (s t), a scalar that is fused into the product
w = Softmax(x + m);  Where(IsNaN(w), 0, w) -> w, if no row of the mask m is all -inf
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.ir.edit import (
    add_initializer,
    attribute_int,
    bypass,
    constant_of,
    fresh_name,
    is_output,
    only_consumer,
    owner_graph,
    scalar_of,
    used_names,
)
from sparsecc.ir.provenance import record
from sparsecc.ir.verify import node_text
from sparsecc.passes.base import Context, Pass, PassResult


@dataclass(frozen=True)
class SimplifyAttention(Pass):
    """Simplify written-out attention.

    1. scalars that both operands of a MatMul were multiplied by move behind it
    2. adding a constant of zeros, such as a mask that masks nothing
    3. replacing NaN in a Softmax by zero, where no row can be masked entirely

    Case 3 holds for finite scores; where the mask is not known to leave a finite entry in every row it is a
    refusal.
    """

    name: ClassVar[str] = "simplify-attention"
    summary: ClassVar[str] = "take out scalings and guards around attention"

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Apply each case to every node once."""
        taken = used_names(model)
        refusals: list[Refusal] = []
        counts = [0, 0, 0]
        for node in list(model.graph.all_nodes()):
            if node.graph is None or node.domain != "":
                continue
            if node.op_type == "MatMul":
                counts[0] += _move_scalars(node, taken)
            elif node.op_type == "Add":
                counts[1] += _drop_zeros(node)
            elif node.op_type == "Where":
                counts[2] += _drop_guard(node, refusals)
        texts = ("moved {} scalings behind products", "removed {} additions of zero", "removed {} NaN guards")
        notes = tuple(text.format(count) for text, count in zip(texts, counts, strict=True) if count)
        return PassResult(bool(notes), tuple(refusals), notes)


def _move_scalars(node: ir.Node, taken: set[str]) -> bool:
    """Case 1."""
    output = node.outputs[0]
    factor = 1.0
    sources: dict[int, ir.Value] = {}
    for index, value in enumerate(node.inputs):
        scaled = None if value is None else value.producer()
        if scaled is None or scaled.domain != "" or scaled.op_type != "Mul" or value is None:
            continue
        if only_consumer(value) is not node or len(value.uses()) != 1:
            continue
        for position in (0, 1):
            number, source = scalar_of(scaled.inputs[position]), scaled.inputs[1 - position]
            if number is not None and source is not None and source.shape == value.shape:
                factor *= number
                sources[index] = source
                break
    if not sources or is_output(output) or output.dtype is None or not output.uses():
        return False
    dead = [value.producer() for index in sources if (value := node.inputs[index]) is not None]
    for index, source in sources.items():
        node.replace_input_with(index, source)
    graph = owner_graph(node)
    constant = add_initializer(
        graph, fresh_name(taken, f"{output.name}.scale"), np.array(factor, output.dtype.numpy())
    )
    product = ir.Node("", "Mul", [output, constant], num_outputs=1, name=f"{node.name}.scale")
    result = product.outputs[0]
    result.name = fresh_name(taken, f"{output.name}.scaled")
    result.shape, result.type = output.shape, output.type
    readers = list(output.uses())
    graph.insert_after(node, product)
    for reader, index in readers:
        if reader is not product:
            reader.replace_input_with(index, result)
    for scaled in dead:
        if scaled is not None:
            owner_graph(scaled).remove(scaled, safe=True)
    record(product, SimplifyAttention.name)
    return True


def _drop_zeros(node: ir.Node) -> bool:
    """Case 2."""
    for index in (0, 1):
        constant, other = constant_of(node.inputs[index]), node.inputs[1 - index]
        if constant is not None and not constant.any() and other is not None and other.shape is not None:
            return other.shape == node.outputs[0].shape and bypass(node, other)
    return False


def _drop_guard(node: ir.Node, refusals: list[Refusal]) -> bool:
    """Case 3."""
    value = node.inputs[2]
    softmax = None if value is None else value.producer()
    test = None if node.inputs[0] is None else node.inputs[0].producer()
    if (
        softmax is None
        or value is None
        or test is None
        or test.op_type != "IsNaN"
        or softmax.op_type != "Softmax"
    ):
        return False
    if (
        test.inputs[0] is not value
        or scalar_of(node.inputs[1]) != 0.0
        or value.shape != node.outputs[0].shape
    ):
        return False
    if not _leaves_an_entry(softmax):
        where = node.name or node.op_type
        reason = f"{node_text(node)} stays: the mask of {node_text(softmax)} may mask a whole row"
        refusals.append(Refusal(reason, where, "mask"))
        return False
    if not bypass(node, value):
        return False
    if not test.outputs[0].uses() and not is_output(test.outputs[0]):
        owner_graph(test).remove(test, safe=True)
    return True


def _leaves_an_entry(softmax: ir.Node) -> bool:
    """Whether every row that the Softmax sees has an entry that is not minus infinity, for finite scores."""
    source = softmax.inputs[0]
    if (
        source is None
        or source.shape is None
        or attribute_int(softmax, "axis", -1) not in (-1, len(source.shape) - 1)
    ):
        return False
    total = source.producer()
    if total is None or total.op_type != "Add":
        return total is not None and total.op_type in ("MatMul", "Mul", "Div")
    for index in (0, 1):
        mask = total.inputs[index]
        constant = constant_of(mask)
        if constant is not None:
            return constant.ndim > 0 and bool(np.isfinite(constant).any(axis=-1).all())
        choice = None if mask is None else mask.producer()
        if choice is not None and choice.op_type == "Where":
            branches = [constant_of(value) for value in choice.inputs[1:]]
            return all(array is not None and np.isfinite(array).all() for array in branches)
    return False
