"""`make bench`: every network and pattern beside ONNX Runtime on the dense network.

One core, batch 1, fp32, both sides in one process on one CPU, in alternating blocks. ONNX Runtime gets the
network as PyTorch's exporter writes it with its own optimisations. Results go to benchmarks/results/: one
JSON file per network, and a picture over all files that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsecc
from benchmarks.models import BENCHED, inputs_of, onnx_file
from sparsecc.errors import SparseccError
from sparsecc.side_by_side import side_by_side

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MARKS = ("<!-- begin: make bench -->\n", "<!-- end: make bench -->\n")
COLUMNS: dict[str, tuple[str, float] | None] = {
    "dense": None,
    "4x1 70 %": ("4x1", 0.7),
    "4x1 80 %": ("4x1", 0.8),
    "4x1 90 %": ("4x1", 0.9),
    "unstructured 80 %": ("unstructured", 0.8),
    "unstructured 90 %": ("unstructured", 0.9),
}
FURTHER: dict[str, tuple[str, float] | None] = {
    "4x1 50 %": ("4x1", 0.5),
    "2x1 50 %": ("2x1", 0.5),
    "2x1 70 %": ("2x1", 0.7),
    "2x1 80 %": ("2x1", 0.8),
    "2x1 90 %": ("2x1", 0.9),
    "unstructured 50 %": ("unstructured", 0.5),
    "unstructured 70 %": ("unstructured", 0.7),
    "2:4": ("2:4", 0.5),
}
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(BENCHED)}; all by default")
    parser.add_argument("--all-patterns", action="store_true", help="50 %%, 2x1 and 2:4 too")
    parser.add_argument("--runs", type=int, default=100, help="of each side (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in BENCHED]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(BENCHED)}")
    columns = {**COLUMNS, **FURTHER} if args.all_patterns else COLUMNS
    RESULTS.mkdir(exist_ok=True)
    failed = 0
    for name in args.models or BENCHED:
        found = _bench(name, columns, args.runs)
        failed += sum("error" in row for row in found["columns"].values())
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    files = [RESULTS / f"{name}.json" for name in sorted(BENCHED)]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in files if path.is_file()]
    draw(results, RESULTS / "ratios.png")
    if not failed:
        fill_readme(results)
    print(f"\n{as_table(results)}\n\nwrote {RESULTS}; {failed} failed")
    return 1 if failed else 0


def _bench(name: str, columns: dict[str, tuple[str, float] | None], runs: int) -> Json:
    file = onnx_file(name)
    model = sparsecc.capture(file)
    names = [value.name or "" for value in model.graph.inputs]
    inputs = dict(zip(names, inputs_of(name), strict=True))
    rows: dict[str, Json] = {}
    for column, options in columns.items():
        try:
            rows[column] = _column(model, file, inputs, options, runs)
        except SparseccError as error:
            rows[column] = {"error": str(error)}
        row = rows[column]
        ratio = row.get("error") or f"ratio {row['ratio']:.3f}  ({row['ours']['median'] * 1e3:.3f} ms)"
        print(f"{name:20} {column:18} {ratio}", flush=True)
    return {
        "model": name,
        "inputs": {key: list(array.shape) for key, array in inputs.items()},
        "machine": machine(),
        "versions": {
            package: version(package) for package in ("sparsecc", "onnxruntime", "apache-tvm", "torch")
        },
        "columns": rows,
    }


def _column(model: ir.Model, file: Path, inputs: Json, options: tuple[str, float] | None, runs: int) -> Json:
    zeros = 0.0
    if options is not None:
        pattern, sparsity = options
        result = sparsecc.sparsify(model, pattern, None if ":" in pattern else sparsity)
        model, zeros = result.model, result.zeros
    with tempfile.TemporaryDirectory(prefix="sparsecc-bench-") as folder:
        start = time.perf_counter()
        artifact = sparsecc.compile(model, out=Path(folder) / "model.scc")
        seconds = time.perf_counter() - start
        found = side_by_side(artifact.path, file, inputs=inputs, runs=runs)
        sparse = Path(folder) / "sparse.onnx"
        ir.save(model, sparse)
        same = side_by_side(artifact.path, sparse, inputs=inputs, runs=1).differences
    sizes = {key: info.bytes for key, info in artifact.manifest.files.items()}
    return {
        **{key: value for key, value in found.to_json().items() if key not in ("differences", "peers")},
        "fastest_ratio": found.ours.fastest / found.theirs.fastest if found.theirs else None,
        "zeros": zeros,
        "difference_to_same_network": max(difference.relative for difference in same.values()),
        "dense_kernels_seconds": artifact.report.measured_dense_seconds,
        "compile_seconds": seconds,
        "library_bytes": sizes["libmodel.so"],
        "weights_bytes": sizes["weights.bin"],
    }


def machine() -> Json:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "system": platform.platform(),
    }


def as_table(results: list[Json]) -> str:
    """Ratios in Markdown, one network a row."""
    columns = list(dict.fromkeys(column for result in results for column in result["columns"]))
    lines = [f"| network | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    for result in results:
        ratios = [result["columns"].get(column, {}).get("ratio") for column in columns]
        cells = ["–" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"| {result['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill_readme(results: list[Json]) -> None:
    """Put the table between the marks in the README."""
    before, rest = README.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    machine, versions = results[0]["machine"], results[0]["versions"]
    made = f"ONNX Runtime {versions['onnxruntime']}, TVM {versions['apache-tvm']}"
    source = f"`make bench` on {machine['processor']}, {made}."
    text = f"{MARKS[0]}{as_table(results)}\n\n{source}\n{MARKS[1]}"
    README.write_text(before + text + after, encoding="utf-8")


def draw(results: list[Json], path: Path) -> None:
    """Bars of time over ONNX Runtime's dense time; the line at 1 is ONNX Runtime."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shades = ["#8a94a3", "#99d5cb", "#4bb3a3", "#0f766e", "#f0b27a", "#b45309"]
    figure, axes = plt.subplots(figsize=(1.6 * max(4, len(results)), 4.2), layout="constrained")
    width = 0.8 / len(COLUMNS)
    for index, (column, shade) in enumerate(zip(COLUMNS, shades, strict=True)):
        ratios = [result["columns"].get(column, {}).get("ratio") or 0.0 for result in results]
        places = [place + (index - (len(COLUMNS) - 1) / 2) * width for place in range(len(results))]
        axes.bar(places, ratios, width * 0.92, color=shade, label=column)
    axes.axhline(1.0, color="#444444", linewidth=1, linestyle="--")
    axes.set_xticks(range(len(results)), [result["model"] for result in results])
    axes.set_ylabel("time / ONNX Runtime, dense")
    axes.set_title("one core, batch 1, fp32: lower is faster")
    axes.legend(frameon=False, ncols=6, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
