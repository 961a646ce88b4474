"""`make tuning`: time of networks with the forms of the shipped database over that with the cost model's.

One core, batch 1, fp32, in turns. `ratio` is of the medians, `fastest_ratio` of the fastest runs, on which
other load has little effect. ResNet-18 is not among the networks that the database was made with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import sparsecc
from benchmarks.bench import machine
from benchmarks.models import BENCHED, inputs_of, onnx_file
from sparsecc.timing import interleave, pinned
from sparsecc.tuning.database import SHIPPED

RESULTS = Path(__file__).parent / "results" / "tuning.json"
NETWORKS = ("mobilenet-v1", "mobilenet-v2", "efficientnet-lite0", "resnet-50", "minilm", "resnet-18")
PATTERNS: tuple[tuple[str, float], ...] = (
    ("dense", 0.0), ("4x1", 0.8), ("4x1", 0.9), ("unstructured", 0.8), ("unstructured", 0.9)
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(BENCHED)}")
    parser.add_argument("--runs", type=int, default=60, help="of each side (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in BENCHED]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(BENCHED)}")
    rows: list[dict[str, Any]] = []
    for name in args.models or NETWORKS:
        for pattern, sparsity in PATTERNS:
            rows.append(_row(name, pattern, sparsity, args.runs))
            row = rows[-1]
            print(
                f"{name:20} {pattern:14} {sparsity:.0%}  {row['ratio']:.3f}  "
                f"({row['measured_layers']} of {row['layers']} layers found, "
                f"{row['changed_layers']} changed)",
                flush=True,
            )
    data = {
        "command": "make tuning",
        "machine": machine(),
        "median": {
            name: _median(rows, changed) for name, changed in (("changed", True), ("as it was", False))
        },
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\nmedian {data['median']}; wrote {RESULTS}")
    return 0


def _median(rows: list[dict[str, Any]], changed: bool) -> dict[str, float | int]:
    """Of networks with another form in some layer; without one, what is measured is noise."""
    found = [row for row in rows if (row["changed_layers"] > 0) == changed]
    if not found:
        return {"networks": 0}
    ratios = {key: statistics.median(row[key] for row in found) for key in ("ratio", "fastest_ratio")}
    return {"networks": len(found), **ratios}


def _row(name: str, pattern: str, sparsity: float, runs: int) -> dict[str, Any]:
    """One network in one pattern, both ways."""
    model = sparsecc.capture(onnx_file(name))
    names = [value.name or "" for value in model.graph.inputs]
    inputs = dict(zip(names, inputs_of(name), strict=True))
    if pattern != "dense":
        model = sparsecc.sparsify(model, pattern, sparsity).model
    with tempfile.TemporaryDirectory(prefix="sparsecc-tuning-") as folder:
        with_it, without = (
            sparsecc.compile(model, out=Path(folder) / f"{i}.scc", measure=False, database=database)
            for i, database in enumerate((SHIPPED, False))
        )
        with pinned(1), with_it.load(1) as a, without.load(1) as b:
            times = interleave({"with": lambda: a.run(inputs), "without": lambda: b.run(inputs)}, runs)
    pairs = list(zip(with_it.report.layers, without.report.layers, strict=True))
    return {
        "model": name,
        "pattern": pattern,
        "sparsity": sparsity,
        "with_ms": times["with"].median * 1e3,
        "without_ms": times["without"].median * 1e3,
        "ratio": times["with"].median / times["without"].median,
        "fastest_ratio": times["with"].fastest / times["without"].fastest,
        "layers": len(pairs),
        "measured_layers": sum("measured fastest" in ours.reason for ours, _ in pairs),
        "changed_layers": sum("times as fast as the cost model" in ours.reason for ours, _ in pairs),
    }


if __name__ == "__main__":
    sys.exit(main())
