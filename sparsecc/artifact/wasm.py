"""Runs WebAssembly artifacts in this process, through the wasmtime package."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.manifest import WEIGHTS, Manifest
from sparsecc.errors import ArtifactError, UsageError

Array = npt.NDArray[Any]

_ALIGNMENT = 64
_FUEL = 2**62


class WasmEngine:
    """An instance of the module, with its weights and tensors in its memory.

    Args:
        threads: 1; the module has no others.
        counted: count the instructions that runs execute, which makes them slower.

    Raises:
        UsageError: more than one thread.
        ArtifactError: wasmtime is not installed, or the module cannot be compiled or refuses to start.
    """

    def __init__(self, manifest: Manifest, folder: Path, threads: int = 1, *, counted: bool = False) -> None:
        if threads != 1:
            raise UsageError(f"threads: a WebAssembly artifact runs on 1, found {threads}")
        if find_spec("wasmtime") is None:
            raise ArtifactError(
                "WebAssembly artifacts run through the wasmtime package: run `pip install sparsecc[wasm]`"
            )
        import wasmtime

        config = wasmtime.Config()
        config.consume_fuel = counted
        self._counted, self._name = counted, manifest.name
        self._store = wasmtime.Store(wasmtime.Engine(config))
        self._trap = (wasmtime.Trap, wasmtime.WasmtimeError)
        if counted:
            self._store.set_fuel(_FUEL)
        path = folder / manifest.library
        try:
            module = wasmtime.Module(self._store.engine, path.read_bytes())
            exports = wasmtime.Instance(self._store, module, []).exports(self._store)
        except self._trap as error:
            raise ArtifactError(f"wasmtime cannot open {path}: {str(error).splitlines()[0]}") from error
        self._exports: Any = exports
        self._memory: Any = exports["memory"]
        self._call("_initialize")
        self._inputs = [self._allocate(_nbytes(spec.dtype, spec.shape)) for spec in manifest.inputs]
        self._outputs = [self._allocate(_nbytes(spec.dtype, spec.shape)) for spec in manifest.outputs]
        self._tables = self._pointers(self._inputs), self._pointers(self._outputs)
        options = [0] * 6  # path, weights, their size, arena, its size, threads
        if not manifest.weights_embedded:
            options[1:3] = self._place((folder / WEIGHTS).read_bytes()), manifest.weights_bytes
        handle = self._place(bytes(4))
        self._check(self._call(f"{self._name}_create", self._place(struct.pack("<6I", *options)), handle))
        (self._handle,) = struct.unpack("<I", self._memory.read(self._store, handle, handle + 4))

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Copy the inputs in, run, and copy the outputs out."""
        for start, array in zip(self._inputs, inputs, strict=True):
            self._memory.write(self._store, array.tobytes(), start)
        self._check(self._call(f"{self._name}_run", self._handle, *self._tables))
        for start, array in zip(self._outputs, outputs, strict=True):
            found = self._memory.read(self._store, start, start + array.nbytes)
            array.reshape(-1).view(np.uint8)[:] = np.frombuffer(found, np.uint8)

    def profile(self, inputs: Sequence[Array], outputs: Sequence[Array], steps: int) -> list[float]:
        """Refused: the module imports nothing, a clock neither."""
        raise UsageError("steps cannot be timed in WebAssembly: the module has no clock")

    def close(self) -> None:
        """Nothing to do: the instance goes with this object."""

    def executed(self) -> int:
        """WebAssembly instructions since the start, if they are counted."""
        return _FUEL - int(self._store.get_fuel()) if self._counted else 0

    def _call(self, name: str, *arguments: int) -> Any:
        try:
            return self._exports[name](self._store, *arguments)
        except self._trap as error:
            raise ArtifactError(f"{name} failed in wasmtime: {str(error).splitlines()[0]}") from error

    def _check(self, status: int) -> None:
        if status:
            start = self._call(f"{self._name}_error_string", status)
            text = bytes(self._memory.read(self._store, start, start + 256)).partition(b"\0")[0]
            raise ArtifactError(f"the run failed: {text.decode()}")

    def _allocate(self, nbytes: int) -> int:
        size = -(-max(nbytes, 1) // _ALIGNMENT) * _ALIGNMENT
        start = self._call("aligned_alloc", _ALIGNMENT, size) & 0xFFFFFFFF
        if start == 0:
            raise ArtifactError(f"out of memory: WebAssembly has no {size} bytes left")
        return start

    def _place(self, data: bytes) -> int:
        start = self._allocate(len(data))
        self._memory.write(self._store, data, start)
        return start

    def _pointers(self, starts: Sequence[int]) -> int:
        return self._place(struct.pack(f"<{len(starts)}I", *starts))


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
