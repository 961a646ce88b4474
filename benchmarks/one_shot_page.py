"""docs/one-shot.md from the results of `make one-shot`: a table for each network, between markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.one_shot_tasks import TASKS

PAGE = Path(__file__).parents[1] / "docs" / "one-shot.md"
BEGIN, END = "<!-- begin: make one-shot -->", "<!-- end: make one-shot -->"
LABELS = {
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "gblm": "GBLM",
    "dsnot": "DSnoT",
    "sparsegpt": "SparseGPT",
    "sparsegpt-permuted": "reordered, SparseGPT",
    "alps": "ALPS, its own outputs",
    "alps-dense": "ALPS",
    "alps-gradients": "with gradients",
    "alps-permuted": "reordered first",
    "alps-blocks": "blocks fitted",
    "alps-distilled": "distilled",
    "alps-int8": "int8",
    "alps-int4": "int4",
    "alps-distilled-int4": "distilled, int4",
}
Json = dict[str, Any]


def write_page(results: Mapping[str, Json]) -> None:
    """Replace the part between the markers."""
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, tail = rest.partition(END)
    tables = "\n\n".join(_section(name, results[name]) for name in TASKS if name in results)
    PAGE.write_text(f"{head}{BEGIN}\n{tables}\n{END}{tail}", encoding="utf-8")


def _section(name: str, cells: Json) -> str:
    task = TASKS[name]
    lines = [
        f"### {task.title}: {task.metric}",
        "",
        f"{task.about} Dense: **{cells['dense']['score']:.1f}**.",
        "",
        *_table(cells, "score"),
    ]
    for figure, title in task.others.items():
        if figure not in cells["dense"]:
            continue
        lines += ["", f"{title}; dense: **{_number(cells['dense'][figure])}**.", "", *_table(cells, figure)]
    return "\n".join(lines)


def _table(cells: Json, figure: str) -> list[str]:
    found: dict[str, dict[str, float]] = {}
    for key, cell in cells.items():
        if key != "dense" and figure in cell:
            method, pattern, sparsity = key.split(" ")
            found.setdefault(f"{pattern} | {sparsity}", {})[method] = cell[figure]
    used = [method for method in LABELS if any(method in row for row in found.values())]
    lines = [
        f"| pattern | zeros | {' | '.join(LABELS[method] for method in used)} |",
        f"|---|---:|{'---:|' * len(used)}",
    ]
    for row, scores in found.items():
        shown = [_number(scores[method]) if method in scores else "" for method in used]
        lines.append(f"| {row} | {' | '.join(shown)} |")
    return lines


def _number(score: float) -> str:
    return f"{score:,.0f}" if score >= 1000 else f"{score:.3f}" if 0 < abs(score) < 1 else f"{score:.1f}"
