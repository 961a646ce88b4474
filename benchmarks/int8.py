"""The networks in 8 bits, weights and activations: ours and ONNX Runtime's, calibrated on the same inputs.

`make int8-peers` times the ways in which ONNX Runtime quantises beside its fp32, to find the fastest peer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

import sparsecc
from benchmarks.models import ONNX_FOLDER, inputs_of, onnx_file
from sparsecc.timing import interleave, pinned

RESULTS = Path(__file__).parent / "results" / "int8-peers.json"
NAMES = ("mobilenet-v1", "mobilenet-v2", "resnet-50", "minilm", "bert-base")
LINEAR = ("MatMul", "Gemm")
STATIC = "static"
Json = dict[str, Any]

SAMPLES = 4
"""Calibration inputs; random ones, as speed does not depend on the ranges."""


@dataclass(frozen=True)
class Kind:
    """How ONNX Runtime quantises; int8 weights always.

    Attributes:
        suffix: of the file.
        signed: activations are int8, not uint8.
        prepared: `quant_pre_process` runs first, as the documentation says.
        linear: only products by constants are quantised, not all ops that can be.
        dynamic: ranges of activations are found at run time, which needs no calibration.
    """

    suffix: str
    signed: bool = False
    prepared: bool = True
    linear: bool = False
    dynamic: bool = False


KINDS = {
    STATIC: Kind("u8"),
    "static, not prepared": Kind("u8-raw", prepared=False),
    "static, signed": Kind("s8", signed=True),
    "static, products only": Kind("u8-linear", linear=True),
    "dynamic": Kind("dynamic", dynamic=True),
}
FASTEST = {"minilm": "dynamic"}
"""The fastest kind of a network by `make int8-peers` where that is not static."""


class _Reader(CalibrationDataReader):
    """Samples as ONNX Runtime asks for them."""

    def __init__(self, batches: list[dict[str, np.ndarray]]) -> None:
        self._left = list(batches)

    def get_next(self) -> Any:
        return self._left.pop(0) if self._left else None


def samples_of(name: str) -> Iterator[list[np.ndarray]]:
    """The example inputs, and others like them."""
    first = inputs_of(name)
    yield first
    generator = np.random.default_rng(1)
    for _ in range(SAMPLES - 1):
        yield [
            generator.standard_normal(array.shape, dtype=np.float32)
            if array.dtype == np.float32
            else np.where(array > 1, generator.integers(1000, 20000, array.shape), array)
            for array in first
        ]


def our_int8(name: str, pattern: str = "dense", sparsity: float = 0.0) -> ir.Model:
    """Captured, made sparse unless `pattern` is dense, and quantised on calibration data, for speed."""
    model = sparsecc.capture(onnx_file(name))
    if pattern != "dense":
        model = sparsecc.sparsify(model, pattern, None if ":" in pattern else sparsity).model
    names = [value.name or "" for value in model.graph.inputs]
    batches = [dict(zip(names, arrays, strict=True)) for arrays in samples_of(name)]
    return sparsecc.quantize(model, calibration=sparsecc.Calibration(batches)).model


def ort_int8_file(name: str, kind: str | None = None) -> Path:
    """The network as ONNX Runtime's own quantiser writes it; kept in build/.

    Args:
        name: of the network.
        kind: of `KINDS`; None is the one that `FASTEST` names.
    """
    made = KINDS[kind or FASTEST.get(name, STATIC)]
    path = ONNX_FOLDER / f"{name}-ort-{made.suffix}.onnx"
    if path.exists():
        return path
    file = onnx_file(name)
    with tempfile.TemporaryDirectory(prefix="sparsecc-int8-") as folder:
        source, target = file, Path(folder) / "int8.onnx"
        if made.prepared:
            source = Path(folder) / "prepared.onnx"
            quant_pre_process(file, source)
        if made.dynamic:
            quantize_dynamic(source, target, weight_type=QuantType.QInt8)
        else:
            names = [value.name for value in onnx.load(file, load_external_data=False).graph.input]
            batches = [dict(zip(names, arrays, strict=True)) for arrays in samples_of(name)]
            quantize_static(
                source, target, _Reader(batches), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QInt8 if made.signed else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(LINEAR) if made.linear else None,
                extra_options={"MatMulConstBOnly": made.linear},
            )  # fmt: skip
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(target.read_bytes())
        temporary.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--runs", type=int, default=60, help="of each side (%(default)s)")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in NAMES]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(NAMES)}")
    data: Json = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    data |= {
        "command": "make int8-peers",
        "onnxruntime": version("onnxruntime"),
        "load_average": os.getloadavg()[0],
    }
    for name in args.models or NAMES:
        rows = _times(name, args.runs)
        data.setdefault("models", {})[name] = rows
        for kind, row in rows.items():
            print(f"{name:14} {kind:24} {row['median_ms']:8.2f} ms  x fp32 {row['to_fp32']:.2f}", flush=True)
            print(f"{'':14} {row['difference']:.3f} from fp32; {row['ops']}", flush=True)
        RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _times(name: str, runs: int) -> Json:
    """Each kind beside fp32, one core, in turns: times, the ops that ran, the distance from fp32."""
    feeds = inputs_of(name)
    sides: dict[str, Callable[[], np.ndarray]] = {}
    ops: dict[str, dict[str, int]] = {}
    for kind in ("fp32", *KINDS):
        file = onnx_file(name) if kind == "fp32" else ort_int8_file(name, kind)
        run, ops[kind] = _session(file, feeds)
        sides[kind] = run
    with pinned(1):
        reference = sides["fp32"]()
        scale = float(np.linalg.norm(reference))
        errors = {kind: float(np.linalg.norm(run() - reference)) / scale for kind, run in sides.items()}
        found = interleave(sides, runs)
    return {
        kind: {
            "median_ms": 1e3 * timing.median,
            "fastest_ms": 1e3 * timing.fastest,
            "to_fp32": timing.median / found["fp32"].median,
            "fastest_to_fp32": timing.fastest / found["fp32"].fastest,
            "difference": errors[kind],
            "ops": ops[kind],
        }
        for kind, timing in found.items()
    }


def _session(file: Path, feeds: list[np.ndarray]) -> tuple[Callable[[], np.ndarray], dict[str, int]]:
    """A run of one thread, and how many nodes of each op ONNX Runtime made of the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="sparsecc-int8-") as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
        ops = Counter(node.op_type for node in nodes)
    names = [item.name for item in session.get_inputs()]
    inputs = dict(zip(names, feeds, strict=True))
    return lambda: np.asarray(session.run(None, inputs)[0]), dict(ops)


if __name__ == "__main__":
    main()
