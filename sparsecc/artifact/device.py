"""Runs artifacts for GPUs: the launches of a plan over buffers that stay on the device.

What differs between APIs is a `Device`: memory, and launching a kernel by name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.manifest import WEIGHTS, Manifest
from sparsecc.errors import ArtifactError
from sparsecc.targets.gpu.plan import LAUNCHES, Argument, Launch, parse_launches

Array = npt.NDArray[Any]
Memory = Any  # a buffer, or a part of one, as the API has it


class Device(Protocol):
    """A GPU with the kernels of one artifact. What fails raises ArtifactError, in a sentence."""

    def allocate(self, nbytes: int) -> Memory:
        """A new buffer."""
        ...

    def part(self, buffer: Memory, offset: int, nbytes: int) -> Memory:
        """Bytes `offset` to `offset + nbytes` of a buffer."""
        ...

    def write(self, buffer: Memory, array: Array) -> None:
        """Copy a row-major array to the start of a buffer."""
        ...

    def read(self, buffer: Memory, array: Array) -> None:
        """Copy the start of a buffer to a row-major array, when all launches so far are done."""
        ...

    def launch(self, launch: Launch, pointers: Sequence[Memory]) -> None:
        """Start a kernel after those that were started before."""
        ...

    def wait(self) -> None:
        """Wait for all launches."""
        ...

    def close(self) -> None:
        """Free everything; may be called again."""
        ...


class DeviceEngine:
    """The launches of an artifact, with its weights on a device.

    Raises:
        ArtifactError: `launches.json` is damaged, or the device has no room.
    """

    def __init__(self, manifest: Manifest, folder: Path, device: Device) -> None:
        self._device = device
        try:
            self._prepare(manifest, folder)
        except BaseException:
            device.close()
            raise

    def _prepare(self, manifest: Manifest, folder: Path) -> None:
        device = self._device
        path = folder / LAUNCHES
        try:
            launches = parse_launches(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"cannot read {path}, so the artifact is damaged: {error}") from error
        sizes = {
            ("arena", 0): manifest.arena_bytes,
            ("weights", 0): manifest.weights_bytes,
            **{("input", i): _nbytes(spec.dtype, spec.shape) for i, spec in enumerate(manifest.inputs)},
            **{("output", i): _nbytes(spec.dtype, spec.shape) for i, spec in enumerate(manifest.outputs)},
        }
        self._buffers = {key: device.allocate(max(size, 1)) for key, size in sizes.items()}
        if manifest.weights_bytes:
            device.write(self._buffers["weights", 0], np.fromfile(folder / WEIGHTS, np.uint8))
        self._parts: dict[Argument, Memory] = {}
        self._steps = [(launch, [self._part(p, sizes, path) for p in launch.pointers]) for launch in launches]

    def _part(self, argument: Argument, sizes: dict[tuple[str, int], int], path: Path) -> Memory:
        size = sizes.get((argument.space, argument.index), 0)
        if argument.offset + argument.nbytes > size or not argument.nbytes:
            raise ArtifactError(f"{path} names memory outside of its buffers, so the artifact is damaged")
        if argument not in self._parts:
            buffer = self._buffers[argument.space, argument.index]
            whole = argument.offset == 0 and argument.nbytes == size
            part = buffer if whole else self._device.part(buffer, argument.offset, argument.nbytes)
            self._parts[argument] = part
        return self._parts[argument]

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Copy the inputs to the device, launch all kernels, and copy the outputs back."""
        self._start(inputs)
        for launch, pointers in self._steps:
            self._device.launch(launch, pointers)
        self._finish(outputs)

    def profile(self, inputs: Sequence[Array], outputs: Sequence[Array], steps: int) -> list[float]:
        """The same, waiting for each kernel; launching it is part of its time."""
        self._start(inputs)
        self._device.wait()
        seconds: list[float] = []
        for launch, pointers in self._steps:
            start = time.perf_counter()
            self._device.launch(launch, pointers)
            self._device.wait()
            seconds.append(time.perf_counter() - start)
        self._finish(outputs)
        return seconds

    def close(self) -> None:
        """Free the device's memory."""
        self._parts.clear()
        self._steps.clear()
        self._buffers.clear()
        self._device.close()

    def _start(self, inputs: Sequence[Array]) -> None:
        for i, array in enumerate(inputs):
            if array.nbytes:
                self._device.write(self._buffers["input", i], array)

    def _finish(self, outputs: Sequence[Array]) -> None:
        for i, array in enumerate(outputs):
            if array.nbytes:
                self._device.read(self._buffers["output", i], array)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
