"""Convolutions and products: the contracted axes are the same, the others pass to the output."""

from __future__ import annotations

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr, expand, size_of
from sparsecc.axes.edits import SetAttribute
from sparsecc.axes.rules.registry import Zero, rule
from sparsecc.ir.shuffles import reordered


@rule("Conv", "X[n,(g i),*s!] W[(g o),i,*k!] B[(g o)] -> Y[n,(g o),*t!]", Zero.CONTRACTION)
def conv(node: OpContext) -> None:
    """Groups split the channels into equal parts whose counts stay equal."""
    convolve(node, 0, 1, 2)


def convolve(node: OpContext, data_input: int, weight_input: int, bias_input: int | None) -> AxisExpr:
    """The axes of a convolution by the numbers of its inputs; returns the output channels."""
    data, weight = node.axes(data_input), node.axes(weight_input)
    group = node.int("group", 1)
    channels = weight[1]
    if group > 1:
        outputs = node.shape(weight_input)[0]
        if outputs > group and reordered(node.node.outputs[0]):
            groups = node.fixed(group, "its channels are chosen group by group", "groups")
            node.balance(weight[0], group)
        else:
            groups, _ = node.reshape([weight[0]], [group, outputs // group])
            node.edit(SetAttribute("group", groups))
        channels = groups + weight[1]
    node.unify(data[1], channels)
    if bias_input is not None and node.has(bias_input):
        node.unify(node.axes(bias_input)[0], weight[0])
    node.contract((data_input, 1), (weight_input, 1))
    for axis in data[2:] + weight[2:]:
        node.freeze(axis, *_SPATIAL)
    spatial = [node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:]]
    outer = expand(weight[0])
    node.set(0, [data[0], outer, *spatial])
    node.work(data[0], outer, weight[1], *spatial, *weight[2:])
    return outer


@rule("ConvTranspose", "X[n,(g i),*s!] W[(g i),o,*k!] B[(g o)] -> Y[n,(g o),*t!]", Zero.CONTRACTION)
def conv_transpose(node: OpContext) -> None:
    """As Conv with input and output channels of the weight exchanged."""
    data, weight = node.axes(0), node.axes(1)
    group = node.int("group", 1)
    inner, outer = weight[0], weight[1]
    if group > 1:
        groups, inner = node.reshape([weight[0]], [group, node.shape(1)[0] // group])
        outer = groups + weight[1]
        node.edit(SetAttribute("group", groups))
    node.unify(data[1], weight[0])
    if node.has(2):
        node.unify(node.axes(2)[0], outer)
    node.contract((0, 1), (1, 0))
    for axis in data[2:] + weight[2:]:
        node.freeze(axis, *_SPATIAL)
    spatial = [node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:]]
    node.set(0, [data[0], expand(outer), *spatial])
    # The window slides over the output in Conv, over the input here.
    node.work(data[0], outer, inner, *data[2:], *weight[2:])


_SPATIAL = ("it is a spatial axis", "spatial")


@rule(
    "DeformConv",
    "X[n,(g i),*s!] W[(g o),i,*k!] offset[n,*p!] B[(g o)] mask[n,*p!] -> Y[n,(g o),*t!]",
    Zero.CONTRACTION,
)
def deform_conv(node: OpContext) -> None:
    """As Conv; channels that share offsets are consecutive, and all such parts stay.

    Follows ONNX DeformConv-22.
    """
    parts = node.int("offset_group", 1)
    if parts > 1:
        first, _ = node.reshape([node.axes(0)[1]], [parts, node.shape(0)[1] // parts])
        node.freeze(first, "it counts groups of offsets", "offset-group")
    convolve(node, 0, 1, 3)
    for number in (2, 4):
        if node.has(number):
            own = node.axes(number)
            node.unify(node.axes(0)[0], own[0])
            for axis in own[1:]:
                node.freeze(axis, "it holds offsets of positions", "spatial")


@rule("MatMul", "A[*b,m,k] B[*b,k,n] -> Y[*b,m,n]", Zero.CONTRACTION)
def matmul(node: OpContext) -> None:
    """Batch axes broadcast; a vector operand has no m or no n."""
    multiply(node, 0, 1)


def multiply(node: OpContext, left_input: int, right_input: int) -> None:
    """The axes of a matrix product by the numbers of its inputs."""
    left, right = node.axes(left_input), node.axes(right_input)
    row, column = len(left) == 1, len(right) == 1
    node.contract((left_input, len(left) - 1), (right_input, max(len(right) - 2, 0)))
    if row:
        left = ((), *left)
    if column:
        right = (*right, ())
    node.unify(left[-1], right[-2])
    shape = node.out_shape()
    batch = node.broadcast([left[:-2], right[:-2]], shape[: len(shape) - (not row) - (not column)])
    node.set(0, [*batch, *([] if row else [left[-2]]), *([] if column else [right[-1]])])
    node.work(*batch, left[-2], left[-1], right[-1])


@rule("Gemm", "A[m,k] B[k,n] C[m,n] -> Y[m,n]", Zero.CONTRACTION)
def gemm(node: OpContext) -> None:
    """transA and transB exchange the axes of A and B; C broadcasts."""
    left, right = node.axes(0), node.axes(1)
    turned_left, turned_right = node.int("transA", 0), node.int("transB", 0)
    left = left[::-1] if turned_left else left
    right = right[::-1] if turned_right else right
    node.unify(left[1], right[0])
    node.contract((0, 0 if turned_left else 1), (1, 1 if turned_right else 0))
    axes = [left[0], right[1]]
    if node.has(2):
        axes = node.broadcast([axes, node.axes(2)], node.out_shape())
    node.set(0, axes)
    node.work(left[0], left[1], right[1])


@rule("Einsum", "the terms of its equation", Zero.CONTRACTION)
def einsum(node: OpContext) -> None:
    """One letter is one axis; an ellipsis stands for leading axes that broadcast."""
    terms, result = einsum_terms(node)
    letters: dict[str, AxisExpr] = {}
    for number, term in enumerate(terms):
        for letter, axis in zip(term, node.axes(number), strict=True):
            known = letters.get(letter)
            if known is None or (size_of(known) == 1 and size_of(axis) != 1):
                if known is not None:
                    node.freeze(known, "a slice of one index is broadcast", "unit-broadcast")
                letters[letter] = axis
            elif size_of(axis) == 1 and size_of(known) != 1:
                node.freeze(axis, "a slice of one index is broadcast", "unit-broadcast")
            else:
                node.unify(known, axis)
    for number, term in enumerate(terms):
        node.contract(*((number, place) for place, letter in enumerate(term) if letter not in result))
    node.set(0, [expand(letters[letter]) for letter in result])
    node.work(*letters.values())


def einsum_terms(node: OpContext) -> tuple[list[str], str]:
    """Letters of each operand and of the result; an ellipsis becomes digits, aligned at the right."""
    equation = node.text("equation", "").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.node.inputs):
        raise RuleError(f"equation {equation!r} does not fit its inputs")
    full: list[str] = []
    longest = 0
    for number, term in enumerate(terms):
        hidden = len(node.axes(number)) - len(term.replace("...", ""))
        if "..." in term:
            longest = max(longest, hidden)
        full.append(term.replace("...", "0123456789"[10 - hidden :] if hidden else ""))
    if not arrow:
        joined = left.replace(",", "").replace(".", "")
        right = ("..." if "..." in left else "") + "".join(
            letter for letter in sorted(set(joined)) if joined.count(letter) == 1
        )
    return full, right.replace("...", "0123456789"[10 - longest :] if longest else "")
