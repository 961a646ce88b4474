"""Which state of the kernel generators this process runs: part of the key of compiled kernels."""

from __future__ import annotations

import hashlib
from pathlib import Path


def _digest() -> str:
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("kernels/*.py")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


# Taken before any generator is imported, since the package imports this file first.
_AT_IMPORT = _digest()


def source_version() -> str | None:
    """A digest of the sources, or None if they changed since: nobody knows then which were imported."""
    return _AT_IMPORT if _digest() == _AT_IMPORT else None
