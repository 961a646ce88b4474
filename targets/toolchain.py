"""Finds a C compiler and makes the two libraries of an artifact with it.

Any of $CC, cc, gcc, clang, or the compiler inside the `ziglang` package will do. The shared library shows the
driver's exports only. The static one is combined into one object whose other symbols are made local, so that
two models can be linked into one program; that needs objcopy, and without it the objects are archived as is.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsecc.errors import LoweringError

_CANDIDATES = ("cc", "gcc", "clang")
_TIMEOUT = 600  # seconds for one command; zig builds its libc on first use
_MESSAGE_LINES = 12  # of a failed command's output

_COMPILE = (
    "-std=c11",
    "-O2",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-strict-overflow",
    "-Wall",
    "-Wextra",
)
_SHARED = (
    "-shared",
    "-pthread",
    "-s",
    "-Wl,--gc-sections",
    "-Wl,-z,noexecstack",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,-z,defs",
)


@dataclass(frozen=True)
class Toolchain:
    """Commands, each as its leading arguments.

    Attributes:
        compiler: compiles and links C.
        archiver: understands `rcsD`.
        objcopy: makes symbols local; empty where there is none.
    """

    compiler: tuple[str, ...]
    archiver: tuple[str, ...]
    objcopy: tuple[str, ...] = ()


def find_toolchain(compiler: str | None = None) -> Toolchain:
    """Find a C compiler.

    Args:
        compiler: a command line ("clang -m64"), or "zig" for the `ziglang` package; None looks for $CC, cc,
            gcc, clang and `ziglang`, in this order.

    Raises:
        LoweringError: there is none, or the one that was asked for does not exist.
    """
    for origin, command in (("the compiler", compiler), ("$CC", os.environ.get("CC"))):
        if command:
            if command == "zig":
                return _zig()
            words = tuple(shlex.split(command))
            if not words or shutil.which(words[0]) is None:
                raise LoweringError(f"{origin} {command!r} was not found: name a C compiler, or leave it out")
            return _native(words)
    for name in _CANDIDATES:
        if shutil.which(name) is not None:
            return _native((name,))
    if importlib.util.find_spec("ziglang") is not None:
        return _zig()
    raise LoweringError(
        "no C compiler was found to link the library: looked for $CC, cc, gcc, clang and ziglang; "
        "install gcc, or run `pip install sparsecc[zig]`"
    )


def build_libraries(
    toolchain: Toolchain,
    objects: Mapping[str, bytes],
    files: Mapping[str, str],
    *,
    include: Path,
    exports: Sequence[str],
    work: Path,
) -> tuple[Path, Path]:
    """Compile the C sources and link them with the objects.

    Args:
        toolchain: what to call.
        objects: compiled kernels by name.
        files: texts by file name, laid beside each other; those that end in `.c` are compiled.
        include: folder of further headers.
        exports: symbols that the libraries show.
        work: existing folder for all that is made, and the commands' working folder.

    Returns:
        The paths of `libmodel.so` and `libmodel.a` in `work`.

    Raises:
        LoweringError: a command failed or did not end; the message has the end of its output.
    """
    for name, text in files.items():
        (work / name).write_text(text, encoding="utf-8")
    parts: list[str] = []
    for index, data in enumerate(objects.values()):
        parts.append(f"kernel{index}.o")
        (work / parts[-1]).write_bytes(data)
    for name in files:
        if name.endswith(".c"):
            compiled = f"{name.removesuffix('.c')}.o"
            _call(toolchain.compiler, *_COMPILE, f"-I{include}", "-c", name, "-o", compiled, cwd=work)
            parts.insert(0, compiled)
    _link_shared(toolchain, parts, exports, work)
    _link_static(toolchain, parts, exports, work)
    return work / "libmodel.so", work / "libmodel.a"


def _link_shared(toolchain: Toolchain, parts: Sequence[str], exports: Sequence[str], work: Path) -> None:
    names = " ".join(f"{name};" for name in exports)
    (work / "exports.map").write_text(f"{{ global: {names} local: *; }};\n", encoding="utf-8")
    _call(
        toolchain.compiler,
        *_SHARED,
        "-Wl,-soname,libmodel.so",
        "-Wl,--version-script=exports.map",
        "-o",
        "libmodel.so",
        *parts,
        "-lm",
        cwd=work,
    )


def _link_static(toolchain: Toolchain, parts: Sequence[str], exports: Sequence[str], work: Path) -> None:
    if toolchain.objcopy:
        keep = [f"--keep-global-symbol={name}" for name in exports]
        _call(toolchain.compiler, "-r", "-nostdlib", "-o", "combined.o", *parts, cwd=work)
        _call(toolchain.objcopy, *keep, "--strip-unneeded", "combined.o", "model.o", cwd=work)
        parts = ["model.o"]
    _call(toolchain.archiver, "rcsD", "libmodel.a", *parts, cwd=work)


def _native(compiler: tuple[str, ...]) -> Toolchain:
    archiver = next((name for name in ("ar", "llvm-ar") if shutil.which(name)), None)
    if archiver is None:
        raise LoweringError(f"found the C compiler {compiler[0]} but no ar beside it: install binutils")
    return Toolchain(compiler, (archiver,), _objcopy())


def _objcopy() -> tuple[str, ...]:
    return next(((name,) for name in ("objcopy", "llvm-objcopy") if shutil.which(name)), ())


def _zig() -> Toolchain:
    if importlib.util.find_spec("ziglang") is None:
        raise LoweringError("the ziglang package is not installed: run `pip install sparsecc[zig]`")
    zig = (sys.executable, "-m", "ziglang")
    # An explicit target keeps zig from using this machine's own instructions and newest libc.
    target = f"{platform.machine()}-linux-gnu.2.17"
    return Toolchain((*zig, "cc", "-target", target, "-fno-sanitize=undefined"), (*zig, "ar"), _objcopy())


def _call(command: Sequence[str], *arguments: str, cwd: Path) -> None:
    """Run a command; its output is only shown when it fails."""
    line = [*command, *arguments]
    try:
        done = subprocess.run(
            line, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise LoweringError(f"`{shlex.join(command)}` did not end within {_TIMEOUT} s") from error
    except OSError as error:
        raise LoweringError(f"`{shlex.join(command)}` could not be started: {error.strerror}") from error
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_MESSAGE_LINES:])
        raise LoweringError(f"`{shlex.join(command)}` failed with exit code {done.returncode}:\n{tail}")
