"""Pooling, resampling and sampling: channels pass, spatial axes keep all their indices."""

from __future__ import annotations

import numpy as np

from sparsecc.axes.context import OpContext, RuleError
from sparsecc.axes.dims import AxisExpr
from sparsecc.axes.edits import SetShape
from sparsecc.axes.rules.registry import Zero, rule

_SPATIAL = ("it is a spatial axis", "spatial")


@rule(
    "MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool GlobalLpPool",
    "X[n,c,*s!] -> Y[n,c,*t!]",
    Zero.LAYOUT,
)
def pool(node: OpContext) -> None:
    """Every channel by itself; the indices that MaxPool can return count all entries of the tensor."""
    axes = node.axes(0)
    for axis in axes[2:]:
        node.freeze(axis, *_SPATIAL)
    if node.is_read(1):
        for axis in axes[:2]:
            node.freeze(axis, "indices count all entries of the tensor", "flat-indices")
    spatial = [node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:]]
    for number in node.outputs:
        node.set(number, [*axes[:2], *spatial])


@rule("Resize Upsample", "X[*s,*r!] -> Y[*s,*t!]", Zero.LAYOUT)
def resize(node: OpContext) -> None:
    """Axes that keep their size and are not scaled pass; sizes are rewritten where they are given.

    Follows ONNX Resize-19 and Upsample-9.
    """
    axes = node.axes(0)
    passing = _unscaled(node)
    result: list[AxisExpr] = []
    for number, (axis, after) in enumerate(zip(axes, node.out_shape(), strict=True)):
        if number in passing:
            result.append(axis)
        else:
            node.freeze(axis, "it is resized", "spatial")
            result.append(node.fixed(after, "it is a resized axis", "spatial"))
    if node.has(3):
        if "axes" not in node.node.attributes:
            node.edit(SetShape(3))
        for number in node.int_list("axes") or ():
            node.freeze(axes[number], "its size after resizing is given", "spatial")
    node.set(0, result)
    crops = node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if crops and node.number("extrapolation_value", 0.0) != 0:
        node.facts.zero = Zero.LOST


def _unscaled(node: OpContext) -> set[int]:
    """Axes of equal sizes that a Resize copies; a scale that rounds to the same size interpolates."""
    rank = len(node.axes(0))
    chosen = [axis % rank for axis in node.int_list("axes") or range(rank)]
    same = {n for n, (a, b) in enumerate(zip(node.shape(0), node.out_shape(), strict=True)) if a == b}
    place = 1 if node.node.op_type == "Upsample" else 2
    if node.has(place) and node.shape(place) != (0,):
        scales = node.constant(place)
        same -= {axis for axis, scale in zip(chosen, scales, strict=True) if scale != 1}
    if node.text("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        starts, ends = np.split(node.constant(1), 2)
        same -= {
            axis for axis, start, end in zip(chosen, starts, ends, strict=True) if (start, end) != (0, 1)
        }
    return same


@rule("GridSample", "X[n,c,*s!] grid[n,*t!,d!] -> Y[n,c,*t!]", Zero.LAYOUT)
def grid_sample(node: OpContext) -> None:
    """Channels pass; positions are data."""
    axes, grid = node.axes(0), node.axes(1)
    for axis in axes[2:] + grid[1:]:
        node.freeze(axis, "it is sampled at computed positions", "spatial")
    spatial = [node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:]]
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
    if constant and node.has(2):
        filling = node.known(2)
        if filling is None or np.any(filling):
            node.facts.zero = Zero.LOST
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
    spatial = [node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:]]
    node.set(0, [axes[0], channels, *spatial])


@rule("SpaceToDepth", "X[n,c,(h r)!,(w r)!] -> Y[n,(r r c),h!,w!]", Zero.LAYOUT)
def space_to_depth(node: OpContext) -> None:
    """Pixels become blocks of channels."""
    axes = node.axes(0)
    block = node.int("blocksize", 1)
    for axis in axes[2:]:
        node.freeze(axis, *_SPATIAL)
    pixels = node.fixed(block * block, "it counts pixels", "spatial")
    spatial = [node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:]]
    node.set(0, [axes[0], pixels + axes[1], *spatial])


@rule("CenterCropPad", "X[*s,*c!] shape[] -> Y[*s,*d!]", Zero.LAYOUT)
def center_crop_pad(node: OpContext) -> None:
    """Axes that keep their size pass; those that are cropped or padded keep all indices."""
    axes = node.axes(0)
    if node.is_dynamic(1):
        raise RuleError("its shape depends on a symbolic dimension")
    result: list[AxisExpr] = []
    for axis, before, after in zip(axes, node.shape(0), node.out_shape(), strict=True):
        if before != after:
            node.freeze(axis, "it is cropped or padded", "padding")
        result.append(axis if before == after else node.fixed(after, "it is a padded axis", "padding"))
    listed = node.int_list("axes")
    if listed is None:
        node.edit(SetShape(1))
    for number in listed or ():
        node.freeze(axes[number], "its size is given", "padding")
    node.set(0, result)


@rule("Col2Im", "X[n,(c k!),l!] image[] block[] -> Y[n,c,*s!]", Zero.LAYOUT)
def column_to_image(node: OpContext) -> None:
    """Sums the blocks of a channel into its image."""
    axes = node.axes(0)
    channels = node.out_shape()[1]
    kept, block = node.reshape([axes[1]], [channels, node.shape(0)[1] // channels])
    for axis in (block, axes[2]):
        node.freeze(axis, *_SPATIAL)
    node.set(0, [axes[0], kept, *(node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:])])


@rule("RoiAlign", "X[n!,c,*s!] rois[r!,four!] batch[r!] -> Y[r!,c,*t!]", Zero.LAYOUT)
@rule("MaxRoiPool", "X[n!,c,*s!] rois[r!,five!] -> Y[r!,c,*t!]", Zero.LAYOUT)
def region_pool(node: OpContext) -> None:
    """Channels pass; regions, whose corners are data, are rows of the result."""
    axes, regions = node.axes(0), node.axes(1)
    node.freeze(axes[0], "it is looked up by computed indices", "lookup")
    for axis in (*axes[2:], *regions):
        node.freeze(axis, "it is sampled at computed positions", "spatial")
    if node.has(2):
        node.unify(regions[0], node.axes(2)[0])
    node.set(0, [regions[0], axes[1], *(node.fixed(size, *_SPATIAL) for size in node.out_shape()[2:])])
