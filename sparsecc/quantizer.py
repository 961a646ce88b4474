"""`quantize`: the pass of that name, or with calibration data `quantize-static`, on a copy of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.passes.base import Context
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.pipeline import Pipeline
from sparsecc.passes.quantize import Quantize
from sparsecc.passes.quantize_static import PREPARE, QuantizeStatic


@dataclass(frozen=True)
class QuantizeResult:
    """A copy of a model with weights of few bits.

    Attributes:
        model: the copy.
        refusals: the layers that stayed float32, or read floats, and why.
        notes: short sentences on what was done.
        bytes_before, bytes_after: of all initializers.
    """

    model: ir.Model
    refusals: tuple[Refusal, ...]
    notes: tuple[str, ...]
    bytes_before: int
    bytes_after: int


def quantize(
    model: ir.Model,
    bits: int = 8,
    *,
    calibration: Calibration | None = None,
    method: str | None = None,
    percentile: float | None = None,
    correct: bool = False,
    skip: Sequence[str] = (),
    min_size: int | None = None,
) -> QuantizeResult:
    """Store weights in 16, 8 or 4 bits on a copy; with calibration data quantise activations to 8 bits too.

    Weights of 16 bits are bfloat16; they have a scale per output with 8 bits and one per 32 inputs with 4.
    Zeros stay zeros.

    Without calibration (weight-only) products are computed in float32. Linear layers with up to 8 columns, as
    a decoder has them, read the small weights, as memory limits them; all others are turned back when
    compiling.

    With calibration (static, after training) batch norm and padding are folded first, and what the quantised
    layers read gets a QuantizeLinear and a DequantizeLinear whose ranges are chosen on the data, and with
    `correct` the codes of the weights and the biases too: see `sparsecc.passes.quantize_static`.

    Args:
        model: as `sparsecc.capture` gives it, sparse already if it shall be sparse; not changed.
        bits: 16, 8, or 4 for matrices whose inputs 32 divides, without calibration.
        calibration: some batches of inputs like those that the model will see, a hundred samples or so. Where
            the first dimension of the inputs is fixed, an array may hold several batches.
        method: how ranges are chosen: minmax (default), percentile or entropy.
        percentile: share of an activation's values that is inside its range, in percent (99.999).
        correct: with calibration, choose codes and biases with which the layers' outputs on the data change
            least; otherwise every weight takes the nearest code.
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements are left alone; None is 1024, and 0 with calibration.

    Raises:
        UsageError: options that do not exist or contradict each other, or data that do not fit the model.
        VerificationError: ONNX Runtime cannot run the model on the data.
    """
    copy = model.clone()
    before = _bytes_of(copy)
    if calibration is None:
        if method is not None or percentile is not None:
            raise UsageError(
                "a method and a percentile choose the ranges of activations on data: give calibration too"
            )
        result = Quantize(bits, tuple(skip), 1024 if min_size is None else min_size).apply(copy, Context())
    else:
        if bits != 8:
            raise UsageError(f"with calibration weights and activations have 8 bits, not {bits}")
        if percentile is not None and method != "percentile":
            raise UsageError(
                f"a percentile is for method percentile, not {method or 'minmax'}; leave one out"
            )
        options: dict[str, Any] = {"method": method, "percentile": percentile, "min_size": min_size}
        given = {name: option for name, option in options.items() if option is not None}
        item = QuantizeStatic(correct=correct, skip=tuple(skip), **given)
        Pipeline.parse(PREPARE).run(copy)
        result = item.quantize(copy, calibration)
    return QuantizeResult(copy, result.refusals, result.notes, before, _bytes_of(copy))


def _bytes_of(model: ir.Model) -> int:
    """Bytes of all initializers."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
