"""NVIDIA's devices, through the driver API of the cuda-bindings package."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.device import Memory
from sparsecc.errors import ArtifactError, UsageError
from sparsecc.targets.gpu.plan import Launch

Array = npt.NDArray[Any]

_PTX = "kernels.ptx"


class CudaDevice:
    """A device with the kernels of one artifact: the cubin of its architecture, or PTX.

    Args:
        folder: of the artifact.
        choice: the device's number; "" is 0.

    Raises:
        UsageError: no such device.
        ArtifactError: cuda-bindings or NVIDIA's driver is not installed, or it refuses the kernels.
    """

    def __init__(self, folder: Path, choice: str = "") -> None:
        self._driver = _driver()
        self._context: Any = None
        self._tried("cuInit", 0)
        count = self._tried("cuDeviceGetCount")
        number = int(choice) if choice.isdecimal() else 0 if not choice else count
        if number >= count:
            raise UsageError(f"there is no CUDA device {choice!r}; devices are 0 to {count - 1}")
        self._device = self._tried("cuDeviceGet", number)
        self._context = self._tried("cuDevicePrimaryCtxRetain", self._device)
        attribute = self._driver.CUdevice_attribute
        major, minor = (
            self._tried("cuDeviceGetAttribute", getattr(attribute, name), self._device)
            for name in (
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR",
                "CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR",
            )
        )
        binary = binary_for(folder, major, minor)
        self._module = self._tried("cuModuleLoadData", binary.read_bytes())
        self._kernels: dict[str, Any] = {}
        self._memory: list[Any] = []

    def allocate(self, nbytes: int) -> Memory:
        """The address of new memory."""
        self._memory.append(self._tried("cuMemAlloc", nbytes))
        return int(self._memory[-1])

    def part(self, buffer: Memory, offset: int, nbytes: int) -> Memory:
        """An address further on."""
        return buffer + offset

    def write(self, buffer: Memory, array: Array) -> None:
        """Copy to the device."""
        self._tried("cuMemcpyHtoD", buffer, np.ascontiguousarray(array).ctypes.data, array.nbytes)

    def read(self, buffer: Memory, array: Array) -> None:
        """Copy to the host, behind all launches."""
        self._tried("cuMemcpyDtoH", array.ctypes.data, buffer, array.nbytes)

    def launch(self, launch: Launch, pointers: Sequence[Memory]) -> None:
        """Launch on the default stream."""
        if launch.kernel not in self._kernels:
            found = self._tried("cuModuleGetFunction", self._module, launch.kernel.encode())
            self._kernels[launch.kernel] = found
        types = (*(ctypes.c_void_p for _ in pointers), *(ctypes.c_int for _ in launch.scalars))
        arguments = ((*pointers, *launch.scalars), types)
        grid = (*launch.grid, 1)
        self._tried("cuLaunchKernel", self._kernels[launch.kernel], *grid, *launch.block, 0, 0, arguments, 0)

    def wait(self) -> None:
        """Until all launches are done."""
        self._tried("cuCtxSynchronize")

    def close(self) -> None:
        """Free the memory, the module and the context."""
        if self._context is None:
            return
        for address in self._memory:
            self._driver.cuMemFree(address)
        self._driver.cuModuleUnload(self._module)
        self._driver.cuDevicePrimaryCtxRelease(self._device)
        self._memory.clear()
        self._context = None

    def _tried(self, name: str, *arguments: Any) -> Any:
        try:
            if self._context is not None:  # of this thread, whichever runs the session
                self._driver.cuCtxSetCurrent(self._context)
            status, *results = getattr(self._driver, name)(*arguments)
        except RuntimeError as error:  # the package loads the driver's library at the first call
            raise ArtifactError(f"NVIDIA's driver cannot be loaded: {str(error).splitlines()[0]}") from error
        if int(status) != 0:
            raise ArtifactError(f"the CUDA device could not do {name}: {getattr(status, 'name', status)}")
        return results[0] if results else None


def binary_for(folder: Path, major: int, minor: int) -> Path:
    """The cubin for a compute capability, of its own major number and at most its minor one; or PTX.

    Raises:
        ArtifactError: the artifact has nothing for the device.
    """
    for lower in range(minor, -1, -1):
        path = folder / f"kernels.sm_{major}{lower}.cubin"
        if path.is_file():
            return path
    if major >= 8 and (folder / _PTX).is_file():
        return folder / _PTX
    raise ArtifactError(
        f"the artifact has no kernels for compute capability {major}.{minor}: it needs 8.0 or newer"
    )


def _driver() -> Any:
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        raise ArtifactError(
            "CUDA artifacts run through the cuda-bindings package: run `pip install sparsecc[cuda]`"
        )
    return import_module("cuda.bindings.driver")
