"""One network through structural pruning without a hint, and through the oracle that judges it.

Everything here is measured on the graph: what the analysis may prune, whether what it prunes is exact, and
whether a group holds a slice that it does not need.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.coverage_minimality import Masks, Minimality, minimality
from sparsecc.axes.dims import AxisExpr, expand, keep_mask, kept_size, size_of, terminals
from sparsecc.axes.groups import Group, Groups, groups
from sparsecc.axes.kinds import Roles
from sparsecc.oracle import OracleResult, check
from sparsecc.passes.prune_plan import prune_with

TOLERANCE = 1e-4
"""Largest difference of pruned and masked in fp32, relative to the largest output."""

TOLERANCE_FP64 = 1e-10
ATTEMPTS = 30


@dataclass(frozen=True)
class Verdict:
    """What the oracle says of one pruning.

    Attributes:
        seed: of the removed indices, the inputs and the enlarged weights.
        group: name of the only group pruned; empty where all are.
        difference: largest |pruned - masked| relative to the largest |masked|; infinite where none exists.
        moved: how far masking moves the outputs, likewise.
        taken: every weight is exactly the planned slice of the original's.
        problems: sentences.
    """

    seed: int
    group: str
    difference: float
    moved: float
    taken: bool
    problems: tuple[str, ...]

    def exact(self, tolerance: float = TOLERANCE) -> bool:
        """Whether pruned equals masked."""
        return self.taken and not self.problems and self.difference <= tolerance


@dataclass(frozen=True)
class Coverage:
    """One network's line of the table.

    Attributes:
        nodes: of the captured graph.
        parameters: number of them, in axes that the analysis knows.
        groups: names of those that can be pruned.
        share: of the parameters that lie in slices of these groups.
        inner_share: the same without embedding tables, input and output layers; None if nothing is left.
        outside: names of the parameters left out of `inner_share`.
        frozen: reasons -> number of groups that cannot be pruned because of it.
        seconds: of the analysis.
        together: half of every group removed at once, fp32, by seed.
        double: the same in fp64, or None where ONNX's evaluator cannot run the network.
        no_double: why it cannot.
        alone: each group by itself, fp32.
        minimality: summed over the seeds.
    """

    nodes: int
    parameters: int
    groups: tuple[str, ...]
    share: float
    inner_share: float | None
    outside: tuple[str, ...]
    frozen: dict[str, int]
    seconds: float
    together: tuple[Verdict, ...] = ()
    double: Verdict | None = None
    no_double: str = ""
    alone: tuple[Verdict, ...] = ()
    minimality: Minimality = field(default_factory=Minimality)

    @property
    def runs(self) -> bool:
        """Whether every network with half of all groups removed runs."""
        return all(math.isfinite(verdict.difference) for verdict in self.together)

    @property
    def outcome(self) -> str:
        """`proved` if all that was pruned equals masking, `nothing prunable`, or `not equal`."""
        if not self.together:
            return "nothing prunable"
        double = self.double is None or self.double.exact(TOLERANCE_FP64)
        exact = double and all(verdict.exact() for verdict in (*self.together, *self.alone))
        return "proved" if exact else "not equal"

    def to_json(self) -> dict[str, Any]:
        """As in the results file."""
        return {"outcome": self.outcome, "runs": self.runs, **asdict(self)}


def cover(
    model: ir.Model,
    inputs: Callable[[int], Mapping[str, np.ndarray]],
    seeds: Sequence[int] = (0, 1, 2),
    *,
    thorough: bool = True,
) -> Coverage:
    """Measure one network.

    Args:
        model: as `sparsecc.capture` gives it.
        inputs: arrays for all graph inputs, by seed.
        seeds: of removed indices, inputs and weights; groups are tried one by one with the first.
        thorough: False leaves out fp64, groups one by one and minimality.

    Raises:
        SparseccError: the model cannot be analysed or rewritten.
    """
    start = time.perf_counter()
    found = groups(model, inputs(seeds[0]))
    seconds = time.perf_counter() - start
    share, outside = shares(found)
    line = Coverage(
        nodes=len(model.graph),
        parameters=sum(math.prod(found.analysis.trace.shapes[value]) for value in found.analysis.parameters),
        groups=tuple(group.name for group in found.prunable),
        share=found.prunable_share,
        inner_share=share,
        outside=outside,
        frozen=dict(Counter(f"{g.frozen.code}: {g.frozen.reason}" for g in found if g.frozen is not None)),
        seconds=seconds,
    )
    if not found.prunable:
        return line
    original = ir.to_proto(model)
    together = tuple(
        verdict
        for seed in seeds
        if (verdict := judged(found, original, halves(found, seed), inputs(seed), seed)) is not None
    )
    line = replace(line, together=together)
    if not thorough or not together:
        return line
    alone = tuple(
        replace(verdict, group=group.name)
        for number, group in enumerate(found.prunable)
        if (kept := half(found, group, seeds[number % len(seeds)])) is not None
        and (verdict := judged(found, original, kept, inputs(seeds[0]), seeds[number % len(seeds)]))
    )
    double = judged(found, original, halves(found, seeds[0]), inputs(seeds[0]), seeds[0], "float64")
    line = replace(line, alone=alone, double=double)
    if double is not None and any("reference evaluator" in problem for problem in double.problems):
        line = replace(line, double=None, no_double="; ".join(double.problems))
    total = Minimality()
    for seed in seeds:
        total += minimality(found, halves(found, seed), inputs(seed), seed)
    return replace(line, minimality=total)


def halves(found: Groups, seed: int) -> Masks:
    """Masks that keep a random half of every prunable group, at least one of its indices.

    Groups whose share of a sum could leave an axis empty are drawn anew; if that does not help, they are
    left whole.
    """
    generator = np.random.default_rng(seed)
    users = _axes_by_group(found)
    kept: Masks = {}
    for group in found.prunable:
        for _ in range(ATTEMPTS):
            mask = np.zeros(group.size, bool)
            mask[generator.permutation(group.size)[: max(1, group.size // 2)]] = True
            trial = {**kept, **group.mask_of(mask)}
            if _none_empty(users[group.name], trial):
                kept = trial
                break
    return {dim: mask for dim, mask in kept.items() if not mask.all()}


def half(found: Groups, group: Group, seed: int) -> Masks | None:
    """Masks that keep a random half of one group; None where all of it must stay."""
    generator = np.random.default_rng(seed)
    users = _axes_by_group(found)[group.name]
    for _ in range(ATTEMPTS):
        mask = np.zeros(group.size, bool)
        mask[generator.permutation(group.size)[: group.size // 2]] = True
        kept = group.mask_of(mask)
        if _none_empty(users, kept):
            return kept
    return None


def _axes_by_group(found: Groups) -> dict[str, list[AxisExpr]]:
    """Every axis of any value that a prunable group shortens."""
    group_of = {dim: group.name for group in found.prunable for dim in group.dims}
    result: dict[str, list[AxisExpr]] = {group.name: [] for group in found.prunable}
    for axis in {expand(axis) for axes in found.analysis.axes.values() for axis in axes}:
        for name in {group_of[dim] for dim in terminals(axis) if dim in group_of}:
            result[name].append(axis)
    return result


def _none_empty(axes: Sequence[AxisExpr], kept: Masks) -> bool:
    return all(keep_mask(axis, kept).any() for axis in axes)


def judged(
    found: Groups,
    original: onnx.ModelProto,
    kept: Masks,
    inputs: Mapping[str, np.ndarray],
    seed: int,
    precision: Any = "float32",
) -> Verdict | None:
    """The oracle's verdict on one pruning; None if it removes nothing."""
    if all(mask.all() for mask in kept.values()):
        return None
    pruned, plan = prune_with(found, kept)
    result = check(original, ir.to_proto(pruned), plan.to_json(), inputs, seed=seed, precision=precision)
    return verdict_of(result, seed)


def verdict_of(result: OracleResult, seed: int) -> Verdict:
    """The parts of an oracle's result that the table needs."""
    return Verdict(seed, "", result.difference, result.moved, result.taken, result.problems)


def shares(found: Groups) -> tuple[float | None, tuple[str, ...]]:
    """Share of the parameters in slices of prunable groups, without what every network must keep.

    Left out are embedding tables (looked up by indices that depend on the data), the parameters of the
    nodes that read a graph input, and those whose own output axis is an axis of a graph output.

    Returns:
        The share, None if no parameter remains, and the names of those that were left out.
    """
    analysis = found.analysis
    outside = {value.name or "" for value in (*_tables(found), *_first_readers(found))} | output_makers(found)
    total = covered = 0.0
    for value in analysis.parameters:
        if value.name not in outside:
            size = math.prod(analysis.trace.shapes[value])
            stays = math.prod(
                _frozen_size(axis) / max(size_of(expand(axis)), 1) for axis in analysis.axes[value]
            )
            total += size
            covered += size * (1 - stays)
    return (covered / total if total else None), tuple(sorted(outside))


def output_makers(found: Groups) -> set[str]:
    """Names of the parameters whose own output axis is an axis of a graph output."""
    analysis = found.analysis
    producers = Roles(analysis).producers
    axes = [axis for value in found.model.graph.outputs for axis in analysis.axes.get(value, ())]
    return {name for axis in axes for dim in terminals(axis) for name in producers.get(dim, ())}


def _frozen_size(axis: AxisExpr) -> int:
    return kept_size(axis, {dim: 0 for dim in terminals(axis) if not dim.frozen})


def _tables(found: Groups) -> Iterator[ir.Value]:
    sources = _sources(found)
    for node in found.model.graph:
        if node.op_type in ("Gather", "GatherND", "GatherElements"):
            indices = node.inputs[1]
            if indices is not None and indices not in found.analysis.trace.constants:
                table = node.inputs[0]
                if table is not None and not sources[table][0]:
                    yield from sources[table][1]


def _first_readers(found: Groups) -> Iterator[ir.Value]:
    """Parameters that meet, in one node, values which depend on a graph input and on no parameter."""
    sources = _sources(found)
    for node in found.model.graph:
        operands = [sources[value] for value in node.inputs if value is not None and value in sources]
        if any(reads_input and not weights for reads_input, weights in operands):
            for reads_input, weights in operands:
                if not reads_input:
                    yield from weights


def _sources(found: Groups) -> dict[ir.Value, tuple[bool, frozenset[ir.Value]]]:
    """Whether each value depends on a graph input, and the parameters that it depends on."""
    graph = found.model.graph
    parameters = set(found.analysis.parameters)
    result: dict[ir.Value, tuple[bool, frozenset[ir.Value]]] = {}
    for value in graph.initializers.values():
        result[value] = (False, frozenset({value} & parameters))
    for value in graph.inputs:
        result[value] = (True, frozenset())
    for node in graph:
        operands = [result[value] for value in node.inputs if value is not None and value in result]
        reads_input = any(operand[0] for operand in operands)
        weights = frozenset[ir.Value]().union(*(operand[1] for operand in operands))
        result.update(dict.fromkeys(node.outputs, (reads_input, weights)))
    return result
