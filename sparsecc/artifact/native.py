"""Runs an artifact's own library in this process, through ctypes."""

from __future__ import annotations

import ctypes
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from sparsecc.artifact.manifest import WEIGHTS, Manifest
from sparsecc.errors import ArtifactError

Array = npt.NDArray[Any]


class NativeEngine:
    """A handle of the library; see the generated header.

    Raises:
        ArtifactError: the library cannot be opened or refuses to start.
    """

    def __init__(self, manifest: Manifest, folder: Path, threads: int) -> None:
        self._handle = ctypes.c_void_p()
        self._library = _Library(folder / manifest.library, manifest.name)
        options = _Options(threads=threads)
        if not manifest.weights_embedded:
            options.weights_path = os.fsencode(folder / WEIGHTS)
        status = self._library.create(ctypes.byref(options), ctypes.byref(self._handle))
        self._library.check(status, "cannot start the artifact")

    def run(self, inputs: Sequence[Array], outputs: Sequence[Array]) -> None:
        """Read the inputs and write the outputs, row-major and aligned, in the manifest's order."""
        status = self._library.run(self._handle, _pointers(inputs), _pointers(outputs))
        self._library.check(status, "the run failed")

    def profile(self, inputs: Sequence[Array], outputs: Sequence[Array], steps: int) -> list[float]:
        """The same, and the seconds of each step."""
        times = (ctypes.c_uint64 * max(1, steps))()
        status = self._library.profile(self._handle, _pointers(inputs), _pointers(outputs), times)
        self._library.check(status, "the run failed")
        return [ns * 1e-9 for ns in times[:steps]]

    def close(self) -> None:
        """Free the handle, once."""
        if self._handle:
            self._library.destroy(self._handle)
            self._handle = ctypes.c_void_p()


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


def _pointers(arrays: Sequence[Array]) -> ctypes.Array[ctypes.c_void_p]:
    # the interface's address costs a fifth of what `array.ctypes.data` does
    addresses = [array.__array_interface__["data"][0] for array in arrays]
    return (ctypes.c_void_p * max(1, len(addresses)))(*addresses)
