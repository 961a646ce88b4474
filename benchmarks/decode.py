"""`make decode`: the linear layers of a language model, one token at a time, beside ONNX Runtime.

SmolLM2-135M's real weights (the package that the Makefile installs): for each of 30 layers the products of
queries, keys, values and output, gate, up and down, 425 MB in float32, far more than the L3 cache holds. What
lies between them is cheap and stands for attention: a sum, a ReLU and a product, a normalisation. One core,
batch 1, in turns. ONNX Runtime runs the dense float32 layers, and the dense int8 ones of `sparsecc quantize`
in its own way, with activations of 8 bits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

import sparsecc
from benchmarks.accuracy_smollm2 import pretrained
from sparsecc.ir.evaluate import evaluate
from sparsecc.passes import Pipeline
from sparsecc.peers import OnnxRuntime
from sparsecc.timing import interleave, pinned

RESULTS = Path(__file__).parent / "results" / "decode.json"
PATTERNS: dict[str, tuple[str, float] | None] = {
    "dense": None,
    "unstructured 50 %": ("unstructured", 0.5),
    "unstructured 70 %": ("unstructured", 0.7),
    "unstructured 80 %": ("unstructured", 0.8),
    "16x1 70 %": ("16x1", 0.7),
    "1x32 50 %": ("1x32", 0.5),
}
PRECISIONS = {"dense": ("float32", "bfloat16", "int8", "int4"), "1x32 50 %": ("int4",)}
"""Others are float32, bfloat16 and int8."""
TOLERANCE = 1e-4
WORSE = 4
"""Rounding grows over 60 normalisations: errors up to so many times ONNX Runtime's own are rounding."""
Json = dict[str, Any]


class Chain(nn.Module):
    """The linear layers of a Llama, each fed by the ones before it; [1, width] in and out."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1:]
        for layer in self.layers:
            attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
            q, k, v, o = (attention.get_submodule(f"{name}_proj") for name in "qkvo")
            gate, up, down = (mlp.get_submodule(f"{name}_proj") for name in ("gate", "up", "down"))
            mixed = q(x) + torch.cat([k(x), v(x), k(x)], dim=-1)
            x = nn.functional.layer_norm(x + o(mixed), width)
            x = nn.functional.layer_norm(x + down(torch.relu(gate(x)) * up(x)), width)
        return x


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=40, help="of each side (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    model = _capture()
    rng = np.random.default_rng(0)
    inputs = {model.graph.inputs[0].name or "": rng.standard_normal((1, 576)).astype(np.float32)}
    rows: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="sparsecc-decode-") as name:
        folder = Path(name)
        dense, small = folder / "dense.onnx", folder / "int8.onnx"
        ir.save(model, dense)
        ir.save(sparsecc.quantize(model).model, small)
        for pattern, options in PATTERNS.items():
            sparse = model if options is None else sparsecc.sparsify(model, *options).model
            for precision in PRECISIONS.get(pattern, ("float32", "bfloat16", "int8")):
                row = _row(sparse, precision, inputs, (dense, small), folder / "m.scc", args.runs)
                rows.append({"pattern": pattern, **row})
                print(
                    f"{pattern:18} {precision:8} {row['ours_ms']:7.2f} ms  x float32 {row['to_float32']:.3f}"
                    f"  x int8 {row['to_int8']:.3f}",
                    flush=True,
                )
    data = {
        "command": "make decode",
        "load_average": os.getloadavg()[0],
        "versions": {package: version(package) for package in ("sparsecc", "onnxruntime", "apache-tvm")},
        "rows": rows,
    }
    args.results.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    wrong = [
        f"{r['pattern']} {r['precision']}"
        for r in rows
        if not r["error"] <= max(TOLERANCE, WORSE * r["error_of_onnxruntime"])
    ]
    print(f"\n{as_table(rows)}\n\nwrote {args.results}; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def _capture() -> ir.Model:
    model = pretrained()
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    return sparsecc.capture(Chain(layers).eval(), torch.zeros(1, 576))


def _row(
    model: ir.Model, precision: str, inputs: Json, peers: tuple[Path, Path], out: Path, runs: int
) -> Json:
    """One pattern in one precision: times, ratios to both peers, errors to what the nodes say."""
    if precision != "float32":
        model = sparsecc.quantize(model, int(precision.lstrip("bfloatin"))).model
    artifact = sparsecc.compile(model, out=out, overwrite=True)
    with pinned(1), artifact.load(threads=1) as session:
        others = [OnnxRuntime(path, 1) for path in peers]
        sides = {"ours": lambda: session.run(inputs)}
        for key, other in zip(("float32", "int8"), others, strict=True):
            sides[key] = lambda other=other: other.run(inputs)
        times = interleave(sides, runs)
        (found,) = session.run(inputs).values()
    (other,) = evaluate(model, inputs).values()
    (exact,) = _in_float64(model, inputs)
    ours = times["ours"].median
    return {
        "precision": precision,
        "ours_ms": ours * 1e3,
        "float32_ms": times["float32"].median * 1e3,
        "int8_ms": times["int8"].median * 1e3,
        "to_float32": ours / times["float32"].median,
        "to_int8": ours / times["int8"].median,
        "weights_bytes": artifact.manifest.weights_bytes,
        "error": float(np.abs(found - exact).max() / np.abs(exact).max()),
        "error_of_onnxruntime": float(np.abs(other - exact).max() / np.abs(exact).max()),
        "kernels": sorted({layer.kernel for layer in artifact.report.layers}),
    }


def _in_float64(model: ir.Model, inputs: Json) -> tuple[np.ndarray, ...]:
    """The outputs of what the nodes say, computed in float64."""
    copy = model.clone()
    Pipeline.parse("fold-dequantize").run(copy)
    module = sparsecc.to_torch(copy).double()
    with torch.no_grad():
        found = module(*(torch.from_numpy(array).double() for array in inputs.values()))
    return tuple(t.numpy() for t in (found if isinstance(found, tuple) else (found,)))


def as_table(rows: list[Json]) -> str:
    """Ratios in Markdown: a row per pattern and precision."""
    lines = [
        "| pattern | weights | MB | time / ONNX Runtime float32 | time / ONNX Runtime int8 |",
        "|---|---|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['pattern']} | {row['precision']} | {row['weights_bytes'] / 1e6:.0f} | "
            f"{row['to_float32']:.2f} | {row['to_int8']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
