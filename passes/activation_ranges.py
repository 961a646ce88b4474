"""Ranges of activations over calibration data, for grids of 256 steps: minmax, percentile, entropy.

The data are gone through twice, once for the extremes and once for histograms between them, so that only one
batch and the counts are held, and the order of the batches makes no difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError
from sparsecc.ir.verify import node_text
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.moments import Values

METHODS = ("minmax", "percentile", "entropy")
STEPS = 255
"""Steps of a grid of uint8."""
PORTION_BYTES = 1 << 28
"""Activations of one batch that are kept at once; a single one may take more."""
BINS = {"percentile": 8192, "entropy": 2048}
"""Of a histogram; 2048 are those of TensorRT."""
LEVELS = 128
"""Codes for magnitudes of values of both signs, as in TensorRT; values of one sign have twice as many."""
_NARROWEST = 1e-30  # a range under it is no range: its steps would not be normal numbers


@dataclass(frozen=True)
class Range:
    """What a grid has to cover.

    Attributes:
        low: at most 0.
        high: at least 0.
    """

    low: float
    high: float

    def grid(self) -> tuple[np.float32, np.uint8]:
        """Scale and zero point of ONNX QuantizeLinear-23: x = scale * (code - zero point).

        The zero point is 0 where nothing is negative, so that what a ReLU made 0 is code 0.
        """
        width = self.high - self.low
        scale = np.float32(width / STEPS) if width > _NARROWEST else np.float32(1)
        return scale, np.uint8(np.clip(np.rint(-self.low / float(scale)), 0, STEPS))


def check_method(method: str, percentile: float) -> None:
    """Refuse what does not exist.

    Raises:
        UsageError: an unknown method, or a percentile that is not above 50 and at most 100.
    """
    if method not in METHODS:
        raise UsageError(f"there is no calibration method {method!r}; methods are {', '.join(METHODS)}")
    if not 50 < percentile <= 100:
        raise UsageError(f"a percentile is above 50 and at most 100, such as 99.999, not {percentile:g}")


def activation_ranges(
    model: ir.Model,
    values: Sequence[ir.Value],
    calibration: Calibration,
    method: str,
    percentile: float = 99.999,
) -> dict[ir.Value, Range]:
    """The range of each value; 0 is always inside.

    minmax: the extremes. percentile: half of the share that is left out lies below and half above, to 1/8192
    of the extremes, as in ONNX Runtime. entropy: the largest magnitude T at which the distribution, clipped
    there, loses least to 8 bits by Kullback-Leibler divergence (Migacz, "8-bit Inference with TensorRT", GTC
    2017), or the extreme where that is less.

    Args:
        model: whose main graph computes the values, in float32; unchanged.
        values: float32.
        calibration: inputs; targets are not used.
        method: of `METHODS`.
        percentile: share of the values inside, in percent, for the method of that name.

    Raises:
        UsageError: options that do not exist, data that do not fit the model, or a value that is NaN or
            infinite on them.
        VerificationError: ONNX Runtime cannot run the model on the data.
    """
    check_method(method, percentile)
    found: dict[ir.Value, Range] = {}
    for portion in _portions(values, _sizes(model, calibration)):
        inner = Values(model, [value.name or "" for value in portion])
        extremes = _extremes(model, portion, inner, calibration)
        if method == "minmax":
            found.update(extremes)
            continue
        wide = {v: r for v, r in extremes.items() if r.high - r.low > _NARROWEST}
        counts = _histograms(model, wide, inner, calibration, method)
        for value, range_ in extremes.items():
            if value not in counts:
                found[value] = range_
            elif method == "percentile":
                found[value] = _percentile(range_, counts[value], percentile)
            else:
                found[value] = _entropy(range_, counts[value])
    return {value: found[value] for value in values}


def _sizes(model: ir.Model, calibration: Calibration) -> dict[str, int]:
    """Symbolic dimension -> its size in the first batch."""
    batch, _ = next(calibration.stream(model))
    return {
        dim.value: size
        for value in model.graph.inputs
        for dim, size in zip(value.shape or (), batch[value.name or ""].shape, strict=False)
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }


def _portions(values: Sequence[ir.Value], sizes: Mapping[str, int]) -> Iterator[list[ir.Value]]:
    portion: list[ir.Value] = []
    total = 0
    for value in values:
        dims = [dim if isinstance(dim, int) else sizes.get(dim.value or "", 1) for dim in value.shape or ()]
        own = 4 * math.prod(dims)
        if portion and total + own > PORTION_BYTES:
            yield portion
            portion, total = [], 0
        portion.append(value)
        total += own
    if portion:
        yield portion


def _extremes(
    model: ir.Model, values: Sequence[ir.Value], inner: Values, calibration: Calibration
) -> dict[ir.Value, Range]:
    found = {value: Range(0.0, 0.0) for value in values}
    for number, (batch, _) in enumerate(calibration.stream(model)):
        arrays = inner.run(batch)
        for value, old in found.items():
            array = arrays[value.name or ""]
            if not array.size:
                continue
            low, high = float(array.min()), float(array.max())
            if not (math.isfinite(low) and math.isfinite(high)):
                raise UsageError(
                    f"{_origin(value)} computes NaN or infinity on calibration batch {number}, for which "
                    f"there is no range; give data like those that the model is made for"
                )
            found[value] = Range(min(low, old.low), max(high, old.high))
    return found


def _origin(value: ir.Value) -> str:
    node = value.producer()
    return f"input {value.name}" if node is None else node_text(node)


def _histograms(
    model: ir.Model,
    extremes: Mapping[ir.Value, Range],
    inner: Values,
    calibration: Calibration,
    method: str,
) -> dict[ir.Value, np.ndarray]:
    """Counts int64 [bins] of values between the extremes, or of magnitudes from 0 for entropy."""
    bins = BINS[method]
    found = {value: np.zeros(bins, np.int64) for value in extremes}
    for batch, _ in calibration.stream(model) if found else ():
        arrays = inner.run(batch)
        for value in found:
            array, ends = arrays[value.name or ""], (extremes[value].low, extremes[value].high)
            if method == "entropy":
                array, ends = np.abs(array), (0.0, max(-ends[0], ends[1]))
            found[value] += np.histogram(array, bins, ends)[0]
    return found


def _percentile(extremes: Range, counts: np.ndarray, percentile: float) -> Range:
    """The edges of the bins outside of which lie at most the shares that are left out."""
    edges = np.linspace(extremes.low, extremes.high, len(counts) + 1)
    below = np.concatenate([[0], np.cumsum(counts)])
    left_out = (1 - percentile / 100) / 2 * below[-1]
    first = int(np.flatnonzero(below <= left_out)[-1])
    last = int(np.flatnonzero(below[-1] - below <= left_out)[0])
    return Range(min(0.0, float(edges[first])), max(0.0, float(edges[last])))


def _entropy(extremes: Range, counts: np.ndarray) -> Range:
    levels = LEVELS if extremes.low < 0 < extremes.high else 2 * LEVELS
    largest = max(-extremes.low, extremes.high)
    threshold = largest * clipped_bins(counts, levels) / len(counts)
    return Range(max(extremes.low, -threshold), min(extremes.high, threshold))


def clipped_bins(counts: np.ndarray, levels: int) -> int:
    """How many bins of a histogram of magnitudes to keep, by Migacz 2017.

    For every number of bins: P is what is kept, with all outliers in its last bin; Q is what is kept, merged
    into `levels` codes, each spread again over those of its bins that are not empty. The number whose
    KL(P || Q) is least is taken, the larger of equal ones. A last bin that is empty but for outliers has no
    Q, so such numbers are left out. The first bin, where a ReLU leaves its zeros, is counted as the second:
    0 is exact in every grid. So does NVIDIA's pytorch-quantization, which this follows.

    Args:
        counts: [bins], from magnitude 0 on, with some in the last bin.
        levels: codes, at most as many as bins.
    """
    counts = np.concatenate([counts[1:2], counts[1:]])
    total = float(counts.sum())
    best, least = len(counts), math.inf
    outliers = total - np.cumsum(counts)
    for kept in range(len(counts), levels - 1, -1):
        part = counts[:kept].astype(np.float64)
        if not part[-1]:
            continue
        starts = np.arange(levels) * kept // levels
        lengths = np.diff(np.append(starts, kept))
        filled = part > 0
        sums, holders = np.add.reduceat(part, starts), np.add.reduceat(filled.astype(np.float64), starts)
        spread = np.repeat(sums / np.maximum(holders, 1), lengths)[filled] / part.sum()
        part[-1] += outliers[kept - 1]
        p = part[filled] / total
        divergence = float((p * np.log(p / spread)).sum())
        if divergence < least:
            best, least = kept, divergence
    return best
