"""Opens an artifact: every check that keeps a wrong file or a wrong machine from becoming a crash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sparsecc.artifact.archive import extract_archive
from sparsecc.artifact.manifest import (
    LIBRARIES,
    MANIFEST,
    SOURCES,
    WEIGHTS,
    FileInfo,
    Manifest,
    parse_manifest,
)
from sparsecc.artifact.native import NativeEngine
from sparsecc.artifact.session import Engine, Session
from sparsecc.errors import ArtifactError, UsageError
from sparsecc.host import host_features, host_machine

WASM = "wasm32"
"""The machine of artifacts that a WebAssembly runtime runs."""
_MAX_THREADS = 256


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    *,
    emulator: str | None = None,
    device: str | None = None,
) -> Session:
    """Open an artifact for running.

    Args:
        path: the folder or archive that `sparsecc.compile` wrote.
        threads: threads of a run, the caller's included (1 to 256); None means 1.
        emulator: command of a user-mode emulator, such as `qemu-aarch64`, for a Linux artifact of another
            architecture; "" takes the usual one. Every run starts it anew.
        device: for an artifact of a GPU the device, by a part of its name or by number; "" and None take the
            first GPU, or else the first device of any kind.

    Raises:
        ArtifactError: there is no artifact, a file of it is missing or differs from its SHA-256, or it was
            made for another format version, architecture or CPU.
        UsageError: a thread count out of range, or an emulator or a device that is not there.
        LoweringError: no C compiler for the program that an emulator runs.
    """
    manifest, folder = read_artifact(path)
    count = 1 if threads is None else threads
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MAX_THREADS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise UsageError(f"threads: expected a whole number from 1 to {_MAX_THREADS}, found {count!r}")
    if manifest.library in SOURCES:
        if emulator is not None or count != 1:
            raise UsageError(f"an artifact for {manifest.machine} has no threads and needs no emulator")
        return Session(manifest, _device_engine(manifest, folder, device or ""), count)
    if device is not None:
        raise UsageError(f"{os.fspath(path)} was compiled for {manifest.machine}, which has no devices")
    return Session(manifest, _engine(manifest, folder, count, emulator, os.fspath(path)), count)


def _device_engine(manifest: Manifest, folder: Path, device: str) -> Engine:
    from sparsecc.artifact.device import DeviceEngine

    if manifest.machine == "opencl":
        from sparsecc.artifact.opencl import OpenClDevice

        return DeviceEngine(manifest, folder, OpenClDevice(folder / manifest.library, device))
    if manifest.machine == "cuda":
        from sparsecc.artifact.cuda import CudaDevice

        return DeviceEngine(manifest, folder, CudaDevice(folder, device))
    if manifest.machine == "webgpu":
        from sparsecc.artifact.webgpu import WebGpuDevice

        return DeviceEngine(manifest, folder, WebGpuDevice(folder / manifest.library, device))
    raise ArtifactError(
        f"sparsecc runs no artifacts for {manifest.machine}: {manifest.library} and launches.json are for a "
        "program of your own"
    )


def _engine(manifest: Manifest, folder: Path, threads: int, emulator: str | None, where: str) -> Engine:
    if emulator is not None:
        from sparsecc.artifact.emulated import EmulatedEngine

        return EmulatedEngine(manifest, folder, threads, emulator)
    if manifest.machine == WASM:
        from sparsecc.artifact.wasm import WasmEngine

        return WasmEngine(manifest, folder, threads)
    check_host(manifest, where)
    return NativeEngine(manifest, folder, threads)


def read_artifact(path: str | os.PathLike[str]) -> tuple[Manifest, Path]:
    """Read the manifest of an artifact and check every file against it.

    Returns:
        The manifest and the folder that holds the files (for an archive, one in the user's cache).

    Raises:
        ArtifactError: as `load`, except for what depends on this machine.
    """
    source = Path(path)
    try:
        if source.is_dir():
            return _read_folder(source), source
        if not source.exists():
            raise ArtifactError(f"there is no artifact at {source}")
        folder = extract_archive(source)
        try:
            return _read_folder(folder), folder
        except ArtifactError:  # the cached copy was touched
            folder = extract_archive(source, again=True)
            return _read_folder(folder), folder
    except OSError as error:
        raise ArtifactError(f"cannot read the artifact {source}: {error.strerror or error}") from error


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of an artifact folder, without its other files.

    Raises:
        ArtifactError: there is none, or it is damaged or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}")
    return parse_manifest(path.read_bytes(), str(path))


def check_host(manifest: Manifest, where: str) -> None:
    """Refuse an artifact that this machine cannot run.

    Raises:
        ArtifactError: another architecture or system, or CPU features that the host lacks.
    """
    machine = host_machine()
    if manifest.machine != machine:
        raise ArtifactError(
            f"{where} was compiled for {manifest.machine}, and this machine is {machine}: "
            "load it there, or run it with an emulator"
        )
    missing = [feature for feature in manifest.features if feature not in host_features()]
    if missing:
        raise ArtifactError(
            f"{where} needs the CPU features {', '.join(missing)}, which this machine lacks: "
            "compile the model again for this machine"
        )


def _read_folder(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    library = manifest.library or LIBRARIES[0]
    for name in (library,) if manifest.weights_embedded else (library, WEIGHTS):
        if name not in manifest.files:
            raise ArtifactError(f"{folder / MANIFEST} does not list {name}")
    for name, info in manifest.files.items():
        _check_file(folder / name, info)
    return manifest


def _check_file(path: Path, expected: FileInfo) -> None:
    if not path.is_file():
        raise ArtifactError(f"the artifact is not complete: {path} is missing")
    size = path.stat().st_size
    if size != expected.bytes:
        raise ArtifactError(
            f"{path} has {size} bytes where the manifest says {expected.bytes}: the artifact is damaged"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected.sha256:
        raise ArtifactError(f"{path} does not match its SHA-256 in the manifest: the artifact is damaged")
