"""`make compress`: a latency met with options chosen layer by layer, beside one pattern in all layers.

Networks with their real weights. `compress` gets calibration data and a share of the dense network's time;
the time is measured beside it afterwards, the score on data that nothing was fitted to. Beside it single
patterns with the share of zeros that takes as long, fitted by the same method. Results are kept one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsecc
from benchmarks.accuracy_fashion import FashionResNetTask
from benchmarks.accuracy_minilm import TOKENS, FewDocumentsTask
from benchmarks.accuracy_photographs import EfficientNetTask
from benchmarks.accuracy_smollm2 import SmolLM2Task
from benchmarks.accuracy_tasks import Task
from sparsecc.compressor import WIDTHS
from sparsecc.latency import MeasuredLatency

RESULTS = Path(__file__).parent / "results" / "compress.json"
PAGE = Path(__file__).parents[1] / "docs" / "compress.md"
MARKS = ("<!-- begin: make compress -->\n", "<!-- end: make compress -->\n")
Json = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One network and latency.

    Attributes:
        task: the network, its data and score.
        latency: share of the dense network's time.
        bits: that layers may have.
        shapes: of the inputs whose time counts.
        probes: batches for the sensitivities.
        method: of the final zeros.
        widths: shares of the FLOPs to consider.
        sparsities: shares of zeros to consider; None for those of `compress`.
    """

    task: type[Task]
    latency: float
    bits: tuple[int, ...]
    shapes: Mapping[str, Sequence[int]] | None
    probes: int = 2
    method: str = "alps"
    widths: tuple[float, ...] = (1.0,)
    sparsities: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """On the command line and in the results."""
        return f"{self.task.name} {self.latency:g}x {' or '.join(map(str, self.bits))} bits"


_IMAGE, _SMALL = {"inputs": (1, 3, 224, 224)}, {"image": (1, 1, 28, 28)}
_TEXT = {"input_ids": (1, TOKENS), "attention_mask": (1, TOKENS)}
GOALS = (
    Goal(EfficientNetTask, 0.5, (32,), _IMAGE),
    Goal(EfficientNetTask, 0.3, (32, 8), _IMAGE, widths=WIDTHS),
    Goal(FashionResNetTask, 0.5, (32,), _SMALL),
    Goal(FashionResNetTask, 0.3, (32, 8), _SMALL, widths=WIDTHS),
    Goal(FewDocumentsTask, 0.5, (32,), _TEXT),
    Goal(FewDocumentsTask, 0.3, (32, 8), _TEXT, widths=WIDTHS),
    Goal(SmolLM2Task, 0.75, (32,), None, method="sparsegpt", sparsities=(0.5, 0.7)),
)


def main() -> int:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="words of its name; all by default")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "sparsecc-bench")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    chosen = [goal for goal in GOALS if not args.names or any(word in goal.name for word in args.names)]
    if not chosen:
        parser.error(f"no network has these words; there are {', '.join(goal.name for goal in GOALS)}")
    found: dict[str, Json] = (
        json.loads(args.results.read_text(encoding="utf-8"))["goals"] if args.results.is_file() else {}
    )
    for goal in chosen:
        if goal.name not in found:
            found[goal.name] = measure(goal, args.cache)
            _write(args.results, found)
        print(f"\n{goal.name}\n" + "\n".join(_lines(goal, found[goal.name])), flush=True)
    if args.results == RESULTS:
        before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        PAGE.write_text(
            f"{before}{MARKS[0]}{as_table(found)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8"
        )
    missed = [name for name, cell in found.items() if cell["rows"][0]["latency"] / cell["goal"] > 1.1]
    print(f"\n{as_table(found)}\n\nwrote {args.results}; missed: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


def measure(goal: Goal, cache: Path) -> Json:
    """Latency and score of the dense network, of `compress`, and of single patterns."""
    task = goal.task(cache)
    dense, data = task.model(), task.calibration("id", 0)
    start = time.perf_counter()
    result = sparsecc.compress(
        dense, goal.latency, calibration=sparsecc.Calibration(data.batches), widths=goal.widths,
        bits=goal.bits, sparsities=goal.sparsities, shapes=goal.shapes, probes=goal.probes,
        method=goal.method, progress=_Show(),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    options = Counter(str(option) for option in result.options.values())
    considered = [
        {
            "width": one.width,
            "bits": one.bits,
            "pattern": one.pattern,
            "change": one.divergence,
            "note": one.note,
        }
        for one in result.candidates
    ]
    chosen = f"chosen, {' and '.join(map(str, result.bits))} bits"
    if result.pruned is not None:
        chosen += f", {result.width:.0%} of the FLOPs"
    with MeasuredLatency(dense, shapes=goal.shapes) as clock:
        rows: list[Json] = [
            _row(chosen, task, result.model, clock, result.error)
            | {"options": dict(sorted(options.items())), "seconds": seconds, "considered": considered}
        ]
        for other in result.uniform:
            if other.sparsity is None:
                continue
            sparse = sparsecc.sparsify(
                dense, other.pattern, other.sparsity, method=goal.method,
                calibration=sparsecc.Calibration(data.batches),
            ).model  # fmt: skip
            if other.bits == 8:
                sparse = sparsecc.quantize(sparse, calibration=sparsecc.Calibration(data.batches)).model
            name = f"{other.pattern} {other.sparsity:.0%}, {other.bits} bits"
            rows.append(_row(name, task, sparse, clock, other.error))
    return {"goal": goal.latency, "dense": task.evaluate(dense)["score"], "rows": rows}


def _row(name: str, task: Task, model: ir.Model, clock: MeasuredLatency, error: float) -> Json:
    return {
        "name": name,
        "latency": clock.share(model),
        "score": task.evaluate(model)["score"],
        "error": error,
    }


class _Show:
    """Prints each phase once."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, phase: str, done: int, total: int) -> None:
        if phase != self._last:
            print(f"  {phase}", flush=True)
        self._last = phase


def _write(path: Path, found: dict[str, Json]) -> None:
    names = ("sparsecc", "onnxruntime", "torch")
    data = {"command": "make compress", "versions": {name: version(name) for name in names}, "goals": found}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _lines(goal: Goal, cell: Json) -> list[str]:
    lines = [f"  dense {cell['dense']:.2f} ({goal.task.metric})"]
    lines += [f"  {row['name']:32} {row['latency']:.2f}x  {row['score']:.2f}" for row in cell["rows"]]
    return lines


def as_table(found: dict[str, Json]) -> str:
    """Markdown: a row for each network and choice."""
    tasks = {goal.name: goal.task for goal in GOALS}
    lines = ["| network, asked for | choice | time / dense | score | |", "|---|---|---:|---:|---|"]
    for name, cell in found.items():
        task = tasks[name]
        lines.append(
            f"| {task.title} {cell['goal']:g}x | dense | 1.00 | {cell['dense']:.2f} | {task.metric} |"
        )
        for row in cell["rows"]:
            parts = ", ".join(f"{count} {option}" for option, count in row.get("options", {}).items())
            lines.append(f"| | {row['name']} | {row['latency']:.2f} | {row['score']:.2f} | {parts} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
