"""`make curves`: quality over measured latency of networks with their real weights: docs/curves.md.

A grid of patterns and shares of zeros, the same pattern in all layers, fitted by a one-shot method without
training, and beside it what `make compress` chose layer by layer. Grids are folders of `sparsecc sweep` in
the cache, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import sparsecc
from benchmarks.accuracy_tasks import Task
from benchmarks.compress import GOALS
from benchmarks.compress import RESULTS as COMPRESS
from sparsecc.option_search import bits_text
from sparsecc.sweeper import Mark, SweepCell, SweepResult, draw, sweep

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "curves.md"
PATTERNS = ("unstructured", "4x1", "2x1", "2:4")
METHOD = "alps"
VERSIONS = ("sparsecc", "onnxruntime", "torch")
Json = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """What is tried on one network.

    Attributes:
        task: the network, its data and score.
        shapes: of the inputs whose time counts.
        patterns, sparsities: the grid.
    """

    task: type[Task]
    shapes: Mapping[str, Sequence[int]] | None
    patterns: tuple[str, ...] = PATTERNS
    sparsities: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9)


def grids() -> list[Grid]:
    """One for each network that `make compress` has goals for."""
    shapes = {goal.task: goal.shapes for goal in GOALS}
    return [
        Grid(task, shape, ("unstructured", "4x1", "2:4"), (0.3, 0.5, 0.7))
        if task.kind == "perplexity"
        else Grid(task, shape)
        for task, shape in shapes.items()
    ]


def main() -> int:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = {grid.task.name: grid for grid in grids()}
    parser.add_argument("names", nargs="*", metavar="NETWORK", help=f"of {', '.join(known)}; all by default")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "sparsecc-bench")
    parser.add_argument("--again", action="store_true", help="drop what earlier runs left")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"there is no network {', '.join(unknown)}; there are {', '.join(known)}")
    file = RESULTS / "curves.json"
    found: dict[str, Json] = (
        json.loads(file.read_text(encoding="utf-8"))["networks"] if file.is_file() else {}
    )
    for name in args.names or known:
        folder = args.cache / "curves" / name
        if args.again:
            shutil.rmtree(folder, ignore_errors=True)
        result = measure(known[name], args.cache, folder)
        found[name] = {
            "task": result.task,
            "dense": result.dense,
            "cells": [asdict(cell) for cell in result.cells],
        }
        draw(result, RESULTS / f"curve-{name}.png", marks(known[name].task))
        data = {
            "command": "make curves",
            "versions": {name: version(name) for name in VERSIONS},
            "networks": found,
        }
        part = file.with_suffix(".part")
        part.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        part.replace(file)
        print("\n".join(_table(found[name], known[name].task)), flush=True)
    PAGE.write_text(page(found, known), encoding="utf-8")
    print(f"wrote {PAGE} and {file}")
    return 0


def measure(grid: Grid, cache: Path, folder: Path) -> SweepResult:
    """All cells of a network."""
    task = grid.task(cache)
    return sweep(
        task.model(), folder, task=task.kind, data=task.test_data(),
        calibration=sparsecc.Calibration(task.calibration("id", 0).batches), patterns=grid.patterns,
        sparsities=grid.sparsities, methods=(METHOD,), shapes=grid.shapes, progress=_show,
    )  # fmt: skip


def marks(task: type[Task]) -> list[Mark]:
    """What `make compress` chose for the network, where it has been run."""
    if not COMPRESS.is_file():
        return []
    goals: dict[str, Json] = json.loads(COMPRESS.read_text(encoding="utf-8"))["goals"]
    return [
        Mark(f"compress {goal.latency:g}x, {bits_text(goal.bits)}", row["latency"], row["score"])
        for goal in GOALS
        if goal.task is task and goal.name in goals
        for row in goals[goal.name]["rows"][:1]
    ]


def page(found: Mapping[str, Json], known: Mapping[str, Grid]) -> str:
    """The document."""
    lines = [
        "# Quality over latency",
        "",
        "Real weights, one pattern in all layers of at least 1,024 weights, in float32, fitted by "
        f"`{METHOD}` ([one-shot.md](one-shot.md)) without training; time of the compiled network over that "
        "of the dense one, measured in turns, batch 1, one core. Scores are on data that nothing was fitted "
        "to, with their 95 % intervals. Stars in the pictures are what `sparsecc compress` chose layer by "
        "layer ([compress.md](compress.md)).",
        "",
        "```sh",
        "make curves                        # all networks; goes on where it was interrupted",
        f"make curves MODELS={next(iter(known))}",
        "```",
        "",
        "For a network of yours: `sparsecc sweep model.onnx -o sweep --data test.npz --task classification "
        f"--calibration train.npz --methods {METHOD}`.",
    ]
    for name in (name for name in known if name in found):
        task = known[name].task
        lines += ["", f"## {task.title}: {task.metric}", ""]
        lines += [f"![{task.title}](../benchmarks/results/curve-{name}.png)", ""]
        lines += _table(found[name], task)
    return "\n".join(lines) + "\n"


def _table(network: Json, task: type[Task]) -> list[str]:
    lines = [
        f"| pattern | zeros | time / dense | {task.metric} | 95 % interval |",
        "|---|---:|---:|---:|---|",
        f"| dense | 0 % | 1.00 | {network['dense']:.2f} | |",
    ]
    for cell in (SweepCell(**cell) for cell in network["cells"]):
        if cell.error:
            lines.append(f"| {cell.pattern} | {cell.sparsity:.0%} | | | {cell.error} |")
            continue
        lines.append(
            f"| {cell.pattern} | {cell.zeros:.0%} | {cell.latency:.2f} | {cell.score:.2f} | "
            f"{cell.low:.2f} to {cell.high:.2f} |"
        )
    for mark in marks(task):
        lines.append(f"| {mark.name} | | {mark.latency:.2f} | {mark.score:.2f} | |")
    return lines


def _show(phase: str, done: int, total: int) -> None:
    print(f"  {phase} {done}/{total}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
