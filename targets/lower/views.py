"""Shape ops that move nothing: the output is another layout on the input's buffer."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from sparsecc.ir.edit import attribute_int, attribute_ints, constant_of
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.state import Lowering, Stored, shape_of

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """A Transpose's perm, by default the reversed order."""
    return attribute_ints(node, "perm") or tuple(reversed(range(rank)))


def lower_view(low: Lowering, node: ir.Node) -> bool:
    """Define the outputs as views where the op is one; False where the op must copy."""
    source = node.inputs[0] if node.inputs else None
    if source is None or not node.outputs:
        return False
    if node.op_type in RESHAPES:
        return _reshape(low, source, node.outputs[0])
    if node.op_type == "Transpose":
        perm = permutation(node, len(shape_of(source)))
        for stored in list(low.versions(source)):
            low.define(node.outputs[0], _view(stored, stored.layout.transpose(perm)))
        return True
    if node.op_type == "Split":
        return _split(low, node, source)
    if node.op_type == "Slice":
        return _slice(low, node, source)
    if node.op_type == "Expand":
        return _expand(low, source, node.outputs[0])
    return False


def _view(stored: Stored, layout: Layout) -> Stored:
    """Another layout on the same memory, whose padding may hold elements of the source."""
    return replace(stored, layout=layout, own=False)


def _reshape(low: Lowering, source: ir.Value, output: ir.Value) -> bool:
    shape, new_shape = shape_of(source), shape_of(output)
    found = [
        _view(stored, layout)
        for stored in list(low.versions(source))
        if (layout := stored.layout.reshape(shape, new_shape)) is not None
    ]
    if not found:
        stored = low.require(
            source, lambda s: s.layout.reshape(shape, new_shape) is not None, lambda: Layout.rows(shape)
        )
        layout = stored.layout.reshape(shape, new_shape)
        assert layout is not None
        found = [_view(stored, layout)]
    for stored in found:
        low.define(output, stored)
    return True


def _narrowed(low: Lowering, source: ir.Value, output: ir.Value, moves: list[tuple[int, int, int]]) -> None:
    for stored in list(low.versions(source)):
        layout = stored.layout
        for axis, start, step in moves:
            layout = layout.narrow(axis, start, step)
        low.define(output, _view(stored, layout))


def _split(low: Lowering, node: ir.Node, source: ir.Value) -> bool:
    axis = attribute_int(node, "axis", 0) % len(shape_of(source))
    start = 0
    for output in node.outputs:
        _narrowed(low, source, output, [(axis, start, 1)])
        start += shape_of(output)[axis]
    return True


def _slice(low: Lowering, node: ir.Node, source: ir.Value) -> bool:
    arrays = [constant_of(v) if v is not None else None for v in node.inputs[1:]]
    starts, axes, steps = (arrays[i] if len(arrays) > i else None for i in (0, 2, 3))
    if starts is None or any(
        v is not None and a is None for v, a in zip(node.inputs[1:], arrays, strict=True)
    ):
        return False
    shape = shape_of(source)
    count = starts.size
    axis_list = range(count) if axes is None else [int(a) for a in axes.reshape(-1)]
    step_list = [1] * count if steps is None else [int(s) for s in steps.reshape(-1)]
    if any(s < 1 for s in step_list):
        return False
    moves: list[tuple[int, int, int]] = []
    for axis, start, step in zip(axis_list, starts.reshape(-1), step_list, strict=True):
        size = shape[axis]
        first = int(start) + size if start < 0 else int(start)
        moves.append((axis % len(shape), min(max(first, 0), size), step))
    _narrowed(low, source, node.outputs[0], moves)
    return True


def _expand(low: Lowering, source: ir.Value, output: ir.Value) -> bool:
    shape, new_shape = shape_of(source), shape_of(output)
    missing = len(new_shape) - len(shape)
    for stored in list(low.versions(source)):
        strides = [0] * missing + [
            s if n == m else 0
            for s, n, m in zip(stored.layout.strides, shape, new_shape[missing:], strict=True)
        ]
        low.define(output, _view(stored, replace(stored.layout, strides=tuple(strides))))
    return True
