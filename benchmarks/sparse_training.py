"""`make sparse-training`: what zeros cost a network that goes on training with them.

A ResNet on Fashion-MNIST, trained here: from the same dense weights a run with each pattern and method, with
the dense network as a teacher, and one without zeros that trains as long. Top-1 on the 10,000 test images,
three seeds. Cells that are in the results already are not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from safetensors.torch import load_file, save_file

import sparsecc
from benchmarks.accuracy_fashion import FashionResNet, accuracy, captured
from benchmarks.accuracy_images import fashion
from benchmarks.fashion_training import Recipe, train
from sparsecc.training import SparseTraining

RESULTS = Path(__file__).parent / "results" / "sparse-training.json"
PAGE = Path(__file__).parents[1] / "docs" / "training.md"
MARKS = ("<!-- begin: make sparse-training -->\n", "<!-- end: make sparse-training -->\n")
WIDTHS = (32, 64, 128)
START = Recipe(16, rate=5e-3, shift=2, half=True)
"""Of the dense network that all cells start from."""
EPOCHS, RATE, SHIFT = 8, 3e-3, 1
SEEDS = (0, 1, 2)
Json = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A pattern, its share of zeros and a method; no pattern trains without zeros."""

    pattern: str
    sparsity: float
    method: str

    @property
    def name(self) -> str:
        """In the results."""
        return f"{self.pattern} {self.sparsity:.0%}, {self.method}" if self.pattern else "dense"


CELLS = (
    Cell("", 0.0, "dense"),
    Cell("4x1", 0.8, "gradual"),
    Cell("2:4", 0.5, "sr-ste"),
    Cell("unstructured", 0.9, "gradual"),
    Cell("fan-in", 0.9, "rigl"),
    Cell("4x1", 0.9, "gradual"),
    Cell("unstructured", 0.9, "st-3"),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="WORD", help="of a pattern or method; all by default")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "sparsecc-bench")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    chosen = [cell for cell in CELLS if not args.names or any(word in cell.name for word in args.names)]
    if not chosen:
        parser.error(f"no cell has these words; cells are {'; '.join(cell.name for cell in CELLS)}")
    found: dict[str, Json] = (
        json.loads(args.results.read_text(encoding="utf-8"))["cells"] if args.results.is_file() else {}
    )
    dense = start(args.cache)
    found["start"] = {"0": {"score": 100 * accuracy(dense, fashion("test")), "zeros": 0.0}}
    for seed in SEEDS:
        for cell in chosen:
            if str(seed) in found.get(cell.name, {}):
                continue
            began = time.perf_counter()
            model, zeros = run(dense, cell, seed)
            score = 100 * accuracy(model, fashion("test"))
            found.setdefault(cell.name, {})[str(seed)] = {"score": score, "zeros": zeros}
            seconds = time.perf_counter() - began
            print(
                f"{cell.name:28} seed {seed}  {score:.2f} %  {zeros:.1%} zeros  {seconds:.0f} s", flush=True
            )
            _write(args.results, found)
    _write(args.results, found)
    if args.results == RESULTS:
        before, rest = PAGE.read_text(encoding="utf-8").split(MARKS[0])
        PAGE.write_text(
            f"{before}{MARKS[0]}{as_table(found)}\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8"
        )
    print(f"\n{as_table(found)}\n\nwrote {args.results}")
    return 0


def start(cache: Path) -> ir.Model:
    """The dense network, trained once."""
    path = cache / "fashion-resnet-wide-0.safetensors"
    torch.manual_seed(0)
    module = FashionResNet(WIDTHS)
    if path.exists():
        module.load_state_dict(load_file(path))
    else:
        train(module, fashion("train"), START)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return captured(module)


def run(dense: ir.Model, cell: Cell, seed: int) -> tuple[ir.Model, float]:
    """The network trained on in this way, and its share of zeros in the layers that have any."""
    torch.manual_seed(seed)
    teacher, images = sparsecc.to_torch(dense).eval(), fashion("train")
    recipe = Recipe(EPOCHS, RATE, seed, SHIFT, half=True)
    if not cell.pattern:
        module = sparsecc.to_torch(dense)
        train(module, images, recipe, teacher=teacher)
        return captured(module), 0.0
    share = None if ":" in cell.pattern else cell.sparsity
    training = SparseTraining(
        dense, cell.pattern, share, method=cell.method, steps=recipe.steps(images), min_size=512
    )
    train(training.module, images, recipe, teacher=teacher, after_step=training.step)
    zeros = training.sparsity
    return training.finish(), zeros


def _write(path: Path, found: dict[str, Json]) -> None:
    names = ("sparsecc", "onnxruntime", "torch")
    data = {
        "command": "make sparse-training",
        "versions": {name: version(name) for name in names},
        "cells": found,
    }
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def as_table(found: dict[str, Json]) -> str:
    """Markdown: a row for each pattern and method, the mean and the range over the seeds."""
    base = statistics.mean(cell["score"] for cell in found.get("dense", found["start"]).values())
    lines = ["| zeros, method | zeros | top-1, % | to dense | seeds |", "|---|---:|---:|---:|---:|"]
    for name, seeds in found.items():
        scores = [cell["score"] for cell in seeds.values()]
        mean, zeros = statistics.mean(scores), statistics.mean(cell["zeros"] for cell in seeds.values())
        spread = f" ({min(scores):.2f} to {max(scores):.2f})" if len(scores) > 1 else ""
        title = {"start": "the dense network they start from", "dense": "dense, trained as long"}.get(
            name, name
        )
        lines.append(f"| {title} | {zeros:.0%} | {mean:.2f}{spread} | {mean - base:+.2f} | {len(scores)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
