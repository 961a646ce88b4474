"""A file of measurements: JSON lines, each the seconds of some forms of one layer on one CPU.

    {"layer": "spmm 256x256 on 1x13 vectors, 1 taps stored 1x1:20 ...", "key": "1f0c...",
     "machine": "x86-64-v4+vnni", "cpu": "AuthenticAMD 26.2 AMD EPYC", "version": "9a3e...",
     "seconds": {"spmm 4x4/128": 1.2e-05}}

Lines are appended, each in one write, and the last one about a form holds. So an interruption costs nothing
but what it interrupted, several processes may write at once, and files are merged by `cat`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from sparsecc.errors import UsageError
from sparsecc.host import host_cpu
from sparsecc.targets.cache import cache_folder
from sparsecc.targets.lower.layer_keys import STEP, is_similar_key, split_key
from sparsecc.targets.sources import kernel_version

SHIPPED = Path(__file__).with_name("default.jsonl")
ALIKE = 0.34
"""Share of the larger of two shares that they may be apart: work grows with them, and 5 is half of 10."""
_FILE = "tuning.jsonl"
_TEXTS = ("layer", "key", "machine", "cpu", "version")


@dataclass(frozen=True)
class Record:
    """One line.

    Attributes:
        layer: the similar key (targets/lower/layers.py), whose first word is the layer's kernel family.
        key: the exact key; empty in the shipped file.
        machine: the target that kernels were compiled for.
        cpu: on which they ran, as `host_cpu` writes it.
        version: of the generators of the family's kernels.
        seconds: of the layer, by form.
    """

    layer: str
    key: str
    machine: str
    cpu: str
    version: str
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    def to_json(self) -> str:
        """The line."""
        return json.dumps(asdict(self)) + "\n"

    @property
    def cpu_kind(self) -> str:
        """Vendor and family of the CPU."""
        return _kind_of(self.cpu)


class Database:
    """The measurements of one file that hold on one CPU.

    Args:
        path: the file; one that does not exist is empty, and made by the first `add`.
        any_version: take measurements of other states of the kernels too.
        cpu: the CPU, as records name it, or its vendor and family only; "": this machine's.

    Raises:
        UsageError: the file cannot be read, or is not a database.
    """

    def __init__(self, path: Path, *, any_version: bool = False, cpu: str = "") -> None:
        self.path = path
        self._any_version = any_version
        self._cpu = cpu or str(host_cpu())
        self._exact: dict[tuple[str, str], dict[str, float]] = {}
        self._similar: dict[tuple[str, str], dict[tuple[int, ...], dict[str, float]]] = {}
        for record in _read(path):
            self._keep(record)

    def exact(self, key: str, machine: str) -> Mapping[str, float]:
        """Seconds by form of the layer of this exact key."""
        return self._exact.get((key, machine), {})

    def similar(self, layer: str, machine: str) -> Mapping[str, float]:
        """Seconds by form of the layers of this similar key, on a CPU of this one's family.

        Shares that lie near the border of two steps may be a step apart, unless that is a large part of them:
        the nearest are taken.
        """
        text, shares = split_key(layer)
        found = self._similar.get((text, machine), {})
        near = [(_distance(shares, other), other) for other in found if _alike(shares, other)]
        return found[min(near)[1]] if near else {}

    def add(self, layer: str, key: str, machine: str, seconds: Mapping[str, float]) -> None:
        """Append what was measured on this CPU.

        Raises:
            UsageError: the file cannot be written.
        """
        version = kernel_version(layer.partition(" ")[0])
        rounded = {form: float(f"{value:.4g}") for form, value in seconds.items()}
        record = Record(layer, key, machine, self._cpu, version, rounded)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _append(self.path, record.to_json().encode())
        except OSError as error:
            raise UsageError(f"the database {self.path} cannot be written: {error.strerror}") from error
        self._keep(record)

    def _keep(self, record: Record) -> None:
        family = record.layer.partition(" ")[0]
        if not self._any_version and record.version != kernel_version(family):
            return
        if record.cpu_kind == _kind_of(self._cpu):
            text, shares = split_key(record.layer)
            by_shares = self._similar.setdefault((text, record.machine), {})
            by_shares.setdefault(shares, {}).update(record.seconds)
        if record.cpu == self._cpu and record.key:
            self._exact.setdefault((record.key, record.machine), {}).update(record.seconds)


def default_path() -> Path:
    """Where a user's measurements are, beside the compiled kernels."""
    return cache_folder() / _FILE


def open_databases(
    path: str | os.PathLike[str] | Literal[False] | None, cpu: str = ""
) -> tuple[Database, ...]:
    """The user's, or the one at `path`, and behind it the shipped one, for a CPU; False: none.

    Raises:
        UsageError: there is no file at `path`, or a file is not a database.
    """
    if path is False:
        return ()
    if path is not None and not Path(path).is_file():
        raise UsageError(f"there is no database {os.fspath(path)}; `sparsecc tune` makes one")
    own = Database(default_path() if path is None else Path(path), cpu=cpu)
    return own, Database(SHIPPED, any_version=True, cpu=cpu)


def read_records(path: Path) -> list[Record]:
    """All lines of a file.

    Raises:
        UsageError: the file cannot be read, or is not a database.
    """
    return list(_read(path))


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a file anew, in one step."""
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text("".join(record.to_json() for record in records), encoding="utf-8")
    temporary.replace(path)


def _alike(shares: tuple[int, ...], others: tuple[int, ...]) -> bool:
    return all(abs(a - b) <= min(STEP, ALIKE * max(a, b)) for a, b in zip(shares, others, strict=True))


def _distance(shares: tuple[int, ...], others: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(shares, others, strict=True))


def _kind_of(cpu: str) -> str:
    return cpu.partition(".")[0]


def _read(path: Path) -> Iterable[Record]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"the database {path} cannot be read: {error.strerror}") from error
    whole, _, _ = data.rpartition(b"\n")  # a line without an end was cut
    for number, line in enumerate(whole.split(b"\n"), 1):
        if line.strip():
            yield _parsed(line, f"{path}, line {number}")


def _parsed(line: bytes, where: str) -> Record:
    try:
        found: Any = json.loads(line)
    except ValueError:
        found = None
    if isinstance(found, dict):
        entries = cast(dict[str, Any], found)
        texts = [entries.get(name) for name in _TEXTS]
        known = all(isinstance(text, str) for text in texts) and is_similar_key(str(texts[0]))
        if known and _are_seconds(entries.get("seconds")):
            seconds = cast(dict[str, float], entries["seconds"])
            return Record(*cast(list[str], texts), seconds=seconds)
    raise UsageError(
        f"{where}: expected a measurement, a JSON object with {', '.join(_TEXTS)} and seconds by form; "
        "name the file of `sparsecc tune`, or remove this line"
    )


def _are_seconds(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    numbers = cast(dict[str, Any], value).values()
    return all(isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < 1e6 for n in numbers)


def _append(path: Path, line: bytes) -> None:
    """Add a line in one write, behind a whole one: what a crash left of its last line goes."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        end = os.lseek(handle, 0, os.SEEK_END)
        if end and os.pread(handle, 1, end - 1) != b"\n":
            os.ftruncate(handle, path.read_bytes().rfind(b"\n") + 1)
        os.write(handle, line)
    finally:
        os.close(handle)
