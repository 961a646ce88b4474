"""Ops that make values from shapes or from nothing, and all that keeps its indices by its nature.

A constant is never visited, so a row for Range or ConstantOfShape is about one whose size data decides.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr
from sparsecc.axes.rules.registry import Zero, rule
from sparsecc.errors import Refusal

_FROZEN = "X[*s!] ... -> Y[*t!] ..."


def keep_everything(node: OpContext, reason: str, code: str) -> None:
    """Freeze all that the node touches."""
    node.freeze_all(Refusal(reason, node.where, code))


@rule(
    "Constant ConstantOfShape Range EyeLike Shape Size HannWindow HammingWindow BlackmanWindow "
    "MelWeightMatrix",
    "... -> Y[*t!]",
    Zero.LOST,
)
def generated(node: OpContext) -> None:
    """A value that only sizes decide."""
    keep_everything(node, f"{node.node.op_type} makes it from sizes", "generated")


@rule("RandomNormal RandomUniform", "-> Y[*t!]", Zero.LOST)
@rule("RandomNormalLike RandomUniformLike Bernoulli Multinomial", _FROZEN, Zero.LOST)
def random(node: OpContext) -> None:
    """Numbers are drawn in the order of the entries."""
    keep_everything(node, "removing an entry would change the random numbers of the others", "random")


@rule("NonZero Unique NonMaxSuppression", _FROZEN, Zero.LOST)
def found_by_value(node: OpContext) -> None:
    """The result lists positions, as many as the data decides."""
    keep_everything(node, f"{node.node.op_type} returns positions of entries", "positions")


@rule("MaxUnpool", "X[*s!] I[*s!] -> Y[*t!]", Zero.LAYOUT)
def max_unpool(node: OpContext) -> None:
    """Its indices count all entries of the output tensor, channels included."""
    keep_everything(node, "indices count all entries of the tensor", "flat-indices")


@rule("If Loop Scan SequenceMap", "everything that a body reads is kept", Zero.LOST)
def control_flow(node: OpContext) -> None:
    """Bodies are not followed."""
    keep_everything(node, f"the body of {node.node.op_type} is not followed", "control-flow")


@rule("Optional", "X[*s] -> optional(X)[*s]", Zero.LAYOUT)
@rule("OptionalGetElement", "optional(X)[*s] -> X[*s]", Zero.LAYOUT)
def optional(node: OpContext) -> None:
    """A tensor in a wrapper; one of a sequence, or one that may be absent, is kept whole."""
    if not node.node.inputs or node.value(0) in node.state.sequences:
        raise RuleError("the optional value is no tensor that is always there")
    node.set(0, node.axes(0))


@rule("OptionalHasElement", "X[*s] -> y[]", Zero.LOST)
def optional_has_element(node: OpContext) -> None:
    """Reads no entry."""
    node.ignore(0)
    node.set(0, ())


@rule("DynamicQuantizeLinear", "X[*s!] -> Y[*s!] scale[] zero[]", Zero.LOST)
def dynamic_quantize(node: OpContext) -> None:
    """The zero point moves with the smallest and largest of all entries."""
    keep_everything(node, "its range is taken over all entries", "extremum")


@rule("StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer", _FROZEN, Zero.LOST)
def text(node: OpContext) -> None:
    """Texts have no parameters to prune."""
    keep_everything(node, "it is text", "text")


@rule("AffineGrid", "theta[*s!] size[] -> grid[*t!]", Zero.LOST)
def affine_grid(node: OpContext) -> None:
    """Positions made from a matrix and sizes."""
    keep_everything(node, "it holds positions to be sampled", "spatial")


@rule("Det", "X[*b,m!,m!] -> Y[*b]", Zero.LAYOUT)
def determinant(node: OpContext) -> None:
    """One number per matrix."""
    axes = node.axes(0)
    freeze(node, axes[-2:], "a determinant is taken over it", "matrix")
    node.set(0, axes[:-2])


@rule("DFT", "X[*b,t!,*s,c!] -> Y[*b,f!,*s,c!]", Zero.LAYOUT)
def fourier(node: OpContext) -> None:
    """Linear along one axis, to which every entry contributes by its position."""
    axes = node.axes(0)
    rank = len(axes)
    found = node.ints(2)
    along = (found[0] if found else node.int("axis", -2)) % rank
    freeze(node, (axes[along], axes[-1]), "a Fourier transform runs along it", "frequency")
    node.set(0, with_sizes(node, {along, rank - 1}, "it counts frequencies", "frequency"))


@rule("STFT", "X[b,t!,c!] step[] window[w!] -> Y[b,frames!,f!,c!]", Zero.LAYOUT)
def short_time_fourier(node: OpContext) -> None:
    """As DFT, over windows of the signal."""
    axes = node.axes(0)
    freeze(node, axes[1:], "a Fourier transform runs along it", "frequency")
    if node.has(2):
        freeze(node, node.axes(2), "it is a window of the signal", "frequency")
    shape = node.out_shape()
    node.set(0, [axes[0], *(node.fixed(size, "it counts frequencies", "frequency") for size in shape[1:])])


@rule("SoftmaxCrossEntropyLoss", "X[*s!] labels[*t!] weights[c!] -> loss[*t!] Y[*s!]", Zero.LOST)
@rule("NegativeLogLikelihoodLoss", "X[*s!] labels[*t!] weights[c!] -> loss[*t!]", Zero.LOST)
def loss(node: OpContext) -> None:
    """Labels are positions along the class axis, and means run over the others."""
    keep_everything(node, "a loss is taken over it", "loss")


def freeze(node: OpContext, axes: Sequence[AxisExpr], reason: str, code: str) -> None:
    """Freeze several axes for one reason."""
    for axis in axes:
        node.freeze(axis, reason, code)


def with_sizes(node: OpContext, changed: set[int], reason: str, code: str) -> list[AxisExpr]:
    """Axes of input 0 where those that change are new ones of the output's sizes, frozen."""
    return [
        node.fixed(size, reason, code) if number in changed else axis
        for number, (axis, size) in enumerate(zip(node.axes(0), node.out_shape(), strict=True))
    ]
