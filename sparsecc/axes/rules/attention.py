"""Whole attention ops of opset 23 and rotary embeddings: heads, head dimensions and the scale they imply.

Queries share key-value heads: query heads = (key-value heads, queries per key-value head). Axes of positions
keep all indices, for softmax runs over them and masks count them.
"""

from __future__ import annotations

from sparsecc.axes.context import Axes, OpContext, RuleError
from sparsecc.axes.dims import AxisExpr, expand, size_of
from sparsecc.axes.edits import PinAttribute, SetAttribute
from sparsecc.axes.rules.layout import cut_sizes
from sparsecc.axes.rules.registry import Zero, rule


@rule(
    "Attention",
    "Q[n,(h r),q!,d] K[n,h,k!,d] V[n,h,k!,v] mask[n,(h r),q!,t!] K_past[n,h,p!,d] V_past[n,h,p!,v] "
    "-> Y[n,(h r),q!,v] K_present[n,h!,t!,d!] V_present[n,h!,t!,v!] scores[n,(h r)!,q!,t!]",
    Zero.CONTRACTION,
)
def attention(node: OpContext) -> None:
    """Multi-head, grouped-query and multi-query attention; 3-D operands hold (heads, dimension) in one axis.

    Follows ONNX Attention-23. The default scale is that of the head dimension before pruning.
    """
    flat = len(node.axes(0)) == 3
    query = _heads_first(node, 0, node.int("q_num_heads", 0))
    key = _heads_first(node, 1, node.int("kv_num_heads", 0))
    value = _heads_first(node, 2, node.int("kv_num_heads", 0))
    heads = _shared_heads(node, query[1], key[1])
    node.unify(query[3], key[3])
    node.unify(key[1], value[1])
    for other in (key, value):
        node.unify(query[0], other[0])
    for axes in (query, key, value):
        _freeze_positions(node, axes[2])
    if node.has(3):
        mask = node.axes(3)
        for axis in mask[-2:]:
            _freeze_positions(node, axis)
        node.broadcast([(query[0], heads), mask[:-2]], (size_of(query[0]), size_of(heads)))
    for number, axes in ((4, key), (5, value)):
        if node.has(number):
            past = node.axes(number)
            _freeze_positions(node, past[2])
            for place in (0, 1, 3):
                node.unify(past[place], axes[place])
    batch, heads, positions, width = map(expand, (query[0], heads, query[2], value[3]))
    node.set(0, (batch, positions, heads + width) if flat else (batch, heads, positions, width))
    past_length = node.shape(4)[2] if node.has(4) else 0
    total = node.fixed(size_of(key[2]) + past_length, *_POSITIONS)
    for number, axes in ((1, key), (2, value)):
        node.set(number, (batch, expand(axes[1]), total, expand(axes[3])))
        if node.is_read(number):
            for axis in (axes[1], axes[3]):
                node.freeze(axis, "it is kept in a cache of keys and values", "cache")
    node.set(3, (batch, heads, positions, total))
    if node.is_read(3):
        node.freeze(heads, "the scores of its heads are read", "scores")
    if "scale" not in node.node.attributes:
        node.edit(PinAttribute("scale", size_of(query[3]) ** -0.5))
    if flat:
        node.edit(SetAttribute("q_num_heads", heads))
        node.edit(SetAttribute("kv_num_heads", expand(key[1])))
    last = len(node.axes(0)) - 1
    node.contract((0, last), (1, last))
    node.work(batch, heads, positions, total, node.concatenate([query[3], width]))


_POSITIONS = ("it counts positions", "position")


def _freeze_positions(node: OpContext, axis: AxisExpr) -> None:
    node.freeze(axis, *_POSITIONS)


def _heads_first(node: OpContext, number: int, heads: int) -> Axes:
    """Axes (batch, heads, positions, dimension) of an operand."""
    axes = node.axes(number)
    if len(axes) == 4:
        return axes
    width = node.shape(number)[2]
    if heads < 1 or width % heads:
        raise RuleError(f"an operand with a last axis of {width} does not divide into {heads} heads")
    count, dimension = node.reshape([axes[2]], [heads, width // heads])
    return (axes[0], count, axes[1], dimension)


def _shared_heads(node: OpContext, query: AxisExpr, key: AxisExpr) -> AxisExpr:
    """The axis of query heads, of which consecutive ones share a key-value head."""
    count, shared = size_of(query), size_of(key)
    if count % shared:
        raise RuleError(f"{count} query heads cannot share {shared} key-value heads")
    outer, inner = node.reshape([query], [shared, count // shared])
    node.unify(outer, key)
    return expand(outer + inner)


@rule(
    "RotaryEmbedding",
    "X[n,h,t,(a|a|r)] cos[n,t,a] sin[n,t,a] positions[n,t] -> Y[n,h,t,(a|a|r)]",
    Zero.KEEPS,
)
def rotary_embedding(node: OpContext) -> None:
    """Rotates pairs of the head dimension: entries a half apart, or neighbours where `interleaved`.

    Follows ONNX RotaryEmbedding-23. 3-D operands hold (heads, dimension) in the last axis.
    """
    axes = node.axes(0)
    flat = len(axes) == 3
    heads, dimension = ((), axes[3]) if not flat else _heads_first(node, 0, node.int("num_heads", 0))[1::2]
    whole = size_of(dimension)
    rotated = node.int("rotary_embedding_dim", 0) or whole
    turned = cut_sizes(dimension, [rotated, whole - rotated])[0]
    half = rotated // 2
    if node.int("interleaved", 0):
        pairs, two = node.reshape([turned], [half, 2])
        node.freeze(two, "it is a pair that is rotated", "rotated-pair")
    else:
        pairs, second = cut_sizes(turned, [half, half])
        node.unify(pairs, second)
    batch, positions = axes[0], axes[1] if flat else axes[2]
    for number in (1, 2):
        cache = node.axes(number)
        node.unify(pairs, cache[-1])
        if node.has(3):
            node.freeze(cache[0], "it is looked up by positions", "position")
        else:
            node.unify(batch, cache[0])
            node.unify(positions, cache[1])
    if node.has(3):
        node.unify(batch, node.axes(3)[0])
        node.unify(positions, node.axes(3)[1])
    if rotated != whole:
        node.edit(SetAttribute("rotary_embedding_dim", expand(turned)))
    if flat:
        node.edit(SetAttribute("num_heads", expand(heads)))
    node.set(0, [expand(axis) for axis in axes])
