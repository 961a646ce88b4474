"""`compile`: source -> graph -> passes -> plan -> kernels -> measurement -> artifact."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sparsecc.arrays import random_arrays
from sparsecc.artifact.load import load, read_artifact
from sparsecc.artifact.manifest import Manifest, TensorInfo
from sparsecc.artifact.pack import check_target, write_artifact
from sparsecc.measurement import Trial, measure, slower_layers, with_measurements
from sparsecc.report import CompileReport, LayerLine, PassLine, render_html
from sparsecc.report.compile_report import layer_lines
from sparsecc.tuning import Database, DatabaseSelector, open_databases

if TYPE_CHECKING:
    import onnx_ir as ir

    from sparsecc.artifact.session import Session
    from sparsecc.passes.base import Context
    from sparsecc.passes.hooks import Hook
    from sparsecc.passes.pipeline import Pipeline
    from sparsecc.targets.lower.state import Selector
    from sparsecc.targets.plan import Plan, TensorSpec

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""

REPORT = "report.html"
ROUNDS = 2
"""How often layers that measured slower than dense are made dense and all is measured again."""


@dataclass(frozen=True)
class Artifact:
    """A compiled model on disk.

    Attributes:
        path: its folder or archive.
        manifest: all that is known about it without running it.
        report: what became of each layer.
    """

    path: Path
    manifest: Manifest
    report: CompileReport

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def load(self, threads: int | None = None) -> Session:
        """Open it for running; see `sparsecc.load`."""
        return load(self.path, threads)


def compile(
    source: object,
    target: str = "cpu",
    out: str | os.PathLike[str] = "model.scc",
    *,
    example_inputs: object = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    passes: str | Pipeline | None = None,
    name: str = "model",
    archive: bool = False,
    embed: bool = False,
    overwrite: bool = False,
    measure: bool = True,
    database: str | os.PathLike[str] | Literal[False] | None = None,
    cpu: str = "",
    compiler: str | None = None,
    hooks: Sequence[Hook] = (),
    progress: Progress | None = None,
) -> Artifact:
    """Compile a model to an artifact.

    Args:
        source: an onnx_ir.Model, or anything that `sparsecc.capture` takes; not changed.
        target: `cpu` (or `host`) for this machine, or a name that `sparsecc targets` lists.
        out: the folder to make, or the file with `archive`.
        example_inputs: for PyTorch modules, as for `sparsecc.capture`.
        shapes: input name -> dims, for inputs with symbolic dimensions.
        passes: what runs before the compile pipeline, such as `sparsify{pattern=4x1 sparsity=0.8}`.
        name: prefix of the library's C symbols.
        archive: write one file instead of a folder.
        embed: put the weights into the library instead of a file beside it.
        overwrite: replace an artifact at `out`; anything else there is never touched.
        measure: time each layer against its dense kernel on this machine, and keep it dense where that is
            faster; needs a target that this machine can run.
        database: what `tune` measured, which chooses the forms of the layers that are in it; None: the user's
            own file. Behind it comes the one that is shipped. False: the cost model chooses alone.
        cpu: whose measurements to use, in the database's words ("AuthenticAMD 25"); "": this machine's.
        compiler: C compiler command or "zig"; None looks for one.
        hooks: watch the passes.
        progress: told about every phase.

    Raises:
        UsageError: arguments that do not exist or contradict each other, `out` may not be replaced, or the
            database is not one.
        CaptureError, UnsupportedOpError, VerificationError: the model, see `sparsecc.capture`.
        LoweringError: the graph cannot be lowered, linked or written.
    """
    check_target(Path(os.path.abspath(out)), overwrite)
    clock = Clock(progress)
    databases = open_databases(database, cpu)
    builder = _Builder(target, name, compiler, clock, databases)
    pipelines = _pipelines(shapes, passes)
    model, ctx, (zeros, weights) = _prepared(source, example_inputs, shapes, pipelines, hooks, clock)
    with tempfile.TemporaryDirectory(prefix="sparsecc-") as folder:
        chosen = builder.choose(model, Path(folder), measure=measure)
    report = CompileReport(
        target=target if target == chosen.plan.target else f"{target} ({chosen.plan.target})",
        weights=weights,
        zeros=zeros,
        layers=chosen.layers,
        refusals=tuple(ctx.refusals),
        passes=_pass_lines(ctx),
        phases=dict(clock.phases),
        measured_seconds=chosen.seconds,
        measured_dense_seconds=chosen.dense_seconds,
        notes=chosen.notes,
    )
    plan = chosen.plan
    plan.passes = ",".join(map(str, pipelines))
    plan.report = report.to_json()
    signature = f"{', '.join(map(_spec_text, plan.inputs))} → {', '.join(map(_spec_text, plan.outputs))}"
    page = render_html(
        report, name, signature, weights_bytes=plan.weights.nbytes, arena_bytes=plan.arena_bytes
    )
    with clock.phase("write"):
        path = write_artifact(
            plan,
            out,
            archive=archive,
            embed=embed,
            overwrite=overwrite,
            compiler=compiler,
            extra_files={REPORT: page.encode()},
        )
    manifest, _ = read_artifact(path)
    return Artifact(path, manifest, report)


def prepare(
    source: object,
    example_inputs: object = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    passes: str | Pipeline | None = None,
    progress: Progress | None = None,
) -> ir.Model:
    """A graph that `build_plan` takes, made as `compile` makes it; arguments and errors are as there."""
    model, *_ = _prepared(source, example_inputs, shapes, _pipelines(shapes, passes), (), Clock(progress))
    return model


def build_plan(
    model: ir.Model,
    *,
    target: str = "cpu",
    name: str = "model",
    dense_only: bool = False,
    dense_layers: frozenset[str] = frozenset(),
    selector: Selector | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Lower a graph that went through the compile pipeline, and compile its kernels.

    Args:
        model: with static shapes; not changed.
        target: as for `compile`.
        name: prefix of the library's C symbols.
        dense_only: use dense kernels whatever the zeros.
        dense_layers: use dense kernels for the layers of these nodes.
        selector: asked before the cost model which forms layers get.
        progress: told about lowering and kernels.

    Raises:
        UsageError: no such target.
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """
    from sparsecc.targets.build import build_objects
    from sparsecc.targets.gpu.machine import Gpu
    from sparsecc.targets.lower.graph import GraphLowering
    from sparsecc.targets.registry import machine_for

    machine = machine_for(target)
    if isinstance(machine, Gpu):
        from sparsecc.targets.gpu.build import device_plan

        return device_plan(
            model,
            machine,
            name=name,
            dense_only=dense_only,
            dense_layers=dense_layers,
            lowered=_part(progress, "lower"),
            generated=_part(progress, "kernels"),
        )
    lowering = GraphLowering(
        model, machine, dense_only=dense_only, dense_layers=dense_layers, selector=selector
    )
    plan = lowering.run(name, machine.name, _part(progress, "lower"))
    for chosen in (False, True):
        objects = build_objects(
            {s: make for s, make in lowering.low.makers.items() if (s in plan.alternatives) == chosen},
            machine.tvm_target((*plan.features, *plan.optional) if chosen else plan.features),
            source_version=generator_version(),
            progress=_part(progress, "kernels"),
        )
        plan.objects.update({f"{symbol}.o": data for symbol, data in objects.items()})
    return plan


def missing_features(target: str) -> list[str]:
    """What a target needs and this machine lacks."""
    from sparsecc.targets import registry

    return registry.missing_features(registry.machine_for(target))


def generator_version() -> str | None:
    """Digest of the kernel generators' sources, part of the kernel cache's key; None: do not use it."""
    from sparsecc.targets.sources import source_version

    return source_version()


@dataclass(frozen=True)
class _Chosen:
    """The plan to write, and what was measured on the way to it."""

    plan: Plan
    layers: tuple[LayerLine, ...]
    seconds: float | None = None
    dense_seconds: float | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Clock:
    """Seconds by phase, and the user's progress."""

    progress: Progress | None
    phases: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Time a block; a phase that comes again adds up."""
        self.tell(name, 0, 1)
        start = time.perf_counter()
        yield
        self.phases[name] = round(self.phases.get(name, 0.0) + time.perf_counter() - start, 3)
        self.tell(name, 1, 1)

    def tell(self, name: str, done: int, total: int) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(name, done, total)


@dataclass(frozen=True)
class _Builder:
    """Builds plans of one model and decides between them."""

    target: str
    name: str
    compiler: str | None
    clock: Clock
    databases: tuple[Database, ...]

    def choose(self, model: ir.Model, folder: Path, *, measure: bool) -> _Chosen:
        """The plan that is never slower than dense, as far as this machine can tell."""
        from sparsecc.targets.registry import GPUS

        missing = missing_features(self.target)
        if not measure or missing:
            plan = self._build(model)
            why = f": this machine lacks {', '.join(missing)}" if missing else ""
            if self.target in GPUS:
                why = ": kernels of GPUs are chosen by a count of their loads and multiply-adds"
            return _Chosen(plan, layer_lines(plan.report["layers"]), notes=(f"Nothing was measured{why}.",))
        with ExitStack() as stack:
            return self._measured(model, folder, stack)

    def _build(
        self, model: ir.Model, *, dense_only: bool = False, dense_layers: frozenset[str] = frozenset()
    ) -> Plan:
        from sparsecc.targets.registry import machine_for

        selector = DatabaseSelector(self.databases, machine_for(self.target).name)
        with self.clock.phase("lower and compile kernels"):
            return build_plan(
                model,
                target=self.target,
                name=self.name,
                dense_only=dense_only,
                dense_layers=dense_layers,
                selector=selector,
                progress=self.clock.progress,
            )

    def _trial(self, plan: Plan, path: Path, stack: ExitStack) -> Trial:
        trial = Trial(plan, path, self.compiler)
        stack.callback(trial.close)
        return trial

    def _measured(self, model: ir.Model, folder: Path, stack: ExitStack) -> _Chosen:
        plan = self._build(model, dense_only=True)
        inputs = random_arrays([TensorInfo(s.name, s.dtype, s.shape) for s in plan.inputs])
        dense_steps = plan.steps
        with self.clock.phase("measure"):
            dense_trial = self._trial(plan, folder / "dense.scc", stack)
        del plan
        gc.collect()  # one plan's weights in memory at a time; its kernels are cached
        plan = self._build(model)
        if plan.steps == dense_steps:  # no layer has a sparse kernel
            with self.clock.phase("measure"):
                (only,) = measure([dense_trial], inputs)
            return _Chosen(plan, with_measurements(only, only, {}), only.seconds, only.seconds)
        slower: dict[str, float] = {}
        for turn in range(ROUNDS + 1):
            with self.clock.phase("measure"):
                trial = self._trial(plan, folder / f"plan{turn}.scc", stack)
                found, dense = measure([trial, dense_trial], inputs)
            fallen = slower_layers(found, dense)
            if not fallen or turn == ROUNDS:
                break
            ours, theirs = found.layer_seconds(), dense.layer_seconds()
            slower.update({layer: ours[layer] / theirs[layer] for layer in fallen})
            plan = self._build(model, dense_layers=frozenset(slower))
        else:
            raise AssertionError("the last turn always ends the loop")
        if found.seconds > dense.seconds:
            note = (
                f"With sparse kernels a run took {found.seconds / dense.seconds:.2f} times as long as "
                "with dense ones, so all layers are dense."
            )
            plan = self._build(model, dense_only=True)
            return _Chosen(plan, with_measurements(dense, dense, {}), dense.seconds, dense.seconds, (note,))
        return _Chosen(plan, with_measurements(found, dense, slower), found.seconds, dense.seconds)


def _prepared(
    source: object,
    example_inputs: object,
    shapes: Mapping[str, Sequence[int]] | None,
    pipelines: tuple[Pipeline, Pipeline],
    hooks: Sequence[Hook],
    clock: Clock,
) -> tuple[ir.Model, Context, tuple[int, int]]:
    """Capture and passes: the graph, what they said, and its zeros and weights."""
    from sparsecc.capture import capture
    from sparsecc.ir.verify import check
    from sparsecc.sparsifier import zeros_of

    with clock.phase("capture"):
        model = capture(source, example_inputs, shapes=shapes)
    with clock.phase("passes"):
        ctx = pipelines[0].run(model, hooks=hooks)
        ctx = pipelines[1].run(model, ctx, hooks=hooks)
        _, zeros, weights = zeros_of(model)
        check(model)
        _release_source(model)
    return model, ctx, (zeros, weights)


def _pipelines(
    shapes: Mapping[str, Sequence[int]] | None, passes: str | Pipeline | None
) -> tuple[Pipeline, Pipeline]:
    """What the user asked for, and what every compile runs."""
    from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline
    from sparsecc.passes.specialize_shapes import SpecializeShapes

    asked = Pipeline.parse(passes) if isinstance(passes, str) else passes or Pipeline()
    items = tuple(f"{name}:{'x'.join(map(str, dims))}" for name, dims in (shapes or {}).items())
    return Pipeline((SpecializeShapes(items), *asked.passes)), Pipeline.parse(COMPILE_PIPELINE)


def _release_source(model: ir.Model) -> None:
    """Copy what still lies in the memory of the file that was read, so that all of that is freed."""
    import onnx_ir as ir

    for value in model.graph.initializers.values():
        if isinstance(value.const_value, ir.TensorProtoTensor):
            value.const_value = ir.Tensor(value.const_value.numpy().copy(), name=value.name)
    gc.collect()


def _pass_lines(ctx: Context) -> tuple[PassLine, ...]:
    return tuple(PassLine(r.spec, round(r.seconds, 4), tuple(r.result.notes)) for r in ctx.reports)


def _part(progress: Progress | None, phase: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(phase, done, total)


def _spec_text(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype}{list(spec.shape)}"
