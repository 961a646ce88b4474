"""`make accuracy-int8`: what 8-bit weights and activations cost on real weights, by calibration method.

The networks and data of `make accuracy`; ONNX Runtime computes what the nodes say, with float32 products of
dequantised values. Results go to benchmarks/results/accuracy-int8.json and the table in docs/quantization.md.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import sparsecc
from benchmarks.accuracy_fashion import FashionResNetTask
from benchmarks.accuracy_images import labelled_pieces
from benchmarks.accuracy_minilm import FewDocumentsTask
from benchmarks.accuracy_photographs import EfficientNetTask, logits_of
from benchmarks.accuracy_tasks import Task
from sparsecc.passes.activation_ranges import METHODS

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "accuracy-int8.json"
PAGE = ROOT / "docs" / "quantization.md"
MARKS = ("<!-- begin: make accuracy-int8 -->\n", "<!-- end: make accuracy-int8 -->\n")
PIECES = 25
"""Random cut-outs of each photograph, since a hundred views are few."""
SEEDS = (0, 1, 2)
"""Of the calibration samples."""
SPARSITY = {"efficientnet-lite0": 0.2, "fashion-resnet": 0.5, "minilm": 0.5}
"""Unstructured, so much that the network still works without training."""
VERSIONS = ("sparsecc", "onnxruntime", "torch", "transformers")
Json = dict[str, Any]


class ManyViewsTask(EfficientNetTask):
    """Agreement on 500 random cut-outs of the same twenty photographs too."""

    metric = "agreement with dense on 100 views; on 500, %"

    @cached_property
    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """[20, 25, 3, 224, 224] and the classes that the dense network gives them."""
        pieces = labelled_pieces(PIECES, 0)
        return pieces, logits_of(self.model(), pieces).argmax(-1)

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        pieces, classes = self._pieces
        same = logits_of(model, pieces).argmax(-1) == classes
        return {**super().evaluate(model), "wide": 100 * float(same.mean())}


TASKS: dict[str, type[Task]] = {
    task.name: task for task in (ManyViewsTask, FashionResNetTask, FewDocumentsTask)
}


def main() -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)}; all by default")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "sparsecc-bench")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in TASKS]
    if unknown:
        parser.error(f"there is no task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    data: Json = json.loads(args.results.read_text(encoding="utf-8")) if args.results.exists() else {}
    data |= {"command": "make accuracy-int8", "versions": {name: version(name) for name in VERSIONS}}
    for name in args.names or TASKS:
        cells: Json = {}
        for row, seed, cell in measure(TASKS[name](args.cache)):
            cells.setdefault(row, {})[seed] = cell
            figures = ", ".join(f"{key} {value:.5g}" for key, value in cell.items())
            print(f"{name:20} {row:28} {seed}  {figures}", flush=True)
        data.setdefault("tasks", {})[name] = cells
        args.results.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if args.results == RESULTS:
        before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}{table(data)}\n{MARKS[1]}{after}", encoding="utf-8")


def measure(task: Task) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Row, seed of the calibration sample (0 where there is none), and figures."""
    dense = task.model()
    yield "fp32", "0", task.evaluate(dense)
    yield "int8 weights only", "0", task.evaluate(sparsecc.quantize(dense).model)
    for method in METHODS:
        yield from _calibrated(task, dense, f"int8, {method}", method)
    for method in ("minmax", "percentile"):
        yield from _calibrated(task, dense, f"int8, {method}, corrected", method, correct=True)
    sparse = sparsecc.sparsify(dense, "unstructured", SPARSITY[task.name]).model
    row = f"unstructured {SPARSITY[task.name]:.0%}"
    yield f"{row}, fp32", "0", task.evaluate(sparse)
    yield from _calibrated(task, sparse, f"{row}, int8", None)


def _calibrated(
    task: Task, model: ir.Model, row: str, method: str | None, *, correct: bool = False
) -> Iterator[tuple[str, str, dict[str, float]]]:
    for seed in SEEDS:
        sample = sparsecc.Calibration(task.calibration("id", seed).batches)
        result = sparsecc.quantize(model, calibration=sample, method=method, correct=correct)
        yield row, str(seed), task.evaluate(result.model)


def table(data: Json) -> str:
    """Means over the seeds in Markdown, one row a precision and one column a task."""
    shown = [name for name in TASKS if name in data["tasks"]]
    heads = [f"{TASKS[name].title}: {TASKS[name].metric}" for name in shown]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    for row in dict.fromkeys(row for name in shown for row in data["tasks"][name]):
        entries = [_entry(data["tasks"][name].get(row, {})) for name in shown]
        lines.append(f"| {row} | {' | '.join(entries)} |")
    versions = ", ".join(f"{name} {text}" for name, text in data["versions"].items())
    return "\n".join([*lines, "", f"`{data['command']}` with {versions}.", ""])


def _entry(seeds: Json) -> str:
    """Mean of the scores, and their least and largest; the divergence from dense in brackets."""
    if not seeds:
        return ""
    scores = [cell["score"] for cell in seeds.values()]
    text = f"{np.mean(scores):.2f}"
    if min(scores) < max(scores):
        text += f" ({min(scores):.2f} to {max(scores):.2f})"
    wide = [cell["wide"] for cell in seeds.values() if "wide" in cell]
    if wide:
        text += f"; {np.mean(wide):.2f}"
    found = [cell["divergence"] for cell in seeds.values() if "divergence" in cell]
    return f"{text}, {np.mean(found):.4f} nats" if found and max(found) > 0 else text


if __name__ == "__main__":
    main()
