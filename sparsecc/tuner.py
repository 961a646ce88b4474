"""`tune`: measures the forms that a network's layers may have, in the network itself, and keeps the seconds.

In one variant of the network every layer takes another of its forms, so that as many variants as a layer has
candidates measure all layers, with the caches as they are in use. Each variant runs in turns with the cost
model's choice; what counts is a layer's time over that of its form there.
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.arrays import random_arrays
from sparsecc.artifact.manifest import TensorInfo
from sparsecc.compiler import Progress, build_plan, missing_features, prepare
from sparsecc.errors import UsageError
from sparsecc.measurement import Loaded, LocalRunner, Measured, Runner
from sparsecc.tuning import Database, Fixed, Survey, Surveyed, default_path, fastest

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.arrays import Array
    from sparsecc.passes.pipeline import Pipeline
    from sparsecc.report.compile_report import LayerLine

TRIALS = 8
WITHIN = 2.0
"""Forms that are predicted to take longer than this times the best are not measured."""


@dataclass(frozen=True)
class TunedLayer:
    """What tuning found for one node with weights.

    Attributes:
        name, node, shape, pattern: as the compile report has them.
        model_form, form: the cost model's choice, and the fastest.
        model_seconds, seconds: of the layer with them.
        forms: how many were measured.
    """

    name: str
    node: str
    shape: str
    pattern: str
    model_form: str
    form: str
    model_seconds: float
    seconds: float
    forms: int

    @property
    def gain(self) -> float:
        """How many times as fast as the cost model's choice."""
        return self.model_seconds / self.seconds if self.seconds else 1.0


@dataclass(frozen=True)
class TuneResult:
    """What tuning did.

    Attributes:
        database: the file.
        layers: in the order of execution.
        seconds, model_seconds: of one run with the fastest forms and with the cost model's, in turns; None
            where the time was up before.
        measured: forms of layers that were measured now.
        missing: forms that were left out because the time was up.
    """

    database: Path
    layers: tuple[TunedLayer, ...]
    seconds: float | None
    model_seconds: float | None
    measured: int
    missing: int


def tune(
    source: object,
    target: str = "cpu",
    *,
    example_inputs: object = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    passes: str | Pipeline | None = None,
    database: str | os.PathLike[str] | None = None,
    trials: int = TRIALS,
    budget: float | None = None,
    compiler: str | None = None,
    runner: Runner | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Measure which forms of kernels are fastest for the layers of a model, for `compile` to use.

    What the database has already is not measured again, so an interrupted call is continued by the same one.

    Args:
        source, target, example_inputs, shapes, passes, compiler: as for `compile`.
        database: the file to add to; None: the user's own, which `compile` uses by default.
        trials: forms of each layer, best predictions first.
        budget: seconds after which no further variant is begun.
        runner: where variants run; None: on this machine.
        progress: told about every phase.

    Raises:
        UsageError: arguments that do not exist or contradict each other, a target that this machine cannot
            run, or a file that is no database or cannot be written.
        CaptureError, UnsupportedOpError, VerificationError: the model, see `sparsecc.capture`.
        LoweringError: the graph cannot be lowered or linked.
    """
    from sparsecc.targets.registry import cpu_for

    end = None if budget is None else time.monotonic() + budget
    if trials < 2:
        raise UsageError(f"trials: expected at least 2 forms to compare, found {trials}")
    machine = cpu_for(target).name
    if runner is None and (missing := missing_features(target)):
        raise UsageError(
            f"this machine lacks {', '.join(missing)} and cannot time target {target}; tune where it is used"
        )
    path = default_path() if database is None else Path(database)
    found = Database(path, cpu="" if runner is None else runner.cpu)
    model = prepare(source, example_inputs, shapes=shapes, passes=passes, progress=progress)
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
        place = runner or LocalRunner(Path(folder), compiler)
        return _Tuning(model, target, machine, found, trials, place, progress).run(end)


class _Tuning:
    """One call of `tune`."""

    def __init__(
        self,
        model: ir.Model,
        target: str,
        machine: str,
        database: Database,
        trials: int,
        runner: Runner,
        progress: Progress | None,
    ) -> None:
        self._model, self._target, self._machine = model, target, machine
        self._database, self._trials, self._runner = database, trials, runner
        self._progress = progress
        self._measured = 0
        self._layers: dict[str, Surveyed] = {}

    def run(self, end: float | None) -> TuneResult:
        """Measure until nothing is left or the time is up."""

        def late() -> bool:
            return end is not None and time.monotonic() > end

        survey = Survey()
        plan = build_plan(self._model, target=self._target, selector=survey, progress=self._progress)
        self._layers = survey.layers
        inputs = random_arrays([TensorInfo(s.name, s.dtype, s.shape) for s in plan.inputs])
        with closing(self._runner.load(plan)) as base:
            del plan
            gc.collect()  # one plan's weights in memory at a time
            with self._phase("measure the cost model's choice"):
                (alone,) = self._runner.measure([base], inputs)
            self._keep_base(alone)
            total = max((len(forms) for forms in self._pending().values()), default=0)
            for done in range(total):
                if late():
                    break
                with self._phase(f"measure variant {done + 1} of {total}"):
                    forms = {node: forms[0] for node, forms in self._pending().items() if forms}
                    self._keep(forms, *self._compare(forms, base, inputs))
            changed = {node: form for node in self._layers if (form := self._faster(node)) is not None}
            times: tuple[float, float] | tuple[None, None] = (alone.seconds, alone.seconds)
            if changed and late():
                times = (None, None)
            elif changed:
                with self._phase("measure the fastest forms together"):
                    model, tuned = self._compare(changed, base, inputs)
                self._keep(changed, model, tuned)
                times = (tuned.seconds, model.seconds)
            layers = tuple(self._tuned(line) for line in base.layers if line.node in self._layers)
        missing = {self._layers[node].key: len(forms) for node, forms in self._pending().items()}
        return TuneResult(self._database.path, layers, *times, self._measured, sum(missing.values()))

    @contextmanager
    def _phase(self, name: str) -> Generator[None]:
        if self._progress is not None:
            self._progress(name, 0, 1)
        yield
        if self._progress is not None:
            self._progress(name, 1, 1)

    def _found(self, node: str) -> Mapping[str, float]:
        """Seconds of the node's layer by form, as far as they are known."""
        return self._database.exact(self._layers[node].key, self._machine)

    def _pending(self) -> dict[str, list[str]]:
        """Forms of each node that are yet to be measured, the most promising first."""
        return {
            node: [form for form in layer.ranked(self._trials, WITHIN) if form not in self._found(node)]
            for node, layer in self._layers.items()
        }

    def _compare(self, forms: Mapping[str, str], base: Loaded, inputs: Mapping[str, Array]) -> list[Measured]:
        """The cost model's choice and a variant with these forms of nodes, in turns."""
        plan = build_plan(self._model, target=self._target, selector=Fixed(forms), progress=self._progress)
        with closing(self._runner.load(plan)) as variant:
            del plan
            gc.collect()
            return self._runner.measure([base, variant], inputs)

    def _keep_base(self, measured: Measured) -> None:
        """Record the cost model's forms, to which all others are compared."""
        seconds = measured.layer_seconds()
        for nodes in self._by_key(self._layers).values():
            layer = self._layers[nodes[0]]
            if layer.best not in self._found(nodes[0]):
                value = statistics.median(seconds[node] for node in nodes)
                self._database.add(layer.layer, layer.key, self._machine, {layer.best: value})
                self._measured += 1

    def _keep(self, forms: Mapping[str, str], base: Measured, variant: Measured) -> None:
        """Record a variant, in the time scale of the base's record; a second time, the mean of both."""
        ours, theirs = variant.layer_seconds(), base.layer_seconds()
        for nodes in self._by_key(forms).values():
            layer, form, found = self._layers[nodes[0]], forms[nodes[0]], self._found(nodes[0])
            ratio = statistics.median(ours[node] / max(theirs[node], 1e-9) for node in nodes)
            seconds = ratio * found[layer.best]
            self._measured += form not in found
            value = (seconds + found.get(form, seconds)) / 2
            self._database.add(layer.layer, layer.key, self._machine, {form: value})

    def _by_key(self, nodes: Iterable[str]) -> dict[str, list[str]]:
        """Nodes whose layers are alike."""
        found: dict[str, list[str]] = {}
        for node in nodes:
            found.setdefault(self._layers[node].key, []).append(node)
        return found

    def _faster(self, node: str) -> str | None:
        """The form that beats the cost model's, if one does."""
        layer = self._layers[node]
        form = fastest(self._found(node), layer.forms, layer.best)
        return None if form == layer.best else form

    def _tuned(self, line: LayerLine) -> TunedLayer:
        layer, found = self._layers[line.node], self._found(line.node)
        form = self._faster(line.node) or layer.best
        return TunedLayer(
            line.name,
            line.node,
            line.shape,
            line.pattern,
            layer.best,
            form,
            found[layer.best],
            found[form],
            sum(name in found for name in layer.forms),
        )
