"""`make default-database`: tunes networks in usual patterns and makes the database that is shipped.

Measurements are kept in build/, so an interrupted run goes on where it was. Of each layer the shipped file
has the similar key only, and the forms that may be worth taking. What it has of CPUs of other families stays.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

import sparsecc
from benchmarks.models import BENCHED, onnx_file
from sparsecc.targets.sources import kernel_version
from sparsecc.tuning.database import SHIPPED, Record, read_records, write_records

FOLDER = Path(__file__).parents[1] / "build"
MEASURED = FOLDER / "default-database.jsonl"
NETWORKS = ("mobilenet-v1", "mobilenet-v2", "efficientnet-lite0", "resnet-50", "minilm", "bert-base")
PATTERNS: tuple[tuple[str, float], ...] = (
    ("4x1", 0.8), ("unstructured", 0.8), ("4x1", 0.9), ("unstructured", 0.9), ("dense", 0.0), ("2x1", 0.8),
    ("4x1", 0.5), ("unstructured", 0.5), ("2x1", 0.9), ("2x1", 0.5),
)  # fmt: skip
SLOWEST = 1.25
"""Forms that took longer than this times the fastest are left out, but for the fastest dense one."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(BENCHED)}")
    parser.add_argument("--trials", type=int, default=6, help="forms of each layer (%(default)s)")
    parser.add_argument("--budget", type=float, help="seconds after which what is there is written")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in BENCHED]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(BENCHED)}")
    FOLDER.mkdir(exist_ok=True)
    start = time.monotonic()
    for pattern, sparsity in PATTERNS:
        for name in args.models or NETWORKS:
            left = None if args.budget is None else args.budget - (time.monotonic() - start)
            if left is None or left > 0:
                _tune(name, pattern, sparsity, args.trials, left)
    records = with_other_families(similar_only(read_records(MEASURED)), read_records(SHIPPED))
    write_records(SHIPPED, records)
    print(f"wrote {SHIPPED}: {len(records)} layers, {SHIPPED.stat().st_size} bytes")
    return 0


def _tune(name: str, pattern: str, sparsity: float, trials: int, budget: float | None) -> None:
    model = sparsecc.capture(onnx_file(name))
    if pattern != "dense":
        model = sparsecc.sparsify(model, pattern, sparsity).model
    found = sparsecc.tune(model, database=MEASURED, trials=trials, budget=budget)
    both = f"{found.model_seconds:.6f} -> {found.seconds:.6f} s" if found.seconds else "not finished"
    print(f"{name} {pattern} {sparsity:.0%}: {found.measured} measured, {both}", flush=True)


def with_other_families(measured: list[Record], shipped: list[Record]) -> list[Record]:
    """What was measured now, behind what is shipped for families of CPUs that were not."""
    families = {record.cpu_kind for record in measured}
    return [record for record in shipped if record.cpu_kind not in families] + measured


def similar_only(records: list[Record]) -> list[Record]:
    """One record for each similar key; the seconds of layers that share one are those measured last."""
    seconds: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    for record in records:
        if record.version == kernel_version(record.layer.partition(" ")[0]):
            seconds[record.layer, record.machine, record.cpu, record.version].update(record.seconds)
    found = [
        Record(layer, "", machine, cpu, version, _worth(forms))
        for (layer, machine, cpu, version), forms in sorted(seconds.items())
    ]
    return [record for record in found if len(record.seconds) > 1]


def _worth(forms: dict[str, float]) -> dict[str, float]:
    """The two fastest, those within reach of them, and the fastest dense one, in the order of their times."""
    ordered = sorted(forms, key=forms.__getitem__)
    limit = SLOWEST * forms[ordered[0]]
    dense = next((form for form in ordered if " dense " in form), None)
    kept = {*ordered[:2], dense, *(form for form in ordered if forms[form] <= limit)}
    return {form: forms[form] for form in ordered if form in kept}


if __name__ == "__main__":
    sys.exit(main())
