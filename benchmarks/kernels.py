"""`make bench-kernels`: single layers beside ONNX Runtime's own kernel on the dense layer.

ONNX Runtime's time is that of the node alone, by its profiler, which counts whole microseconds and leaves
out its changes of layout; ours is that of the layer's kernel calls, the split of a strided convolution's
input included. One core, batch 1, in turns, both sides in fp32 or both in 8 bits. The table gives medians
over the layers of a row.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import numpy_helper

import sparsecc
from benchmarks.kernel_codes import codes_apart, in_8_bits
from benchmarks.kernel_layers import FAMILIES, LAYER, Family, Shape
from benchmarks.peak import peak_flops
from benchmarks.roofline import draw
from sparsecc.ir.evaluate import evaluate
from sparsecc.timing import pinned

RESULTS = Path(__file__).parent / "results" / "kernels.json"
TURNS, BLOCK, WARM_UP = 5, 8, 3
TOLERANCE = 1e-4
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [family.name for family in FAMILIES]
    parser.add_argument("families", nargs="*", metavar="ROW", help="words of its name; all by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the figures (%(default)s)")
    args = parser.parse_args()
    chosen = [f for f in FAMILIES if not args.families or any(word in f.name for word in args.families)]
    if not chosen:
        parser.error(f"no row has these words; rows are {', '.join(names)}")
    peak = peak_flops()
    print(f"multiply-adds in registers reach {peak * 1e-9:.0f} GFLOP/s on this core", flush=True)
    rows: list[Json] = []
    for family in chosen:
        for pattern, percent in _cells(family):
            found = [measure(shape, pattern, percent, peak, family.bits) for shape in family.shapes]
            times = statistics.median(row["times_faster"] for row in found)
            goal = family.goals[pattern][percent]
            rows.append(
                {"family": family.name, "pattern": pattern, "percent": percent, "goal": goal,
                 "median": times, "layers": found}
            )  # fmt: skip
            print(f"{family.name:32} {pattern:12} {percent:3} %  {times:6.2f}  asked {goal:g}", flush=True)
    data = {
        "command": "make bench-kernels",
        "peak_gflops": peak * 1e-9,
        "load_average": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("sparsecc", "onnxruntime", "apache-tvm")},
        "rows": rows,
    }
    args.results.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    floats = [row for row, family in zip(rows, _families(rows), strict=True) if family.bits == 32]
    if floats:
        draw(floats, peak * 1e-9, args.results.with_name(f"{args.results.stem}-roofline.png"))
    layers = [layer for row in rows for layer in row["layers"]]
    wrong = [layer["label"] for layer in layers if not layer["difference"] <= TOLERANCE]
    print(f"\n{as_table(rows)}\n\nwrote {args.results}; wrong: {', '.join(wrong) or 'none'}")
    return 1 if wrong else 0


def _families(rows: list[Json]) -> list[Family]:
    by_name = {family.name: family for family in FAMILIES}
    return [by_name[row["family"]] for row in rows]


def _cells(family: Family) -> Iterator[tuple[str, int]]:
    for pattern, goals in family.goals.items():
        for percent in goals:
            yield pattern, percent


def measure(shape: Shape, pattern: str, percent: int, peak: float, bits: int) -> Json:
    """One layer in one pattern beside the dense one.

    Returns:
        label, kernel, zeros, ours_us, theirs_us, times_faster, peak_share: multiply-adds with nonzero weights
        over what the core could do in fp32 in that time, and difference: to ONNX Runtime on the same sparse
        layer, over the largest value, or with 8 bits the share of results that are another code.
    """
    proto = shape.model()
    model = sparsecc.capture(proto)
    if pattern != "dense":
        sparsity = None if ":" in pattern else percent / 100
        model = sparsecc.sparsify(model, pattern, sparsity, min_size=0).model
    if bits == 8:
        weight = model.graph.initializers["w"].const_value
        assert weight is not None
        dense = next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == "w")
        model = sparsecc.capture(in_8_bits(proto, weight.numpy()))
        proto = in_8_bits(proto, dense)
    with tempfile.TemporaryDirectory(prefix="sparsecc-kernels-") as name:
        folder = Path(name)
        artifact = sparsecc.compile(model, out=folder / "layer.scc", measure=False)
        (layer,) = artifact.report.layers
        rng = np.random.default_rng(1)
        inputs = {s.name: rng.standard_normal(s.shape).astype(np.float32) for s in artifact.manifest.inputs}
        with pinned(1), artifact.load(threads=1) as session:
            other = _Profiled(proto.SerializeToString(), folder)
            ours: list[float] = []
            for _ in range(TURNS):
                for _ in range(WARM_UP):
                    session.run(inputs)
                for _ in range(BLOCK):
                    steps = session.profile(inputs)
                    ours.append(sum(steps[index][2] for index in layer.steps))
                for _ in range(WARM_UP + BLOCK):
                    other.run(inputs)
            theirs = other.seconds()
            (expected,) = evaluate(model, inputs).values()
            (found,) = session.run(inputs).values()
    seconds = statistics.median(ours)
    nonzero = shape.flops * (1 - layer.zeros)
    return {
        "label": shape.label,
        "kernel": layer.kernel,
        "zeros": layer.zeros,
        "ours_us": seconds * 1e6,
        "theirs_us": theirs * 1e6,
        "times_faster": theirs / seconds,
        "peak_share": nonzero / seconds / peak,
        "difference": _difference(found, expected, bits),
    }


def _difference(found: np.ndarray, expected: np.ndarray, bits: int) -> float:
    """As `measure` has it; codes may be neighbours."""
    if bits == 8:
        largest, share = codes_apart(found, expected)
        return share if largest <= 1 else 1.0
    return float(np.abs(found - expected).max() / np.abs(expected).max())


class _Profiled:
    """ONNX Runtime on one thread with its profiler on."""

    def __init__(self, model: bytes, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])

    def run(self, inputs: Json) -> None:
        self._session.run(None, inputs)

    def seconds(self) -> float:
        """Mean of the middle half of the layer's kernel times; ends the profile."""
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        kernels = ("Conv", "Gemm", "MatMul")
        times = sorted(
            event["dur"] * 1e-6
            for event in events
            if event["name"].endswith("_kernel_time") and event["args"]["op_name"].endswith(kernels)
        )
        assert times, f"ONNX Runtime's profile has no kernel of {LAYER}"
        quarter = len(times) // 4
        return statistics.fmean(times[quarter : len(times) - quarter])


def as_table(rows: list[Json]) -> str:
    """Medians in Markdown: times faster (asked for), a row per family and pattern."""
    percents = sorted({row["percent"] for row in rows})
    lines = [
        f"| layers | pattern | {' | '.join(f'{p} %' for p in percents)} |",
        f"|---|---|{'---:|' * len(percents)}",
    ]
    keys = dict.fromkeys((row["family"], row["pattern"]) for row in rows)
    for family, pattern in keys:
        cells = {r["percent"]: r for r in rows if (r["family"], r["pattern"]) == (family, pattern)}
        texts = [f"{cells[p]['median']:.2f} ({cells[p]['goal']:g})" if p in cells else "" for p in percents]
        lines.append(f"| {family} | {pattern} | {' | '.join(texts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
