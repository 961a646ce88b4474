"""`make bench-int8`: networks with weights and activations of 8 bits beside ONNX Runtime's dense ones.

ONNX Runtime runs the file of its own static quantiser (per channel, QDQ), and besides the fp32 network; all
on one core, batch 1, in one process, in alternating blocks. Both quantisers see the same inputs. How close
the artifact is to the quantised network, as ONNX Runtime computes it node by node, is beside: codes at the
edge of rounding take either side, and what follows takes part in it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import sparsecc
from benchmarks.int8 import ort_int8_file, our_int8
from benchmarks.models import inputs_of, onnx_file
from sparsecc.ir.evaluate import evaluate
from sparsecc.peers import OnnxRuntime
from sparsecc.timing import interleave, pinned

RESULTS = Path(__file__).parent / "results" / "int8.json"
GOALS = {"mobilenet-v1": 0.35, "mobilenet-v2": 0.45, "resnet-50": 0.28, "bert-base": 0.30, "minilm": None}
"""4x4 80 % over ONNX Runtime's dense int8, as asked for."""
COLUMNS: dict[str, tuple[str, float]] = {
    "dense": ("dense", 0.0),
    "4x4 50 %": ("4x4", 0.5),
    "4x4 70 %": ("4x4", 0.7),
    "4x4 80 %": ("4x4", 0.8),
    "4x4 90 %": ("4x4", 0.9),
    "unstructured 80 %": ("unstructured", 0.8),
}
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(GOALS)}; all by default")
    parser.add_argument("--runs", type=int, default=60, help="of each side (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in GOALS]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(GOALS)}")
    rows = [_bench(name, args.runs) for name in args.models or GOALS]
    data = {
        "command": "make bench-int8",
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("sparsecc", "onnxruntime", "apache-tvm")},
        "rows": rows,
    }
    args.results.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\n{as_table(rows)}\n\nwrote {args.results}")
    return 0


def _bench(name: str, runs: int) -> Json:
    columns: dict[str, Json] = {}
    for column, (pattern, sparsity) in COLUMNS.items():
        model = our_int8(name, pattern, sparsity)
        names = [value.name or "" for value in model.graph.inputs]
        inputs = dict(zip(names, inputs_of(name), strict=True))
        with tempfile.TemporaryDirectory(prefix="sparsecc-bench-") as folder:
            artifact = sparsecc.compile(model, out=Path(folder) / "model.scc")
            with pinned(1), artifact.load(threads=1) as session:
                theirs, floats = OnnxRuntime(ort_int8_file(name), 1), OnnxRuntime(onnx_file(name), 1)
                sides = {"ours": session, "int8": theirs, "fp32": floats}
                calls = {side: partial(runner.run, inputs) for side, runner in sides.items()}
                times = interleave(calls, runs)
                found = session.run(inputs)
        exact, plain = evaluate(model, inputs), floats.run(inputs)
        key = next(iter(found))
        layers = artifact.report.layers
        columns[column] = {
            "milliseconds": {side: timing.median * 1e3 for side, timing in times.items()},
            "over_int8": times["ours"].median / times["int8"].median,
            "over_fp32": times["ours"].median / times["fp32"].median,
            "int8_layers": sum(layer.kernel.startswith("int8") for layer in layers),
            "layers": len(layers),
            "difference_to_same_network": _apart(found[key], exact[key]),
            "difference_of_quantising": _apart(exact[key], plain[key]),
        }
        row = columns[column]
        print(
            f"{name:14} {column:18} {row['over_int8']:.3f} of int8, {row['over_fp32']:.3f} of fp32",
            flush=True,
        )
    dense = columns["dense"]["milliseconds"]["ours"]
    slowest = max(row["milliseconds"]["ours"] / dense for row in columns.values())
    return {"model": name, "goal": GOALS[name], "slowest_over_dense": slowest, "columns": columns}


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square of the difference over that of the expected values."""
    difference = found.astype(np.float64) - expected
    return float(np.sqrt(np.square(difference).mean() / np.square(expected.astype(np.float64)).mean()))


def as_table(rows: list[Json]) -> str:
    """Time over ONNX Runtime's int8 / fp32 in Markdown; the goal for 4x4 80 % in brackets."""
    lines = [f"| network | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for row in rows:
        cells: list[str] = []
        for column in COLUMNS:
            found = row["columns"][column]
            asked = f" ({row['goal']:g})" if column == "4x4 80 %" and row["goal"] is not None else ""
            cells.append(f"{found['over_int8']:.2f}{asked} / {found['over_fp32']:.3f}")
        lines.append(f"| {row['model']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
