"""Normalisations: statistics run over kept entries only, which the oracle masks; softmax keeps its axis."""

from __future__ import annotations

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.edits import SetAttribute
from sparsecc.axes.rules.registry import Zero, rule


@rule("BatchNormalization", "X[n,c,*s] scale[c] B[c] mean[c] var[c] -> Y[n,c,*s]", Zero.NORM)
def batch_normalization(node: OpContext) -> None:
    """Inference: the statistics are parameters."""
    axes = node.axes(0)
    if len(axes) < 2 or node.int("training_mode", 0):
        raise RuleError("only inference on data with a channel axis is covered")
    for number in range(1, 5):
        node.unify(axes[1], node.axes(number)[0])
    node.set(0, axes)


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
    count = node.int("num_groups", 1)
    groups, _ = node.reshape([axes[1]], [count, node.shape(0)[1] // count])
    for number in (1, 2):
        # Before opset 21 scale and shift were per group.
        per_group = node.shape(number)[0] == count
        node.unify(groups if per_group else axes[1], node.axes(number)[0])
    node.edit(SetAttribute("num_groups", groups))
    node.statistics(range(1, len(axes)))
    node.set(0, axes)


@rule(
    "LayerNormalization RMSNormalization SimplifiedLayerNormalization",
    "X[*b,*c~] scale[*c] B[*c] -> Y[*b,*c]",
    Zero.NORM,
)
def layer_normalization(node: OpContext) -> None:
    """Statistics over all axes from `axis` on; scale and bias broadcast to them.

    SimplifiedLayerNormalization is ONNX Runtime's name of RMSNormalization, in ONNX's own domain.
    """
    axes = node.axes(0)
    first = node.int("axis", -1) % len(axes)
    for number in range(1, len(node.node.inputs)):
        if node.has(number):
            own = node.axes(number)
            start = len(axes) - len(own)
            node.broadcast([axes[start:], own], node.shape(0)[start:])
    node.statistics(range(first, len(axes)))
    node.set(0, axes)
    for number in (1, 2):
        node.set(number, [*axes[:first], *[()] * (len(axes) - first)])
        if node.is_read(number):
            for axis in axes[:first]:
                node.freeze(axis, "its statistics are read", "statistic")


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
