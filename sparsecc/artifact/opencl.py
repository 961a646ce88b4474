"""OpenCL devices, through the pyopencl package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.device import Memory
from sparsecc.errors import ArtifactError, UsageError
from sparsecc.targets.gpu.plan import ALIGNMENT, Launch

Array = npt.NDArray[Any]
T = TypeVar("T")


class OpenClDevice:
    """A device with the kernels of one source file, which its driver compiles.

    Args:
        source: OpenCL C.
        choice: a part of the name of a platform or device, or its number in `device_names`; "" takes the
            first GPU, or else the first device of any kind.

    Raises:
        UsageError: no such device.
        ArtifactError: pyopencl is not installed, there is no device, or it cannot compile the kernels.
    """

    def __init__(self, source: Path, choice: str = "") -> None:
        cl = _pyopencl()
        self._cl = cl
        device = _chosen(cl, choice)
        self.name = str(device.name).strip()
        if device.mem_base_addr_align // 8 > ALIGNMENT:
            raise ArtifactError(
                f"{self.name} aligns buffers to {device.mem_base_addr_align // 8} bytes, "
                f"and artifacts to {ALIGNMENT}"
            )
        self._context = self._tried("open", lambda: cl.Context([device]))
        self._queue = cl.CommandQueue(self._context)
        program = cl.Program(self._context, source.read_text(encoding="utf-8"))
        built = self._tried("compile the kernels", program.build)
        self._kernels = {kernel.function_name: kernel for kernel in built.all_kernels()}

    def allocate(self, nbytes: int) -> Memory:
        """A buffer that kernels read and write."""
        flags = self._cl.mem_flags.READ_WRITE
        return self._tried(f"allocate {nbytes} bytes", lambda: self._cl.Buffer(self._context, flags, nbytes))

    def part(self, buffer: Memory, offset: int, nbytes: int) -> Memory:
        """A sub-buffer."""
        return self._tried("cut a buffer", lambda: buffer.get_sub_region(offset, nbytes))

    def write(self, buffer: Memory, array: Array) -> None:
        """Waits until the array is copied."""
        self._tried("write", lambda: self._cl.enqueue_copy(self._queue, buffer, array, is_blocking=True))

    def read(self, buffer: Memory, array: Array) -> None:
        """Waits for all kernels, since the queue keeps the order."""
        self._tried("read", lambda: self._cl.enqueue_copy(self._queue, array, buffer, is_blocking=True))

    def launch(self, launch: Launch, pointers: Sequence[Memory]) -> None:
        """Enqueue a kernel."""
        kernel = self._kernels.get(launch.kernel)
        if kernel is None:
            raise ArtifactError(f"the source has no kernel {launch.kernel}, so the artifact is damaged")
        threads = tuple(g * n for g, n in zip((*launch.grid, 1), launch.block, strict=True))
        arguments = [*pointers, *map(np.int32, launch.scalars)]
        self._tried(f"launch {launch.kernel}", lambda: kernel(self._queue, threads, launch.block, *arguments))

    def wait(self) -> None:
        """Until the queue is empty."""
        self._tried("run", self._queue.finish)

    def close(self) -> None:
        """The driver frees what nothing refers to."""
        self._kernels.clear()

    def _tried(self, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (self._cl.Error, MemoryError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ArtifactError(f"the OpenCL device {self.name} could not {what}: {lines[0]}") from error


def device_names() -> list[str]:
    """`platform: device` of every OpenCL device, in the driver's order.

    Raises:
        ArtifactError: pyopencl is not installed.
    """
    return [f"{p.name.strip()}: {d.name.strip()}" for p, d in _devices(_pyopencl())]


def _pyopencl() -> Any:
    if find_spec("pyopencl") is None:
        raise ArtifactError(
            "OpenCL artifacts run through the pyopencl package: run `pip install sparsecc[opencl]`"
        )
    import pyopencl

    return pyopencl


def _devices(cl: Any) -> list[tuple[Any, Any]]:
    try:
        return [(platform, device) for platform in cl.get_platforms() for device in platform.get_devices()]
    except cl.Error:  # the loader found no driver
        return []


def _chosen(cl: Any, choice: str) -> Any:
    found = _devices(cl)
    if not found:
        raise ArtifactError(
            "there is no OpenCL device: install the driver of the GPU, or PoCL for the CPU "
            "(Debian: apt-get install pocl-opencl-icd)"
        )
    names = [f"{platform.name.strip()}: {device.name.strip()}" for platform, device in found]
    if choice.isdecimal() and int(choice) < len(found):
        return found[int(choice)][1]
    if choice:
        fitting = [d for (_, d), name in zip(found, names, strict=True) if choice.lower() in name.lower()]
        if choice.isdecimal() or not fitting:
            listed = "; ".join(f"{i} {name}" for i, name in enumerate(names))
            raise UsageError(f"there is no OpenCL device {choice!r}; devices are {listed}")
        return fitting[0]
    gpus = [device for _, device in found if device.type & cl.device_type.GPU]
    return gpus[0] if gpus else found[0][1]
