"""Runs a loaded artifact: numpy arrays in, numpy arrays out, with every call checked before it reaches C."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.manifest import LIBRARY, WEIGHTS, Manifest, StepInfo, TensorInfo
from sparsecc.errors import ArtifactError, UsageError

Array = npt.NDArray[Any]

_MAX_THREADS = 256


class _Options(ctypes.Structure):
    """`PREFIX_options` of the generated header."""

    _fields_ = (
        ("weights_path", ctypes.c_char_p),
        ("weights", ctypes.c_void_p),
        ("weights_bytes", ctypes.c_size_t),
        ("arena", ctypes.c_void_p),
        ("arena_bytes", ctypes.c_size_t),
        ("threads", ctypes.c_int32),
    )


class Session:
    """A loaded artifact, made by `sparsecc.load`. Use it as a context manager, or call `close`.

    Runs of one session exclude each other, from whatever thread they come; sessions are independent. While
    a run is in C, other Python threads go on.

    Attributes:
        manifest: all that is known about the artifact.
        inputs, outputs: names, numpy types and shapes, in the graph's order.
        threads: threads of a run, the caller's included.
    """

    def __init__(self, manifest: Manifest, folder: Path, threads: int = 1) -> None:
        """Open the library of an artifact whose files were checked before.

        Raises:
            UsageError: a thread count that is not from 1 to 256.
            ArtifactError: the library cannot be opened or refuses to start.
        """
        self._handle = ctypes.c_void_p()
        if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise UsageError(f"threads: expected a whole number from 1 to {_MAX_THREADS}, found {threads!r}")
        self.manifest = manifest
        self.inputs = manifest.inputs
        self.outputs = manifest.outputs
        self.threads = threads
        self._names = tuple(spec.name for spec in manifest.inputs)
        self._types = [np.dtype(spec.dtype) for spec in manifest.inputs]
        self._lock = threading.Lock()
        self._library = _Library(folder / LIBRARY, manifest.name)
        options = _Options(threads=threads)
        if not manifest.weights_embedded:
            options.weights_path = os.fsencode(folder / WEIGHTS)
        status = self._library.create(ctypes.byref(options), ctypes.byref(self._handle))
        self._library.check(status, "cannot start the artifact")

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the network once.

        Args:
            inputs: for each input its array, of exactly its type and shape. An array that is not row-major
                or not aligned is copied.

        Returns:
            New arrays by output name.

        Raises:
            ArtifactError: a missing, unknown or wrong input, or a failure inside the library.
            UsageError: the session is closed.
        """
        arrays = self._check_inputs(inputs)
        outputs = self._new_outputs()
        with self._lock:
            self._check_open()
            status = self._library.run(self._handle, _pointers(arrays), _pointers(outputs))
        self._library.check(status, "the run failed")
        return {spec.name: array for spec, array in zip(self.outputs, outputs, strict=True)}

    def profile(self, inputs: Mapping[str, Array]) -> list[tuple[str, str, float]]:
        """Run the network once and time its steps.

        Returns:
            For each step in order: its label, its kernel family and its wall-clock time in seconds.

        Raises:
            As `run`.
        """
        arrays = self._check_inputs(inputs)
        outputs = self._new_outputs()
        steps = self.manifest.steps
        times = (ctypes.c_uint64 * max(1, len(steps)))()
        with self._lock:
            self._check_open()
            status = self._library.profile(self._handle, _pointers(arrays), _pointers(outputs), times)
        self._library.check(status, "the run failed")
        return [(step.label, step.kind, ns * 1e-9) for step, ns in zip(steps, times, strict=False)]

    @property
    def steps(self) -> tuple[StepInfo, ...]:
        """The kernel calls of a run, in order."""
        return self.manifest.steps

    def close(self) -> None:
        """Free the memory and threads; waits for a run that is going on. May be called again."""
        with self._lock:
            if self._handle:
                self._library.destroy(self._handle)
                self._handle = ctypes.c_void_p()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if self._handle:  # nobody else has the session any more: no lock
            self._library.destroy(self._handle)

    def __repr__(self) -> str:
        state = "" if self._handle else ", closed"
        arrow = f"{', '.join(map(str, self.inputs))} -> {', '.join(map(str, self.outputs))}"
        return f"<Session {self.manifest.name}: {arrow}; threads={self.threads}{state}>"

    def _check_open(self) -> None:
        if not self._handle:
            raise UsageError("the session is closed: load the artifact again")

    def _new_outputs(self) -> list[Array]:
        return [np.empty(spec.shape, dtype=spec.dtype) for spec in self.outputs]

    def _check_inputs(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The arrays in the order of the C call, row-major and aligned."""
        if not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ArtifactError(
                f"inputs: expected a mapping from {', '.join(self._names)} to arrays, "
                f"found {type(inputs).__name__}"
            )
        unknown = [str(name) for name in inputs if name not in self._names]
        if unknown:
            raise ArtifactError(
                f"the network has no input {', '.join(unknown)}: its inputs are {', '.join(self._names)}"
            )
        missing = [name for name in self._names if name not in inputs]
        if missing:
            raise ArtifactError(
                f"the input {', '.join(missing)} is missing: expected {', '.join(self._names)}"
            )
        return [
            _check_array(spec, dtype, inputs[spec.name])
            for spec, dtype in zip(self.inputs, self._types, strict=True)
        ]


class _Library:
    """The functions of one `libmodel.so`."""

    def __init__(self, path: Path, name: str) -> None:
        array = ctypes.POINTER(ctypes.c_void_p)
        try:
            library = _open_library(path.resolve())
            self.create = library[f"{name}_create"]
            self.run = library[f"{name}_run"]
            self.profile = library[f"{name}_profile"]
            self.destroy = library[f"{name}_destroy"]
            self.error_string = library[f"{name}_error_string"]
        except (OSError, AttributeError) as error:
            raise ArtifactError(f"cannot open the library {path}: {error}") from error
        self.create.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        self.create.restype = ctypes.c_int32
        self.run.argtypes = [ctypes.c_void_p, array, array]
        self.run.restype = ctypes.c_int32
        self.profile.argtypes = [ctypes.c_void_p, array, array, ctypes.POINTER(ctypes.c_uint64)]
        self.profile.restype = ctypes.c_int32
        self.destroy.argtypes = [ctypes.c_void_p]
        self.destroy.restype = None
        self.error_string.argtypes = [ctypes.c_int32]
        self.error_string.restype = ctypes.c_char_p

    def check(self, status: int, what: str) -> None:
        """Turn a status code into an error."""
        if status != 0:
            raise ArtifactError(f"{what}: {self.error_string(status).decode()}")


def _open_library(path: Path) -> ctypes.CDLL:
    """Open a library by a name that was never used before.

    The dynamic linker takes an equal path for the library it has already, even if the file was replaced by
    another model since; the same file under two names it still opens once.
    """
    with tempfile.TemporaryDirectory(prefix="sparsecc-open-") as folder:
        link = Path(folder) / path.name
        link.symlink_to(path)
        return ctypes.CDLL(os.fspath(link))


def _check_array(spec: TensorInfo, dtype: np.dtype[Any], array: object) -> Array:
    if not isinstance(array, np.ndarray):
        raise ArtifactError(f"input {spec.name!r}: expected a numpy array, found {type(array).__name__}")
    if array.dtype != dtype:
        raise ArtifactError(
            f"input {spec.name!r}: expected type {spec.dtype}, found {_type_name(array.dtype)}"
        )
    if array.shape != spec.shape:
        raise ArtifactError(
            f"input {spec.name!r}: expected shape {list(spec.shape)}, found {list(array.shape)}"
        )
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.require(array, requirements=["C", "A"])


def _type_name(dtype: np.dtype[Any]) -> str:
    return dtype.name if dtype.isnative else f"{dtype.name} in the other byte order"


def _pointers(arrays: list[Array]) -> ctypes.Array[ctypes.c_void_p]:
    # the interface's address costs a fifth of what `array.ctypes.data` does
    addresses = [array.__array_interface__["data"][0] for array in arrays]
    return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
