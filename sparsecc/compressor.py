"""`compress`: zeros in patterns, and bits, with which a model meets a latency and changes least.

Each option is tried on all layers at once: how long every layer takes then is measured on the target, how
much the outputs change with every layer by itself is computed on calibration data. A dynamic programme picks
an option for each layer, the whole is measured, and what it misses is added to the budget. At last the zeros
are chosen and the weights fitted by a one-shot method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.ir.edit import constant_of
from sparsecc.ir.evaluate import Evaluator
from sparsecc.latency import Latency, open_latency
from sparsecc.passes.allocate import Option, Table, allocate
from sparsecc.passes.base import Context
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.sensitivity import Sensitivity, divergence
from sparsecc.passes.one_shot import OneShot, one_shot
from sparsecc.quantizer import quantize
from sparsecc.sparsifier import LayerZeros, zeros_of

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""

PATTERNS: dict[int, tuple[str, ...]] = {32: ("unstructured", "4x1"), 8: ("4x4",)}
"""By bits of the weights and activations."""
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
TOLERANCE = 0.1
"""By how much the measured latency may miss the one that was asked for."""
_ROUNDS, _NEAR = 8, 0.03
_DRAFT = OneShot("sparsegpt", regress=False)
"""Shows what an option costs: an order of magnitude faster than ALPS."""


@dataclass(frozen=True)
class Uniform:
    """One pattern with the same share of zeros in all layers, at the same latency.

    Attributes:
        pattern: its name.
        sparsity: with which the latency is met, between two that were measured, or None if none meets it.
        error: sum of the layers' divergences, as `CompressResult.error` is.
    """

    pattern: str
    sparsity: float | None
    error: float


@dataclass(frozen=True)
class CompressResult:
    """A copy of a model that meets a latency.

    Attributes:
        model: the copy.
        bits: of its weights and activations.
        options: of each layer by name.
        latency: time over that of the dense float32 model.
        measured: whether that was measured, else it is the cost model's.
        error: sum of the divergences that the layers cause one by one, which chose the options.
        divergence: of the outputs on the calibration data, as `sensitivity.divergence` has it; None without
            data.
        uniform: what single patterns would need.
        layers: zeros of all weights of the layers.
        zeros: share of zeros over all of them.
        refusals: layers that stayed as they were, and why.
    """

    model: ir.Model
    bits: int
    options: dict[str, Option]
    latency: float
    measured: bool
    error: float
    divergence: float | None
    uniform: tuple[Uniform, ...]
    layers: tuple[LayerZeros, ...]
    zeros: float
    refusals: tuple[Refusal, ...] = field(default=())


def compress(
    model: ir.Model,
    latency: float,
    *,
    calibration: Calibration | None = None,
    bits: Sequence[int] | None = None,
    patterns: Sequence[str] | None = None,
    sparsities: Sequence[float] = SPARSITIES,
    method: str = "alps",
    probes: int = 4,
    skip: Sequence[str] = (),
    min_size: int = 1024,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> CompressResult:
    """Make a model faster by zeros, and where allowed by 8 bits, with least change of its outputs.

    Without calibration data weights go by magnitude, bits stay 32, and a layer's error is the share of its
    weights' squares that goes.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        latency: share of the dense float32 model's time that stays, over 0 and under 1.
        calibration: some batches of inputs like those that the model will see.
        bits: of weights and activations to consider: 32, 8; None: both with data, else 32. The one whose
            outputs change least is taken.
        patterns: to consider, as for `sparsify`; None: unstructured and 4x1, with 8 bits 4x4.
        sparsities: shares of zeros to consider for each pattern.
        method: one-shot method of the final zeros: wanda, sparsegpt or alps.
        probes: batches for the tables of time and damage.
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
        target: as for `compile`; measured where this machine can run it, else the cost model's.
        shapes: input name -> dims, for inputs with symbolic dimensions.
        progress: told about every phase.

    Raises:
        UsageError: arguments that do not exist or contradict each other, a latency that the options do not
            reach (the nearest is named), or data that do not fit.
        VerificationError: ONNX Runtime cannot run the model on the data, or the latency was missed.
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """
    if not 0 < latency < 1:
        raise UsageError(f"a latency is a share of the dense model's time between 0 and 1, not {latency:g}")
    if not sparsities or not all(0 < share < 1 for share in sparsities):
        raise UsageError("shares of zeros to consider lie between 0 and 1")
    if probes < 1:
        raise UsageError(f"damage is computed on at least one batch, not {probes}")
    wanted = tuple(bits) if bits is not None else (32, 8) if calibration is not None else (32,)
    for one in wanted:
        if one not in PATTERNS:
            raise UsageError(f"weights and activations have 32 or 8 bits, not {one}")
    if 8 in wanted and calibration is None:
        raise UsageError("8 bits need calibration data, on which the ranges of activations are chosen")
    data = None if calibration is None else calibration.cut(model)
    tell = progress or _silent
    found: list[CompressResult] = []
    failures: list[UsageError] = []
    sample = _first(data, probes)
    with open_latency(model, target, shapes) as clock:
        for one in wanted:
            names = tuple(patterns or PATTERNS[one])
            options = [
                Option(),
                *(Option(name, share) for name in names for share in _shares(name, sparsities)),
            ]
            search = _Search(model, clock, options, (data, sample), one, (tuple(skip), min_size), tell)
            try:
                found.append(search.run(latency, method))
            except _OutOfReachError as error:
                failures.append(error)
    if not found:
        raise failures[-1]
    return min(found, key=lambda result: result.error if result.divergence is None else result.divergence)


class _OutOfReachError(UsageError):
    """The options do not reach a latency."""


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody is told."""


def _shares(pattern: str, sparsities: Sequence[float]) -> tuple[float, ...]:
    """Those that a pattern can have."""
    if ":" not in pattern:
        return tuple(sorted(sparsities))
    kept, of = (int(part) for part in pattern.split(":"))
    return (1 - kept / of,)


class _Search:
    """One call of `compress` for one number of bits; of the data, what is tried sees the sample only."""

    def __init__(
        self,
        model: ir.Model,
        clock: Latency,
        options: list[Option],
        data: tuple[Calibration | None, Calibration | None],
        bits: int,
        limits: tuple[tuple[str, ...], int],
        tell: Progress,
    ) -> None:
        self._model, self._clock, self._options = model, clock, options
        self._data, self._sample = data
        self._bits, self._tell = bits, tell
        self._skip, self._min_size = limits
        self._refusals: dict[str, Refusal] = {}

    def run(self, latency: float, method: str) -> CompressResult:
        names, errors, seconds, rest = self._tables()
        uniform = tuple(
            self._uniform(pattern, errors, seconds, latency - rest)
            for pattern in dict.fromkeys(option.pattern for option in self._options if not option.dense)
        )
        chosen = self._meet(latency, names, errors, seconds, rest)
        self._tell("fit", 0, 1)
        sparse = self._made(names, chosen, method)
        model = self._finished(sparse, self._data)
        share = self._clock.times(model)[1]
        if self._clock.measured and share > latency * (1 + TOLERANCE):
            raise VerificationError(
                f"the model was measured at {share:.2f} of the dense one's time, {latency:g} was asked for; "
                f"try again while the machine does nothing else"
            )
        layers, zeros, total = zeros_of(sparse)
        return CompressResult(
            model,
            self._bits,
            {name: self._options[option] for name, option in zip(names, chosen, strict=True)},
            share,
            self._clock.measured,
            float(errors[np.arange(len(names)), chosen].sum()),
            self._divergence(model),
            uniform,
            layers,
            zeros / total if total else 0.0,
            tuple(self._refusals.values()),
        )

    def _tables(self) -> tuple[list[str], Table, Table, float]:
        """Names of layers, errors and seconds [layers, options], time outside of them; in dense time."""
        layers = {layer.uses[0].layer: layer for layer in linear_layers(self._model)[0]}
        sensitivity = None if self._sample is None else Sensitivity(self._model, self._sample)
        columns: list[tuple[dict[str, float], dict[str, float]]] = []
        rest = 0.0
        for number, option in enumerate(self._options):
            self._tell(f"try {self._bits} bits", number, len(self._options))
            variant = self._variant(option)
            times, whole = self._clock.times(self._finished(variant, self._sample))
            if option.dense:
                rest = whole - sum(times.values())
            changed: dict[str, float] = {}
            found = {layer.uses[0].layer: layer for layer in linear_layers(variant)[0]}
            for name, layer in layers.items():
                if name not in times:
                    continue
                self._tell(f"sensitivity, {option}", len(changed), len(layers))
                changed[name] = _error(layer.value, _changes(layer, found[name]), sensitivity)
            columns.append((changed, times))
        names = [name for name in columns[0][0] if any(changed[name] > 0 for changed, _ in columns[1:])]
        if not names:
            raise UsageError("no layer can be made sparse; " + "; ".join(map(str, self._refusals.values())))
        inside = sum(columns[0][1].values())
        errors = np.array([[changed[name] for changed, _ in columns] for name in names])
        seconds = np.array([[times[name] for _, times in columns] for name in names])
        errors[:, 1:][errors[:, 1:] == 0] = np.inf  # an option that a layer refuses
        return names, errors, seconds, rest + inside - float(seconds[:, 0].sum())

    def _variant(self, option: Option) -> ir.Model:
        """All layers with one option, as fast methods make it."""
        copy = self._model.clone()
        if option.dense:
            return copy
        item = option.item(skip=self._skip, min_size=self._min_size)
        if self._sample is None:
            result = item.apply(copy, Context())
        else:
            result = one_shot(self._model, copy, item, self._sample, _DRAFT)
        self._refusals.update({refusal.where: refusal for refusal in result.refusals})
        return copy

    def _made(self, names: list[str], chosen: list[int], method: str | None) -> ir.Model:
        """The model with these options in 32 bits, by magnitude where no method is given."""
        items = [
            option.item(tuple(name for name, one in zip(names, chosen, strict=True) if one == number))
            for number, option in enumerate(self._options)
            if not option.dense and number in chosen
        ]
        copy = self._model.clone()
        if self._data is None or method is None:
            for item in items:
                item.apply(copy, Context())
        elif items:
            one_shot(
                self._model, copy, items, self._data, OneShot(method),
                progress=lambda done, total: self._tell("fit", done, total),
            )  # fmt: skip
        return copy

    def _finished(self, model: ir.Model, data: Calibration | None) -> ir.Model:
        """The model in as many bits as it shall have; the data say the ranges of activations."""
        if self._bits == 32 or data is None:
            return model
        return quantize(model, self._bits, calibration=data, skip=self._skip).model

    def _meet(
        self, latency: float, names: list[str], errors: Table, seconds: Table, rest: float
    ) -> list[int]:
        """Options with which the whole model is measured at the latency, or a little below."""
        budget = latency - rest
        nearest: tuple[float, list[int]] | None = None
        for number in range(_ROUNDS):
            self._tell(f"allocate, {self._bits} bits", number, _ROUNDS)
            try:
                chosen = allocate(errors, seconds, budget) if budget > 0 else None
            except UsageError:
                chosen = None
            if chosen is None:
                break
            share = self._clock.times(self._finished(self._made(names, chosen, None), self._sample))[1]
            miss = abs(share / latency - 1)
            if share <= latency and (nearest is None or miss < nearest[0]):
                nearest = miss, chosen
            if latency * (1 - 2 * _NEAR) <= share <= latency:
                break
            if share <= latency and not any(chosen):  # the dense form is fast enough
                break
            budget += latency * (1 - _NEAR) - share
        if nearest is None:
            fastest = np.where(np.isfinite(errors), seconds, np.inf).min(axis=1).sum() + rest
            raise _OutOfReachError(
                f"with {self._bits} bits these patterns reach about {fastest:.2f} of the dense model's time, "
                f"{latency:g} was asked for; allow more zeros, other patterns or smaller layers"
            )
        return nearest[1]

    def _uniform(self, pattern: str, errors: Table, seconds: Table, budget: float) -> Uniform:
        places = [n for n, option in enumerate(self._options) if option.pattern == pattern or option.dense]
        total = np.array([seconds[:, place].sum() for place in places])
        damage = np.array([np.where(np.isfinite(errors[:, p]), errors[:, p], 0).sum() for p in places])
        shares = np.array([self._options[place].sparsity for place in places])
        fits = np.flatnonzero(total <= budget)
        if not len(fits):
            return Uniform(pattern, None, float(damage[-1]))
        first = int(fits[0])
        if first == 0:
            return Uniform(pattern, 0.0, float(damage[0]))
        ends = [first, first - 1]
        sparsity, error = (float(np.interp(budget, total[ends], row[ends])) for row in (shares, damage))
        return Uniform(pattern, sparsity, error)

    def _divergence(self, model: ir.Model) -> float | None:
        if self._data is None:
            return None
        found, dense = Evaluator(model), Evaluator(self._model)
        batches = [batch for batch, _ in self._data.stream(self._model)]
        return divergence(
            [tuple(found.run(batch).values()) for batch in batches],
            [tuple(dense.run(batch).values()) for batch in batches],
        )


def _first(calibration: Calibration | None, count: int) -> Calibration | None:
    """The first batches."""
    if calibration is None:
        return None
    batches = calibration.batches() if callable(calibration.batches) else calibration.batches
    return Calibration(list(islice(batches, count)))


def _changes(dense: LinearLayer, sparse: LinearLayer) -> dict[str, np.ndarray]:
    """Weight and bias of a layer that are others now, by the name of the initializer."""
    changed: dict[str, np.ndarray] = {}
    for old, new in ((dense.value, sparse.value), (dense.bias, sparse.bias)):
        before = None if old is None else constant_of(old)
        after = None if new is None else constant_of(new)
        if old is None or before is None or after is None or np.array_equal(before, after):
            continue
        changed[old.name or ""] = after
    return changed


def _error(value: ir.Value, weights: Mapping[str, np.ndarray], sensitivity: Sensitivity | None) -> float:
    """What replacing a layer's weights does; at least a tiny number, 0 where nothing changes."""
    if not weights:
        return 0.0
    if sensitivity is not None:
        return max(sensitivity.of(weights), 1e-12)
    before = constant_of(value)
    assert before is not None
    lost = np.square(before - weights[value.name or ""], dtype=np.float64).sum()
    return max(float(lost / np.square(before, dtype=np.float64).sum()), 1e-12)
