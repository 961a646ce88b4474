"""`sweep`: a grid of patterns, shares of zeros and methods, each with its quality and its latency.

Cells are fitted and evaluated in parallel by joblib, on this machine or a cluster, and timed afterwards one
by one on this machine. Each cell is a file when it is done, so that an interrupted sweep goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from sparsecc.errors import SparseccError, UsageError
from sparsecc.evaluation import evaluate
from sparsecc.latency import Latency, open_latency
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.one_shot_state import fingerprint
from sparsecc.passes.sparsify import Sparsify
from sparsecc.sparsifier import sparsify

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class SweepCell:
    """One point of the grid.

    Attributes:
        pattern: as for `sparsify`.
        sparsity: share of zeros that is asked for.
        method: magnitude, or a one-shot method.
        zeros: share of zeros in the layers that have any.
        score, low, high: by the task, with its interval.
        latency: time over that of the dense model.
        error: why there is none of this; "" otherwise.
    """

    pattern: str
    sparsity: float
    method: str
    zeros: float = 0.0
    score: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    latency: float = float("nan")
    error: str = ""

    @property
    def name(self) -> str:
        """Such as `4x1 80 % alps`, and its file's."""
        return f"{self.pattern} {100 * self.sparsity:g} % {self.method}"


@dataclass(frozen=True)
class SweepResult:
    """A finished grid.

    Attributes:
        task: what the scores are.
        dense: the dense model's score.
        cells: in the order of the grid.
        measured: whether latencies were, else they are the cost model's.
    """

    task: str
    dense: float
    cells: tuple[SweepCell, ...]
    measured: bool


@dataclass(frozen=True)
class Mark:
    """A point to show beside the grid.

    Attributes:
        name: in the legend.
        latency: time over that of the dense model.
        score: by the same task.
    """

    name: str
    latency: float
    score: float


def sweep(
    model: ir.Model,
    folder: Path,
    *,
    task: str,
    data: Calibration,
    calibration: Calibration | None = None,
    patterns: Sequence[str] = ("unstructured", "4x1"),
    sparsities: Sequence[float] = (0.5, 0.7, 0.9),
    methods: Sequence[str] = ("magnitude",),
    min_size: int = 1024,
    target: str = "cpu",
    shapes: Mapping[str, Sequence[int]] | None = None,
    backend: str = "loky",
    jobs: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> SweepResult:
    """Fit, evaluate and time every combination.

    Args:
        model: dense, as `sparsecc.capture` gives it.
        folder: keeps the model and finished cells; the same call goes on there, another one is refused.
            Processes on other machines must see it.
        task, data: as for `sparsecc.evaluate`; agreement and similarity compare with the dense model.
        calibration: for methods other than magnitude.
        patterns, sparsities, methods: the grid; N:M has one sparsity.
        min_size: weights with fewer elements are left alone.
        target: of the latency; measured where this machine can run it.
        shapes: input name -> dims for the latency, for inputs with symbolic dimensions.
        backend: joblib's: loky, threading, or dask or ray where these are installed and registered.
        jobs: cells at a time.
        seed: of the evaluation's draws.
        progress: told about every phase.

    Returns:
        All cells; those that cannot be made, such as N:M where it does not divide, carry the reason.

    Raises:
        UsageError: options that do not exist or contradict, a folder of another sweep, joblib missing.
        VerificationError: ONNX Runtime cannot run the model on the data.
        LoweringError, UnsupportedOpError: the graph cannot be lowered.
    """
    if jobs < 1:
        raise UsageError(f"at least one cell at a time, not {jobs}")
    grid = _grid(patterns, sparsities, methods)
    if calibration is None and any(cell.method != "magnitude" for cell in grid):
        raise UsageError("methods other than magnitude need calibration data")
    try:
        import joblib
    except ImportError as error:
        raise UsageError("sweep needs joblib: run `pip install 'sparsecc[sweep]'`") from error
    tell = progress or _silent
    tell("evaluate the dense model", 0, 1)
    dense = evaluate(model, task, data, reference=model, seed=seed, resamples=1).score.value
    options = (task, min_size, target, shapes, seed)
    given = [fingerprint(model, one.cut(model), options) for one in (data, calibration) if one is not None]
    state = _State(folder, " ".join(given))
    job = _Job(state.keep(model), task, data, calibration, min_size, seed)
    todo = [cell for cell in grid if state.read(cell) is None]
    try:
        with joblib.parallel_config(backend=backend):
            runner: Any = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
            for number, cell in enumerate(runner(joblib.delayed(job.run)(cell) for cell in todo)):
                state.write(cell)
                tell("fit and evaluate", number + 1, len(todo))
    except ValueError as error:  # joblib's word for a backend that it does not know
        raise UsageError(f"joblib cannot run with backend {backend!r}: {error}") from error
    cells = [found for cell in grid if (found := state.read(cell)) is not None]
    with open_latency(model, target, shapes) as clock:
        cells = _timed(model, cells, state, clock, min_size, tell)
    return SweepResult(task, dense, tuple(cells), clock.measured)


def draw(result: SweepResult, path: Path, marks: Sequence[Mark] = ()) -> None:
    """Score over latency, a line for each pattern and method, as a picture.

    Args:
        result: of `sweep`.
        path: of the picture.
        marks: other points.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("the picture needs matplotlib: run `pip install 'sparsecc[sweep]'`") from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[str, str], list[SweepCell]] = {}
    for cell in result.cells:
        if not cell.error:
            lines.setdefault((cell.pattern, cell.method), []).append(cell)
    for (pattern, method), cells in lines.items():
        cells.sort(key=lambda cell: cell.latency)
        x, y = [cell.latency for cell in cells], np.array([cell.score for cell in cells])
        spread = np.abs(np.array([[cell.low, cell.high] for cell in cells]).T - y)
        axes.errorbar(x, y, spread, marker="o", capsize=3, label=f"{pattern}, {method}")
    axes.plot([1.0], [result.dense], "k*", markersize=12, label="dense")
    for mark in marks:
        axes.plot([mark.latency], [mark.score], "*", markersize=14, label=mark.name)
    axes.set_xlabel(f"time / dense ({'measured' if result.measured else 'predicted'})")
    axes.set_ylabel(result.task)
    if result.task == "perplexity":
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    figure.savefig(part, dpi=150)
    os.replace(part, path)


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody is told."""


def _grid(patterns: Sequence[str], sparsities: Sequence[float], methods: Sequence[str]) -> list[SweepCell]:
    from sparsecc.passes.one_shot import METHODS

    for method in methods:
        if method not in ("magnitude", *METHODS):
            raise UsageError(f"the method is one of magnitude, {', '.join(METHODS)}, not {method!r}")
    cells: dict[str, SweepCell] = {}
    for pattern in patterns:
        encoding = Sparsify(pattern, -1.0 if ":" in pattern else 0.5).encoding()
        shares = [1 - encoding.n / encoding.m] if encoding.pattern == "n:m" else sparsities
        for share in shares:
            if encoding.pattern != "n:m":
                Sparsify(pattern, share)
            for method in methods:
                cell = SweepCell(pattern, share, method)
                cells[cell.name] = cell
    if not cells:
        raise UsageError("the grid is empty: give patterns, shares of zeros and methods")
    return list(cells.values())


@dataclass(frozen=True)
class _Job:
    """Makes and evaluates a cell; sent to other processes, which read the model from a file."""

    model: Path
    task: str
    data: Calibration
    calibration: Calibration | None
    min_size: int
    seed: int

    def run(self, cell: SweepCell) -> SweepCell:
        share = None if ":" in cell.pattern else cell.sparsity
        calibration = None if cell.method == "magnitude" else self.calibration
        model = ir.external_data.load_to_model(ir.load(self.model))
        try:
            sparse = sparsify(
                model,
                cell.pattern,
                share,
                min_size=self.min_size,
                method=cell.method,
                calibration=calibration,
            )
            score = evaluate(sparse.model, self.task, self.data, reference=model, seed=self.seed).score
        except SparseccError as error:
            return SweepCell(cell.pattern, cell.sparsity, cell.method, error=str(error))
        with_zeros = [layer for layer in sparse.layers if layer.zeros]
        total = sum(int(np.prod(layer.shape)) for layer in with_zeros)
        zeros = sum(layer.zeros * int(np.prod(layer.shape)) for layer in with_zeros)
        return SweepCell(
            cell.pattern, cell.sparsity, cell.method, zeros / total if total else 0.0,
            score.value, score.low, score.high,
        )  # fmt: skip


def _timed(
    model: ir.Model, cells: list[SweepCell], state: _State, clock: Latency, min_size: int, tell: Progress
) -> list[SweepCell]:
    """The cells with their latency; zeros by magnitude take as long as those of any method."""
    known: dict[tuple[str, float], float] = {}
    timed: list[SweepCell] = []
    for number, cell in enumerate(cells):
        tell("time", number, len(cells))
        found = cell
        if not cell.error and not np.isfinite(cell.latency):
            key = (cell.pattern, cell.sparsity)
            if key not in known:
                share = None if ":" in cell.pattern else cell.sparsity
                known[key] = clock.share(sparsify(model, cell.pattern, share, min_size=min_size).model)
            found = replace(cell, latency=known[key])
            state.write(found)
        timed.append(found)
    return timed


class _State:
    """Finished cells in a folder."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder
        path = folder / "sweep.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                if json.loads(path.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
                    raise UsageError(
                        f"{folder} holds a sweep of another model, data or options; give another folder"
                    )
            else:
                self._put(path, {"fingerprint": fingerprint})
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(f"{folder} cannot keep a sweep: {error}") from error

    def keep(self, model: ir.Model) -> Path:
        """The model as a file there, for other processes."""
        path = self._folder / "model.onnx"
        if not path.exists():
            part = self._folder / "model.part"
            ir.save(model, part, external_data="model.data")
            os.replace(part, path)
        return path

    def read(self, cell: SweepCell) -> SweepCell | None:
        """A finished cell."""
        path = self._path(cell)
        if not path.exists():
            return None
        return SweepCell(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, cell: SweepCell) -> None:
        """Keep it."""
        self._put(self._path(cell), asdict(cell))

    def _path(self, cell: SweepCell) -> Path:
        return (
            self._folder / f"{cell.name.replace(' ', '-').replace('%', 'percent').replace(':', '-of-')}.json"
        )

    @staticmethod
    def _put(path: Path, content: Mapping[str, Any]) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
