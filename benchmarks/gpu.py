"""`make gpu`: whole networks on an OpenCL device, and every kernel of theirs compiled for CUDA.

fp32 is compared with ONNX Runtime on the same network, 8 bits with the artifact of this machine. ptxas tells
registers, shared memory and spills of each kernel. Nothing is timed: PoCL, which runs OpenCL on a CPU, says
nothing of GPUs. Results are kept one by one, so that a run that was cut off goes on; docs/gpu.md has the
tables.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

import sparsecc
from benchmarks.int8 import our_int8
from benchmarks.models import inputs_of, onnx_file
from sparsecc.artifact.opencl import device_names
from sparsecc.peers import OnnxRuntime
from sparsecc.targets.gpu.nvidia import kernel_uses
from sparsecc.targets.gpu.plan import LAUNCHES, parse_launches
from sparsecc.targets.registry import GPUS

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
NAMES = ("mobilenet-v1", "mobilenet-v2", "efficientnet-lite0", "minilm")
VARIANTS: dict[str, tuple[int, str]] = {
    "dense": (32, "dense"),
    "4x1 80 %": (32, "4x1"),
    "unstructured 80 %": (32, "unstructured"),
    "int8 dense": (8, "dense"),
    "int8 4x4 80 %": (8, "4x4"),
}
"""Bits and pattern."""
SPARSITY = 0.8
ARCHITECTURES = GPUS["cuda"].architectures
Array = npt.NDArray[Any]
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(NAMES)}; all by default")
    parser.add_argument("--results", type=Path, default=RESULTS, help="what was found so far (%(default)s)")
    parser.add_argument("--again", action="store_true", help="forget what was found before")
    args = parser.parse_args()
    unknown = [name for name in args.models if name not in NAMES]
    if unknown:
        parser.error(f"there is no model {', '.join(unknown)}; models are {', '.join(NAMES)}")
    found: Json = {} if args.again or not args.results.exists() else json.loads(args.results.read_text())
    for name in args.models or NAMES:
        for variant in VARIANTS:
            rows = found.setdefault(name, {}).setdefault(variant, {})
            _variant(name, variant, rows, lambda: _save(found, args.results))
    if not args.models:
        _write_page(found)
    return 0


def _save(found: Json, path: Path) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def _variant(name: str, variant: str, rows: Json, save: Callable[[], None]) -> None:
    """All that is not known of one network."""
    if "opencl" in rows and "cuda" in rows:
        return
    bits, pattern = VARIANTS[variant]
    model = our_int8(name, pattern, SPARSITY) if bits == 8 else _sparse(name, pattern)
    with tempfile.TemporaryDirectory(prefix="sparsecc-gpu-") as work:
        folder = Path(work)
        if "opencl" not in rows:
            feeds = dict(zip([v.name or "" for v in model.graph.inputs], inputs_of(name), strict=True))
            artifact = sparsecc.compile(model, "opencl", folder / "opencl.scc")
            with artifact.load() as session:
                difference = _difference(session.run(feeds), _expected(model, feeds, bits, folder))
            launches = parse_launches((artifact.path / LAUNCHES).read_bytes())
            kernels = len({launch.kernel for launch in launches})
            sparse = sum("sparse" in layer.kernel for layer in artifact.report.layers)
            rows["opencl"] = {
                "relative": difference, "launches": len(launches), "kernels": kernels, "sparse": sparse,
                "layers": len(artifact.report.layers),
            }  # fmt: skip
            print(f"{name:18} {variant:20} opencl {rows['opencl']}", flush=True)
            save()
        if "cuda" not in rows:
            rows["cuda"] = _uses(sparsecc.compile(model, "cuda", folder / "cuda.scc").path)
            print(f"{name:18} {variant:20} cuda {len(rows['cuda'])} kernels", flush=True)
            save()


def _sparse(name: str, pattern: str) -> ir.Model:
    model = sparsecc.capture(onnx_file(name))
    return model if pattern == "dense" else sparsecc.sparsify(model, pattern, SPARSITY).model


def _expected(model: ir.Model, feeds: Mapping[str, Array], bits: int, folder: Path) -> dict[str, Array]:
    if bits == 8:
        with sparsecc.compile(model, "cpu", folder / "cpu.scc", measure=False).load() as session:
            return session.run(feeds)
    file = folder / "model.onnx"
    ir.save(model, file)
    return OnnxRuntime(file, threads=1).run(feeds)


def _difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> float:
    """Largest difference over the largest value."""
    return max(
        float(np.abs(found[name].astype(np.float64) - array).max() / np.abs(array).max())
        for name, array in expected.items()
    )


def _uses(artifact: Path) -> Json:
    """What ptxas gives each kernel, by architecture; `shared` in bytes of a group, `local` of a thread."""
    source = (artifact / GPUS["cuda"].source).read_text(encoding="utf-8")
    found: Json = {}
    for architecture in ARCHITECTURES:
        for use in kernel_uses(source, architecture):
            found.setdefault(use.kernel, {})[architecture] = {
                "registers": use.registers,
                "shared": use.shared_bytes,
                "local": use.stack_bytes + use.spill_bytes,
            }  # fmt: skip
    return found


def as_tables(found: Json) -> str:
    """The differences, and what ptxas says by family of kernels, in Markdown."""
    lines = [
        "| network | | sparse layers | kernels | launches | largest difference |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in NAMES:
        for variant, rows in found[name].items():
            row = rows["opencl"]
            share = f"{row['sparse']} of {row['layers']}"
            cells = [
                name,
                variant,
                share,
                str(row["kernels"]),
                str(row["launches"]),
                f"{row['relative']:.1e}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    kernels: Json = {}
    for rows in found.values():
        for row in rows.values():
            kernels |= row["cuda"]
    heads = " | ".join(f"{a}: registers | shared | local" for a in ARCHITECTURES)
    lines += ["", f"| kernels of | | {heads} |", f"|---|---:|{'---:|' * 3 * len(ARCHITECTURES)}"]
    for family in sorted({symbol.rpartition("_")[0] for symbol in kernels}):
        members = [uses for symbol, uses in kernels.items() if symbol.rpartition("_")[0] == family]
        cells: list[str] = []
        for architecture in ARCHITECTURES:
            uses = [member[architecture] for member in members]
            cells += [_range(u["registers"] for u in uses), _range(u["shared"] for u in uses)]
            cells.append(str(sum(u["local"] for u in uses)))
        lines.append(f"| `{family}` | {len(members)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _range(values: Any) -> str:
    found = sorted(values)
    return str(found[0]) if found[0] == found[-1] else f"{found[0]}-{found[-1]}"


def _write_page(found: Json) -> None:
    begin, end = "<!-- begin: make gpu -->", "<!-- end: make gpu -->"
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "apache-tvm", "pyopencl"))
    platform = device_names()[0].partition(":")[0]
    text = f"{begin}\n{as_tables(found)}\n\n`make gpu`; {versions}; {platform}.\n{end}"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(f"{begin}.*{end}", lambda _: text, page, flags=re.DOTALL), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
