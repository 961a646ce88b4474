"""What the tests of other machines share: an artifact of a small network, and its run under an emulator."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import pytest

import sparsecc
from sparsecc.compiler import Artifact
from sparsecc.targets.registry import MACHINES

Array = npt.NDArray[Any]

OPTIONS = {
    "arm64-linux+dotprod": "qemu-aarch64 -cpu max",
    "arm64-linux+a55": "qemu-aarch64 -cpu cortex-a76",
    "arm64-linux+i8mm": "qemu-aarch64 -cpu max",
    "riscv64-linux+v": "qemu-riscv64 -cpu rv64,v=true,vext_spec=v1.0",
}
"""Emulators that have what a target needs besides the architecture."""


def compiled(proto: onnx.ModelProto, target: str, folder: Path, **options: Any) -> Artifact:
    """An artifact without measuring; skips where nothing links for the target."""
    prefixes = MACHINES[target].platform.prefixes
    cross = any(shutil.which(f"{prefix}gcc") for prefix in prefixes)
    if not cross and importlib.util.find_spec("ziglang") is None:
        pytest.skip(f"neither a cross compiler nor ziglang for {target}")
    return sparsecc.compile(proto, target, folder / f"{target}.scc", measure=False, **options)


def emulated(
    artifact: Artifact, target: str, feeds: Mapping[str, Array], threads: int = 2
) -> dict[str, Array]:
    """The outputs of a run; skips where the emulator is missing."""
    emulator = OPTIONS[target] if target in OPTIONS else MACHINES[target].platform.emulator
    if shutil.which(emulator.split()[0]) is None:
        pytest.skip(f"{emulator.split()[0]} is not installed")
    with sparsecc.load(artifact.path, threads, emulator=emulator) as session:
        return session.run(feeds)


def on_x86(proto: onnx.ModelProto, feeds: Mapping[str, Array], folder: Path) -> dict[str, Array]:
    """What this machine's own artifact computes."""
    artifact = sparsecc.compile(proto, "cpu", folder / "x86.scc", measure=False)
    with artifact.load() as session:
        return session.run(feeds)
