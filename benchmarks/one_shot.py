"""`make one-shot`: what zeros cost a language model, by pattern and method, without training.

SmolLM2-135M-Instruct with its real weights, de-quantised from 4 bits: all linear layers of its 30 blocks get
the same share of zeros, the embedding none. Calibration: 24 windows of 512 tokens of news; perplexity: 12
windows of 512 tokens of other documents. Cells that are in the results already are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import sparsecc
from benchmarks.accuracy_smollm2 import TEST_DOCUMENTS, WINDOW, SmolLM2Task, token_ids
from benchmarks.accuracy_texts import news
from sparsecc.passes.criteria import Calibration

RESULTS = Path(__file__).parent / "results" / "one-shot.json"
CALIBRATION_WINDOWS = 24
CELLS = (("unstructured", 0.5), ("2:4", 0.5), ("2x1", 0.5), ("4x1", 0.5), ("unstructured", 0.3), ("4x1", 0.3))
METHODS = ("magnitude", "wanda", "sparsegpt", "alps")
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"{', '.join(METHODS)}; all by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    unknown = sorted(set(args.methods) - set(METHODS))
    if unknown:
        parser.error(f"no method is {unknown[0]}; methods are {', '.join(METHODS)}")
    found: dict[str, Json] = _read(args.results)
    task = SmolLM2Task()
    model = task.model()
    if "dense" not in found:
        found["dense"] = {"perplexity": task.evaluate(model)["score"]}
    data = calibration()
    for pattern, sparsity in CELLS:
        for method in args.methods or METHODS:
            key = f"{method} {pattern} {sparsity:.0%}"
            if key in found:
                continue
            found[key] = cell(task, model, data, pattern, sparsity, method)
            print(f"{key:32} {found[key]['perplexity']:10.1f}   {found[key]['seconds']:.0f} s", flush=True)
            _write(args.results, found)
    _write(args.results, found)
    print(f"\n{as_table(found)}\n\nwrote {args.results}")
    return 0


def calibration() -> Calibration:
    """Windows of the documents that are not tested."""
    ids = token_ids("\n".join(news()[TEST_DOCUMENTS:]))
    count = len(ids) // (WINDOW + 1) - 1
    starts = np.random.default_rng(0).choice(count, CALIBRATION_WINDOWS, replace=False)
    return Calibration([{"input_ids": ids[number * (WINDOW + 1) :][:WINDOW][None]} for number in starts])


def cell(
    task: SmolLM2Task, model: ir.Model, data: Calibration, pattern: str, sparsity: float, method: str
) -> Json:
    """Perplexity of one pattern, sparsity and method, the share of zeros, and how long it took."""
    start = time.perf_counter()
    given = None if method == "magnitude" else data
    share = None if ":" in pattern else sparsity
    sparse = sparsecc.sparsify(model, pattern, share, method=method, calibration=given)
    seconds = time.perf_counter() - start
    linear = [layer for layer in sparse.layers if layer.zeros > sparsity / 2]  # not the embedding
    zeros = sum(layer.zeros * np.prod(layer.shape) for layer in linear)
    return {
        "perplexity": task.evaluate(sparse.model)["score"],
        "zeros": float(zeros / sum(np.prod(layer.shape) for layer in linear)),
        "layers": len(linear),
        "seconds": seconds,
    }


def _read(path: Path) -> dict[str, Json]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"] if path.is_file() else {}


def _write(path: Path, found: dict[str, Json]) -> None:
    names = ("sparsecc", "onnxruntime", "numpy")
    data = {"command": "make one-shot", "versions": {name: version(name) for name in names}, "cells": found}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def as_table(found: dict[str, Json]) -> str:
    """Markdown: a row for each pattern, a column for each method."""
    lines = [f"| pattern | zeros | {' | '.join(METHODS)} |", "|---|---:|" + "---:|" * len(METHODS)]
    for pattern, sparsity in CELLS:
        cells = [found.get(f"{method} {pattern} {sparsity:.0%}") for method in METHODS]
        numbers = ["–" if cell is None else f"{cell['perplexity']:.1f}" for cell in cells]
        lines.append(f"| {pattern} | {sparsity:.0%} | {' | '.join(numbers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
