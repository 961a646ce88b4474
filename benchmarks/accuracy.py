"""`make accuracy`: what structural pruning costs on real weights, without training and with a little of it.

One cell is a task, a method, a ratio and a seed. Cells go to benchmarks/results/accuracy.json as they are
measured and are not measured again, and from there to docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsecc
from benchmarks.accuracy_page import page, plot
from benchmarks.accuracy_tasks import Task
from sparsecc.axes.groups import Groups
from sparsecc.passes.criteria import Calibration, Criterion
from sparsecc.passes.criteria.obspa import StructuredOBS
from sparsecc.passes.prune import apply_steps, rank
from sparsecc.passes.prune_ranking import Ranking, Selection
from sparsecc.passes.reconstruct import reconstruct
from sparsecc.pruner import PruneOptions

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "accuracy.json"
PAGE = ROOT / "docs" / "accuracy.md"
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
DAMPING = 0.01
"""Chosen with `regress` on held-out training images of Fashion-MNIST, for all tasks."""
FLOPS = 0.5
"""Share that stays before fine-tuning."""
FINE_TUNED = ("l2", "obspa-id")
VERSIONS = ("sparsecc", "onnxruntime", "torch", "transformers")
Json = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """How indices are chosen and what is done with the weights that stay.

    Attributes:
        name: in the results.
        criterion: for the ranking.
        source: calibration data of the criterion: id, ood, or none.
        mode: of the reconstruction: id, ood, noise or none.
    """

    name: str
    criterion: str | Criterion
    source: str
    mode: str

    @property
    def random(self) -> bool:
        """Whether it depends on a sample of data or noise."""
        return self.source != "none" or self.mode != "none"


METHODS = (
    Method("l2", "l2", "none", "none"),
    Method("taylor", "taylor", "id", "none"),
    Method("obspa-id", "obspa", "id", "id"),
    Method("obspa-ood", StructuredOBS(adapt=True), "ood", "ood"),
    Method("obspa-noise", "obspa", "none", "noise"),
    Method("l2-reconstructed", "l2", "none", "id"),
)


def tasks() -> dict[str, type[Task]]:
    """By name."""
    from benchmarks.accuracy_fashion import FashionResNetTask
    from benchmarks.accuracy_minilm import MiniLMTask
    from benchmarks.accuracy_photographs import RandomViewsTask
    from benchmarks.accuracy_smollm2 import SmolLM2Task

    return {task.name: task for task in (RandomViewsTask, FashionResNetTask, MiniLMTask, SmolLM2Task)}


def main() -> None:
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = tasks()
    parser.add_argument("names", nargs="*", metavar="TASK", help=f"of {', '.join(known)}; all by default")
    methods = [method.name for method in METHODS]
    parser.add_argument("--methods", nargs="*", choices=methods, default=methods)
    parser.add_argument("--ratios", nargs="*", type=float, default=RATIOS)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "sparsecc-bench")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"there is no task {', '.join(unknown)}; there are {', '.join(known)}")
    for name in args.names or known:
        task = known[name](args.cache)
        done = stored(args.results, task)
        cells = chain(measure(task, args.methods, args.ratios, done), fine_tuned(task, args.methods, done))
        for place, cell in cells:
            _put(args.results, place, cell)
            print(f"{' '.join(place):44} {_figures(cell)}", flush=True)
    data = json.loads(args.results.read_text(encoding="utf-8"))
    args.out.write_text(page(data, known, RATIOS), encoding="utf-8")
    plot(data, known, args.results.with_suffix(".png"))
    print(f"wrote {args.out}, {args.results} and {args.results.with_suffix('.png')}")


def stored(path: Path, task: Task) -> Json:
    """What earlier runs left of a task."""
    data: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return data.get("tasks", {}).get(task.name, {})


def _put(path: Path, place: tuple[str, ...], cell: Json) -> None:
    """Add a cell, whole or not at all; another process may have added others."""
    data: Json = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data |= {"command": "make accuracy", "versions": {name: version(name) for name in VERSIONS}}
    inner = data.setdefault("tasks", {})
    for part in place[:-1]:
        inner = inner.setdefault(part, {})
    inner[place[-1]] = cell
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def measure(
    task: Task, methods: list[str], ratios: list[float], done: Json
) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Cells that are not in `done`: (task, method, ratio, seed) and their figures."""
    dense: ir.Model | None = None
    groups: Groups | None = None
    for method in (method for method in METHODS if method.name in methods):
        for seed in task.seeds if method.random else task.seeds[:1]:
            have = done.get(method.name, {})
            missing = [ratio for ratio in ratios if str(seed) not in have.get(f"{ratio:g}", {})]
            if not missing and "dense" in done:
                continue
            if dense is None or groups is None:
                dense = task.model()
                groups = Groups(dense)
                if "dense" not in done:
                    done["dense"] = task.evaluate(dense) | _cost(groups)
                    yield (task.name, "dense"), done["dense"]
            started = time.perf_counter()
            data = {source: task.calibration(source, seed) for source in ("id", "ood")}
            ranking = _ranking(groups, task, method, data.get(method.source), seed)
            scoring = time.perf_counter() - started
            for ratio in missing:
                started = time.perf_counter()
                pruned = apply_steps(ranking, ranking.by_ratio(ratio))
                model = pruned.model
                if method.mode != "none":
                    model = reconstruct(
                        dense, model, groups, pruned.kept, data.get(method.mode), mode=method.mode,
                        regress=True, damping=DAMPING, seed=seed,
                    )  # fmt: skip
                seconds = {"scoring": round(scoring, 1), "pruning": round(time.perf_counter() - started, 1)}
                shares = {
                    "parameters": pruned.after.parameters / pruned.before.parameters,
                    "flops": pruned.after.flops / pruned.before.flops,
                }
                cell = {**task.evaluate(model), **shares, "seconds": seconds}
                yield (task.name, method.name, f"{ratio:g}", str(seed)), cell


def fine_tuned(task: Task, methods: list[str], done: Json) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Half of the FLOPs removed, before and after training: (task, "fine-tuned", method, seed)."""
    for name in FINE_TUNED:
        for seed in task.fine_tuning_seeds:
            known = done.get("fine-tuned", {}).get(name, {})
            if name not in methods or str(seed) in known:
                continue
            options: PruneOptions = {"criterion": "l2", "seed": seed}
            if name == "obspa-id":
                data = task.calibration("id", seed)
                options |= {"criterion": "obspa", "data": data, "reconstruct": "id", "regress": True}
            result = sparsecc.prune(task.model(), target={"flops": FLOPS}, **options)
            cell = {
                "before": task.evaluate(result.model)["score"],
                "score": task.evaluate(task.fine_tune(result.model, seed))["score"],
                "parameters": result.after.parameters / result.before.parameters,
                "flops": result.after.flops / result.before.flops,
            }
            yield (task.name, "fine-tuned", name, str(seed)), cell


def _cost(groups: Groups) -> Json:
    return {"parameters": groups.total.parameters, "flops": groups.total.flops}


def _ranking(groups: Groups, task: Task, method: Method, data: Calibration | None, seed: int) -> Ranking:
    return rank(groups, method.criterion, Selection(only=task.only), calibration=data, seed=seed)


def _figures(cell: Json) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in cell.items() if not isinstance(value, dict))


if __name__ == "__main__":
    main()
