"""`quantize`: the pass of that name on a copy of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sparsecc.errors import Refusal
from sparsecc.passes.base import Context
from sparsecc.passes.quantize import Quantize


@dataclass(frozen=True)
class QuantizeResult:
    """A copy of a model with weights of few bits.

    Attributes:
        model: the copy.
        refusals: the layers that stayed float32, and why.
        notes: short sentences on what was done.
        bytes_before, bytes_after: of all initializers.
    """

    model: ir.Model
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    bytes_before: int
    bytes_after: int


def quantize(
    model: ir.Model, bits: int = 8, *, skip: Sequence[str] = (), min_size: int = 1024
) -> QuantizeResult:
    """Store weights in 8 bits with a scale per output, or in 4 with one per 32 inputs, on a copy.

    Zeros stay zeros. Products are computed in float32. Linear layers with up to 8 columns, as a decoder has
    them, read the small weights, as memory limits them; all others are turned back when compiling.

    Args:
        model: as `sparsecc.capture` gives it, sparse already if it shall be sparse; not changed.
        bits: 8, or 4 for matrices whose inputs 32 divides.
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements are left alone.

    Raises:
        UsageError: `bits` is neither 8 nor 4, or `min_size` is negative.
    """
    item = Quantize(bits, tuple(skip), min_size)
    copy = model.clone()
    before = _bytes_of(copy)
    result = item.apply(copy, Context())
    return QuantizeResult(copy, result.refusals, result.notes, before, _bytes_of(copy))


def _bytes_of(model: ir.Model) -> int:
    """Bytes of all initializers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
