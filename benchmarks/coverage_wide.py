"""`make coverage-wide`: every model type of the transformers library that can be built and captured.

Each type runs in a process of its own, at low priority. Finished types are kept in build/coverage-wide/ by
commit, so an interrupted run goes on where it was; figures go to benchmarks/results/coverage-wide.json and
from there to docs/coverage-wide.md.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.coverage import ROOT, VERSIONS, preload
from benchmarks.coverage_children import Failure, each

RESULTS = Path(__file__).parent / "results" / "coverage-wide.json"
PAGE = ROOT / "docs" / "coverage-wide.md"
STATE = ROOT / "build" / "coverage-wide"
SEEDS = (0, 1)
SECONDS = 180
Json = dict[str, Any]

STATUSES = {
    "not built": "transformers cannot build or run it from a small configuration offline",
    "not exported": "PyTorch's exporter or ONNX's checker refuses it",
    "refused": "sparsecc refuses it with a reason",
    "nothing prunable": "captured and analysed; every group is tied to an input or output",
    "proved": "half of every group pruned; equal to masking with every seed",
    "not equal": "the oracle finds a difference or a problem",
    "failed": "an error that is no refusal, a crash, or the time limit",
}
"""What can become of a type, in the order of the page."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("types", nargs="*", metavar="TYPE", help="of transformers; all by default")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="types at a time (%(default)s)")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results of this commit")
    args = parser.parse_args()
    os.nice(10)
    preload()
    from tests.zoo.wide import model_types

    known = model_types()
    unknown = [name for name in args.types if name not in known]
    if unknown:
        parser.error(f"transformers has no model type {', '.join(unknown)}")
    STATE.mkdir(parents=True, exist_ok=True)
    state = STATE / f"{_commit()}.jsonl"
    if args.fresh:
        state.unlink(missing_ok=True)
    rows = finished(state)
    due = [name for name in args.types or known if args.types or name not in rows]
    print(f"{len(rows)} types are finished, {len(due)} are due", flush=True)
    for name, result in each([(name, _measurement(name)) for name in due], args.jobs, SECONDS):
        row = {"status": "failed", "reason": result.sentence} if isinstance(result, Failure) else result
        rows[name] = row
        with state.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"type": name, **row}) + "\n")
        print(f"{name:32} {row['status']:16} {row.get('reason', '')}", flush=True)
    data = {
        "command": "make coverage-wide",
        "seeds": list(SEEDS),
        "versions": {package: version(package) for package in VERSIONS},
        "models": {name: rows[name] for name in known if name in rows},
    }
    args.results.parent.mkdir(parents=True, exist_ok=True)
    args.results.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    args.out.write_text(page(data), encoding="utf-8")
    wrong = sum(row["status"] == "not equal" for row in rows.values())
    print(f"wrote {args.out} and {args.results}; {wrong} not equal")
    return 1 if wrong else 0


def finished(state: Path) -> dict[str, Json]:
    """Rows by type of an earlier run; the last one of a type counts."""
    if not state.exists():
        return {}
    rows = [json.loads(line) for line in state.read_text(encoding="utf-8").splitlines()]
    return {row.pop("type"): row for row in rows}


def _commit() -> str:
    result = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "no-commit"


def _measurement(model_type: str) -> Callable[[], Json]:
    return lambda: measure(model_type)


def measure(model_type: str) -> Json:
    """Build, capture, prune and judge one type.

    Returns:
        status and, where it got so far, reason, class, nodes, groups, share, inner_share, difference.
    """
    from benchmarks.coverage_checks import cover
    from sparsecc.errors import SparseccError
    from tests.zoo.wide import build

    try:
        built = build(model_type)
    except Exception as error:  # transformers' own code, which may raise anything
        return {"status": "not built", "reason": _reason(error)}
    row: Json = {"class": built.model_class}
    try:
        model = built.sample.build()
    except Exception as error:  # PyTorch's exporter, likewise
        return {**row, "status": "not exported", "reason": _reason(error)}
    row["nodes"] = len(model.graph)
    try:
        found = cover(model, built.sample.draw, SEEDS, thorough=False)
    except SparseccError as error:
        return {**row, "status": "refused", "reason": _reason(error)}
    row |= {"groups": len(found.groups), "share": found.share, "inner_share": found.inner_share}
    if not found.together:
        return {**row, "status": found.outcome, "reason": ", ".join(found.frozen)}
    difference = max(verdict.difference for verdict in found.together)
    row |= {"status": found.outcome, "difference": difference}
    if found.outcome == "proved":
        return row
    problems = [problem for verdict in found.together for problem in verdict.problems]
    if not problems and found.runs:
        double = _double(model, built.sample.draw)
        if double is not None:
            return {**row, "status": "proved", "double": double}
    return {
        **row,
        "status": "not equal",
        "reason": problems[0] if problems else f"difference {difference:.1e}",
    }


def _double(model: ir.Model, draw: Callable[[int], Mapping[str, np.ndarray]]) -> float | None:
    """The largest difference in fp64 over the seeds if all are exact there, else None."""
    from benchmarks.coverage_checks import TOLERANCE_FP64, halves, judged
    from sparsecc.axes.groups import groups

    found = groups(model, draw(SEEDS[0]))
    original = ir.to_proto(model)
    verdicts = [judged(found, original, halves(found, seed), draw(seed), seed, "float64") for seed in SEEDS]
    judgements = [verdict for verdict in verdicts if verdict is not None]
    if not all(verdict.exact(TOLERANCE_FP64) for verdict in judgements):
        return None
    return max(verdict.difference for verdict in judgements)


def page(data: Mapping[str, Any]) -> str:
    """The whole page in Markdown: totals, causes of failure, one line per type."""
    models: dict[str, Json] = data["models"]
    by_status = {status: [n for n, row in models.items() if row["status"] == status] for status in STATUSES}
    captured = [row for row in models.values() if "nodes" in row]
    lines = [
        "# Coverage of structural pruning: all of transformers",
        "",
        f"**{len(models)} model types: {len(captured)} captured, {len(by_status['proved'])} of them pruned "
        f"to half and proved equal to masking, {len(by_status['not equal'])} not equal.**",
        "",
        "Each type is built from its configuration's defaults, shrunken, with seeded random weights and no",
        "hint. A random half of every group is removed at once; the result is compared with the original",
        "masked, with enlarged weights in fp32, and counts as equal up to 1e-4. Where rounding exceeds that,",
        "fp64 decides, up to 1e-10. `inner` is the share of prunable parameters without embedding tables,",
        "input and output layers.",
        "",
    ]
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    seeds = ", ".join(map(str, data["seeds"]))
    lines += [f"Written by `{data['command']}`; seeds {seeds}; {versions}.", ""]
    lines += ["| outcome | types | meaning |", "|---|---:|---|"]
    lines += [f"| {status} | {len(by_status[status])} | {text} |" for status, text in STATUSES.items()]
    lines += ["", "## Causes", ""]
    for status in ("not built", "not exported", "refused", "not equal", "failed"):
        lines += _causes(status, models, by_status[status])
    lines += ["## Types", "", "| type | class | outcome | nodes | groups | prunable | inner | fp32 | fp64 |"]
    lines.append("|---|---|---|---:|---:|---:|---:|---:|---:|")
    lines += [_row(name, row) for name, row in models.items()]
    return "\n".join([*lines, ""])


def _causes(status: str, models: Mapping[str, Json], names: list[str]) -> list[str]:
    """Types of one outcome grouped by reason, the most frequent first."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_shape_of(models[name].get("reason", "")), []).append(name)
    if not groups:
        return []
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    lines = [f"- {len(types)} x {_escaped(reason)}: {', '.join(types)}" for reason, types in ordered]
    return [f"**{status}**", "", *lines, ""]


def _shape_of(reason: str) -> str:
    """A reason without what differs from model to model: names in quotes and numbers."""
    text = re.sub(r"(['\"`]).*?\1", "…", reason)
    return re.sub(r"\d+(\.\d+)?(e-?\d+)?", "N", text)[:160]


def _row(name: str, row: Json) -> str:
    def percent(key: str) -> str:
        return "–" if row.get(key) is None else f"{100 * row[key]:.0f} %"

    def error(key: str) -> str:
        return "–" if row.get(key) is None else f"{row[key]:.0e}"

    cells = [
        name,
        row.get("class", "–"),
        row["status"],
        str(row.get("nodes", "–")),
        str(row.get("groups", "–")),
        percent("share"),
        percent("inner_share"),
        error("difference"),
        error("double"),
    ]
    return f"| {' | '.join(cells)} |"


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    raise SystemExit(main())
