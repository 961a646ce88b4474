"""Dependency groups: the slices of all parameters that must live or go together, index by index.

One group per free dimension of the axis analysis; dimensions of one index each that a cut made of one axis
(tied pairs of channels, for instance) form one group together.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
import onnx_ir as ir

from sparsecc.axes.analysis import Analysis, analyse
from sparsecc.axes.dims import AxisExpr, Dim, expand, kept_size, terminals
from sparsecc.axes.exactness import Exactness, check_exactness
from sparsecc.axes.kinds import Kind, Roles
from sparsecc.axes.labels import labels
from sparsecc.errors import Refusal, UsageError


@dataclass(frozen=True)
class Cost:
    """What one index of a group costs while all other groups are whole.

    Attributes:
        parameters: number of parameters.
        flops: floating-point operations of one run, two per multiply-add.
        bytes: of the parameters.
    """

    parameters: float
    flops: float
    bytes: float


@dataclass(frozen=True)
class GroupAxis:
    """An axis of a parameter that a group slices.

    Attributes:
        parameter: name of the initializer.
        axis: of it.
        labels: arrays [size of the axis]; the index of the group that each position goes with, or -1.
    """

    parameter: str
    axis: int
    labels: tuple[np.ndarray, ...]

    def positions(self, index: int) -> list[int]:
        """Positions along the axis that go with one index of the group."""
        found = np.zeros(self.labels[0].shape, bool)
        for array in self.labels:
            found |= array == index
        return np.flatnonzero(found).tolist()


@dataclass(frozen=True)
class Group:
    """Slices that live or go together.

    Attributes:
        name: unique and readable, such as `layer.3.attention.heads`.
        kind: what its indices are.
        size: number of indices.
        axes: what one index takes with it.
        cost: of one index, on average.
        norms: first outputs of the normalisations whose statistics run over it.
        frozen: why it cannot be pruned, or None.
        dims: the dimensions of the analysis; one of `size` indices, or `size` of one index each.
    """

    name: str
    kind: Kind
    size: int
    axes: tuple[GroupAxis, ...]
    cost: Cost
    norms: tuple[str, ...]
    frozen: Refusal | None
    dims: tuple[Dim, ...]

    @property
    def exactness(self) -> str:
        """The words exact, norm-coupled (statistics run over fewer entries) or frozen."""
        if self.frozen is not None:
            return "frozen"
        return "norm-coupled" if self.norms else "exact"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the parameters that it slices, each once."""
        return tuple(dict.fromkeys(axis.parameter for axis in self.axes))

    def mask_of(self, kept: np.ndarray) -> dict[Dim, np.ndarray]:
        """Masks of the dimensions for a mask [size] of the group."""
        if len(self.dims) == 1:
            return {self.dims[0]: kept}
        return {dim: kept[number : number + 1] for number, dim in enumerate(self.dims)}


class Groups(Sequence[Group]):
    """All groups of a model, those that can be pruned first, in the order of the parameters.

    Attributes:
        model: what was analysed.
        analysis: its axes.
        exactness: where deleting and zeroing differ.
        total: parameters, FLOPs and bytes of the whole model.
    """

    def __init__(self, model: ir.Model, inputs: Mapping[str, np.ndarray] | None = None) -> None:
        self.model = model
        self.analysis: Analysis = analyse(model, inputs)
        self.exactness: Exactness = check_exactness(self.analysis)
        for dim, nodes in self.exactness.inexact.items():
            dim.frozen = Refusal(
                "a sum over it meets entries that are not zero where its parameters are",
                min(nodes),
                "inexact",
            )
        self._costs = Costs(self.analysis)
        self.total: Cost = self._costs.total({})
        self._groups = _make_groups(self.analysis, self._costs)
        self._by_name = {group.name: group for group in self._groups}

    @overload
    def __getitem__(self, key: int | str) -> Group: ...

    @overload
    def __getitem__(self, key: slice) -> list[Group]: ...

    def __getitem__(self, key: int | str | slice) -> Group | list[Group]:
        """A group by number or name.

        Raises:
            UsageError: no group has the name.
        """
        if isinstance(key, str):
            if key not in self._by_name:
                raise UsageError(f"there is no group {key!r}; `sparsecc groups` lists them")
            return self._by_name[key]
        return self._groups[key]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    @property
    def prunable(self) -> list[Group]:
        """The groups that are not frozen."""
        return [group for group in self._groups if group.frozen is None]

    @property
    def prunable_share(self) -> float:
        """Share of the parameters that lie in slices of prunable groups."""
        covered = total = 0.0
        for value in self.analysis.parameters:
            size = float(math.prod(self.analysis.trace.shapes[value]))
            fixed_share = 1.0
            for axis in self.analysis.axes[value]:
                fixed_share *= _frozen_size(axis) / max(math.prod(dim.size for dim in expand(axis)), 1)
            total += size
            covered += size * (1 - fixed_share)
        return covered / total if total else 0.0

    def cost(self, counts: Mapping[Dim, int]) -> Cost:
        """Cost of the whole model when each free dimension keeps `counts` of its indices."""
        return self._costs.total(counts)


def groups(model: ir.Model, inputs: Mapping[str, np.ndarray] | None = None) -> Groups:
    """Find the dependency groups of a model.

    Args:
        model: as `sparsecc.capture` gives it; not changed, and not to be changed while the groups are used.
        inputs: arrays for all graph inputs, where random ones would not run.

    Raises:
        UsageError: inputs that do not fit the model.
        VerificationError: ONNX Runtime cannot run the model.
    """
    return Groups(model, inputs)


class Costs:
    """Parameters, FLOPs and bytes as functions of how many indices each dimension keeps."""

    def __init__(self, analysis: Analysis) -> None:
        self._parameters: list[tuple[AxisExpr, int]] = []
        self._work: list[AxisExpr] = []
        self._users: dict[Dim, tuple[list[int], list[int]]] = {}
        for value in analysis.parameters:
            tensor = value.const_value
            size = tensor.dtype.itemsize if tensor is not None else 4
            axis = tuple(dim for axis in analysis.axes[value] for dim in expand(axis))
            self._parameters.append((axis, int(size)))
            for dim in terminals(axis):
                self._users.setdefault(dim, ([], []))[0].append(len(self._parameters) - 1)
        for facts in analysis.facts.values():
            if facts.work:
                axis = tuple(dim for factor in facts.work for dim in expand(factor))
                self._work.append(axis)
                for dim in terminals(axis):
                    self._users.setdefault(dim, ([], []))[1].append(len(self._work) - 1)

    def total(self, counts: Mapping[Dim, int]) -> Cost:
        """Cost of the whole model."""
        return self._cost(range(len(self._parameters)), range(len(self._work)), counts)

    def of(self, dims: Sequence[Dim]) -> Cost:
        """Cost of one index of a group on average: what goes when all of them go, over their number."""
        parameters = sorted({number for dim in dims for number in self._users.get(dim, ([], []))[0]})
        work = sorted({number for dim in dims for number in self._users.get(dim, ([], []))[1]})
        before = self._cost(parameters, work, {})
        after = self._cost(parameters, work, dict.fromkeys(dims, 0))
        size = sum(dim.size for dim in dims)
        return Cost(
            (before.parameters - after.parameters) / size,
            (before.flops - after.flops) / size,
            (before.bytes - after.bytes) / size,
        )

    def _cost(self, parameters: Sequence[int], work: Sequence[int], counts: Mapping[Dim, int]) -> Cost:
        number = size = flops = 0
        for index in parameters:
            axis, item = self._parameters[index]
            count = kept_size(axis, counts)
            number += count
            size += count * item
        for index in work:
            flops += 2 * kept_size(self._work[index], counts)
        return Cost(number, flops, size)


def _frozen_size(axis: AxisExpr) -> int:
    return kept_size(axis, {dim: 0 for dim in terminals(axis) if not dim.frozen})


def _make_groups(analysis: Analysis, costs: Costs) -> list[Group]:
    occurrences = analysis.occurrences()
    roles = Roles(analysis)
    families = _families(analysis, occurrences)
    names = _names([dims[0] for dims in families], roles, occurrences)
    found: list[Group] = []
    for dims in families:
        kind = roles.kind(dims[0])
        offsets = {dim: number for number, dim in enumerate(dims)}  # one dimension, or several of size 1
        places = dict.fromkeys(place for dim in dims for place in occurrences[dim])
        axes = tuple(
            GroupAxis(value.name or "", axis, tuple(labels(analysis.axes[value][axis], offsets)))
            for value, axis in places
        )
        frozen = next((dim.frozen for dim in dims if dim.frozen), None)
        name = names[dims[0]]
        norms = tuple(sorted({norm for dim in dims for norm in dim.norms}))
        size = sum(dim.size for dim in dims)
        found.append(Group(name, kind, size, axes, costs.of(dims), norms, frozen, dims))
    return sorted(found, key=lambda group: group.frozen is not None)


def _families(
    analysis: Analysis, occurrences: Mapping[Dim, list[tuple[ir.Value, int]]]
) -> list[tuple[Dim, ...]]:
    """Each dimension by itself, but those of one index that are terms of the same sum together."""
    leader: dict[Dim, Dim] = {}

    def find(dim: Dim) -> Dim:
        while leader.get(dim, dim) is not dim:
            dim = leader[dim]
        return dim

    for value in analysis.parameters:
        for axis in analysis.axes[value]:
            for units in _unit_terms(axis):
                for unit in units[1:]:
                    first, second = find(units[0]), find(unit)
                    if first is not second:
                        leader[second] = first
    members: dict[Dim, list[Dim]] = {}
    for dim in occurrences:
        if dim.size == 1 and dim.frozen is None:
            members.setdefault(find(dim), []).append(dim)
        elif dim.size > 1:
            members[dim] = [dim]
    return [tuple(dims) for dims in members.values()]


def _unit_terms(axis: AxisExpr) -> Iterator[list[Dim]]:
    for root in expand(axis):
        if root.terms is not None:
            units = [
                term[0]
                for term in map(expand, root.terms)
                if len(term) == 1 and term[0].free and term[0].size == 1 and term[0].frozen is None
            ]
            if units:
                yield units
            for term in root.terms:
                yield from _unit_terms(term)


def _names(
    dims: Sequence[Dim], roles: Roles, occurrences: Mapping[Dim, list[tuple[ir.Value, int]]]
) -> dict[Dim, str]:
    """Unique names: the scope that all layers which make a dimension share, and what it is.

    Where there is no such scope or several dimensions would have the name, that of the first layer that
    makes it takes the scope's place; parts of one axis are numbered after that.
    """
    wide: dict[Dim, str] = {}
    narrow: dict[Dim, str] = {}
    for dim in dims:
        if dim.frozen is not None:
            value, axis = occurrences[dim][0]
            wide[dim] = narrow[dim] = f"{value.name}.{axis}"
            continue
        makers = roles.makers(dim) or [occurrences[dim][0][0].name or ""]
        layers = [_layer(name) for name in makers]
        narrow[dim] = f"{layers[0]}.{roles.suffix(dim)}"
        scope = _shared_scope(layers)
        wide[dim] = f"{scope}.{roles.suffix(dim)}" if scope else narrow[dim]
    counts = Counter(wide.values())
    found: dict[Dim, str] = {}
    taken: set[str] = set()
    for dim in dims:
        found[dim] = _unique(wide[dim] if counts[wide[dim]] == 1 else narrow[dim], taken)
    return found


_LAST_WORD = re.compile(
    r"[._/](weight|bias|kernel|scale|gamma|beta|running_mean|running_var|weight_[gv]|w|b|W|B)(_\d+)?$"
)
"""What exporters end the names of a layer's parameters with."""


def _layer(parameter: str) -> str:
    return _LAST_WORD.sub("", parameter)


def _shared_scope(layers: Sequence[str]) -> str:
    """`a.b.c` and `a.b.d` -> `a.b`; scopes end at dots and slashes."""
    parts = [re.split(r"([./])", layer) for layer in layers]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    if len(shared) < max(map(len, parts)) and shared and shared[-1] in "./":
        shared.pop()
    return "".join(shared)


def _unique(name: str, taken: set[str]) -> str:
    candidate = name
    number = 1
    while candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    taken.add(candidate)
    return candidate
