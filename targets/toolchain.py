"""Finds a C compiler for a platform: this machine's own, a cross compiler, or the one inside `ziglang`.

For this machine any of $CC, cc, gcc, clang will do; for others those with the platform's prefix, such as
Debian's aarch64-linux-gnu-gcc.
"""

from __future__ import annotations

import importlib.util
import os
import platform as running
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsecc.errors import LoweringError
from sparsecc.host import host_machine
from sparsecc.targets.machine import Platform

_CANDIDATES = ("cc", "gcc", "clang")
_TIMEOUT = 600  # seconds for one command; zig builds its libc on first use
_MESSAGE_LINES = 12  # of a failed command's output


@dataclass(frozen=True)
class Toolchain:
    """Commands, each as its leading arguments.

    Attributes:
        compiler: compiles and links C.
        archiver: understands `rcsD`.
        objcopy: makes symbols local; empty where there is none.
        bundled: the compiler is zig, which brings the C library's headers and stubs.
    """

    compiler: tuple[str, ...]
    archiver: tuple[str, ...]
    objcopy: tuple[str, ...] = ()
    bundled: bool = False

    def call(self, tool: Sequence[str], *arguments: str, cwd: Path) -> None:
        """Run one of the commands; its output is only shown when it fails.

        Raises:
            LoweringError: it failed or did not end; the message has the end of its output.
        """
        line = [*tool, *arguments]
        try:
            done = subprocess.run(
                line, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoweringError(f"`{shlex.join(tool)}` did not end within {_TIMEOUT} s") from error
        except OSError as error:
            raise LoweringError(f"`{shlex.join(tool)}` could not be started: {error.strerror}") from error
        if done.returncode != 0:
            tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-_MESSAGE_LINES:])
            raise LoweringError(f"`{shlex.join(tool)}` failed with exit code {done.returncode}:\n{tail}")


def find_toolchain(compiler: str | None = None, platform: Platform | None = None) -> Toolchain:
    """Find a C compiler.

    Args:
        compiler: a command line ("clang -m64"), or "zig" for the `ziglang` package; None looks for one.
        platform: what it compiles for; None: this machine.

    Raises:
        LoweringError: there is none, or the one that was asked for does not exist.
    """
    if platform is not None and platform.name != host_machine():
        return _cross(compiler, platform)
    for origin, command in (("the compiler", compiler), ("$CC", os.environ.get("CC"))):
        if command:
            return _named(origin, command, _native_target())
    for name in _CANDIDATES:
        if shutil.which(name) is not None:
            return _installed((name,), ("ar", "llvm-ar"), ("objcopy", "llvm-objcopy"))
    if importlib.util.find_spec("ziglang") is not None:
        return _zig(_native_target())
    raise LoweringError(
        "no C compiler was found to link the library: looked for $CC, cc, gcc, clang and ziglang; "
        "install gcc, or run `pip install sparsecc[zig]`"
    )


def _cross(compiler: str | None, platform: Platform) -> Toolchain:
    if compiler:
        return _named("the compiler", compiler, platform.zig)
    for prefix in platform.prefixes:
        if shutil.which(f"{prefix}gcc") is not None:
            return _installed(
                (f"{prefix}gcc",), (f"{prefix}ar", "llvm-ar"), (f"{prefix}objcopy", "llvm-objcopy")
            )
    if importlib.util.find_spec("ziglang") is not None:
        return _zig(platform.zig)
    looked = ", ".join([*(f"{prefix}gcc" for prefix in platform.prefixes), "ziglang"])
    raise LoweringError(
        f"no C compiler for {platform.name} was found to link the library: looked for {looked}; "
        "run `pip install sparsecc[zig]`, or name one with --cc"
    )


def _named(origin: str, command: str, zig_target: str) -> Toolchain:
    if command == "zig":
        return _zig(zig_target)
    words = tuple(shlex.split(command))
    if not words or shutil.which(words[0]) is None:
        raise LoweringError(f"{origin} {command!r} was not found: name a C compiler, or leave it out")
    return _installed(words, ("ar", "llvm-ar"), ("objcopy", "llvm-objcopy"))


def _installed(compiler: tuple[str, ...], archivers: Sequence[str], objcopies: Sequence[str]) -> Toolchain:
    archiver = next((name for name in archivers if shutil.which(name)), None)
    if archiver is None:
        raise LoweringError(f"found the C compiler {compiler[0]} but no ar beside it: install binutils")
    return Toolchain(compiler, (archiver,), _objcopy(objcopies))


def _objcopy(names: Sequence[str]) -> tuple[str, ...]:
    return next(((name,) for name in names if shutil.which(name)), ())


def _native_target() -> str:
    # An explicit target keeps zig from using this machine's own instructions and newest libc.
    return f"{running.machine()}-linux-gnu.2.17"


def _zig(target: str) -> Toolchain:
    if importlib.util.find_spec("ziglang") is None:
        raise LoweringError("the ziglang package is not installed: run `pip install sparsecc[zig]`")
    zig = (sys.executable, "-m", "ziglang")
    native = target == _native_target()
    objcopies = ("objcopy", "llvm-objcopy") if native else ("llvm-objcopy",)  # GNU's knows one architecture
    command = (*zig, "cc", "-target", target, "-fno-sanitize=undefined")
    return Toolchain(command, (*zig, "ar"), _objcopy(objcopies), bundled=True)
