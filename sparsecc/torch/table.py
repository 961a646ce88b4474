"""The op table: every op of the default ONNX domain that becomes one call in a module."""

from __future__ import annotations

from sparsecc.torch import (
    attention,
    elementwise,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sequence,
    signal,
)
from sparsecc.torch.op import Op

FAMILIES = (
    attention,
    elementwise,
    indexing,
    layout,
    linear,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    sequence,
    signal,
)

OPS: dict[str, Op] = {name: op for family in FAMILIES for name, op in family.OPS.items()}
"""ONNX op type -> how it is computed; Shape, Size and SequenceLength are in `numbers.SOURCES`."""
