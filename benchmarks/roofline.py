"""Rooflines of `make bench-kernels`: the speed of each layer over the work that its bytes allow.

Work counts multiplications and additions of nonzero weights; bytes are the least that a layer moves, inputs,
outputs and nonzeros once each, without indices. The sloped line is what one core reads from L3, the flat one
multiply-adds in registers (Williams et al. 2009).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.kernel_layers import FAMILIES, Convolution, Shape

L3_BYTES_PER_SECOND = 80e9
"""What one core of the machine of the results reads."""
_COLOURS = {
    "dense": "#444444",
    "unstructured": "#2563eb",
    "2:4": "#7c3aed",
    "2x1": "#0891b2",
    "4x1": "#0f766e",
    "16x1": "#b45309",
}
_MARKERS = {0: "o", 50: "v", 70: "^", 80: "s", 90: "D", 95: "P"}
Json = dict[str, Any]


def least_bytes(shape: Shape, zeros: float) -> float:
    """Bytes of fp32 inputs, outputs and nonzero weights."""
    if isinstance(shape, Convolution):
        positions = (-(-shape.size // shape.stride)) ** 2
        weights = shape.outputs * shape.inputs // shape.groups * shape.kernel**2
        return 4 * (shape.inputs * shape.size**2 + shape.outputs * positions + weights * (1 - zeros))
    weights = shape.outputs * shape.inputs
    return 4 * (shape.tokens * (shape.inputs + shape.outputs) + weights * (1 - zeros))


def points(rows: list[Json]) -> list[Json]:
    """[{family, pattern, percent, intensity in FLOP / byte, gflops}] of the fp32 layers of results."""
    shapes = {(family.name, shape.label): shape for family in FAMILIES for shape in family.shapes}
    found: list[Json] = []
    for row in rows:
        for layer in row["layers"]:
            shape = shapes[row["family"], layer["label"]]
            work = shape.flops * (1 - layer["zeros"])
            found.append(
                {"family": row["family"], "pattern": row["pattern"], "percent": row["percent"],
                 "intensity": work / least_bytes(shape, layer["zeros"]),
                 "gflops": work / layer["ours_us"] * 1e-3}
            )  # fmt: skip
    return found


def draw(rows: list[Json], peak_gflops: float, path: Path) -> None:
    """Write a picture with a panel for each family of layers."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    found = points(rows)
    families = list(dict.fromkeys(point["family"] for point in found))
    columns = min(4, len(families))
    lines = math.ceil(len(families) / columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(3.6 * columns, 3.1 * lines), layout="constrained", squeeze=False
    )
    slope = L3_BYTES_PER_SECOND * 1e-9
    for panel, name in zip(panels.flat, families, strict=False):
        ridge = peak_gflops / slope
        panel.plot([0.1, ridge, 1000], [0.1 * slope, peak_gflops, peak_gflops], color="#999999", linewidth=1)
        for point in found:
            if point["family"] == name:
                colour, marker = (
                    _COLOURS.get(point["pattern"], "#dc2626"),
                    _MARKERS.get(point["percent"], "x"),
                )
                place = (point["intensity"], point["gflops"])
                panel.scatter(*place, s=14, color=colour, marker=marker, linewidths=0)
        panel.set(xscale="log", yscale="log", xlim=(0.2, 500), ylim=(2, 500))
        panel.set_title(name, fontsize=9)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(families) :]:
        panel.set_axis_off()
    for panel in panels[:, 0]:
        panel.set_ylabel("GFLOP/s of nonzeros")
    for panel in panels[-1]:
        panel.set_xlabel("FLOP per byte that must move")
    patterns = {point["pattern"]: None for point in found}
    handles = [
        Line2D([], [], marker="o", linestyle="", color=_COLOURS.get(p, "#dc2626"), label=p) for p in patterns
    ]
    percents = sorted({point["percent"] for point in found})
    handles += [
        Line2D([], [], marker=_MARKERS.get(p, "x"), linestyle="", color="#666666", label=f"{p} % zeros")
        for p in percents
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
