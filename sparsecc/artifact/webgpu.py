"""WebGPU outside of browsers, through the wgpu package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.device import Memory
from sparsecc.errors import ArtifactError, UsageError
from sparsecc.targets.gpu.plan import Launch

Array = npt.NDArray[Any]
T = TypeVar("T")

_UNIT = 4  # bytes; sizes are multiples of it
_LIMITS = ("max-storage-buffers-per-shader-stage", "max-storage-buffer-binding-size", "max-buffer-size")


class WebGpuDevice:
    """An adapter with the kernels of one source file, each a module of its own.

    Args:
        source: WGSL; a line `// Function: NAME` begins each kernel.
        choice: a part of the adapter's name, or its number; "" takes the one that wgpu likes best.

    Raises:
        UsageError: no such adapter.
        ArtifactError: wgpu is not installed, there is no adapter, or it refuses a kernel.
    """

    def __init__(self, source: Path, choice: str = "") -> None:
        if find_spec("wgpu") is None:
            raise ArtifactError(
                "WebGPU artifacts run through the wgpu package: run `pip install sparsecc[webgpu]`"
            )
        import wgpu

        self._api: Any = wgpu
        adapter = _chosen(wgpu.gpu, choice)
        self.name = str(adapter.info["device"])
        limits = {name: adapter.limits[name] for name in _LIMITS}
        self._device: Any = self._tried("open", lambda: adapter.request_device_sync(required_limits=limits))
        self._usage = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.COPY_SRC
        texts = source.read_text(encoding="utf-8").split("// Function: ")
        self._modules = {text.split("\n", 1)[0].strip(): "// " + text for text in texts if "@compute" in text}
        self._pipelines: dict[str, Any] = {}

    def allocate(self, nbytes: int) -> Memory:
        """(buffer, offset, size)"""
        size = -(-nbytes // _UNIT) * _UNIT
        make = self._device.create_buffer
        return self._tried(f"allocate {nbytes} bytes", lambda: make(size=size, usage=self._usage)), 0, size

    def part(self, buffer: Memory, offset: int, nbytes: int) -> Memory:
        """The same buffer, and which bytes of it."""
        return buffer[0], offset, -(-nbytes // _UNIT) * _UNIT

    def write(self, buffer: Memory, array: Array) -> None:
        """Copied in the queue's order."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        padded = np.pad(data, (0, -data.nbytes % _UNIT))
        self._tried("write", lambda: self._device.queue.write_buffer(buffer[0], 0, padded))

    def read(self, buffer: Memory, array: Array) -> None:
        """Waits for all kernels, since the queue keeps the order."""
        found = self._tried("read", lambda: self._device.queue.read_buffer(buffer[0]))
        array.reshape(-1).view(np.uint8)[:] = np.frombuffer(found, np.uint8)[: array.nbytes]

    def launch(self, launch: Launch, pointers: Sequence[Memory]) -> None:
        """Bind the pointers and, behind them, the scalars and the last group along x; enqueue the kernel."""
        pipeline = self._pipeline(launch.kernel)
        scalars = np.array([*launch.scalars, launch.grid[0] - 1], np.int32)
        uniform = self._device.create_buffer_with_data(data=scalars, usage=self._api.BufferUsage.UNIFORM)
        bound = [*pointers, (uniform, 0, scalars.nbytes)]
        entries = [
            {"binding": i, "resource": {"buffer": buffer, "offset": offset, "size": size}}
            for i, (buffer, offset, size) in enumerate(bound)
        ]

        def enqueue() -> None:
            group = self._device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
            encoder = self._device.create_command_encoder()
            started = encoder.begin_compute_pass()
            started.set_pipeline(pipeline)
            started.set_bind_group(0, group)
            started.dispatch_workgroups(*launch.grid, 1)
            started.end()
            self._device.queue.submit([encoder.finish()])

        self._tried(f"launch {launch.kernel}", enqueue)

    def wait(self) -> None:
        """Until the queue is empty."""
        self._tried("run", self._device.queue.on_submitted_work_done_sync)

    def close(self) -> None:
        """What nothing refers to is freed."""
        self._pipelines.clear()

    def _pipeline(self, kernel: str) -> Any:
        if kernel not in self._pipelines:
            if kernel not in self._modules:
                raise ArtifactError(f"the source has no kernel {kernel}, so the artifact is damaged")
            code = self._modules[kernel]

            def make() -> Any:
                module = self._device.create_shader_module(code=code)
                compute = {"module": module, "entry_point": kernel}
                return self._device.create_compute_pipeline(layout="auto", compute=compute)

            self._pipelines[kernel] = self._tried(f"compile {kernel}", make)
        return self._pipelines[kernel]

    def _tried(self, what: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except (self._api.GPUError, RuntimeError, ValueError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
                type(error).__name__
            ]
            reason = next((line for line in lines if "error:" in line), lines[-1])
            raise ArtifactError(f"the WebGPU device {self.name} could not {what}: {reason}") from error


def _chosen(gpu: Any, choice: str) -> Any:
    found = gpu.enumerate_adapters_sync()
    if not found:
        raise ArtifactError(
            "there is no WebGPU device: install the driver of the GPU, or Mesa's for the CPU "
            "(Debian: apt-get install mesa-vulkan-drivers)"
        )
    if not choice:
        return gpu.request_adapter_sync() or found[0]
    names = [f"{a.info['device']} ({a.info['backend_type']})" for a in found]
    if choice.isdecimal() and int(choice) < len(found):
        return found[int(choice)]
    fitting = [a for a, name in zip(found, names, strict=True) if choice.lower() in name.lower()]
    if choice.isdecimal() or not fitting:
        listed = "; ".join(f"{i} {name}" for i, name in enumerate(names))
        raise UsageError(f"there is no WebGPU device {choice!r}; devices are {listed}")
    return fitting[0]
