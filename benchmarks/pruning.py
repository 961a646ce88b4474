"""`make pruning`: are pruned networks faster by what their FLOPs say, and how long does the analysis take?

Speed: pruned and dense compiled alike, one core, in turns in one process. Scaling: Llama layers of one
width, whose analysis must take time in proportion to its nodes. Writes benchmarks/results/pruning.json
and a picture.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

import sparsecc
from benchmarks.models import onnx_file
from sparsecc.axes.analysis import analyse
from sparsecc.latency import MeasuredLatency
from sparsecc.pruner import verify

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("mobilenet-v1", "mobilenet-v2", "efficientnet-lite0", "resnet-18", "resnet-50", "minilm")
FLOPS = (0.75, 0.5, 0.25)
LANES = 16
LAYERS = (2, 4, 8, 16, 32)
REPEATS = 5
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all if none"
    )
    parser.add_argument("--gpt2", metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.gpt2:
        print(json.dumps(prune_large(Path(args.gpt2))))
        return 0
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    found: Json = {
        "speed": [row for name in args.networks or NETWORKS for row in speed(name)],
        "latency": [latency(name) for name in args.networks or NETWORKS],
        "scaling": scaling(),
        "gpt2": gpt2(),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "pruning.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found["scaling"], RESULTS / "analysis.png")
    return 0


def speed(name: str) -> list[Json]:
    """Time over dense for several budgets of FLOPs."""
    model = sparsecc.capture(onnx_file(name))
    rows: list[Json] = []
    with MeasuredLatency(model) as clock:
        for share in FLOPS:
            result = sparsecc.prune(model, target={"flops": share}, round_to=LANES)
            time_share = clock.share(result.model)
            flops = result.after.flops / result.before.flops
            rows.append(
                {
                    "network": name,
                    "flops": flops,
                    "parameters": result.after.parameters / result.before.parameters,
                    "time": time_share,
                    "speedup_over_flops": flops / time_share,
                    "difference": verify(model, result).difference,
                }
            )
            print(
                f"{name:20} FLOPs {flops:.3f}  time {time_share:.3f}  "
                f"speed-up / FLOPs ratio {flops / time_share:.2f}",
                flush=True,
            )
    return rows


def latency(name: str) -> Json:
    """A budget of half of the dense time, measured again afterwards."""
    model = sparsecc.capture(onnx_file(name))
    result = sparsecc.prune(model, target={"latency": 0.5}, round_to=LANES)
    with MeasuredLatency(model) as clock:
        again = clock.share(result.model)
    print(
        f"{name:20} latency 0.5: reached {result.latency_share:.3f}, measured again {again:.3f}", flush=True
    )
    return {"network": name, "reached": result.latency_share, "again": again}


class _Logits(torch.nn.Module):
    """A decoder without its cache."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def scaling() -> list[Json]:
    """Seconds of the analysis against nodes: medians, the sizes in turns."""
    from transformers import LlamaConfig, LlamaForCausalLM

    models: dict[int, ir.Model] = {}
    for layers in LAYERS:
        config = LlamaConfig(
            num_hidden_layers=layers,
            hidden_size=64,
            intermediate_size=96,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=60,
        )
        module = LlamaForCausalLM(config).eval()
        models[layers] = sparsecc.capture(_Logits(module), (torch.ones(1, 8, dtype=torch.int64),))
    times: dict[int, list[float]] = {layers: [] for layers in LAYERS}
    for turn in range(REPEATS + 1):
        for layers, model in models.items():
            start = time.perf_counter()
            analyse(model)
            if turn:
                times[layers].append(time.perf_counter() - start)
    rows = [
        {"layers": layers, "nodes": len(model.graph), "seconds": float(np.median(times[layers]))}
        for layers, model in models.items()
    ]
    for row in rows:
        print(f"Llama, {row['layers']:2} layers: {row['nodes']} nodes, {row['seconds']:.3f} s", flush=True)
    return rows


def gpt2() -> Json:
    """Analysis and pruning of a GPT-2 of 124 M parameters in a process of its own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gpt2.onnx"
        model = sparsecc.capture(
            _Logits(GPT2LMHeadModel(GPT2Config()).eval()), (torch.ones(1, 16, dtype=torch.int64),)
        )
        ir.save(model, file, external_data="gpt2.data")
        del model
        command = [sys.executable, "-m", "benchmarks.pruning", "--gpt2", str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Json = json.loads(done.stdout.splitlines()[-1])
    print(f"GPT-2: {found}", flush=True)
    return found


def prune_large(file: Path) -> Json:
    """Seconds and peak memory over that of the model itself, imports not counted."""
    for module in ("onnxruntime", "sparsecc.pruner"):  # imports are no work
        importlib.import_module(module)
    before = _peak_bytes()
    start = time.perf_counter()
    model = sparsecc.capture(file)
    result = sparsecc.prune(model, target={"parameters": 0.5})
    seconds = time.perf_counter() - start
    return {
        "parameters": result.before.parameters,
        "seconds": round(seconds, 2),
        "peak_over_model": round((_peak_bytes() - before) / result.before.bytes, 2),
    }


def _peak_bytes() -> int:
    """Peak memory of this process so far; unlike getrusage's it does not begin with that of the parent."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def draw(rows: list[Json], path: Path) -> None:
    """Seconds against nodes."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2))
    nodes = [row["nodes"] for row in rows]
    axes.plot(nodes, [row["seconds"] for row in rows], "o-")
    axes.set_xlabel("nodes")
    axes.set_ylabel("seconds of analysis")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_title("Llama, 2 to 32 layers")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    sys.exit(main())
