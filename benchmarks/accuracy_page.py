"""The accuracy figures as a page and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy_tasks import Task

Json = Mapping[str, Any]

LABELS = {
    "l2": "L2",
    "taylor": "Taylor",
    "obspa-id": "OBSPA, in-distribution",
    "obspa-ood": "OBSPA, out-of-distribution",
    "obspa-noise": "OBSPA, noise",
    "l2-reconstructed": "L2 + reconstruction, in-distribution",
}
COLOURS = ("#8a94a3", "#b45309", "#0f766e", "#2563eb", "#7c3aed", "#65a30d")

HEAD = """\
# Accuracy of structural pruning without training

Real weights, pruned once with nothing trained afterwards. **Ratio** is the share of the indices of every
group that goes (`scope="local"`), the same groups for all methods; what that leaves of parameters and FLOPs
stands below. A convolution loses inputs and outputs alike: a ratio of 30 % leaves about half of a CNN.

| method | ranks by | then |
|---|---|---|
| L2 | norm of the slices | nothing |
| Taylor | squared first-order change of the loss, in-distribution | nothing |
| OBSPA | output error of the reading layers | refits linear layers to the dense outputs, front to back |
| L2 + reconstruction | norm of the slices | as OBSPA |

OBSPA takes inputs without labels: like those of the test (in-distribution), of another kind
(out-of-distribution; as much noise is added), or noise alone (random tokens; pictures of textured shapes in
front of each other). Damping and `regress` were chosen on held-out training images of
Fashion-MNIST. Where there are several seeds, each is another calibration sample or draw of noise; the figure
is their mean and, behind ±, half the distance between the largest and the smallest. **Bold** is better than
L2.
"""


def page(data: Json, tasks: Mapping[str, type[Task]], ratios: Sequence[float]) -> str:
    """The whole page in Markdown.

    Args:
        data: the results file.
        tasks: by name.
        ratios: columns.
    """
    parts = [HEAD]
    for name, task in tasks.items():
        cells: Json = data["tasks"].get(name, {})
        if "dense" in cells:
            parts.append(_section(task, cells, ratios))
    tuned = [line for name, task in tasks.items() for line in _tuned(task, data["tasks"].get(name, {}))]
    if tuned:
        heads = "| network | method | FLOPs left | parameters left | dense | pruned | fine-tuned |"
        text = "Half of the FLOPs removed, then 3 epochs of the training set; mean over the seeds."
        parts.append("\n".join(["## With fine-tuning", "", text, "", heads, f"|{'---|' * 7}", *tuned, ""]))
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    parts.append(f"Made by `{data['command']}` with {versions}.\n")
    return "\n".join(parts)


def _section(task: type[Task], cells: Json, ratios: Sequence[float]) -> str:
    better = "higher" if task.higher_is_better else "lower"
    seeds = ", ".join(map(str, task.seeds))
    lines = [
        f"## {task.title}: {task.metric}",
        "",
        f"{task.about[0].upper()}{task.about[1:]} Seeds: {seeds}. Dense: "
        f"**{_number(cells['dense']['score'])}**; {better} is better.",
        "",
        "| " + " | ".join(["ratio", *(f"{ratio:.0%}" for ratio in ratios)]) + " |",
        f"|---|{'---:|' * len(ratios)}",
    ]
    for quantity, label in (("parameters", "parameters left"), ("flops", "FLOPs left")):
        shares = [_values(cells.get("l2", {}), ratio, quantity) for ratio in ratios]
        lines.append(_line(label, [f"{found[0]:.0%}" if found else "" for found in shares]))
    for method, label in LABELS.items():
        if method in cells:
            lines.append(_line(label, [_entry(task, cells, method, ratio) for ratio in ratios]))
    extra = [name for name in ("correct", "divergence") if name in cells["dense"]]
    for quantity in extra:
        lines += ["", f"{EXTRA[quantity]}; dense {_number(cells['dense'][quantity])}.", "", *lines[4:6]]
        for method, label in LABELS.items():
            found = [_values(cells.get(method, {}), ratio, quantity) for ratio in ratios]
            if any(found):
                lines.append(_line(label, [_number(float(np.mean(item))) if item else "" for item in found]))
    return "\n".join([*lines, ""])


EXTRA = {
    "correct": "Photographs of 20 with the right class",
    "divergence": "Kullback-Leibler divergence from the dense network, nats",
}


def _line(label: str, entries: Iterable[str]) -> str:
    return f"| {label} | {' | '.join(entries)} |"


def _entry(task: type[Task], cells: Json, method: str, ratio: float) -> str:
    found, base = (_values(cells.get(name, {}), ratio, "score") for name in (method, "l2"))
    if not found:
        return ""
    mean = float(np.mean(found))
    text = _number(mean)
    if len(found) > 1:
        text += f" ± {_number((max(found) - min(found)) / 2)}"
    better = bool(base) and method != "l2" and (mean > base[0]) == task.higher_is_better and mean != base[0]
    return f"**{text}**" if better else text


def _values(cells: Json, ratio: float, quantity: str) -> list[float]:
    """Of all seeds."""
    return [cell[quantity] for cell in cells.get(f"{ratio:g}", {}).values()]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _tuned(task: type[Task], cells: Json) -> list[str]:
    lines: list[str] = []
    for method, seeds in cells.get("fine-tuned", {}).items():
        mean = {
            name: float(np.mean([cell[name] for cell in seeds.values()]))
            for name in next(iter(seeds.values()))
        }
        scores = [cell["score"] for cell in seeds.values()]
        lines.append(
            f"| {task.title} | {LABELS[method]} | {mean['flops']:.1%} | {mean['parameters']:.1%} "
            f"| {cells['dense']['score']:.2f} | {mean['before']:.2f} "
            f"| {mean['score']:.2f} ({min(scores):.2f} to {max(scores):.2f}, seeds {', '.join(seeds)}) |"
        )
    return lines


def plot(data: Json, tasks: Mapping[str, type[Task]], path: Path) -> None:
    """Score over ratio, one panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [name for name in tasks if "dense" in data["tasks"].get(name, {})]
    figure, panels = plt.subplots(
        1, len(shown), figsize=(4.2 * len(shown), 3.8), layout="constrained", squeeze=False
    )
    for panel, name in zip(panels[0], shown, strict=True):
        task, cells = tasks[name], data["tasks"][name]
        for colour, (method, label) in zip(COLOURS, LABELS.items(), strict=True):
            ratios = sorted(cells.get(method, {}), key=float)
            means = [np.mean([cell["score"] for cell in cells[method][ratio].values()]) for ratio in ratios]
            panel.plot([100 * float(ratio) for ratio in ratios], means, "o-", ms=3, color=colour, label=label)
        panel.axhline(cells["dense"]["score"], color="#111827", lw=0.8, ls="--", label="dense")
        panel.set(xlabel="ratio, %", ylabel=task.metric, title=task.title)
        if not task.higher_is_better:
            panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    panels[0][0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
