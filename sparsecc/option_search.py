"""What each option costs each layer and how much it changes the outputs, and the choice for a budget.

Each option is tried on all layers at once, which shows what every layer costs then. How much the outputs
change is computed with one layer at a time: with its zeros in PyTorch, to first order if there are many
layers, and with its weights and inputs in 8 bits in ONNX Runtime; the two are added. A dynamic programme
picks, the whole is gauged, and what it misses goes into the next budget.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.gauge import Gauge
from sparsecc.ir.edit import constant_of
from sparsecc.ir.evaluate import outputs_of
from sparsecc.passes.allocate import Option, Table, allocate
from sparsecc.passes.base import Context
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.sensitivity import Sensitivity, divergence
from sparsecc.passes.one_shot import OneShot, one_shot
from sparsecc.passes.sparsify import Sparsify
from sparsecc.quantizer import quantize

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""

DRAFT = OneShot("sparsegpt", regress=False)
"""Shows what an option costs: an order of magnitude faster than ALPS."""
_ROUNDS = 8
_FEW = 64
"""Layers up to which each is replaced by itself: one forward pass each; all estimates take as long as 33."""
_LEAST = 1e-12
"""Error of what changes the outputs by nothing that can be seen: it still is a change."""


class OutOfReachError(UsageError):
    """The options do not reach a budget."""


@dataclass(frozen=True)
class Uniform:
    """One pattern with the same share of zeros in all layers, at the same cost.

    Attributes:
        pattern: its name.
        bits: of all weights and activations.
        sparsity: with which the budget is met, between two that were tried, or None if none meets it.
        error: sum of the layers' divergences, as `CompressResult.error` is.
    """

    pattern: str
    bits: int
    sparsity: float | None
    error: float


class OptionSearch:
    """Tables of a model's layers and options, and choices by them.

    Args:
        model: dense, all its channels there or some removed; not changed.
        gauge: what the budget is of.
        options: the first is dense in 32 bits; one dense with 8 bits is before others with 8 bits.
        calibration: inputs that the final weights are fitted to; None: weights go by magnitude.
        fitting: some of them, that all else is fitted to.
        sample: others, on which the outputs are compared: a fit looks better than it is on its own data.
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements get no zeros.
        loss: how outputs are compared, as for `divergence`.
        tell: told about every phase.

    Raises:
        UsageError: no layer can be changed, or data that do not fit.
    """

    def __init__(
        self,
        model: ir.Model,
        gauge: Gauge,
        options: Sequence[Option],
        calibration: Calibration | None,
        fitting: Calibration | None,
        sample: Calibration | None,
        *,
        skip: tuple[str, ...],
        min_size: int,
        loss: str,
        tell: Progress,
    ) -> None:
        self.model, self.options = model, tuple(options)
        self._gauge, self._tell = gauge, tell
        self._data, self._fitting, self._sample = calibration, fitting, sample
        self._skip, self._min_size, self._loss = skip, min_size, loss
        self._refusals: dict[str, Refusal] = {}
        self.names, self._errors, self._costs, self._rest = self._tables()

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Layers that no option fits, and why."""
        return tuple(self._refusals.values())

    def error(self, chosen: Sequence[int]) -> float:
        """Sum of the errors of a choice."""
        return float(self._errors[np.arange(len(chosen)), chosen].sum())

    def by_name(self, chosen: Sequence[int]) -> dict[str, Option]:
        """A choice by the name of the layer."""
        return {name: self.options[option] for name, option in zip(self.names, chosen, strict=True)}

    def choose(self, goal: float, bits: Collection[int]) -> list[int]:
        """An option for each layer with which the whole model is gauged at the goal, or a little below.

        Args:
            goal: cost over that of the dense model.
            bits: that layers may have; one that cannot have them keeps 32.

        Raises:
            OutOfReachError: the options do not reach it; the nearest is named.
        """
        errors = self._allowed(bits)

        def pick(budget: float) -> list[int] | None:
            try:
                return allocate(errors, self._costs, budget)
            except UsageError:
                return None

        found = self._meet(goal, pick, bits_text(bits), list(errors.argmin(axis=1)))
        if found is None:
            cheapest = np.where(np.isfinite(errors), self._costs, np.inf).min(axis=1).sum() + self._rest
            raise OutOfReachError(
                f"with {bits_text(bits)} these patterns reach about {cheapest:.2f} of the dense model, "
                f"{goal:g} was asked for; allow more zeros, other patterns or smaller layers"
            )
        return found

    def choose_uniform(self, goal: float, pattern: str, bits: int) -> list[int] | None:
        """As `choose`, with one pattern and the same share of zeros in all layers; None if none meets it."""

        def pick(budget: float) -> list[int] | None:
            share = self._uniform(pattern, bits, budget).sparsity
            if share is not None and ":" in pattern:
                share = self.options[self._places(pattern, bits)[-1]].sparsity
            return None if share is None else self._everywhere(Option(pattern, share, bits))

        return self._meet(goal, pick, f"{pattern} in all layers", [])

    def _meet(
        self, goal: float, pick: Callable[[float], list[int] | None], name: str, least: list[int]
    ) -> list[int] | None:
        """The choice that is gauged nearest to the goal and not above; None if there is none.

        Args:
            goal: cost over that of the dense model.
            pick: a choice for a budget of the layers in the table, or None.
            name: for the progress.
            least: the choice that hurts least.
        """
        budget, noise = goal - self._rest, self._gauge.noise
        nearest: tuple[float, list[int]] | None = None
        for number in range(_ROUNDS):
            self._tell(f"choose, {name}", number, _ROUNDS)
            chosen = pick(budget) if budget > 0 else None
            if chosen is None:
                break
            share = self._gauge.share(self.quantized(self.zeros(chosen), chosen, self._sample))
            miss = abs(share / goal - 1)
            if share <= goal and (nearest is None or miss < nearest[0]):
                nearest = miss, chosen
            if goal * (1 - 2 * noise) <= share <= goal:
                break
            if share <= goal and chosen == least:  # nothing that hurts less is there
                break
            budget += goal * (1 - noise) - share
        return None if nearest is None else nearest[1]

    def zeros(self, chosen: Sequence[int]) -> ir.Model:
        """The model with these zeros in 32 bits, by magnitude."""
        copy = self.model.clone()
        for item in self._items(chosen):
            item.apply(copy, Context())
        return copy

    def draft(self, chosen: Sequence[int]) -> ir.Model:
        """The model with these zeros and bits by a fast fit that has not seen the sample."""
        assert self._fitting is not None
        return self.quantized(self._fit(chosen, self._fitting, DRAFT), chosen, self._fitting)

    def made(self, chosen: Sequence[int], method: OneShot) -> ir.Model:
        """The model with these zeros in 32 bits, fitted to all data; by magnitude where there are none."""
        return self.zeros(chosen) if self._data is None else self._fit(chosen, self._data, method)

    def quantized(self, model: ir.Model, chosen: Sequence[int], data: Calibration | None = None) -> ir.Model:
        """The model with the layers in 8 bits that shall be, whose ranges are chosen on the data; all of it
        where none are given."""
        wide = tuple(name for name, option in self.by_name(chosen).items() if option.bits == 32)
        if len(wide) == len(self.names):
            return model
        return self._in_bytes(model, wide, data or self._data)

    def uniform(self, goal: float) -> tuple[Uniform, ...]:
        """What single patterns would need for the same cost."""
        kinds = dict.fromkeys((option.pattern, option.bits) for option in self.options if not option.dense)
        return tuple(self._uniform(pattern, bits, goal - self._rest) for pattern, bits in kinds)

    def _items(self, chosen: Sequence[int]) -> list[Sparsify]:
        """One pass for each option that gives zeros."""
        return [
            option.item(tuple(name for name, one in zip(self.names, chosen, strict=True) if one == number))
            for number, option in enumerate(self.options)
            if not option.dense and number in chosen
        ]

    def _fit(self, chosen: Sequence[int], data: Calibration, method: OneShot) -> ir.Model:
        copy = self.model.clone()
        items = self._items(chosen)
        if items:
            one_shot(
                self.model, copy, items, data, method,
                progress=lambda done, total: self._tell(f"fit by {method.method}", done, total),
            )  # fmt: skip
        return copy

    def _in_bytes(self, model: ir.Model, wide: tuple[str, ...], data: Calibration | None) -> ir.Model:
        return quantize(model, calibration=data, skip=(*self._skip, *wide)).model

    def _allowed(self, bits: Collection[int]) -> Table:
        """Errors, infinite for options with other numbers of bits."""
        wanted = np.array([option.bits in bits for option in self.options])
        inside = np.where(wanted, self._errors, np.inf)
        wide = np.where(np.array([option.bits == 32 for option in self.options]), self._errors, np.inf)
        return np.where(np.isfinite(inside).any(axis=1, keepdims=True), inside, wide)

    def _tables(self) -> tuple[list[str], Table, Table, float]:
        """Names of layers, errors and costs [layers, options], and the cost outside of them."""
        layers = {layer.uses[0].layer: layer for layer in linear_layers(self.model)[0]}
        narrow = any(option.bits == 8 for option in self.options)
        rounded = self._rounded(list(layers)) if narrow else {}
        columns: list[tuple[dict[str, float], dict[str, float]]] = []
        whole: dict[int, tuple[dict[str, float], float]] = {}
        for number, option in enumerate(self.options):
            self._tell("try options", number, len(self.options))
            variant = self._variant(option)
            seen = variant if option.bits == 32 else self._in_bytes(variant, (), self._sample)
            costs, total = self._gauge.costs(seen)
            if option.dense:
                whole[option.bits] = costs, total
            columns.append((self._column(option, layers, variant, rounded), costs))
        first = columns[0][1]
        names = [
            name for name in layers if name in first and any(name in changed for changed, _ in columns[1:])
        ]
        if not names:
            raise UsageError("no layer can be made sparse; " + "; ".join(map(str, self._refusals.values())))
        rests = {
            bits: total - sum(costs.get(n, 0.0) for n in names) for bits, (costs, total) in whole.items()
        }
        errors = np.full((len(names), len(columns)), np.inf)
        costs = np.zeros(errors.shape)
        for place, (option, (changed, found)) in enumerate(zip(self.options, columns, strict=True)):
            base, _ = whole[option.bits]
            inside = max(sum(base.get(name, 0.0) for name in names), 1e-30)
            for row, name in enumerate(names):
                if name not in found or (place and name not in changed):
                    continue
                errors[row, place] = changed.get(name, 0.0)
                # what 8 bits change outside of the layers is shared among them
                outside = (rests[option.bits] - rests[32]) * base.get(name, 0.0) / inside
                costs[row, place] = max(found[name] + outside, 0.0)
        return names, errors, costs, rests[32]

    def _column(
        self,
        option: Option,
        layers: Mapping[str, LinearLayer],
        variant: ir.Model,
        rounded: Mapping[str, float],
    ) -> dict[str, float]:
        """Errors of the layers that can have an option."""
        found = {layer.uses[0].layer: layer for layer in linear_layers(variant)[0]}
        changes = {name: _changes(layer, found[name]) for name, layer in layers.items()}
        errors = self._damage({name: weights for name, weights in changes.items() if weights}, option)
        changed: dict[str, float] = {}
        for name, weights in changes.items():
            if (option.bits == 8 and name not in rounded) or (not option.dense and not weights):
                continue
            error = (rounded[name] if option.bits == 8 else 0.0) + errors.get(name, 0.0)
            changed[name] = max(error, _LEAST) if weights or option.bits == 8 else 0.0
        return changed

    def _damage(self, changes: Mapping[str, Mapping[str, np.ndarray]], option: Option) -> dict[str, float]:
        """What replacing the weights of each layer, one at a time, does."""
        sensitivity, phase = self._sensitivity, f"sensitivity, {option}"
        if sensitivity is not None and len(changes) > _FEW:
            self._tell(phase, 0, 1)
            return sensitivity.estimates(changes)
        errors: dict[str, float] = {}
        for number, (name, weights) in enumerate(changes.items()):
            self._tell(phase, number, len(changes))
            errors[name] = self._lost(weights) if sensitivity is None else sensitivity.of(weights)
        return errors

    def _lost(self, weights: Mapping[str, np.ndarray]) -> float:
        """Share of the squares of a layer's weight that goes."""
        lost = total = 0.0
        for name, array in weights.items():
            before = constant_of(self.model.graph.initializers[name])
            assert before is not None
            lost += float(np.square(before - array, dtype=np.float64).sum())
            total += float(np.square(before, dtype=np.float64).sum())
        return lost / total

    @cached_property
    def _sensitivity(self) -> Sensitivity | None:
        return None if self._sample is None else Sensitivity(self.model, self._sample, self._loss)

    def _rounded(self, names: list[str]) -> dict[str, float]:
        """Divergence with each layer alone in 8 bits, of those that can be."""
        assert self._sample is not None
        batches = [batch for batch, _ in self._sample.stream(self.model)]
        expected = outputs_of(self.model, batches)
        found: dict[str, float] = {}
        for number, name in enumerate(names):
            self._tell("sensitivity, 8 bits", number, len(names))
            others = tuple(other for other in names if other != name)
            result = quantize(self.model, calibration=self._sample, skip=(*self._skip, *others))
            if any(why.where == name and why.code != "few-columns" for why in result.refusals):
                continue
            found[name] = divergence(outputs_of(result.model, batches), expected, self._loss)
        return found

    def _variant(self, option: Option) -> ir.Model:
        """All layers with one option's zeros, as fast methods make them."""
        copy = self.model.clone()
        if option.dense:
            return copy
        item = option.item(skip=self._skip, min_size=self._min_size)
        if self._fitting is None:
            result = item.apply(copy, Context())
        else:
            result = one_shot(self.model, copy, item, self._fitting, DRAFT)
        self._refusals.update({refusal.where: refusal for refusal in result.refusals})
        return copy

    def _everywhere(self, option: Option) -> list[int]:
        """The choice of one option for all layers that can have it; the tables get a column for it."""
        places = self._places(option.pattern, option.bits)
        errors, costs = self._errors[:, places], self._costs[:, places]
        own = np.asarray(np.isfinite(errors).all(axis=1))
        shares = [self.options[place].sparsity for place in places]
        between = [
            [np.interp(option.sparsity, shares, row) for row in table]
            for table in (np.where(own[:, None], errors, 0.0), costs)
        ]
        self._errors = np.column_stack([self._errors, np.where(own, between[0], np.inf)])
        self._costs = np.column_stack([self._costs, np.where(own, between[1], 0.0)])
        self.options = (*self.options, option)
        rest = np.where(np.isfinite(errors[:, 0]), places[0], 0)
        return np.where(own, len(self.options) - 1, rest).tolist()

    def _places(self, pattern: str, bits: int) -> list[int]:
        """Columns of a pattern in the order of its shares of zeros, dense first."""
        found = [
            number
            for number, option in enumerate(self.options)
            if option.bits == bits and (option.pattern == pattern or option.dense)
        ]
        return sorted(found, key=lambda number: self.options[number].sparsity)

    def _uniform(self, pattern: str, bits: int, budget: float) -> Uniform:
        places = self._places(pattern, bits)
        finite = np.isfinite(self._errors)
        own = np.where(finite[:, places].any(axis=1), places[0], 0)  # layers that cannot have it stay
        rows = np.arange(len(own))
        kept = np.where(finite[rows, own], self._errors[rows, own], 0.0), self._costs[rows, own]
        damage, total = (
            np.array([np.where(finite[:, place], table[:, place], base).sum() for place in places])
            for table, base in zip((self._errors, self._costs), kept, strict=True)
        )
        shares = np.array([self.options[place].sparsity for place in places])
        fits = np.flatnonzero(total <= budget)
        if not len(fits):
            return Uniform(pattern, bits, None, float(damage[-1]))
        first = int(fits[0])
        if first == 0:
            return Uniform(pattern, bits, 0.0, float(damage[0]))
        ends = [first, first - 1]
        sparsity, error = (float(np.interp(budget, total[ends], row[ends])) for row in (shares, damage))
        return Uniform(pattern, bits, sparsity, error)


def bits_text(bits: Collection[int]) -> str:
    """Such as `32 bits` and `8 or 32 bits`."""
    return f"{' or '.join(map(str, sorted(bits)))} bits"


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
