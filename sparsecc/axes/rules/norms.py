"""Normalisations: statistics run over kept entries only, which the oracle masks; softmax keeps its axis."""

from __future__ import annotations

from sparsecc.axes.context import OpContext
from sparsecc.axes.edits import SetAttribute
from sparsecc.axes.rules.registry import Zero, rule


@rule("BatchNormalization", "X[n,c,*s] scale[c] B[c] mean[c] var[c] -> Y[n,c,*s]", Zero.NORM)
def batch_normalization(node: OpContext) -> None:
    """Inference: the statistics are parameters."""
    axes = node.axes(0)
    for number in range(1, 5):
        node.unify(axes[1], node.axes(number)[0])
    node.set(0, axes)
    for number in range(1, len(node.node.outputs)):
        node.set(
            number, [node.fixed(size, "it is a statistic", "statistic") for size in node.out_shape(number)]
        )


@rule("InstanceNormalization", "X[n,c,*s~] scale[c] B[c] -> Y[n,c,*s~]", Zero.NORM)
def instance_normalization(node: OpContext) -> None:
    """Statistics over the spatial axes, which hold channels where a group norm was written this way."""
    axes = node.axes(0)
    node.unify(axes[1], node.axes(1)[0])
    node.unify(axes[1], node.axes(2)[0])
    node.statistics(range(2, len(axes)))
    node.set(0, axes)


@rule("GroupNormalization", "X[n,(g c~),*s~] scale[(g c)] B[(g c)] -> Y[n,(g c),*s]", Zero.NORM)
def group_normalization(node: OpContext) -> None:
    """Statistics over the channels of a group and the spatial axes."""
    axes = node.axes(0)
    for number in (1, 2):
        node.unify(axes[1], node.axes(number)[0])
    count = node.int("num_groups", 1)
    groups, _ = node.reshape([axes[1]], [count, node.shape(0)[1] // count])
    node.edit(SetAttribute("num_groups", groups))
    node.statistics(range(1, len(axes)))
    node.set(0, axes)


@rule("LayerNormalization RMSNormalization", "X[*b,*c~] scale[*c] B[*c] -> Y[*b,*c]", Zero.NORM)
@rule("SimplifiedLayerNormalization", "X[*b,*c~] scale[*c] -> Y[*b,*c]", Zero.NORM, domain="com.microsoft")
def layer_normalization(node: OpContext) -> None:
    """Statistics over all axes from `axis` on; scale and bias broadcast to them."""
    axes = node.axes(0)
    first = node.int("axis", -1) % len(axes)
    for number in range(1, len(node.node.inputs)):
        if node.has(number):
            own = node.axes(number)
            start = len(axes) - len(own)
            node.broadcast([axes[start:], own], node.shape(0)[start:])
    node.statistics(range(first, len(axes)))
    node.set(0, axes)
    for number in range(1, len(node.node.outputs)):
        node.set(
            number, [node.fixed(size, "it is a statistic", "statistic") for size in node.out_shape(number)]
        )


@rule("LpNormalization", "X[*b,c~] -> Y[*b,c]", Zero.NORM)
def lp_normalization(node: OpContext) -> None:
    """A sum of powers, to which zeros add nothing."""
    axes = node.axes(0)
    node.statistics([node.int("axis", -1) % len(axes)])
    node.set(0, axes)


@rule("MeanVarianceNormalization", "X[*b,*c~] -> Y[*b,*c]", Zero.NORM)
def mean_variance_normalization(node: OpContext) -> None:
    """Statistics over the listed axes."""
    axes = node.axes(0)
    node.statistics([axis % len(axes) for axis in node.int_list("axes") or (0, 2, 3)])
    node.set(0, axes)


@rule("LRN", "X[n,c!,*s] -> Y[n,c!,*s]", Zero.LOST)
def local_response_normalization(node: OpContext) -> None:
    """Each channel sees its neighbours, so their distances may not change."""
    axes = node.axes(0)
    node.freeze(axes[1], "local response normalisation reads neighbouring channels", "neighbours")
    node.set(0, axes)


@rule("Softmax LogSoftmax Hardmax", "X[*b,c!] -> Y[*b,c!]", Zero.LOST)
def softmax(node: OpContext) -> None:
    """exp(0) is not 0: a removed entry would have taken its share."""
    axes = node.axes(0)
    node.freeze(axes[node.int("axis", -1) % len(axes)], "softmax runs over it", "softmax")
    node.set(0, axes)
