"""`make permutation`: how much magnitude a pattern keeps with and without reordering channels first.

Networks with trained weights only, for random ones have little to find. The share is over all weights that
`sparsify` makes sparse; unstructured zeros of the same share are what no order can pass. Writes
benchmarks/results/permutation.json and the table in docs/passes.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import sparsecc
from benchmarks.accuracy_smollm2 import SmolLM2Task
from benchmarks.models import onnx_file
from sparsecc.ir import evaluate, random_inputs
from sparsecc.passes import Context
from sparsecc.passes.hooks import relative_difference
from sparsecc.passes.permute import Permute
from sparsecc.passes.sparsify import Sparsify

RESULT = Path(__file__).parent / "results" / "permutation.json"
PAGE = Path(__file__).parents[1] / "docs" / "passes.md"
MARKS = ("<!-- begin: make permutation -->\n", "<!-- end: make permutation -->\n")
NETWORKS: dict[str, Callable[[], ir.Model]] = {
    "efficientnet-lite0": lambda: sparsecc.capture(onnx_file("efficientnet-lite0")),
    "minilm": lambda: sparsecc.capture(onnx_file("minilm")),
    "smollm2-135m": lambda: SmolLM2Task().model(),
}
Json = dict[str, Any]
COLUMNS = (("2:4", 0.5), ("4x1", 0.7), ("4x1", 0.8), ("4x1", 0.9))


@dataclass(frozen=True)
class Kept:
    """Shares of the weights that a pattern keeps: of the sum of |w|, and of the sum of w squared."""

    l1: float
    l2: float


@dataclass(frozen=True)
class Row:
    """One network and pattern.

    Attributes:
        network: its name.
        pattern: of the zeros.
        sparsity: share of zeros.
        before: kept in the given order.
        after: kept in the order that was found.
        unstructured: kept by as many zeros anywhere.
        groups: how many have another order, and how many could.
        seconds: of the analysis and the search.
        difference: largest of the outputs before sparsifying, relative to the largest output.
    """

    network: str
    pattern: str
    sparsity: float
    before: Kept
    after: Kept
    unstructured: Kept
    groups: str
    seconds: float
    difference: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all if none"
    )
    args = parser.parse_args()
    unknown = [name for name in args.networks if name not in NETWORKS]
    if unknown:
        parser.error(f"there is no network {', '.join(unknown)}; networks are {', '.join(NETWORKS)}")
    known = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in args.networks or NETWORKS:
        model = NETWORKS[name]()
        known[name] = [asdict(measure(name, model, *column)) for column in COLUMNS]
        RESULT.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}{as_table(known)}\n{MARKS[1]}{after}", encoding="utf-8")


def measure(name: str, model: ir.Model, pattern: str, sparsity: float) -> Row:
    """Reorder for a pattern, and compare."""
    asked = -1.0 if ":" in pattern else sparsity
    item = Sparsify(pattern, asked)
    reordered = model.clone()
    start = time.perf_counter()
    result = Permute(pattern, asked).apply(reordered, Context())
    seconds = time.perf_counter() - start
    inputs = random_inputs(model)
    outputs, others = evaluate(model, inputs), evaluate(reordered, inputs)
    row = Row(
        name,
        pattern,
        sparsity,
        kept(model, item, item),
        kept(reordered, item, item),
        kept(model, item, Sparsify("unstructured", sparsity)),
        result.notes[0],
        seconds,
        max(relative_difference(others[key], array) for key, array in outputs.items()),
    )
    print(
        f"{name:20} {pattern:4} {sparsity:.0%}  L1 {row.before.l1:.4f} -> {row.after.l1:.4f}  "
        f"L2 {row.before.l2:.4f} -> {row.after.l2:.4f}  of {row.unstructured.l2:.4f}  "
        f"difference {row.difference:.1e}  {seconds:.0f} s",
        flush=True,
    )
    return row


def kept(model: ir.Model, chosen: Sparsify, item: Sparsify) -> Kept:
    """What `item` leaves of the weights that `chosen` makes sparse."""
    sparse = model.clone()
    item.apply(sparse, Context())
    sums = np.zeros((2, 2))
    for layer in chosen.layers(model)[0]:
        value = sparse.graph.initializers[layer.use.value.name or ""].const_value
        assert value is not None
        for number, array in enumerate((value.numpy(), layer.matrix)):
            sums[number] += np.abs(array).sum(dtype=np.float64), np.square(array).sum(dtype=np.float64)
    l1, l2 = sums[0] / sums[1]
    return Kept(float(l1), float(l2))


def as_table(known: dict[str, list[Json]]) -> str:
    """Markdown, one network and pattern a row."""
    lines = [
        "| network | pattern | zeros | sum of \\|w\\| kept | reordered | sum of w² kept | reordered "
        "| unstructured | search |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (row for name in NETWORKS for row in known.get(name, [])):
        shown = ("before", "l1"), ("after", "l1"), ("before", "l2"), ("after", "l2"), ("unstructured", "l2")
        shares = [row[when][norm] for when, norm in shown]
        cells = " | ".join(f"{share:.1%}" for share in shares)
        first = f"{row['network']} | {row['pattern']} | {row['sparsity']:.0%}"
        lines.append(f"| {first} | {cells} | {row['seconds']:.0f} s |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
