"""`compress`: widths, zeros in patterns, and bits, with which a model meets a budget and changes least.

Whole channels go first, by one width for the network; then a dynamic programme picks a pattern, a share of
zeros and bits for each layer (`option_search`). Of all widths, and of choices with one number of bits or
both, what changes the outputs least on the data is fitted by a one-shot method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from sparsecc.axes.groups import Groups
from sparsecc.errors import Refusal, UsageError, VerificationError
from sparsecc.gauge import Gauge, NonZeros, WeightBytes
from sparsecc.ir.evaluate import outputs_of
from sparsecc.ir.weights import weight_uses
from sparsecc.latency import open_latency
from sparsecc.option_search import (
    OptionSearch,
    OutOfReachError,
    Progress,
    Uniform,
)
from sparsecc.passes.allocate import Option
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.classes import chosen_loss
from sparsecc.passes.criteria.sensitivity import divergence
from sparsecc.passes.one_shot import OneShot
from sparsecc.pruner import PruneResult, prune
from sparsecc.sparsifier import LayerZeros, zeros_of

PATTERNS: dict[int, tuple[str, ...]] = {32: ("unstructured", "2x1", "4x1"), 8: ("4x4",)}
"""By bits of the weights and activations."""
SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9)
FINE_SPARSITIES = tuple(step / 20 for step in range(6, 20))
"""For a budget of zeros, where an option costs no compilation: 30 to 95 %."""
WIDTHS = (1.0, 0.85, 0.7)
"""Shares of the FLOPs that are left when channels go; 1 is all."""
TOLERANCE = 0.1
"""By how much the measured latency may miss the one that was asked for."""
_LOOKS = 5
"""Measurements of which the median counts where the first is over the budget."""
_NEAR = 2.0
"""A single pattern is compared where its layers' errors add up to so many times those of the choice."""
_MULTIPLE = 16
"""Of the channels that stay, where groups are large enough: they fill the vectors of AVX-512."""


@dataclass(frozen=True)
class Candidate:
    """A width and bits that were considered.

    Attributes:
        width: share of the FLOPs that the channels which stay have.
        bits: that layers were allowed.
        pattern: that all layers have with the same share of zeros; "" where each has its own.
        divergence: of the outputs from the dense model's, on data that the fit, a fast one, has not seen
            where there are enough; where nothing further was tried with the channels removed alone; None
            where there is nothing to compare.
        note: why it was given up; "" if it was compared with others.
    """

    width: float
    bits: tuple[int, ...]
    divergence: float | None
    note: str = ""
    pattern: str = ""


@dataclass(frozen=True)
class CompressResult:
    """A copy of a model that meets a budget.

    Attributes:
        model: the copy.
        bits: of its layers' weights and activations, those that occur.
        options: of each layer by name.
        pruned: which channels were removed, and a plan that replays it; None with all of them.
        goal: what the budget is of: latency, zeros or bytes.
        cost: time over that of the dense float32 model, share of its weights that are not zero, or bytes of
            the packed weights over those of its artifact.
        measured: whether that was measured, else it is predicted or counted.
        error: sum of the divergences that the layers cause one by one, which chose the options.
        divergence: of the outputs on the calibration data, as `sensitivity.divergence` has it; None without
            data.
        loss: which one: kl in nats, or squared.
        uniform: what single patterns would need, at the widest of the widths.
        candidates: widths and bits that were considered.
        layers: zeros of all weights of the layers.
        zeros: share of zeros over all of them.
        refusals: layers that stayed as they were, and why.
    """

    model: ir.Model
    bits: tuple[int, ...]
    options: dict[str, Option]
    pruned: PruneResult | None
    goal: str
    cost: float
    measured: bool
    error: float
    divergence: float | None
    loss: str
    uniform: tuple[Uniform, ...]
    candidates: tuple[Candidate, ...]
    layers: tuple[LayerZeros, ...]
    zeros: float
    refusals: tuple[Refusal, ...] = field(default=())

    @property
    def width(self) -> float:
        """Share of the FLOPs that the channels which stay have."""
        return 1.0 if self.pruned is None else _width(self.pruned)


class MissedBudgetError(VerificationError):
    """A model that was made for a latency and takes longer.

    Attributes:
        result: the model all the same.
    """

    def __init__(self, share: float, result: CompressResult) -> None:
        super().__init__(
            f"the model was measured at {result.cost:.2f} of the dense one's time, {share:g} was asked for; "
            f"try again while the machine does nothing else"
        )
        self.result = result


def compress(
    model: ir.Model,
    latency: float | None = None,
    *,
    zeros: float | None = None,
    bytes: float | None = None,
    calibration: Calibration | None = None,
    widths: Sequence[float] | None = None,
    bits: Sequence[int] | None = None,
    patterns: Sequence[str] | None = None,
    sparsities: Sequence[float] | None = None,
    method: str = "alps",
    loss: str | None = None,
    probes: int = 4,
    skip: Sequence[str] = (),
    min_size: int = 1024,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    progress: Progress | None = None,
) -> CompressResult:
    """Make a model faster or smaller by fewer channels, zeros and 8 bits, with least change of its outputs.

    Without calibration data weights go by magnitude, widths and bits stay, and a layer's error is the share
    of its weights' squares that goes.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        latency: share of the dense float32 model's time that stays, over 0 and under 1.
        zeros: instead, share of the weights of all layers that become zero.
        bytes: instead, share of the bytes of the dense float32 artifact's weights that stays, indices
            included, with the kernels that the cost model chooses.
        calibration: some batches of inputs like those that the model will see.
        widths: shares of the FLOPs that are left when channels, heads and features go (OBSPA), to consider;
            None: 1, 0.85 and 0.7 with data and a budget of latency or bytes, else 1. Wider ones come first;
            when one changes the outputs more than a wider one, narrower ones are not tried.
        bits: of weights and activations that each layer may have: 32, 8; None: both with data and a budget of
            latency or bytes, else 32.
        patterns: to consider, as for `sparsify`; None: unstructured, 2x1 and 4x1, with 8 bits 4x4; for a
            budget of zeros unstructured.
        sparsities: shares of zeros to consider for each pattern; None: 50, 60, 70, 80 and 90 %, for a budget
            of zeros 30 to 95 % in steps of 5.
        method: one-shot method of the final zeros: wanda, sparsegpt or alps.
        loss: how outputs are compared: kl for classes, squared for embeddings and other numbers; None: kl
            where the graph looks like a classifier or a language model, as `loss_of` has it.
        probes: batches, at most a quarter of all, on which outputs are compared; only the final weights are
            fitted to them too.
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
        target: as for `compile`; measured where this machine can run it, else the cost model's.
        shapes: input name -> dims, for inputs with symbolic dimensions.
        progress: told about every phase.

    Raises:
        UsageError: arguments that do not exist or contradict each other, a budget that the options do not
            reach (the nearest is named), or data that do not fit.
        VerificationError: ONNX Runtime cannot run the model on the data.
        MissedBudgetError: the latency was missed; it has what was made.
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """
    goal, share = _goal(latency, zeros, bytes)
    loss = chosen_loss(loss, model)
    if sparsities is None:
        sparsities = FINE_SPARSITIES if goal == "zeros" else SPARSITIES
    if not sparsities or not all(0 < one < 1 for one in sparsities):
        raise UsageError("shares of zeros to consider lie between 0 and 1")
    if probes < 1:
        raise UsageError(f"damage is computed on at least one batch, not {probes}")
    free = calibration is not None and goal != "zeros"
    allowed = _bits(bits, free, calibration, goal)
    wide = _widths(widths, free, calibration, goal)
    names = patterns or (("unstructured",) if goal == "zeros" else None)
    options = _options(allowed, names, sparsities)
    data = None if calibration is None else calibration.cut(model)
    fitting, sample = (None, None) if data is None else data.hold_out(probes)
    with _open_gauge(goal, model, target, shapes) as gauge:
        run = _Run(
            model, gauge, 1 - share if goal == "zeros" else share, options, data, fitting, sample,
            tuple(skip), min_size, loss, progress or _silent,
        )  # fmt: skip
        for width in wide:
            if not run.consider(width, _modes(allowed), alone=len(wide) * len(_modes(allowed)) == 1):
                break
        return run.result(goal, OneShot(method))


@dataclass(frozen=True)
class _Found:
    """The choice of a candidate.

    Attributes:
        change: what candidates are compared by; the least is taken.
    """

    search: OptionSearch
    chosen: list[int]
    pruned: PruneResult | None
    change: float


@dataclass
class _Run:
    """One call of `compress`.

    Attributes:
        share: of the gauge, to be met.
        best: what changes the outputs least so far.
        failures: why candidates do not reach the budget.
        candidates: what was considered.
        uniform: single patterns, at the first width.
    """

    model: ir.Model
    gauge: Gauge
    share: float
    options: list[Option]
    data: Calibration | None
    fitting: Calibration | None
    sample: Calibration | None
    skip: tuple[str, ...]
    min_size: int
    loss: str
    tell: Progress
    best: _Found | None = None
    failures: list[OutOfReachError] = field(default_factory=list[OutOfReachError])
    candidates: list[Candidate] = field(default_factory=list[Candidate])
    uniform: tuple[Uniform, ...] = ()

    def consider(self, width: float, modes: Sequence[tuple[int, ...]], *, alone: bool) -> bool:
        """Choose options at a width; whether narrower ones may be better.

        Args:
            width: share of the FLOPs.
            modes: numbers of bits that layers may have, each by itself.
            alone: there is nothing to compare with.
        """
        tell, base, pruned = self.tell, self.model, None
        if width < 1:
            tell = self._named(f"width {width:.0%}")
            tell("remove channels", 0, 1)
            pruned = self._narrow(width)
            if pruned is None:
                return False
            base, width = pruned.model, _width(pruned)
            change = self._change(base, self.sample)
            if self.best is not None and change >= self.best.change:
                note = "removing channels alone changes the outputs more than the best choice so far"
                self.candidates.append(Candidate(width, (), change, note))
                return False
        search = OptionSearch(
            base, self.gauge, self.options, self.data, self.fitting, self.sample,
            skip=self.skip, min_size=self.min_size, loss=self.loss, tell=tell,
        )  # fmt: skip
        self.uniform = self.uniform or search.uniform(self.share)
        before = None if self.best is None else self.best.change
        picks = self._picks(search, width, modes)
        compared = self.data is not None and not (alone and len(picks) == 1)
        here: list[float] = []
        for chosen, bits, pattern in picks:
            change = self._change(search.draft(chosen), self.sample) if compared else search.error(chosen)
            here.append(change)
            self.candidates.append(Candidate(width, bits, change if compared else None, pattern=pattern))
            if self.best is None or change < self.best.change:
                self.best = _Found(search, chosen, pruned, change)
        return before is None or not here or min(here) < before

    def _picks(
        self, search: OptionSearch, width: float, modes: Sequence[tuple[int, ...]]
    ) -> list[tuple[list[int], tuple[int, ...], str]]:
        """Choices that meet the budget, the bits that they may have, and the pattern where it is one for all.

        The sums of the layers' errors choose, and are wrong where many layers change: so single patterns that
        are not much worse by them are compared too.
        """
        found: list[tuple[list[int], tuple[int, ...], str]] = []
        for bits in modes:
            try:
                chosen = search.choose(self.share, bits)
            except OutOfReachError as error:
                self.failures.append(error)
                self.candidates.append(Candidate(width, bits, None, "does not reach the budget"))
                continue
            if all(chosen != other for other, _, _ in found):
                found.append((chosen, bits, ""))
        if self.data is None or not found:
            return found
        least = min(search.error(chosen) for chosen, _, _ in found)
        for one in search.uniform(self.share):
            if one.sparsity and one.error <= _NEAR * least:
                chosen = search.choose_uniform(self.share, one.pattern, one.bits)
                if chosen is not None:
                    found.append((chosen, (one.bits,), one.pattern))
        return found

    def result(self, goal: str, method: OneShot) -> CompressResult:
        """The best candidate, fitted.

        Raises:
            UsageError: none reaches the budget.
            MissedBudgetError: it was missed.
        """
        if self.best is None:
            raise self.failures[-1]
        search, chosen = self.best.search, self.best.chosen
        sparse = search.made(chosen, method)
        model = search.quantized(sparse, chosen)
        cost = self.gauge.share(model)
        if self._missed(cost):  # perhaps another process's doing
            self.tell("measure again", 0, 1)
            cost = float(np.median([cost, *(self.gauge.share(model) for _ in range(_LOOKS - 1))]))
        layers, zeros, total = zeros_of(sparse)
        options = search.by_name(chosen)
        result = CompressResult(
            model,
            tuple(sorted({option.bits for option in options.values()}, reverse=True)),
            options,
            self.best.pruned,
            goal,
            cost,
            self.gauge.measured,
            search.error(chosen),
            None if self.data is None else self._change(model, self.data),
            self.loss,
            self.uniform,
            tuple(self.candidates),
            layers,
            zeros / total if total else 0.0,
            search.refusals,
        )
        if self._missed(cost):
            raise MissedBudgetError(self.share, result)
        return result

    def _missed(self, cost: float) -> bool:
        """Whether a measured cost is over the budget by more than what is tolerated."""
        return self.gauge.measured and cost > self.share * (1 + TOLERANCE)

    def _narrow(self, width: float) -> PruneResult | None:
        """The model with fewer channels, fitted to its outputs; None where none can go."""
        assert self.fitting is not None
        batch, _ = next(self.fitting.stream(self.model))
        try:
            found = prune(
                self.model, target={"flops": width}, exactly=False, inputs=batch, criterion="obspa",
                round_to=_MULTIPLE, data=self.fitting, reconstruct="id", regress=True,
                skip=_groups_of(self.model, self.skip, batch),
            )  # fmt: skip
        except VerificationError as error:
            self.candidates.append(Candidate(width, (), None, str(error)))
            return None
        if not found.plan.kept:
            self.candidates.append(Candidate(width, (), None, "no channel can go"))
            return None
        return found

    def _change(self, model: ir.Model, data: Calibration | None) -> float:
        """Divergence of the outputs on data from the dense model's."""
        assert data is not None
        batches = [batch for batch, _ in data.stream(self.model)]
        return divergence(outputs_of(model, batches), outputs_of(self.model, batches), self.loss)

    def _named(self, name: str) -> Progress:
        return lambda phase, done, total: self.tell(f"{name}: {phase}", done, total)


def _goal(latency: float | None, zeros: float | None, size: float | None) -> tuple[str, float]:
    """What the budget is of, and its share.

    Raises:
        UsageError: none or several, or a share that is none.
    """
    given = {"latency": latency, "zeros": zeros, "bytes": size}
    found = [(name, share) for name, share in given.items() if share is not None]
    if len(found) != 1:
        raise UsageError("give one budget: a latency, a share of zeros, or bytes")
    name, share = found[0]
    if not 0 < share < 1:
        raise UsageError(f"a budget of {name} is a share between 0 and 1, not {share:g}")
    return name, share


def _bits(
    bits: Sequence[int] | None, free: bool, calibration: Calibration | None, goal: str
) -> tuple[int, ...]:
    """Numbers of bits that layers may have.

    Raises:
        UsageError: there are no such, or 8 make no sense.
    """
    found = tuple(dict.fromkeys(bits)) if bits else (32, 8) if free else (32,)
    for one in found:
        if one not in PATTERNS:
            raise UsageError(f"weights and activations have 32 or 8 bits, not {one}")
    if 8 in found and calibration is None:
        raise UsageError("8 bits need calibration data, on which the ranges of activations are chosen")
    if 8 in found and goal == "zeros":
        raise UsageError("8 bits have as many zeros as 32: leave bits out, and quantise the result")
    return found


def _widths(
    widths: Sequence[float] | None, free: bool, calibration: Calibration | None, goal: str
) -> tuple[float, ...]:
    """Widths to consider, the widest first.

    Raises:
        UsageError: there are no such, or they make no sense.
    """
    found = tuple(sorted(set(widths), reverse=True)) if widths else WIDTHS if free else (1.0,)
    for one in found:
        if not 0 < one <= 1:
            raise UsageError(f"a width is a share of the FLOPs, over 0 and up to 1, not {one:g}")
    if found != (1.0,) and calibration is None:
        raise UsageError("widths under 1 need calibration data, on which they are compared")
    if found != (1.0,) and goal == "zeros":
        raise UsageError("channels that go are no zeros: leave widths out, or ask for a latency or bytes")
    return found


def _modes(bits: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """What layers may have: both, which is to be tried first, and each alone."""
    return (bits,) if len(bits) == 1 else (bits, *((one,) for one in bits))


def _options(
    bits: Sequence[int], patterns: Sequence[str] | None, sparsities: Sequence[float]
) -> list[Option]:
    """All that a layer may become, as `OptionSearch` wants them."""
    found = [Option()]
    for one in sorted(bits, reverse=True):
        found += [Option(bits=one)] if one < 32 else []
        found += [
            Option(name, share, one)
            for name in dict.fromkeys(patterns or PATTERNS[one])
            for share in _shares(name, sparsities)
        ]
    return found


def _shares(pattern: str, sparsities: Sequence[float]) -> tuple[float, ...]:
    """Those that a pattern can have."""
    if ":" not in pattern:
        return tuple(sorted(sparsities))
    kept, of = (int(part) for part in pattern.split(":"))
    return (1 - kept / of,)


def _open_gauge(goal: str, model: ir.Model, target: str, shapes: Mapping[str, Sequence[int]] | None) -> Gauge:
    if goal == "latency":
        return open_latency(model, target, shapes)
    return NonZeros(model) if goal == "zeros" else WeightBytes(model, target, shapes)


def _groups_of(model: ir.Model, names: tuple[str, ...], inputs: Mapping[str, object]) -> tuple[str, ...]:
    """Groups that slice the weights of some layers."""
    if not names:
        return ()
    weights = {use.value.name for use in weight_uses(model) if use.is_named(names)}
    groups = Groups(model, inputs)  # pyright: ignore[reportArgumentType]
    return tuple(group.name for group in groups if not weights.isdisjoint(group.parameters))


def _width(pruned: PruneResult) -> float:
    """Share of the FLOPs that is left."""
    return pruned.after.flops / max(pruned.before.flops, 1)


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody is told."""
