"""Which state of the kernel generators this process runs: part of the key of compiled kernels and of
measurements."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

_GENERATORS = {
    "spmm": ("spmm", "quads"),
    "dots": ("dots", "spmm", "codes"),
    "rows": ("rows", "lookup", "csr", "nibbles", "groups", "bitmap", "digits"),
}


def _digest() -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("kernels/*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


@cache
def kernel_version(family: str) -> str:
    """A digest of the generators whose kernels compete for layers of a family, of which measurements hold."""
    digest = hashlib.sha256()
    for name in _GENERATORS.get(family, ()):
        digest.update((Path(__file__).parent / "kernels" / f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


# Taken before any generator is imported, since the package imports this file first.
_AT_IMPORT = _digest()


def source_version() -> str | None:
    """A digest of the sources, or None if they changed since: nobody knows then which were imported."""
    return _AT_IMPORT if _digest() == _AT_IMPORT else None
