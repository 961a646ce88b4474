"""`make one-shot`: what zeros cost a language model, a text encoder and a CNN, by pattern and method.

Nothing is fine-tuned. One cell is a task, a method, a pattern and a sparsity; cells go to
benchmarks/results/one-shot.json as they are measured and are not measured again, and to docs/one-shot.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from benchmarks.one_shot_page import write_page
from benchmarks.one_shot_tasks import TASKS, OneShotTask
from sparsecc.distiller import distill
from sparsecc.passes.base import Context
from sparsecc.passes.criteria.linear_layers import linear_layers
from sparsecc.passes.one_shot import OneShot, one_shot
from sparsecc.passes.one_shot_blocks import Reconstruction
from sparsecc.passes.one_shot_importance import squared_gradients
from sparsecc.passes.one_shot_state import fingerprint
from sparsecc.passes.permute import Permute
from sparsecc.passes.sparsify import Sparsify
from sparsecc.quantizer import quantize
from sparsecc.sparsifier import zeros_of

RESULTS = Path(__file__).parent / "results" / "one-shot.json"
RATE = 0.001
"""Of distillation; with 0.002 a run of 12 minutes first loses what it then gains."""
CACHE = Path.home() / ".cache" / "sparsecc-bench"
Json = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """How a cell is made.

    Attributes:
        options: None is magnitude.
        permute: whether channels are reordered before.
        bits: that the sparse model is stored in afterwards, chosen in the solve or in a second one.
        distill: whether what stays is trained on the dense network's outputs afterwards.
    """

    options: OneShot | None
    permute: bool = False
    bits: int = 32
    distill: bool = False


_BEST = OneShot(gradients=True)
_BLOCKS = OneShot(gradients=True, reconstruction=Reconstruction(epochs=4))
METHODS: dict[str, Method] = {
    "magnitude": Method(None),
    "wanda": Method(OneShot("wanda")),
    "gblm": Method(OneShot("gblm")),
    "dsnot": Method(OneShot("dsnot")),
    "sparsegpt": Method(OneShot("sparsegpt", regress=False)),
    "sparsegpt-permuted": Method(OneShot("sparsegpt", regress=False), permute=True),
    "alps": Method(OneShot(regress=False)),
    "alps-dense": Method(OneShot()),
    "alps-gradients": Method(_BEST),
    "alps-permuted": Method(_BEST, permute=True),
    "alps-blocks": Method(_BLOCKS),
    "alps-distilled": Method(_BEST, distill=True),
    "alps-int8": Method(replace(_BEST, bits=8), bits=8),
    "alps-int4": Method(replace(_BEST, bits=4), bits=4),
    "alps-distilled-int4": Method(_BEST, distill=True, bits=4),
}
_MAIN = ("magnitude", "alps-gradients")
CELLS: tuple[tuple[str, str, float, tuple[str, ...]], ...] = (
    ("smollm2-135m", "4x1", 0.5, _MAIN),
    ("smollm2-135m", "unstructured", 0.5, _MAIN),
    ("minilm", "unstructured", 0.5, ("wanda", "sparsegpt", *_MAIN)),
    ("minilm", "4x1", 0.5, _MAIN),
    ("smollm2-135m", "4x1", 0.5, ("alps-blocks",)),
    ("efficientnet-lite0", "unstructured", 0.5, _MAIN),
    ("efficientnet-lite0", "4x1", 0.5, _MAIN),
    ("smollm2-135m", "2x1", 0.5, _MAIN),
    ("smollm2-135m", "2:4", 0.5, _MAIN),
    ("smollm2-135m", "unstructured", 0.5, ("alps-blocks",)),
    ("smollm2-135m", "4x1", 0.5, ("alps-permuted",)),
    ("smollm2-135m", "unstructured", 0.3, _MAIN),
    ("smollm2-135m", "4x1", 0.3, _MAIN),
    ("smollm2-135m", "unstructured", 0.5, ("wanda", "gblm", "dsnot", "sparsegpt", "alps-int8")),
    ("efficientnet-lite0", "unstructured", 0.5, ("wanda", "sparsegpt", "alps-dense")),
    ("efficientnet-lite0", "4x1", 0.5, ("alps-dense", "alps-blocks")),
    ("efficientnet-lite0", "unstructured", 0.5, ("alps-blocks",)),
    ("smollm2-135m", "2x1", 0.5, ("alps-blocks",)),
    ("smollm2-135m", "4x1", 0.5, ("sparsegpt", "sparsegpt-permuted")),
    ("minilm", "unstructured", 0.5, ("gblm", "dsnot")),
    ("efficientnet-lite0", "unstructured", 0.5, ("gblm", "dsnot")),
    ("smollm2-135m", "unstructured", 0.5, ("alps-distilled",)),
    ("smollm2-135m", "4x1", 0.5, ("alps-distilled",)),
    ("smollm2-135m", "2x1", 0.5, ("alps-distilled",)),
    ("smollm2-135m", "1x16", 0.5, ("magnitude", "alps-int4", "alps-distilled-int4")),
)
"""Task, pattern, sparsity and methods, in the order in which they are measured."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"{', '.join(METHODS)}; all by default")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--patterns", nargs="*", help="all by default")
    parser.add_argument("--minutes", type=float, default=20, help="of distillation (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    parser.add_argument("--page-only", action="store_true", help="write the page from what is measured")
    args = parser.parse_args()
    unknown = sorted(set(args.methods) - set(METHODS))
    if unknown:
        parser.error(f"no method is {unknown[0]}; methods are {', '.join(METHODS)}")
    models: dict[str, _Model] = {}
    for name, pattern, sparsity, methods in () if args.page_only else CELLS:
        if name not in args.tasks or (args.patterns and pattern not in args.patterns):
            continue
        for method in methods:
            place = name, f"{method} {pattern} {sparsity:.0%}"
            known = _read(args.results).get(name, {})
            if place[1] in known or (args.methods and method not in args.methods):
                continue
            task = models.setdefault(name, _Model(TASKS[name]()))
            if "dense" not in known:
                _put(args.results, (name, "dense"), task.task.evaluate(task.dense))
            if METHODS[method].distill:
                cell = task.distilled(METHODS[method], pattern, sparsity, args.minutes)
            else:
                cell = task.cell(METHODS[method], pattern, sparsity)
            _put(args.results, place, cell)
            print(f"{name} {place[1]:32} {cell['score']:10.2f}   {cell['seconds']:.0f} s", flush=True)
    write_page(_read(args.results))
    return 0


class _Model:
    """A task with what its cells share."""

    def __init__(self, task: OneShotTask) -> None:
        self.task = task
        self.dense = task.model()
        self.data = task.calibration()

    @cached_property
    def squares(self) -> Mapping[str, np.ndarray]:
        """Squared gradients, which do not depend on the pattern; kept in a file, by weights and data."""
        path = CACHE / f"squares-{fingerprint(self.dense, self.data, ())[:16]}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            found = squared_gradients(self.dense, linear_layers(self.dense)[0], self.data)
            with path.with_suffix(".part").open("wb") as file:
                np.savez(file, allow_pickle=False, **found)
            os.replace(path.with_suffix(".part"), path)
        with np.load(path) as stored:
            return dict(stored)

    def cell(self, method: Method, pattern: str, sparsity: float) -> Json:
        """The score of one pattern, sparsity and method, the share of zeros, and how long it took."""
        options = method.options
        squares = None
        if options is not None and (options.gradients or options.method == "gblm"):
            squares = self.squares
        start = time.perf_counter()
        item = Sparsify(pattern, -1.0 if ":" in pattern else sparsity)
        dense = self.dense.clone()
        if method.permute:
            Permute(pattern, item.sparsity).reorder(dense, Context(), squares=self.squares)
            if squares is not None:
                squares = squared_gradients(dense, linear_layers(dense)[0], self.data)
        sparse = dense.clone()
        if options is None:
            result = item.apply(sparse, Context())
        else:
            result = one_shot(dense, sparse, item, self.data, options, squares=squares, progress=_tell())
        if method.bits < 32:
            sparse = quantize(sparse, bits=method.bits).model
        seconds = time.perf_counter() - start
        zeros = _zeros(self.dense, sparse, item) if method.bits == 32 else {}
        return {**self.task.evaluate(sparse), **zeros, "seconds": seconds, "notes": list(result.notes)}

    def distilled(self, method: Method, pattern: str, sparsity: float, minutes: float) -> Json:
        """The score after a one-shot solve, training on the dense network's outputs, and rounding to `bits`.

        What was solved is kept in the cache, so that an interrupted run need not solve again.
        """
        assert method.options is not None
        item = Sparsify(pattern, -1.0 if ":" in pattern else sparsity)
        key = fingerprint(self.dense, self.data, (method, pattern, sparsity))[:16]
        path = CACHE / "solved" / f"{key}.onnx"
        if not path.exists():
            sparse = self.dense.clone()
            one_shot(
                self.dense, sparse, item, self.data, method.options, squares=self.squares, progress=_tell()
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            ir.save(sparse, part, external_data=f"{key}.data")
            os.replace(part, path)
        sparse = ir.external_data.load_to_model(ir.load(path))
        result = distill(
            sparse, self.dense, self.task.texts(), minutes=minutes, rate=RATE,
            resume=CACHE / "distilled" / f"{key}-{minutes:g}", progress=_show,
        )  # fmt: skip
        found = result.model
        if method.bits < 32:  # all weights that stay go to the grid, and no others
            found = found.clone()
            one_shot(result.model, found, Sparsify(pattern, 0.0), self.data, OneShot(bits=method.bits))
            found = quantize(found, bits=method.bits).model
        return {
            **self.task.evaluate(found),
            **_zeros(self.dense, result.model, item),
            "seconds": result.seconds,
            "steps": result.steps,
            "threads": torch.get_num_threads(),
            "held-out": [result.before, result.after],
        }


def _show(phase: str, done: int, total: int) -> None:
    if total == 1 or (done % 50 == 0 and sys.stderr.isatty()):
        print(f"  {phase}", flush=True)


def _tell() -> Callable[[int, int], None]:
    start = time.perf_counter()

    def tell(done: int, total: int) -> None:
        if done % 21 == 0 and sys.stderr.isatty():
            print(f"  {done} of {total} layers, {time.perf_counter() - start:.0f} s", file=sys.stderr)

    return tell


def _zeros(dense: ir.Model, sparse: ir.Model, item: Sparsify) -> Json:
    """Share of zeros over the layers that the pattern was meant for."""
    found = {layer.name: layer for layer in zeros_of(sparse)[0]}
    layers = [found[layer.use.layer] for layer in item.layers(dense)[0]]
    sizes = [int(np.prod(layer.shape)) for layer in layers]
    zeros = sum(round(layer.zeros * size) for layer, size in zip(layers, sizes, strict=True))
    return {"zeros": zeros / sum(sizes), "layers": len(layers)}


def _read(path: Path) -> dict[str, Json]:
    return json.loads(path.read_text(encoding="utf-8"))["tasks"] if path.is_file() else {}


def _put(path: Path, place: tuple[str, str], cell: Json) -> None:
    """Add a cell, whole or not at all."""
    tasks = _read(path)
    tasks.setdefault(place[0], {})[place[1]] = cell
    names = ("sparsecc", "onnxruntime", "numpy", "torch")
    data = {"command": "make one-shot", "versions": {name: version(name) for name in names}, "tasks": tasks}
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
