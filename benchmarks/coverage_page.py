"""The coverage figures as a page: totals, one table, and what its columns mean."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]

FIXED = ("graph-input", "graph-output", "spatial", "lookup")
"""Codes of reasons that hold in every network."""

COLUMNS = (
    ("network", "---"),
    ("nodes", "---:"),
    ("groups", "---:"),
    ("prunable", "---:"),
    ("inner", "---:"),
    ("not prunable", "---"),
    ("analysis", "---:"),
    ("pruned runs", "---"),
    ("fp32", "---:"),
    ("fp64", "---:"),
    ("one by one", "---:"),
    ("slices needed", "---:"),
    ("Torch-Pruning", "---"),
)

ENOUGH = 0.9
"""Share of the inner parameters below which the page says what stops the rest."""

LEGEND = """\
Every network is captured and pruned **without a hint**: no ignore list, no number of heads, no patched
attribute. Only graph inputs and outputs are fixed. Weights are seeded; those of the published CNNs are random
too.

- **groups** that can be pruned; **prunable**: share of the parameters in slices of these groups; **inner**:
  the same without embedding tables, the layers that read a graph input and those that make a graph output
  (`–`: nothing else is left).
- **not prunable**: groups that stay whole, counted by the code of the reason; the JSON has the sentences.
- **analysis**: seconds on one core; the only column that depends on the machine.
- **pruned runs**: a random half of the indices of *every* group is deleted at once, with each seed; the
  smaller network runs in ONNX Runtime.
- **fp32**, **fp64**: the largest difference between the pruned network and the original with the same slices
  zeroed (statistics of normalisations over what stays), relative to the largest output, with enlarged random
  weights; the worst seed. Equal means at most 1e-4, and 1e-10 in fp64 (ONNX's reference evaluator).
- **one by one**: groups that are exact when they alone lose a random half, of those that can.
- **slices needed**: each slice (one axis of one parameter) of each group is left whole in turn while all
  others are cut. What is counted makes the network fail to run or changes an output by more than 1e-6; the
  second number is of all slices tried over all seeds, at most 300 (random ones) with each.
- **Torch-Pruning**: its MetaPruner at ratio 0.5 with nothing but the output layers named, judged by the same
  oracle: *equal*; *wrong* (the difference); *does not run*; *crashed*; *pruned nothing*; *time limit* (75 s
  of processor time). It ranks by magnitude, or at random where that crashes. It takes PyTorch modules only.
"""


def page(data: Json) -> str:
    """The whole page in Markdown.

    Args:
        data: the results file.
    """
    models: Json = data["models"]
    peers: Json = data["peers"]["models"]
    lines = ["# Coverage of structural pruning", "", *_totals(models, peers), "", LEGEND]
    versions = [f"{name} {number}" for name, number in data["versions"].items()]
    if data["peers"]["version"]:
        versions.append(f"torch-pruning {data['peers']['version']}")
    seeds = ", ".join(map(str, data["seeds"]))
    lines += [f"Written by `{data['command']}`; seeds {seeds}; {', '.join(versions)}.", ""]
    lines += [_row([name for name, _ in COLUMNS]), _row([mark for _, mark in COLUMNS])]
    family = ""
    for name, row in models.items():
        if row["family"] != family:
            family = row["family"]
            lines.append(_row([f"**{family}**", *[""] * (len(COLUMNS) - 1)]))
        lines.append(_row(_cells(name, row, peers.get(name))))
    return "\n".join([*lines, *_notes(models), ""])


def _totals(models: Json, peers: Json) -> list[str]:
    rows = [row for row in models.values() if "failure" not in row]
    outcomes = Counter(row["outcome"] for row in rows)
    inner = [row["inner_share"] for row in rows if row["inner_share"] is not None]
    alone = [verdict for row in rows for verdict in row["alone"]]
    tried = sum(row["minimality"]["tried"] for row in rows)
    harmless = sum(len(row["minimality"]["harmless"]) for row in rows)
    moved = min((verdict["moved"] for row in rows for verdict in row["together"]), default=0.0)
    lines = [
        f"**{len(models)} networks: {len(rows)} captured and analysed, {outcomes['proved']} proved equal to "
        f"masking, {outcomes['not equal']} not equal, {outcomes['nothing prunable']} with nothing to prune; "
        f"{sum(share >= ENOUGH for share in inner)} of {len(inner)} with at least {ENOUGH:.0%} of the inner "
        f"parameters prunable; {sum(map(_exact, alone))} of {len(alone)} groups exact one by one; {harmless} "
        f"slices that need not be cut, in {tried} trials.**",
        f"Masking half of everything moves the outputs by {moved:.0%} or more, so no comparison is empty.",
    ]
    if peers:
        counts = Counter(result["outcome"] for result in peers.values())
        able = sum(counts.values()) - counts["no module"]
        order = [outcome for outcome, _ in counts.most_common() if outcome != "no module"]
        parts = ", ".join(f"{counts[outcome]} {outcome}" for outcome in order)
        lines.append(f"Torch-Pruning on the {able} that are PyTorch modules: {parts}.")
    return lines


def _exact(verdict: Json) -> bool:
    return verdict["taken"] and not verdict["problems"] and verdict["difference"] <= 1e-4


def _cells(name: str, row: Json, peer: Json | None) -> list[str]:
    if "failure" in row:
        return [name, *["–"] * 6, f"no: {_escaped(row['failure'])}", *["–"] * 4, _peer(peer)]
    codes = Counter[str]()
    for reason, count in row["frozen"].items():
        codes[reason.partition(":")[0]] += count
    alone = row["alone"]
    slices = row["minimality"]
    needed = slices["tried"] - len(slices["harmless"])
    return [
        name,
        str(row["nodes"]),
        str(len(row["groups"])),
        _percent(row["share"]),
        _percent(row["inner_share"]),
        ", ".join(f"{code} {count}" for code, count in sorted(codes.items())),
        f"{row['seconds']:.2f} s",
        ("yes" if row["runs"] else "**no**") if row["together"] else "nothing to prune",
        _difference([verdict["difference"] for verdict in row["together"]], 1e-4),
        _difference([row["double"]["difference"]] if row["double"] else [], 1e-10),
        f"{sum(map(_exact, alone))}/{len(alone)}",
        f"{needed}/{slices['tried']}",
        _peer(peer),
    ]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _difference(differences: list[float], tolerance: float) -> str:
    if not differences:
        return "–"
    worst = max(differences)
    text = "0" if worst == 0 else ("no result" if math.isinf(worst) else f"{worst:.0e}")
    return text if worst <= tolerance else f"**{text}**"


def _peer(result: Json | None) -> str:
    if result is None:
        return "–"
    match result["outcome"]:
        case "no module":
            return "not a module"
        case "equal":
            return "equal"
        case "wrong":
            return f"wrong ({result['difference']:.0e})"
        case "pruned nothing" | "time limit" as outcome:
            return outcome
        case outcome:
            return f"{outcome} ({_escaped(result['detail'].partition(':')[0])})"


def _notes(models: Json) -> list[str]:
    lines: list[str] = []
    for name, row in models.items():
        if "failure" in row:
            continue
        if row["inner_share"] is not None and row["inner_share"] < ENOUGH:
            reasons = [reason.partition(": ")[2] for reason in row["frozen"] if not reason.startswith(FIXED)]
            lines.append(f"- {name}, {_percent(row['inner_share'])} inner: {_escaped('; '.join(reasons))}.")
        if row["no_double"]:
            lines.append(f"- {name}, no fp64: {_escaped(row['no_double'])}.")
        if still := [verdict["group"] for verdict in row["alone"] if verdict["moved"] == 0]:
            lines.append(f"- {name}: no output depends on {', '.join(f'`{group}`' for group in still)}.")
        lines += [f"- {name}: `{where}` may stay whole." for where in row["minimality"]["harmless"]]
    return ["", "Notes", "", *lines] if lines else []


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
