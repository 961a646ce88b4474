"""Networks that `make targets` and `make gpu` run, dense and sparse, in fp32 and 8 bits."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import sparsecc
from benchmarks.int8 import our_int8
from benchmarks.models import inputs_of, onnx_file
from sparsecc.peers import OnnxRuntime

NAMES = ("mobilenet-v1", "mobilenet-v2", "efficientnet-lite0", "minilm")
VARIANTS: dict[str, tuple[int, str]] = {
    "dense": (32, "dense"),
    "4x1 80 %": (32, "4x1"),
    "unstructured 80 %": (32, "unstructured"),
    "int8 dense": (8, "dense"),
    "int8 4x4 80 %": (8, "4x4"),
    "int8 unstructured 80 %": (8, "unstructured"),
}
"""Bits and pattern; a word of codes holds four channels, so blocks of 8 bits are four wide."""
SPARSITY = 0.8
Array = npt.NDArray[Any]
Json = dict[str, Any]
Measure = Callable[[str, str, Json, Callable[[], None]], None]
"""Called with a network's name, a variant, what is known of it, and what saves all that is known."""


def run_all(text: str, results: Path, variants: tuple[str, ...], measure: Measure) -> Json | None:
    """A command line over networks; what was found, or None where only some networks were asked for."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--results", type=Path, default=results, help="what was found so far (%(default)s)")
    parser.add_argument("--again", action="store_true", help="forget what was found before")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in NAMES]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(NAMES)}")
    found: Json = {} if args.again or not args.results.exists() else json.loads(args.results.read_text())

    def save() -> None:
        temporary = args.results.with_suffix(".part")
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        temporary.replace(args.results)

    for name in args.models or NAMES:
        for variant in variants:
            measure(name, variant, found.setdefault(name, {}).setdefault(variant, {}), save)
    return None if args.models else found


def variant_of(name: str, variant: str) -> ir.Model:
    """The network."""
    bits, pattern = VARIANTS[variant]
    if bits == 8:
        return our_int8(name, pattern, SPARSITY)
    model = sparsecc.capture(onnx_file(name))
    return model if pattern == "dense" else sparsecc.sparsify(model, pattern, SPARSITY).model


def feeds_of(name: str, model: ir.Model) -> dict[str, Array]:
    """Inputs by name."""
    return dict(zip([value.name or "" for value in model.graph.inputs], inputs_of(name), strict=True))


def expected_of(
    model: ir.Model, variant: str, feeds: Mapping[str, Array], folder: Path, here: Callable[[], Path]
) -> dict[str, Array]:
    """What ONNX Runtime computes, or with 8 bits the artifact of this machine, which `here` makes."""
    if VARIANTS[variant][0] == 8:
        with sparsecc.load(here()) as session:
            return session.run(feeds)
    file = folder / "model.onnx"
    ir.save(model, file)
    return OnnxRuntime(file, threads=1).run(feeds)


def relative_difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Largest difference over the largest value."""
    return max(
        float(np.abs(found[name].astype(np.float64) - array).max() / np.abs(array).max())
        for name, array in expected.items()
    )
