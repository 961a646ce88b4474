"""`make threads`: how much faster two threads are than one, on whole networks, in turns."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import sparsecc
from benchmarks.models import BENCHED, inputs_of, onnx_file
from sparsecc.timing import interleave

RESULTS = Path(__file__).parent / "results" / "threads.json"
NETWORKS = ("resnet-50", "bert-base", "mobilenet-v1")
PATTERNS = (("dense", 0.0), ("4x1", 0.8), ("unstructured", 0.8))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(BENCHED)}")
    parser.add_argument("--runs", type=int, default=40, help="with each number of threads (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in BENCHED]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(BENCHED)}")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cpus < 2:
        parser.error("this machine lends one CPU, and two threads need two")
    rows: list[dict[str, object]] = []
    for name in args.models or NETWORKS:
        for pattern, sparsity in PATTERNS:
            rows.append(_row(name, pattern, sparsity, args.runs))
            ratio = rows[-1]["times_faster"]
            print(f"{name:20} {pattern:14} {sparsity:.0%}  two threads {ratio:.2f} times as fast", flush=True)
    data = {"command": "make threads", "cpus": cpus, "load_average": os.getloadavg()[0], "rows": rows}
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {RESULTS}")
    return 0


def _row(name: str, pattern: str, sparsity: float, runs: int) -> dict[str, object]:
    """One network in one pattern on one thread and on two."""
    model = sparsecc.capture(onnx_file(name))
    names = [value.name or "" for value in model.graph.inputs]
    inputs = dict(zip(names, inputs_of(name), strict=True))
    if pattern != "dense":
        model = sparsecc.sparsify(model, pattern, sparsity).model
    with tempfile.TemporaryDirectory(prefix="sparsecc-threads-") as folder:
        artifact = sparsecc.compile(model, out=Path(folder) / "m.scc")
        with artifact.load(1) as one, artifact.load(2) as two:
            times = interleave({"one": lambda: one.run(inputs), "two": lambda: two.run(inputs)}, runs)
    return {
        "model": name,
        "pattern": pattern,
        "sparsity": sparsity,
        "one_ms": times["one"].median * 1e3,
        "two_ms": times["two"].median * 1e3,
        "times_faster": times["one"].median / times["two"].median,
    }


if __name__ == "__main__":
    sys.exit(main())
