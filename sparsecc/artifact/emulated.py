"""Runs Linux artifacts of other architectures under a user-mode emulator: to check them, not to be fast.

The program that ships in the artifact is built with its static library; each run starts it anew, with the
inputs in one file and the outputs in another.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.manifest import WEIGHTS, Manifest
from sparsecc.errors import ArtifactError, UsageError

Array = npt.NDArray[Any]


class EmulatedEngine:
    """An emulator's command and the program that it runs.

    Args:
        emulator: a command line; "" takes the platform's.

    Raises:
        UsageError: no such emulator, or none for this artifact.
        LoweringError: no C compiler for the architecture.
    """

    def __init__(self, manifest: Manifest, folder: Path, threads: int, emulator: str) -> None:
        from sparsecc.targets.linking import build_program
        from sparsecc.targets.registry import PLATFORMS

        platform = PLATFORMS.get(manifest.machine)
        if platform is None or not platform.emulator:
            raise UsageError(f"there is no emulator for artifacts of {manifest.machine}")
        self._command = tuple(shlex.split(emulator or platform.emulator))
        if shutil.which(self._command[0]) is None:
            raise UsageError(
                f"the emulator {self._command[0]!r} was not found: install it (Debian: qemu-user), "
                "or name another"
            )
        self._weights, self._threads = folder / WEIGHTS, threads
        self._work = tempfile.TemporaryDirectory(prefix="sparsecc-emulated-")
        self._program = build_program(platform, folder, Path(self._work.name))

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """One start of the program."""
        given, made = Path(self._work.name) / "inputs", Path(self._work.name) / "outputs"
        with given.open("wb") as file:
            for array in inputs:
                file.write(array.tobytes())
        words = [self._program, self._weights, self._threads, given, made]
        done = subprocess.run(
            [*self._command, *map(str, words)], capture_output=True, text=True, errors="replace", check=False
        )
        if done.returncode != 0:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise ArtifactError(f"the run under {self._command[0]} failed ({done.returncode}): {lines[-1]}")
        found = np.fromfile(made, np.uint8)
        start = 0
        for array in outputs:
            array.reshape(-1).view(np.uint8)[:] = found[start : start + array.nbytes]
            start += array.nbytes

    def profile(self, inputs: Sequence[Array], outputs: Sequence[Array], steps: int) -> list[float]:
        """Refused: an emulator's time says nothing about the machine."""
        raise UsageError("steps cannot be timed under an emulator")

    def close(self) -> None:
        """Remove the program."""
        self._work.cleanup()
