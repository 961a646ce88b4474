"""Pooling, resampling and sampling: channels pass, spatial axes keep all their indices."""

from __future__ import annotations

from sparsecc.axes.context import OpContext
from sparsecc.axes.dims import AxisExpr
from sparsecc.axes.edits import SetShape
from sparsecc.axes.rules.registry import Zero, rule


@rule(
    "MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool",
    "X[n,c,*s!] -> Y[n,c,*t!]",
    Zero.LAYOUT,
)
def pool(node: OpContext) -> None:
    """Every channel by itself."""
    axes = node.axes(0)
    for axis in axes[2:]:
        node.freeze(axis, "it is a spatial axis", "spatial")
    for number in node.outputs:
        shape = node.out_shape(number) if node.node.outputs[number] in node.state.trace.shapes else ()
        spatial = [node.fixed(size, "it is a spatial axis", "spatial") for size in shape[2:]]
        node.set(number, [*axes[:2], *spatial])


@rule("Resize Upsample", "X[n,c,*s!] -> Y[n,c,*t!]", Zero.LAYOUT)
def resize(node: OpContext) -> None:
    """Axes whose size does not change pass; sizes are rewritten where they are given."""
    result: list[AxisExpr] = []
    for axis, before, after in zip(node.axes(0), node.shape(0), node.out_shape(), strict=True):
        if before == after:
            result.append(axis)
        else:
            node.freeze(axis, "it is resized", "spatial")
            result.append(node.fixed(after, "it is a resized axis", "spatial"))
    if node.has(3) and "axes" not in node.node.attributes:
        node.edit(SetShape(3))
    node.set(0, result)


@rule("GridSample", "X[n,c,*s!] grid[n,*t!,d!] -> Y[n,c,*t!]", Zero.LAYOUT)
def grid_sample(node: OpContext) -> None:
    """Channels pass; positions are data."""
    axes, grid = node.axes(0), node.axes(1)
    for axis in axes[2:] + grid[1:]:
        node.freeze(axis, "it is sampled at computed positions", "spatial")
    spatial = [node.fixed(size, "it is a spatial axis", "spatial") for size in node.out_shape()[2:]]
    node.unify(axes[0], grid[0])
    node.set(0, [*axes[:2], *spatial])


@rule("Pad", "X[*b,c] -> Y[*b,(0|c|0)]", Zero.LAYOUT)
def pad(node: OpContext) -> None:
    """Zeros before and after an axis are parts of a sum; other modes and crops keep the axis."""
    axes = node.axes(0)
    amounts = node.ints(1, "pads") or []
    chosen = node.ints(3) or list(range(len(axes)))
    before = dict.fromkeys(range(len(axes)), 0)
    after = dict(before)
    for number, axis in enumerate(chosen):
        before[axis % len(axes)] = amounts[number]
        after[axis % len(axes)] = amounts[number + len(chosen)]
    constant = node.text("mode", "constant") == "constant"
    result: list[AxisExpr] = []
    for number, axis in enumerate(axes):
        if before[number] == after[number] == 0:
            result.append(axis)
        elif before[number] < 0 or after[number] < 0 or not constant:
            node.freeze(axis, "it is padded with its own entries or cropped", "padding")
            result.append(node.fixed(node.out_shape()[number], "it is a padded axis", "padding"))
        else:
            parts = [_zeros(node, before[number]), axis, _zeros(node, after[number])]
            result.append(node.concatenate([part for part in parts if part is not None]))
    node.set(0, result)


def _zeros(node: OpContext, size: int) -> AxisExpr | None:
    if size == 0:
        return None
    return node.fixed(size, "it is padding", "padding") or node.slot("it is padding", "padding")


@rule("DepthToSpace", "X[n,(r r c),h!,w!] -> Y[n,c,(h r)!,(w r)!]", Zero.LAYOUT)
def depth_to_space(node: OpContext) -> None:
    """Blocks of channels become pixels; CRD order has the channel first."""
    axes = node.axes(0)
    block = node.int("blocksize", 1)
    count = node.shape(0)[1] // block // block
    if node.text("mode", "DCR") == "CRD":
        channels, first, second = node.reshape([axes[1]], [count, block, block])
    else:
        first, second, channels = node.reshape([axes[1]], [block, block, count])
    for axis in (first, second, *axes[2:]):
        node.freeze(axis, "it becomes a spatial axis", "spatial")
    spatial = [node.fixed(size, "it is a spatial axis", "spatial") for size in node.out_shape()[2:]]
    node.set(0, [axes[0], channels, *spatial])


@rule("SpaceToDepth", "X[n,c,(h r)!,(w r)!] -> Y[n,(r r c),h!,w!]", Zero.LAYOUT)
def space_to_depth(node: OpContext) -> None:
    """Pixels become blocks of channels."""
    axes = node.axes(0)
    block = node.int("blocksize", 1)
    for axis in axes[2:]:
        node.freeze(axis, "it is a spatial axis", "spatial")
    pixels = node.fixed(block * block, "it counts pixels", "spatial")
    spatial = [node.fixed(size, "it is a spatial axis", "spatial") for size in node.out_shape()[2:]]
    node.set(0, [axes[0], pixels + axes[1], *spatial])
