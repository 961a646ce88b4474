"""`make targets`: whole networks under emulators, in Node, in wasmtime and in headless Chromium.

fp32 is compared with ONNX Runtime on the same network, 8 bits with the artifact of this machine. On AArch64
and in WebAssembly the instructions of a run are counted, dense and sparse, and the libraries are measured.
Results are kept one by one, so that a run that was cut off goes on; docs/targets.md has the tables.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

import sparsecc
from benchmarks.runners import RUNNERS, instructions
from benchmarks.variants import (
    NAMES,
    VARIANTS,
    Array,
    Json,
    expected_of,
    feeds_of,
    relative_difference,
    run_all,
    variant_of,
)
from sparsecc.compiler import Artifact

RESULTS = Path(__file__).parent / "results" / "targets.json"
PAGE = Path(__file__).parents[1] / "docs" / "targets.md"
COUNTED = {
    "arm64-linux": ("arm64-linux", "AArch64", "qemu-aarch64 -cpu cortex-a53"),
    "arm64-linux, SDOT": ("arm64-linux", "with SDOT", "qemu-aarch64 -cpu cortex-a76"),
    "wasm32": ("wasm32", "WebAssembly", ""),
}
"""Name in the results -> target, what the table calls it, and the emulator."""


def main() -> int:
    found = run_all(__doc__ or "", RESULTS, tuple(VARIANTS), _variant)
    if found is not None:
        _write_page(found)
    return 0


def _variant(name: str, variant: str, rows: Json, save: Callable[[], None]) -> None:
    """All that is not known of one network."""
    wanted = [*RUNNERS, *COUNTED]
    if all(key in rows for key in wanted):
        return
    model = variant_of(name, variant)
    feeds = feeds_of(name, model)
    with tempfile.TemporaryDirectory(prefix="sparsecc-targets-") as folder:

        @cache
        def artifact(target: str) -> Artifact:
            return sparsecc.compile(model, target, Path(folder) / f"{target}.scc", measure=False)

        expected = expected_of(model, variant, feeds, Path(folder), lambda: artifact("cpu").path)
        for runner, (target, run) in RUNNERS.items():
            if runner not in rows:
                rows[runner] = _difference(run(artifact(target).path, feeds), expected)
                print(f"{name:18} {variant:22} {runner:14} {_cell(rows[runner])}", flush=True)
                save()
        for place, (target, _, emulator) in COUNTED.items():
            if place not in rows:
                count = instructions(artifact(target).path, feeds, emulator)
                rows[place] = {"instructions": count, **_library(artifact(target))}
                print(f"{name:18} {variant:22} {place:14} {rows[place]}", flush=True)
                save()


def _difference(found: Mapping[str, Array], expected: Mapping[str, Array]) -> Json:
    """Largest difference over the largest value, and whether all bits are equal."""
    return {
        "relative": relative_difference(found, expected),
        "equal": all(np.array_equal(found[name], array) for name, array in expected.items()),
    }


def _library(artifact: Artifact) -> Json:
    """Bytes of the library without weights, and what it takes from others."""
    path = artifact.path / artifact.manifest.library
    undefined: list[str] = []
    if path.suffix == ".so" and shutil.which("readelf"):
        text = subprocess.run(
            ["readelf", "-W", "--dyn-syms", str(path)], check=True, capture_output=True, text=True
        ).stdout
        undefined = sorted({match[1] for match in re.finditer(r" GLOBAL .* UND (\w+)", text)})
    return {"bytes": path.stat().st_size, "undefined": undefined}


# --- tables ---------------------------------------------------------------------------------------------


def _cell(row: Json) -> str:
    return "equal" if row["equal"] else f"{row['relative']:.1e}"


def as_tables(found: Json) -> str:
    """The differences, and the counted instructions, in Markdown."""
    lines = [f"| network | | {' | '.join(RUNNERS)} |", f"|---|---|{'---:|' * len(RUNNERS)}"]
    for name in NAMES:
        for variant, rows in found[name].items():
            cells = " | ".join(_cell(rows[runner]) for runner in RUNNERS)
            lines.append(f"| {name} | {variant} | {cells} |")
    heads: list[str] = []
    for place, (target, kind, _) in COUNTED.items():
        sizes = ["kB"] if place == target else []  # one library, whatever runs it
        heads += [f"{kind}, {what}" for what in ("10^6 instructions", "of dense", *sizes)]
    lines += ["", f"| network | | {' | '.join(heads)} |", f"|---|---|{'---:|' * len(heads)}"]
    for name in NAMES:
        for variant, rows in found[name].items():
            dense = found[name]["int8 dense" if variant.startswith("int8") else "dense"]
            cells = []
            for place, (target, *_) in COUNTED.items():
                count, first = rows[place]["instructions"], dense[place]["instructions"]
                sizes = [f"{rows[place]['bytes'] / 1e3:.0f}"] if place == target else []
                cells += [f"{count / 1e6:.0f}", f"{count / first:.2f}", *sizes]
            lines.append(f"| {name} | {variant} | {' | '.join(cells)} |")
    used = sorted(
        {s for rows in found.values() for row in rows.values() for s in row["arm64-linux"]["undefined"]}
    )
    lines += ["", f"Undefined in all AArch64 libraries together: {', '.join(f'`{name}`' for name in used)}."]
    return "\n".join(lines)


def _write_page(found: Json) -> None:
    begin, end = "<!-- begin: make targets -->", "<!-- end: make targets -->"
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "apache-tvm", "wasmtime"))
    text = f"{begin}\n{as_tables(found)}\n\n`make targets`; {versions}, {_emulator()}.\n{end}"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(f"{begin}.*{end}", lambda _: text, page, flags=re.DOTALL), encoding="utf-8")
    print(f"wrote {PAGE}")


def _emulator() -> str:
    text = subprocess.run(["qemu-aarch64", "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"version ([0-9.]+)", text)
    return f"QEMU {match[1]}" if match else "QEMU"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
