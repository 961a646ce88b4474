"""`make pipeline`: how near the inner loops of ARM kernels come to a core's limits, by llvm-mca's models.

Each kernel that multiplies weights is compiled as for an artifact and taken apart; of its innermost loops the
one densest in multiply-adds is simulated. mca knows neither caches nor mispredictions: these are upper bounds
from tables, not measurements. `cortex-a76` has the tables of an older core in LLVM; neoverse-n1 is its core.
Cores that run in order have kernels of their own, those of `+a55`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sparsecc
from benchmarks.models import onnx_file
from sparsecc.compiler import build_plan
from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline

PAGE = Path(__file__).parents[1] / "docs" / "targets.md"
CORES = {
    "arm64-linux": ("cortex-a76", "neoverse-n1", "cortex-x2"),
    "arm64-linux+a55": ("cortex-a55",),
}
"""By the target whose kernels they run."""
LIMITS = {"cortex-a55": 1.0}
"""Cycles per multiply-add of four lanes where a model has them wrong.

LLVM's tables have half of it for Cortex-A55; Arm's Cortex-A55 Software Optimization Guide has one (ASIMD FP
multiply accumulate, by element, Q-form).
"""
LOAD_CYCLES = 2
"""Cycles for which a load of 128 bits keeps Cortex-A55 from anything else, as writers of kernels measured."""
NAMES = ("mobilenet-v1", "minilm")
PATTERNS = ("dense", "4x1", "2x1", "unstructured")
SPARSITY = 0.8
_ITERATIONS = 200


@dataclass(frozen=True)
class Instruction:
    """One line of a disassembly."""

    address: int
    name: str
    operands: str

    @property
    def target(self) -> int | None:
        """Where a branch goes, or None."""
        match = (
            re.match(r"(?:\w+, )?0x([0-9a-f]+)", self.operands) if self.name.startswith(("b", "cb")) else None
        )
        return int(match[1], 16) if match else None

    @property
    def text(self) -> str:
        """As an assembler takes it; where a branch goes does not matter."""
        return f"{self.name} {re.sub('0x[0-9a-f]+$', '#4', self.operands) if self.target else self.operands}"


@dataclass(frozen=True)
class Loop:
    """An innermost loop."""

    body: tuple[Instruction, ...]

    @property
    def multiplies(self) -> list[str]:
        """Its fp32 multiply-adds."""
        return [line.text for line in self.body if line.name == "fmla"]

    @property
    def density(self) -> float:
        """Share of multiply-adds in its instructions."""
        return len(self.multiplies) / len(self.body)

    @property
    def loads(self) -> list[str]:
        """What it reads."""
        return [line.text for line in self.body if line.name.startswith("ld")]


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    text = as_table()
    begin, end = "<!-- begin: make pipeline -->", "<!-- end: make pipeline -->"
    block = f"{begin}\n{text}\n\n`make pipeline`; LLVM {_version()}.\n{end}"
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(f"{begin}.*{end}", lambda _: block, page, flags=re.DOTALL), encoding="utf-8")
    print(f"{text}\nwrote {PAGE}")
    return 0


def as_table() -> str:
    """Cycles per multiply-add of four lanes, and the share of the multiply-adds' own limit, by core."""
    lines: list[str] = []
    for target, cores in CORES.items():
        heads = [head for core in cores for head in _heads(core)]
        lines += [
            "",
            f"`{target}`",
            "",
            f"| network | kernel | FMLA, loads, all | {' | '.join(heads)} |",
            "|---|---|---|" + "---:|" * len(heads),
        ]
        for name in NAMES:
            for kernel, loop in sorted(_loops(name, target).items()):
                counts = f"{len(loop.multiplies)}, {len(loop.loads)}, {len(loop.body)}"
                cells = [cell for core in cores for cell in _cells(loop, core)]
                lines.append(f"| {name} | {kernel} | {counts} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def _heads(core: str) -> list[str]:
    """Of the columns that `_cells` fills."""
    more = ["share where a load takes two cycles alone"] if core in LIMITS else []
    return [f"{core}, cycles per FMLA (share of the limit)", *more]


def _cells(loop: Loop, core: str) -> list[str]:
    count = len(loop.multiplies)
    cycles = simulate([line.text for line in loop.body], core)["Total Cycles"] / _ITERATIONS
    if core not in LIMITS:
        limit = simulate(loop.multiplies, core)["Block RThroughput"]
        return [f"{cycles / count:.2f} ({limit / cycles:.0%})"]
    limit = LIMITS[core] * count
    words = sum(2 if line.startswith("ldp") else 1 for line in loop.loads if re.search(r"\bq\d", line))
    slow = limit + LOAD_CYCLES * words
    return [f"{max(cycles, limit) / count:.2f} ({limit / max(cycles, limit):.0%})", f"{limit / slow:.0%}"]


def _loops(name: str, target: str) -> dict[str, Loop]:
    """The loop densest in multiply-adds of each kind of kernel that a network's layers use."""
    found: dict[str, Loop] = {}
    for pattern in PATTERNS:
        model = sparsecc.capture(onnx_file(name))
        if pattern != "dense":
            model = sparsecc.sparsify(model, pattern, SPARSITY).model
        Pipeline.parse(COMPILE_PIPELINE).run(model)
        plan = build_plan(model, target=target)
        layers: Any = plan.report["layers"]
        for layer in layers:
            step = plan.steps[layer["steps"][-1]]
            known = found.get(layer["kernel"])
            loops = loops_of(plan.objects[f"{step.symbol}.o"])
            best = max(
                loops if known is None else [known, *loops], key=lambda loop: loop.density, default=None
            )
            if best is not None and best.multiplies:
                found[layer["kernel"]] = best
    return found


def loops_of(data: bytes) -> list[Loop]:
    """The innermost loops of an object file for AArch64."""
    with tempfile.NamedTemporaryFile(suffix=".o") as file:
        file.write(data)
        file.flush()
        text = subprocess.run(
            [_tool("llvm-objdump"), "-d", "-j", ".text", "--no-show-raw-insn", file.name],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    lines: list[Instruction] = []
    for line in text.splitlines():
        match = re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*([^/<]*)", line)
        if match:
            lines.append(Instruction(int(match[1], 16), match[2], match[3].strip()))
    place = {line.address: index for index, line in enumerate(lines)}
    spans = [
        (place[line.target], index)
        for index, line in enumerate(lines)
        if line.target is not None and line.target <= line.address and line.target in place
    ]
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return [Loop(tuple(lines[first : last + 1])) for first, last in inner]


def simulate(lines: list[str], core: str) -> dict[str, float]:
    """What llvm-mca says of a loop's body, repeated."""
    done = subprocess.run(
        [_tool("llvm-mca"), "-mtriple=aarch64", f"-mcpu={core}", f"-iterations={_ITERATIONS}"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    return {
        match[1]: float(match[2])
        for match in re.finditer(r"^([A-Z][\w ]+):\s+([0-9.]+)$", done.stdout, re.MULTILINE)
    }


def _tool(name: str) -> str:
    """The newest one that is installed; LLVM 14 has no model of neoverse-n1."""
    for candidate in (f"{name}-19", name):
        if shutil.which(candidate):
            return candidate
    raise SystemExit(f"{name} was not found: install llvm-19")


def _version() -> str:
    text = subprocess.run([_tool("llvm-mca"), "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"LLVM version ([0-9.]+)", text)
    return match[1] if match else ""


if __name__ == "__main__":
    sys.exit(main())
