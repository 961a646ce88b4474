"""Ops that move, cut, join, pad and make tensors, and their table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.errors import UnsupportedOpError
from sparsecc.torch.numbers import Number, Numbers, scalar
from sparsecc.torch.op import Op

Sizes = Sequence[Any]
"""Integers, maybe symbolic."""


def reshape(x: Tensor, shape: Sizes, *, allowzero: int = 0) -> Tensor:
    """Another shape; 0 keeps the dimension unless `allowzero`, -1 is what is left."""
    return x.reshape([x.shape[i] if d == 0 and not allowzero else d for i, d in enumerate(shape)])


def transpose(x: Tensor, *, perm: Sequence[int] | None = None) -> Tensor:
    """Axes in another order, by default reversed."""
    return x.permute(list(range(x.dim()))[::-1] if perm is None else list(perm))


def flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    """A matrix: the axes before `axis` by the others."""
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def squeeze(x: Tensor, axes: Sizes | None = None) -> Tensor:
    """Without the given axes of size 1, or without all such."""
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def unsqueeze(x: Tensor, axes: Numbers) -> Tensor:
    """With new axes of size 1 at these places of the result."""
    places = list(axes) if isinstance(axes, list | tuple) else [axes]
    rank = x.dim() + len(places)
    for place in sorted(place % rank for place in places):
        x = x.unsqueeze(place)
    return x


def concat(*tensors: Tensor, axis: int) -> Tensor:
    """Join along an axis."""
    return torch.cat(tensors, axis)


def split(
    x: Tensor, sizes: Sizes | None = None, *, axis: int = 0, num_outputs: int | None = None, outputs: int = 1
) -> Tensor | tuple[Tensor, ...]:
    """Cut along an axis into pieces of the given sizes, or into equal ones, the last maybe smaller."""
    if sizes is None:
        count = outputs if num_outputs is None else num_outputs
        step = -(-x.shape[axis] // count)
        sizes = [step] * (count - 1)
        sizes = [*sizes, x.shape[axis] - step * (count - 1)]
    pieces = torch.split(x, list(sizes), axis)
    return pieces[0] if outputs == 1 else pieces


def _cut(x: Tensor, axis: int, start: Number, end: Number, step: Number) -> Tensor:
    if step > 0:
        return x[(slice(None),) * axis + (slice(start, end, step),)]
    # torch has no negative steps: the same elements counted from the end of the flipped axis.
    size = x.shape[axis]
    first = torch.sym_min(start + size if start < 0 else start, size - 1)
    last = torch.sym_max(end + size if end < 0 else end, -1)
    flipped = x.flip(axis)
    return flipped[(slice(None),) * axis + (slice(size - 1 - first, size - 1 - last, -step),)]


def slice_axes(
    x: Tensor, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None
) -> Tensor:
    """Elements from start to before end along each axis; negative positions count from the end."""
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        x = _cut(x, axis % x.dim(), start, end, step)
    return x


def expand(x: Tensor, shape: Sizes) -> Tensor:
    """Broadcast to a shape, in both directions."""
    rank = max(x.dim(), len(shape))
    old = [1] * (rank - x.dim()) + list(x.shape)
    new = [1] * (rank - len(shape)) + list(shape)
    return x.expand([a if b == 1 else b for a, b in zip(old, new, strict=True)])


def tile(x: Tensor, repeats: Sizes) -> Tensor:
    """Repeat along each axis."""
    return x.repeat(list(repeats))


def _source_positions(mode: str, size: Number, begin: Number, end: Number, device: torch.device) -> Tensor:
    """Which element of an axis stands at each place of the padded axis."""
    places = torch.arange(-begin, size + end, device=device)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places.remainder(size)
    if mode != "reflect":
        raise UnsupportedOpError(
            f"Pad mode is constant, reflect, edge or wrap, not {mode}; export another one"
        )
    period = torch.sym_max(2 * (size - 1), 1)
    folded = places.remainder(period)
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(places)


def pad(
    x: Tensor,
    pads: Sizes,
    value: Tensor | float | None = None,
    axes: Sizes | None = None,
    *,
    mode: str = "constant",
) -> Tensor:
    """Add elements before and after each axis, negative numbers take some away."""
    chosen = list(range(x.dim())) if axes is None else [axis % x.dim() for axis in axes]
    begins, ends = [0] * x.dim(), [0] * x.dim()
    for index, axis in enumerate(chosen):
        begins[axis], ends[axis] = pads[index], pads[index + len(chosen)]
    if mode != "constant":
        for axis, (begin, end) in enumerate(zip(begins, ends, strict=True)):
            if begin or end:
                source = _source_positions(mode, x.shape[axis], begin, end, x.device)
                x = x.index_select(axis, source)
        return x
    flat = [item for pair in zip(reversed(begins), reversed(ends), strict=True) for item in pair]
    if isinstance(value, Tensor):
        inside = functional.pad(torch.ones_like(x, dtype=torch.bool), flat, value=False)
        return torch.where(inside, functional.pad(x, flat), value)
    return functional.pad(x, flat, value=0 if value is None else value)


def depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    """[N, C b b, H, W] to [N, C, H b, W b]; the blocks come before (DCR) or after (CRD) the channels."""
    if mode == "CRD":
        return functional.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    x = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    """[N, C, H b, W b] to [N, b b C, H, W]."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def trilu(x: Tensor, k: Numbers = 0, *, upper: int = 1) -> Tensor:
    """Upper or lower triangle of matrices, from the k-th diagonal."""
    diagonal = 0 if k is None else scalar(k)
    return torch.triu(x, diagonal) if upper else torch.tril(x, diagonal)


def constant_of_shape(
    shape: Sizes,
    *,
    value: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """A tensor of one value."""
    return torch.full(list(shape), value, dtype=dtype, device=device)


def arange(
    start: Numbers,
    limit: Numbers,
    delta: Numbers,
    *,
    output_dtype: torch.dtype = torch.int64,
    device: torch.device | None = None,
) -> Tensor:
    """start, start + delta, ... before limit."""
    return torch.arange(scalar(start), scalar(limit), scalar(delta), dtype=output_dtype, device=device)


def eye_like(x: Tensor, *, dtype: torch.dtype | None = None, k: int = 0) -> Tensor:
    """Ones on the k-th diagonal of a matrix of the same shape."""
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1)
    columns = torch.arange(x.shape[1], device=x.device)
    return (columns - rows == k).to(x.dtype if dtype is None else dtype)


def reverse_sequence(x: Tensor, lengths: Tensor, *, batch_axis: int = 1, time_axis: int = 0) -> Tensor:
    """Reverse the first lengths[b] steps of each sequence."""
    moved = x.movedim((batch_axis, time_axis), (0, 1))
    steps = torch.arange(moved.shape[1], device=x.device).unsqueeze(0)
    ends = lengths.unsqueeze(1)
    source = torch.where(steps < ends, ends - 1 - steps, steps)
    rows = torch.arange(moved.shape[0], device=x.device).unsqueeze(1)
    return moved[rows, source].movedim((0, 1), (batch_axis, time_axis))


def center_crop_pad(x: Tensor, shape: Sizes, *, axes: Sequence[int] | None = None) -> Tensor:
    """Cut or pad with zeros around the centre, axis by axis."""
    chosen = range(x.dim()) if axes is None else axes
    for axis, wanted in zip(chosen, shape, strict=True):
        size, place = x.shape[axis], axis % x.dim()
        if wanted < size:
            x = x.narrow(place, (size - wanted) // 2, wanted)
        elif wanted > size:
            begin = (wanted - size) // 2
            edges = [0, 0] * (x.dim() - 1 - place) + [begin, wanted - size - begin]
            x = functional.pad(x, edges)
    return x


def col2im(
    x: Tensor,
    image_shape: Sizes,
    block_shape: Sizes,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Add columns [N, C k k, L] into images [N, C, H, W]."""
    if len(image_shape) != 2 or (pads is not None and list(pads[:2]) != list(pads[2:])):
        raise UnsupportedOpError(
            f"Col2Im to images of {len(image_shape)} axes with pads {pads}: PyTorch has two axes and "
            f"even padding; pad the image after the op"
        )
    padding = (0, 0) if pads is None else tuple(pads[:2])
    return functional.fold(
        x,
        tuple(image_shape),
        tuple(block_shape),
        tuple(dilations or (1, 1)),
        padding,
        tuple(strides or (1, 1)),
    )


OPS = {
    "CenterCropPad": Op(center_crop_pad, numbers=(1,)),
    "Col2Im": Op(col2im, numbers=(1, 2)),
    "Concat": Op(concat),
    "ConstantOfShape": Op(constant_of_shape, numbers=(0,)),
    "DepthToSpace": Op(depth_to_space),
    "Expand": Op(expand, numbers=(1,)),
    "EyeLike": Op(eye_like),
    "Flatten": Op(flatten),
    "Pad": Op(pad, numbers=(1, 3), constants=(2,)),
    "Range": Op(arange, numbers=(0, 1, 2)),
    "Reshape": Op(reshape, numbers=(1,)),
    "ReverseSequence": Op(reverse_sequence),
    "Slice": Op(slice_axes, numbers=(1, 2, 3, 4)),
    "SpaceToDepth": Op(space_to_depth),
    "Split": Op(split, numbers=(1,)),
    "Squeeze": Op(squeeze, numbers=(1,)),
    "Tile": Op(tile, numbers=(1,)),
    "Transpose": Op(transpose),
    "Trilu": Op(trilu, numbers=(1,)),
    "Unsqueeze": Op(unsqueeze, numbers=(1,)),
}
