"""`make cost-model`: fits the cost model's constants on measured kernels, and shows how well it predicts.

Layers of MobileNet-v1 and -v2, ResNet-50, BERT, MiniLM and of decoders, in patterns from dense to 95 % zeros,
each in up to ten forms of its kernel. A quarter of the shapes is held out of the fit. What is fitted goes to
sparsecc/cost/, in a file for this CPU's family; figures and picture to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import machine as machine_text
from benchmarks.cost_layers import GROUPS, Observed, observe
from sparsecc.cost import VectorMachine
from sparsecc.cost.constants import Constants, constants_file
from sparsecc.host import host_cpu
from sparsecc.targets.lower.layers import RowsLayer, SpmmLayer
from sparsecc.targets.lower.select import Cost, rows_candidates, spmm_candidates, vector_machine
from sparsecc.targets.registry import machine_for

RESULTS = Path(__file__).parent / "results"
HELD_OUT = 4
"""One shape of so many, in the order of their names."""
LARGEST_RESIDUAL = 0.1  # beyond it a residual counts linearly: some timings are wrong
Json = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One form of one layer.

    Attributes:
        layer: index of the layer.
        family: kernel family, first word of the form.
        cost: prices the form on a machine.
        dense: whether the form is.
        seconds: measured.
        held_out: not seen by the fit.
    """

    layer: int
    shape: str
    pattern: str
    form: str
    family: str
    cost: Cost
    dense: bool
    seconds: float
    held_out: bool


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [group.name for group in GROUPS]
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(names)}; all by default")
    args = parser.parse_args()
    chosen = [group for group in GROUPS if not args.groups or group.name in args.groups]
    if not chosen:
        parser.error(f"there is no such group; groups are {', '.join(names)}")
    rng = np.random.default_rng(0)
    layers: list[Observed] = []
    for group in chosen:
        for pattern in group.patterns:
            layers += observe(group, pattern, rng)
            count = sum(len(layer.seconds) for layer in layers)
            print(f"{group.name}, {pattern[0]} {pattern[1]} %: {count} timings so far", flush=True)
    report(layers)
    return 0


def report(layers: Sequence[Observed]) -> None:
    """Fit, and write constants, figures and picture."""
    points = points_of(layers)
    model = vector_machine(machine_for("cpu"))
    fitted = fit([p for p in points if not p.held_out], model)
    file = constants_file(host_cpu().kind)
    file.write_text(json.dumps(_rounded(asdict(fitted)), indent=1) + "\n", encoding="utf-8")
    model = replace(model, constants=fitted)
    data = {
        "command": "make cost-model",
        "machine": machine_text(),
        "load_average": os.getloadavg()[0],
        "timings": len(points),
        "layers": len(layers),
        "errors": {
            "held out": _by_family([p for p in points if p.held_out], model),
            "fitted": _by_family([p for p in points if not p.held_out], model),
        },
        "regret": regret(points, model),
        "constants": _rounded(asdict(fitted)),
    }
    (RESULTS / "cost-model.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    draw(points, model, RESULTS / "cost-model.png")
    print(f"\n{as_table(data)}\n\nwrote {RESULTS / 'cost-model.json'}, its picture and {file}")


def points_of(layers: Sequence[Observed]) -> list[Point]:
    """All timings with what prices them."""
    machine = machine_for("cpu")
    names = sorted({layer.shape for layer in layers})
    held_out = set(names[HELD_OUT // 2 :: HELD_OUT])
    points: list[Point] = []
    for index, observed in enumerate(layers):
        layer = observed.layer
        if isinstance(layer, SpmmLayer):
            candidates = spmm_candidates(layer, machine, dense_only=False)
        else:
            assert isinstance(layer, RowsLayer)
            candidates = rows_candidates(layer, machine, dense_only=False)
        for choice in candidates:
            if choice.form in observed.seconds:
                points.append(
                    Point(
                        layer=index,
                        shape=observed.shape,
                        pattern=observed.pattern,
                        form=choice.form,
                        family=choice.form.split()[0],
                        cost=partial(_price, choice.cost, layer.from_memory),
                        dense=choice.dense,
                        seconds=observed.seconds[choice.form],
                        held_out=observed.shape in held_out,
                    )
                )
    return points


def _price(cost: Cost, from_memory: bool, model: VectorMachine) -> float:
    return cost(replace(model, from_memory=from_memory))


def fit(points: Sequence[Point], model: VectorMachine) -> Constants:
    """The constants with the least errors, in logarithms: a factor counts alike in both directions."""
    found = model.constants
    for part in fields(Constants):
        seen = [point for point in points if point.family in PARTS[part.name]]
        if seen:
            found = _fit_part(part.name, seen, replace(model, constants=found))
    return found


def _fit_part(name: str, points: Sequence[Point], model: VectorMachine) -> Constants:
    from scipy.optimize import least_squares

    start = getattr(model.constants, name)
    names = [field.name for field in fields(start)]
    measured = np.log([point.seconds for point in points])

    def constants(logs: Any) -> Constants:
        values = type(start)(*np.exp(logs).tolist())
        return replace(model.constants, **{name: values})

    def residuals(logs: Any) -> Any:
        trial = replace(model, constants=constants(logs))
        return np.log([point.cost(trial) for point in points]) - measured

    first = np.array([getattr(start, name) for name in names])
    bounds = [BOUNDS.get(name, (value / 50, value * 50)) for name, value in zip(names, first, strict=True)]
    lower, upper = np.log(np.array(bounds)).T
    solution = least_squares(
        residuals,
        np.clip(np.log(first), lower + 1e-6, upper - 1e-6),
        bounds=(lower, upper),
        loss="soft_l1",
        f_scale=LARGEST_RESIDUAL,
        max_nfev=60,
    )
    return constants(solution.x)


PARTS = {
    "spmm": {"spmm"},
    "dots": {"dots"},
    "rows": {"rows", "lookup", "bitmap", "csr", "nibbles", "groups"},
}
"""Kernel families that a part of the constants prices."""
BOUNDS = {
    "product": (0.36, 2.0), "load": (0.05, 2.0), "miss": (0.05, 2.0), "miss_center": (0.5, 2.0),
    "miss_width": (0.05, 1.0), "unaligned": (1.0, 3.0), "l3_bytes": (10.0, 40.0), "memory_bytes": (3.0, 20.0),
}  # fmt: skip
"""What constants may be where the measurements do not tell them apart."""


def errors(points: Sequence[Point], model: VectorMachine) -> np.ndarray:
    """|predicted / measured - 1|."""
    return np.array([abs(point.cost(model) / point.seconds - 1) for point in points])


def _by_family(points: Sequence[Point], model: VectorMachine) -> Json:
    families = sorted({point.family for point in points})
    found = {family: _summary([p for p in points if p.family == family], model) for family in families}
    return {"all": _summary(points, model), **found}


def _summary(points: Sequence[Point], model: VectorMachine) -> Json:
    apart = errors(points, model)
    return {
        "timings": len(points),
        "median": round(float(np.median(apart)), 4),
        "90th percentile": round(float(np.quantile(apart, 0.9)), 4),
    }


def regret(points: Sequence[Point], model: VectorMachine) -> Json:
    """Time of the form that the model chooses over that of the fastest, of those that were measured."""
    by_layer: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        by_layer[point.layer].append(point)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for forms in by_layer.values():
        chosen = min(forms, key=lambda point: point.cost(model))
        ratios[chosen.held_out].append(chosen.seconds / min(point.seconds for point in forms))
    return {
        name: {
            "layers": len(found),
            "median": round(float(np.median(found)), 4),
            "mean": round(float(np.mean(found)), 4),
            "90th percentile": round(float(np.quantile(found, 0.9)), 4),
            "worst": round(max(found), 4),
        }
        for name, found in (("held out", ratios[True]), ("all", ratios[True] + ratios[False]))
    }


def _rounded(values: Json) -> Json:
    return {
        key: _rounded(value) if isinstance(value, dict) else float(f"{value:.4g}")
        for key, value in values.items()
    }


def as_table(data: Json) -> str:
    """Errors in Markdown."""
    lines = ["| kernels | timings | median | 90th percentile |", "|---|---:|---:|---:|"]
    for family, row in data["errors"]["held out"].items():
        lines.append(f"| {family} | {row['timings']} | {row['median']:.1%} | {row['90th percentile']:.1%} |")
    return "\n".join(lines)


def draw(points: Sequence[Point], model: VectorMachine, path: Path) -> None:
    """Predicted over measured, both logarithmic; held-out shapes only, a colour for each family."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [point for point in points if point.held_out]
    figure, axes = plt.subplots(figsize=(6.2, 5.6), layout="constrained")
    shades = ["#0f766e", "#b45309", "#4b5fa8", "#a03a6b", "#6b7280", "#4bb3a3", "#c99a2e", "#222222"]
    for family, shade in zip(sorted({p.family for p in shown}), shades, strict=False):
        of = [point for point in shown if point.family == family]
        axes.plot(
            [p.seconds * 1e6 for p in of], [p.cost(model) * 1e6 for p in of],
            ".", markersize=3, alpha=0.6, color=shade, label=family,
        )  # fmt: skip
    low, high = (f(p.seconds * 1e6 for p in shown) for f in (min, max))
    axes.plot([low, high], [low, high], color="#444444", linewidth=1)
    for factor in (0.85, 1.15):
        axes.plot([low, high], [low * factor, high * factor], color="#999999", linewidth=0.8, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="measured, µs", ylabel="predicted, µs")
    median = float(np.median(errors(shown, model)))
    axes.set_title(f"shapes that the fit has not seen: median error {median:.1%}; dashed: 15 %")
    axes.legend(frameon=False, markerscale=3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
