"""CUDA sources -> cubins, through nvcc or the NVRTC of PyPI's cuda-bindings, and what ptxas says of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sparsecc.errors import LoweringError

_PTX = "sm_80"  # newer devices than those of the cubins compile this one's PTX


@dataclass(frozen=True)
class KernelUse:
    """What ptxas gives a kernel on one architecture.

    Attributes:
        registers: of a thread.
        shared_bytes: of a group.
        stack_bytes, spill_bytes: of a thread, in local memory; spills are stores and loads together.
    """

    kernel: str
    architecture: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_bytes: int


def compile_cuda(source: str, architectures: tuple[str, ...]) -> dict[str, bytes]:
    """Binaries by file name: `kernels.<architecture>.cubin`, and `kernels.ptx` for devices to come.

    Raises:
        LoweringError: there is no compiler, or it refuses the source.
    """
    files = {f"kernels.{arch}.cubin": _compiled(source, arch, "cubin")[0] for arch in architectures}
    files["kernels.ptx"] = _compiled(source, _PTX, "ptx")[0]
    return files


def kernel_uses(source: str, architecture: str) -> list[KernelUse]:
    """Registers, memory and spills of every kernel of a source, by nvcc's `-Xptxas -v`.

    Raises:
        LoweringError: nvcc is not there, or refuses the source.
    """
    if shutil.which("nvcc") is None:
        raise LoweringError("nvcc was not found on PATH: only it tells what ptxas gives to kernels")
    return parse_uses(_nvcc(source, architecture, "cubin")[1])


def parse_uses(text: str) -> list[KernelUse]:
    """Read the messages of `ptxas -v`."""
    found: list[KernelUse] = []
    for part in re.split(r"Compiling entry function ", text)[1:]:
        name = re.match(r"'(\w+)' for '(\w+)'", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name is None or registers is None:
            raise LoweringError(f"ptxas says what is not understood here: {part.splitlines()[0]}")
        numbers = {
            key: int(match[1]) if (match := re.search(rf"(\d+) bytes {key}", part)) else 0
            for key in ("stack frame", "spill stores", "spill loads", "smem")
        }
        found.append(
            KernelUse(
                name[1],
                name[2],
                int(registers[1]),
                numbers["smem"],
                numbers["stack frame"],
                numbers["spill stores"] + numbers["spill loads"],
            )
        )
    return found


def _compiled(source: str, architecture: str, kind: str) -> tuple[bytes, str]:
    if shutil.which("nvcc"):
        return _nvcc(source, architecture, kind)
    if find_spec("cuda") and find_spec("cuda.bindings") and find_spec("cuda.bindings.nvrtc"):
        return _nvrtc(source, architecture, kind), ""
    raise LoweringError(
        "there is no CUDA compiler: install NVIDIA's tool kit, whose nvcc must be on PATH, or run "
        "`pip install sparsecc[cuda]`, which brings NVRTC"
    )


def _nvcc(source: str, architecture: str, kind: str) -> tuple[bytes, str]:
    with tempfile.TemporaryDirectory(prefix="sparsecc-cuda-") as name:
        path, result = Path(name) / "kernels.cu", Path(name) / f"kernels.{kind}"
        path.write_text(source, encoding="utf-8")
        flags = [f"-arch={architecture}", f"-{kind}", "-O3", "-Xptxas", "-v"]
        command = ["nvcc", *flags, "-o", str(result), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["no message"]
            raise LoweringError(f"nvcc cannot compile the kernels for {architecture}: {lines[0]}")
        return result.read_bytes(), done.stderr


def _nvrtc(source: str, architecture: str, kind: str) -> bytes:
    api: Any = import_module("cuda.bindings.nvrtc")

    def checked(result: tuple[Any, ...]) -> Any:
        if int(result[0]) != 0:
            raise LoweringError(f"NVRTC cannot compile the kernels for {architecture}: {result[0]}")
        return result[1] if len(result) == 2 else result[1:]

    program = checked(api.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], []))
    number = architecture.removeprefix("sm_")
    real = f"sm_{number}" if kind == "cubin" else f"compute_{number}"
    options = [f"--gpu-architecture={real}".encode()]
    (status,) = api.nvrtcCompileProgram(program, len(options), options)
    if int(status) != 0:
        log = b" " * checked(api.nvrtcGetProgramLogSize(program))
        api.nvrtcGetProgramLog(program, log)
        lines = [line for line in log.decode(errors="replace").splitlines() if "error" in line] or [
            str(status)
        ]
        raise LoweringError(f"NVRTC cannot compile the kernels for {architecture}: {lines[0]}")
    size, get = (
        (api.nvrtcGetCUBINSize, api.nvrtcGetCUBIN)
        if kind == "cubin"
        else (api.nvrtcGetPTXSize, api.nvrtcGetPTX)
    )
    data = b" " * checked(size(program))
    get(program, data)
    return data
