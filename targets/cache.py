"""Compiled kernels on disk, one folder for each target, TVM and state of the kernel sources.

    SPARSECC_CACHE/<digest of those>/<symbol>.o

Several processes may use it at once: files appear whole or not at all, and one that is gone is built again.
"""

from __future__ import annotations

import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDERS = 8
"""How many folders are kept, those used last."""

BYTES = 512 * 10**6
"""How much they hold together, the folder in use not counted."""

_OBJECTS = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\0asm")  # ELF, Mach-O, WebAssembly


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    named = os.environ.get("SPARSECC_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparsecc" / "kernels"


@dataclass(frozen=True)
class KernelCache:
    """The objects of one key.

    Attributes:
        folder: that of all keys.
        key: 16 hexadecimal digits.
    """

    folder: Path
    key: str

    def read(self, symbol: str) -> bytes | None:
        """A kernel's object file, or None where there is none."""
        try:
            data = (self.folder / self.key / f"{symbol}.o").read_bytes()
        except OSError:
            return None
        return data if data.startswith(_OBJECTS) else None

    def write(self, symbol: str, data: bytes) -> None:
        """Keep an object file; a cache that cannot be written is no error."""
        folder = self.folder / self.key
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(dir=folder, suffix=".o")
            try:
                with os.fdopen(number, "wb") as file:
                    file.write(data)
                os.replace(name, folder / f"{symbol}.o")
            except OSError:
                Path(name).unlink(missing_ok=True)

    def shrink(self) -> None:
        """Mark this folder as used last, and remove those used longest ago that are beyond the limits."""
        with suppress(OSError):
            os.utime(self.folder / self.key)
        kept, size = 1, 0
        for folder in _by_use(self.folder):
            if folder.name == self.key:
                continue
            size += _bytes(folder)
            if kept < FOLDERS and size <= BYTES:
                kept += 1
            else:
                _remove(folder)


def _by_use(folder: Path) -> list[Path]:
    """The folders of all keys, used last first; whatever else lies there is not ours."""
    found: list[tuple[float, Path]] = []
    with suppress(OSError):
        for path in folder.iterdir():
            if re.fullmatch(r"[0-9a-f]{16}", path.name):
                with suppress(OSError):
                    found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _bytes(folder: Path) -> int:
    size = 0
    with suppress(OSError):
        for path in folder.glob("*.o"):
            size += path.stat().st_size
    return size


def _remove(folder: Path) -> None:
    """Delete its objects, and itself if no other process has put new ones into it."""
    with suppress(OSError):
        for path in folder.glob("*.o"):
            path.unlink(missing_ok=True)
        folder.rmdir()
