"""`make gpu`: whole networks on an OpenCL device, and every kernel of theirs compiled for CUDA.

fp32 is compared with ONNX Runtime on the same network, 8 bits with the artifact of this machine. ptxas tells
registers, shared memory and spills of each kernel. Nothing is timed: PoCL, which runs OpenCL on a CPU, says
nothing of GPUs. Results are kept one by one, so that a run that was cut off goes on; docs/gpu.md has the
tables.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir

import sparsecc
from benchmarks.variants import (
    NAMES,
    Json,
    expected_of,
    feeds_of,
    relative_difference,
    run_all,
    variant_of,
)
from sparsecc.artifact.opencl import device_names
from sparsecc.targets.gpu.nvidia import kernel_uses
from sparsecc.targets.gpu.plan import LAUNCHES, parse_launches
from sparsecc.targets.registry import GPUS

RESULTS = Path(__file__).parent / "results" / "gpu.json"
PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
SHOWN = ("dense", "4x1 80 %", "unstructured 80 %", "int8 dense", "int8 4x4 80 %")
"""Variants; in 8 bits others than 4x4 run dense."""
ARCHITECTURES = GPUS["cuda"].architectures


def main() -> int:
    found = run_all(__doc__ or "", RESULTS, SHOWN, _variant)
    if found is not None:
        _write_page(found)
    return 0


def _variant(name: str, variant: str, rows: Json, save: Callable[[], None]) -> None:
    """All that is not known of one network."""
    if "opencl" in rows and "cuda" in rows:
        return
    model = variant_of(name, variant)
    with tempfile.TemporaryDirectory(prefix="sparsecc-gpu-") as work:
        folder = Path(work)
        if "opencl" not in rows:
            feeds = feeds_of(name, model)
            artifact = sparsecc.compile(model, "opencl", folder / "opencl.scc")
            with artifact.load() as session:
                found = session.run(feeds)
            expected = expected_of(model, variant, feeds, folder, lambda: _here(model, folder))
            launches = parse_launches((artifact.path / LAUNCHES).read_bytes())
            kernels = len({launch.kernel for launch in launches})
            sparse = sum("sparse" in layer.kernel for layer in artifact.report.layers)
            rows["opencl"] = {
                "relative": relative_difference(found, expected),
                "launches": len(launches),
                "kernels": kernels,
                "sparse": sparse,
                "layers": len(artifact.report.layers),
            }
            print(f"{name:18} {variant:20} opencl {rows['opencl']}", flush=True)
            save()
        if "cuda" not in rows:
            rows["cuda"] = _uses(sparsecc.compile(model, "cuda", folder / "cuda.scc").path)
            print(f"{name:18} {variant:20} cuda {len(rows['cuda'])} kernels", flush=True)
            save()


def _here(model: ir.Model, folder: Path) -> Path:
    return sparsecc.compile(model, "cpu", folder / "cpu.scc", measure=False).path


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
