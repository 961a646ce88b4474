"""One-file artifacts: an uncompressed zip whose comment ends with the SHA-256 of all bytes before it.

Any zip tool lists and extracts it. Loading extracts it once, into a private folder of the user's cache
named by that SHA-256, so that processes share the mapped weights.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from sparsecc.artifact.manifest import is_plain_name
from sparsecc.errors import ArtifactError

_MARK = b"sparsecc artifact, sha256 "
_DIGITS = 64
_BLOCK = 1 << 20
_KEPT = 30 * 24 * 3600
_EPOCH = (1980, 1, 1, 0, 0, 0)  # equal artifacts make equal archives


def write_archive(folder: Path, names: Sequence[str], out: Path) -> None:
    """Pack the named files of `folder` into the new file `out`."""
    with zipfile.ZipFile(out, "x", zipfile.ZIP_STORED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, _BLOCK)
        archive.comment = _MARK + b"0" * _DIGITS
    with out.open("r+b") as file:
        digest = _digest(file)
        file.seek(-_DIGITS, os.SEEK_END)
        file.write(digest.encode())


def extract_archive(path: Path, *, again: bool = False) -> Path:
    """The cache folder with the files of the archive `path`.

    Args:
        path: the archive.
        again: replace what an earlier call left in the cache.

    Raises:
        ArtifactError: not an archive of ours, damaged, or the cache cannot be written.
    """
    digest = _checked_digest(path)
    root = _cache_root()
    target = root / digest
    if target.is_dir() and not again:
        with suppress(OSError):
            os.utime(target)
        return target
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".extract-", dir=root))
    except OSError as error:
        raise ArtifactError(
            f"cannot extract {path} into the cache folder {root} ({error.strerror}): "
            "set SPARSECC_CACHE to a folder that can be written"
        ) from error
    try:
        _extract(path, temporary)
        if again:
            shutil.rmtree(target, ignore_errors=True)
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster
                raise
    except OSError as error:
        raise ArtifactError(f"cannot extract {path} into {root}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _drop_unused(root)
    return target


def _drop_unused(root: Path) -> None:
    """Remove what no one has opened for `_KEPT` seconds; it would be extracted again."""
    with suppress(OSError):
        for path in root.iterdir():
            ours = re.fullmatch(r"[0-9a-f]{64}|\.extract-\w+", path.name)
            if ours and time.time() - path.stat().st_mtime > _KEPT:
                shutil.rmtree(path, ignore_errors=True)


def _cache_root() -> Path:
    own = os.environ.get("SPARSECC_CACHE")
    if own:
        return Path(own) / "artifacts"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparsecc" / "artifacts"


def is_archive(path: Path) -> bool:
    """Whether `path` is a file that ends like an archive of ours; it may still be damaged."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _comment(file) is not None


def _comment(file: BinaryIO) -> bytes | None:
    """The zip comment with its mark, or None where the file does not end with one."""
    tail = len(_MARK) + _DIGITS
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - tail))
    comment = file.read()
    return comment if len(comment) == tail and comment.startswith(_MARK) else None


def _checked_digest(path: Path) -> str:
    with path.open("rb") as file:
        comment = _comment(file)
        if comment is None:
            raise ArtifactError(f"{path} is not an artifact: its end does not carry the mark of an archive")
        found = _digest(file)
    if comment[len(_MARK) :] != found.encode():
        raise ArtifactError(f"{path} does not match its own SHA-256, so the archive is damaged")
    return found


def _digest(file: BinaryIO) -> str:
    """SHA-256 of all but the last 64 bytes."""
    left = file.seek(0, os.SEEK_END) - _DIGITS
    file.seek(0)
    sha = hashlib.sha256()
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        sha.update(block)
        left -= len(block)
    return sha.hexdigest()


def _extract(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not is_plain_name(info.filename) or info.compress_type != zipfile.ZIP_STORED:
                    raise ArtifactError(f"{path} is not an artifact: it holds {info.filename!r}")
                with archive.open(info) as source, (folder / info.filename).open("xb") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"{path} is not a zip file that can be read: {error}") from error
