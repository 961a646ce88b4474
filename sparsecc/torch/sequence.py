"""Sequences of tensors as Python lists, and their table."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsecc.torch.numbers import Numbers, scalar
from sparsecc.torch.op import Op


def split_to_sequence(x: Tensor, split: Numbers = None, *, axis: int = 0, keepdims: int = 1) -> list[Tensor]:
    """Pieces along an axis, of one size or of the given sizes; single slices where no size is given."""
    if split is None:
        pieces = list(torch.split(x, 1, axis))
        return pieces if keepdims else [piece.squeeze(axis) for piece in pieces]
    return list(torch.split(x, list(split) if isinstance(split, list | tuple) else split, axis))


def sequence_at(sequence: list[Tensor], position: Numbers) -> Tensor:
    """The tensor at a position."""
    return sequence[scalar(position)]


def sequence_construct(*tensors: Tensor) -> list[Tensor]:
    """A sequence of these tensors."""
    return list(tensors)


def sequence_empty(*, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """No tensors."""
    return []


def sequence_insert(sequence: list[Tensor], tensor: Tensor, position: Numbers = None) -> list[Tensor]:
    """With a tensor before the position, or at the end."""
    place = len(sequence) if position is None else scalar(position)
    return [*sequence[:place], tensor, *sequence[place:]]


def sequence_erase(sequence: list[Tensor], position: Numbers = None) -> list[Tensor]:
    """Without the tensor at a position, or the last one."""
    place = (-1 if position is None else scalar(position)) % len(sequence)
    return [*sequence[:place], *sequence[place + 1 :]]


def concat_from_sequence(sequence: list[Tensor], *, axis: int, new_axis: int = 0) -> Tensor:
    """Join along an axis, or stack along a new one."""
    return torch.stack(sequence, axis) if new_axis else torch.cat(sequence, axis)


OPS = {
    "ConcatFromSequence": Op(concat_from_sequence),
    "SequenceAt": Op(sequence_at, numbers=(1,)),
    "SequenceConstruct": Op(sequence_construct),
    "SequenceEmpty": Op(sequence_empty),
    "SequenceErase": Op(sequence_erase, numbers=(1,)),
    "SequenceInsert": Op(sequence_insert, numbers=(2,)),
    "SplitToSequence": Op(split_to_sequence, numbers=(1,)),
}
