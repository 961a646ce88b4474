"""Writes an artifact from a plan: the libraries, the header, the weights and the manifest over them.

All files are made in a hidden sibling of the result and renamed at the end, so that an interrupted or failed
write leaves nothing, and what is replaced stays whole until its successor is complete.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.artifact.archive import is_archive, write_archive
from sparsecc.artifact.load import read_manifest
from sparsecc.artifact.manifest import (
    HEADER,
    LIBRARIES,
    MANIFEST,
    STATIC_LIBRARY,
    WEIGHTS,
    FileInfo,
    Manifest,
    StepInfo,
    TensorInfo,
    is_plain_name,
)
from sparsecc.errors import ArtifactError, LoweringError, UsageError

if TYPE_CHECKING:
    from sparsecc.targets.gpu.plan import GpuPlan
    from sparsecc.targets.plan import Plan, TensorSpec

_ELF_MACHINES = {3: "i686", 40: "armv7", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_MAGIC = {b"\xcf\xfa\xed\xfe\x0c\0\0\1": "aarch64", b"\0asm": "wasm32"}  # Mach-O for ARM, WebAssembly


def write_artifact(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    archive: bool = False,
    embed: bool = False,
    overwrite: bool = False,
    compiler: str | None = None,
    extra_files: Mapping[str, bytes] | None = None,
) -> Path:
    """Compile the driver of `plan`, link it with the kernels and write the artifact.

    Args:
        plan: what to run.
        out: the folder to make, or the file with `archive`.
        archive: write one file (an uncompressed zip).
        embed: put the weights into the libraries instead of `weights.bin`.
        overwrite: replace an artifact at `out`; anything else there is never touched.
        compiler: C compiler command, or "zig"; None looks for one.
        extra_files: further files by plain name, such as a report; listed in the manifest like the others.

    Returns:
        The path of the artifact.

    Raises:
        UsageError: `out` exists and may not be replaced, or a name that cannot be used.
        LoweringError: no C compiler, or it failed; or the plan contradicts itself.
    """
    target = Path(os.path.abspath(out))
    extras = dict(extra_files or {})
    for name in extras:
        if not is_plain_name(name) or name in (MANIFEST, *LIBRARIES, STATIC_LIBRARY, HEADER, WEIGHTS):
            raise UsageError(f"an extra file of the artifact cannot be called {name!r}")
    check_target(target, overwrite)
    stage = target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}"
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = stage / "files"
            folder.mkdir(parents=True)
            (stage / "build").mkdir()
            names = _write_files(plan, folder, stage / "build", embed=embed, compiler=compiler, extras=extras)
            finished = folder
            if archive:
                finished = stage / "archive"
                write_archive(folder, names, finished)
            check_target(target, overwrite)  # compiling took a while
            _replace(finished, target, stage / "replaced")
        except OSError as error:
            raise LoweringError(f"cannot write the artifact {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return target


def check_target(target: Path, overwrite: bool) -> None:
    """Refuse to replace what is not an artifact, or an artifact without being asked to."""
    if not os.path.lexists(target):
        return
    if target.is_dir() and not target.is_symlink() and not any(target.iterdir()):
        return
    if not _is_artifact(target):
        raise UsageError(f"{target} exists and is not an artifact, so it stays: choose another path")
    if not overwrite:
        raise UsageError(f"{target} exists: allow to overwrite it, or choose another path")


def _is_artifact(path: Path) -> bool:
    """Whether `path` is an archive of ours, or a folder with a manifest and nothing that it does not list."""
    if path.is_symlink():
        return False
    if not path.is_dir():
        return is_archive(path)
    try:
        manifest = read_manifest(path)
    except ArtifactError:
        return False
    return {entry.name for entry in path.iterdir()} <= {MANIFEST, *manifest.files}


def _replace(finished: Path, target: Path, aside: Path) -> None:
    """Rename `finished` to `target`; what was there goes to `aside`, and back if the renaming fails."""
    if not os.path.lexists(target):
        finished.rename(target)
        return
    try:
        target.rename(aside)
        finished.rename(target)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            aside.rename(target)
        raise


def _write_files(
    plan: Plan, folder: Path, build: Path, *, embed: bool, compiler: str | None, extras: Mapping[str, bytes]
) -> list[str]:
    """Write all files of the artifact to `folder`; returns their names, the manifest first."""
    from sparsecc.targets.gpu.plan import GpuPlan

    weights = (build if embed else folder) / WEIGHTS
    digest = hashlib.sha256()
    with weights.open("wb") as file:
        for part in plan.weights.parts():
            file.write(part)
            digest.update(part)
    if isinstance(plan, GpuPlan):
        arena_bytes = _write_kernels(plan, folder, embed=embed)
    else:
        arena_bytes = _write_libraries(plan, folder, build, digest.hexdigest() if embed else None, compiler)
    for name, data in extras.items():
        (folder / name).write_bytes(data)
    manifest = Manifest(
        sparsecc_version=importlib.metadata.version("sparsecc"),
        name=plan.name,
        target=plan.target,
        machine=plan.platform.name,
        features=plan.features,
        optional_features=() if isinstance(plan, GpuPlan) else plan.optional,
        inputs=tuple(map(_tensor_info, plan.inputs)),
        outputs=tuple(map(_tensor_info, plan.outputs)),
        arena_bytes=arena_bytes,
        weights_bytes=plan.weights.nbytes,
        weights_embedded=embed,
        passes=plan.passes,
        steps=tuple(StepInfo(step.label, step.kind) for step in plan.steps),
        files={path.name: _file_info(path) for path in sorted(folder.iterdir())},
        report=plan.report,
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return [MANIFEST, *manifest.files]


def _write_kernels(plan: GpuPlan, folder: Path, *, embed: bool) -> int:
    """Write what a device runs; returns the scratch memory of a run."""
    if embed:
        raise UsageError(f"the weights of an artifact for {plan.target} stay in a file: leave out --embed")
    for name, data in plan.files.items():
        (folder / name).write_bytes(data)
    return plan.arena_bytes


def _write_libraries(
    plan: Plan, folder: Path, build: Path, embedded: str | None, compiler: str | None
) -> int:
    """Link the libraries, with the weights if their SHA-256 is given; returns a run's scratch memory."""
    from sparsecc.targets.driver import generate, include_folders, total_arena_bytes
    from sparsecc.targets.linking import Job, build_libraries
    from sparsecc.targets.toolchain import find_toolchain

    toolchain = find_toolchain(compiler, plan.platform)
    sources = generate(plan, embed_sha256=embedded)
    shared, static = build_libraries(
        Job(toolchain, plan.platform, sources.exports, build),
        plan.objects,
        {HEADER: sources.header, "driver.c": sources.driver},
        include_folders(plan),
    )
    _check_machine(shared, plan.platform.name)
    shared.rename(folder / shared.name)
    static.rename(folder / STATIC_LIBRARY)
    (folder / HEADER).write_text(sources.header, encoding="utf-8")
    for name, text in sources.extras.items():
        (folder / name).write_text(text, encoding="utf-8")
    return total_arena_bytes(plan)


def _check_machine(library: Path, expected: str) -> None:
    """Refuse a library that the C compiler made for another machine, as far as its header tells."""
    with library.open("rb") as file:
        header = file.read(20)
    if header[:4] == b"\x7fELF":
        code = int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")
        found = _ELF_MACHINES.get(code, f"elf{code}")
    else:
        found = next((name for magic, name in _MAGIC.items() if header.startswith(magic)), "another system")
    if expected.partition("-")[0] != found:
        raise LoweringError(f"the C compiler made a library for {found}: expected one for {expected}")


def _tensor_info(spec: TensorSpec) -> TensorInfo:
    return TensorInfo(spec.name, spec.dtype, spec.shape)


def _file_info(path: Path) -> FileInfo:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileInfo(digest, path.stat().st_size)
