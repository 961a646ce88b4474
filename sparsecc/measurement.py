"""Measures plans on this machine or where a runner runs them, and finds layers whose sparse kernel is slower
than the dense one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sparsecc.artifact.load import load
from sparsecc.artifact.pack import write_artifact
from sparsecc.host import host_cpu
from sparsecc.report.compile_report import LayerLine, layer_lines
from sparsecc.timing import pinned

if TYPE_CHECKING:
    from sparsecc.arrays import Array
    from sparsecc.artifact.session import Session
    from sparsecc.targets.plan import Plan

WARM_UP, BLOCK = 2, 4
"""Runs of a side until its weights and code are back in the caches, and timed ones after them."""

MIN_TURNS, MAX_TURNS, BUDGET = 2, 10, 2.5
"""Turns of each side, and the seconds after which no further ones start."""


@dataclass(frozen=True)
class Measured:
    """One plan on this machine, one thread.

    Attributes:
        layers: as the lowering reports them.
        steps: seconds of each kernel call, the median or another quantile of all runs.
    """

    layers: tuple[LayerLine, ...]
    steps: tuple[float, ...]

    @property
    def seconds(self) -> float:
        """Of one run."""
        return sum(self.steps)

    def layer_seconds(self) -> dict[str, float]:
        """Seconds of each layer, by its node."""
        return {layer.node: sum(self.steps[index] for index in layer.steps) for layer in self.layers}


class Timed(Protocol):
    """What runs a plan, and times its steps."""

    def run(self, inputs: Mapping[str, Array]) -> object:
        """One run."""
        ...

    def profile(self, inputs: Mapping[str, Array]) -> Sequence[tuple[object, object, float]]:
        """One run: seconds of each step, behind two things that name it."""
        ...


class Loaded(Protocol):
    """A plan that is ready to be timed."""

    @property
    def layers(self) -> tuple[LayerLine, ...]:
        """As the lowering reports them."""
        ...

    @property
    def session(self) -> Timed:
        """Where it runs."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Trial:
    """A plan written to a folder and opened, to be timed; the plan itself is not kept."""

    def __init__(self, plan: Plan, path: Path, compiler: str | None) -> None:
        write_artifact(plan, path, overwrite=True, compiler=compiler)
        self._path = path
        self.layers = layer_lines(plan.report["layers"])
        self.session: Session = load(path, threads=1)

    def close(self) -> None:
        """Unload the library and remove the files."""
        self.session.close()
        shutil.rmtree(self._path, ignore_errors=True)


class Runner(Protocol):
    """Where the variants of a network are timed; `LocalRunner` is this machine."""

    @property
    def cpu(self) -> str:
        """Of the machine that times them, as the database names it."""
        ...

    def load(self, plan: Plan) -> Loaded:
        """Make a plan ready to run; the plan itself is not kept."""
        ...

    def measure(self, trials: Sequence[Loaded], inputs: Mapping[str, Array]) -> list[Measured]:
        """Time loaded plans against each other."""
        ...


class LocalRunner:
    """Runs on the last CPU that this process may use. Of each step's times it takes a low quantile, on which
    what else this machine does has little effect.

    Args:
        folder: for the plans.
        compiler: C compiler command or "zig"; None looks for one.
        budget: seconds after which a comparison takes no further turns.
    """

    QUANTILE = 0.2

    def __init__(self, folder: Path, compiler: str | None = None, budget: float = BUDGET) -> None:
        self._folder = folder
        self._compiler = compiler
        self._budget = budget
        self._count = 0

    @property
    def cpu(self) -> str:
        """See `Runner`."""
        return str(host_cpu())

    def load(self, plan: Plan) -> Trial:
        """See `Runner`."""
        self._count += 1
        return Trial(plan, self._folder / f"variant{self._count}.scc", self._compiler)

    def measure(self, trials: Sequence[Loaded], inputs: Mapping[str, Array]) -> list[Measured]:
        """See `Runner`."""
        with pinned(1):
            return measure(trials, inputs, quantile=self.QUANTILE, budget=self._budget)


def measure(
    trials: Sequence[Loaded], inputs: Mapping[str, Array], *, quantile: float = 0.5, budget: float = BUDGET
) -> list[Measured]:
    """Profile all trials in turns.

    Args:
        quantile: of each step's times to report.
        budget: seconds after which no further turns start.
    """
    times: list[list[tuple[float, ...]]] = [[] for _ in trials]
    start = time.perf_counter()
    for turn in range(MAX_TURNS):
        if turn >= MIN_TURNS and time.perf_counter() - start > budget:
            break
        for trial, found in zip(trials, times, strict=True):
            for _ in range(WARM_UP):
                trial.session.run(inputs)
            for _ in range(BLOCK):
                found.append(tuple(seconds for _, _, seconds in trial.session.profile(inputs)))
    return [
        Measured(trial.layers, tuple(float(np.quantile(step, quantile)) for step in zip(*found, strict=True)))
        for trial, found in zip(trials, times, strict=True)
    ]


def slower_layers(plan: Measured, dense: Measured) -> frozenset[str]:
    """Nodes of the layers with another kernel than in the dense plan that take more time than there."""
    kernels = {layer.node: layer.kernel for layer in dense.layers}
    ours, theirs = plan.layer_seconds(), dense.layer_seconds()
    return frozenset(
        layer.node
        for layer in plan.layers
        if kernels.get(layer.node, layer.kernel) != layer.kernel and ours[layer.node] > theirs[layer.node]
    )


def with_measurements(plan: Measured, dense: Measured, slower: Mapping[str, float]) -> tuple[LayerLine, ...]:
    """The layers of a plan with their measured times.

    Args:
        slower: for nodes that are dense because their sparse kernel was measured: its time over dense.
    """
    ours, theirs = plan.layer_seconds(), dense.layer_seconds()
    lines: list[LayerLine] = []
    for layer in plan.layers:
        line = replace(
            layer,
            measured_seconds=round(ours[layer.node], 9),
            measured_dense_seconds=round(theirs.get(layer.node, 0.0), 9),
        )
        if layer.node in slower:
            reason = f"the sparse kernel took {slower[layer.node]:.2f} times as long as this dense one"
            line = replace(line, reason=reason)
        lines.append(line)
    return tuple(lines)
