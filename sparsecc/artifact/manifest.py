"""The manifest: what an artifact holds, and the checksums that tie its files together.

`manifest.json` is one JSON object whose first line is `{"sha256": "<64 hex digits>",`: the SHA-256 of all
bytes behind that line. With the checksums of the other files inside, every byte of an artifact is covered.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, cast

import numpy as np

from sparsecc.errors import ArtifactError

FORMAT_VERSION = 1  # written
SUPPORTED_VERSIONS = range(1, 2)  # read

MANIFEST = "manifest.json"
SOURCES = ("kernels.cl", "kernels.cu", "kernels.metal", "kernels.wgsl")
"""The kernels of artifacts for devices, in the language of each."""
LIBRARIES = ("libmodel.so", "libmodel.dylib", "model.wasm", *SOURCES)
"""What an artifact's library may be called; the platform says which."""
STATIC_LIBRARY = "libmodel.a"
HEADER = "model.h"
WEIGHTS = "weights.bin"

_FIRST_LINE = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n')
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

T = TypeVar("T")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: row-major, of this exact shape and numpy type."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class StepInfo:
    """A kernel call: the layers that it computes, and its kernel family ("spmm", "depthwise", ...)."""

    label: str
    kind: str


@dataclass(frozen=True)
class FileInfo:
    """Size in bytes and SHA-256 (hexadecimal) of a file of the artifact."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """All that is known about an artifact without running it.

    Attributes:
        sparsecc_version: of the writer.
        name: prefix of the library's C symbols.
        target: target it was compiled for, such as "cpu".
        machine: architecture and system, such as "x86_64-linux".
        features: CPU features that the kernels use, in the names of `/proc/cpuinfo`.
        optional_features: those that they use where they find them.
        inputs, outputs: in the order of the C arrays.
        arena_bytes: scratch memory of one handle.
        weights_bytes: size of the packed weights.
        weights_embedded: whether they are inside the libraries instead of in `weights.bin`.
        passes: spec string of the passes that made the graph.
        steps: in the order of execution.
        files: all other files of the artifact, by plain name.
        report: the compile report, any JSON object.
        format_version: of the artifact's layout.
    """

    sparsecc_version: str
    name: str
    target: str
    machine: str
    features: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    arena_bytes: int
    weights_bytes: int
    weights_embedded: bool
    passes: str
    steps: tuple[StepInfo, ...]
    files: dict[str, FileInfo]
    report: dict[str, object] = field(default_factory=dict[str, object])
    optional_features: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def library(self) -> str:
        """The file that is loaded or linked at run time, or "" where none is listed."""
        return next((name for name in LIBRARIES if name in self.files), "")

    def to_bytes(self) -> bytes:
        """The content of `manifest.json`."""
        fields = asdict(self)
        ordered = {"format_version": fields.pop("format_version"), **fields}
        body = json.dumps(ordered, indent=1, ensure_ascii=True, allow_nan=False).removeprefix("{\n") + "\n"
        digest = hashlib.sha256(body.encode()).hexdigest()
        return f'{{"sha256": "{digest}",\n{body}'.encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """Read and check the content of a `manifest.json`.

    Args:
        data: the file's bytes.
        where: the file's path, for messages.

    Raises:
        ArtifactError: not JSON, another format version, a wrong checksum, or a field of the wrong kind.
    """
    try:
        parsed: object = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where} is not valid JSON, so the artifact is damaged: {error}") from error
    fields = _Fields(_object(parsed, where, "the manifest"), where)
    version = fields.get("format_version", _integer)
    if version not in SUPPORTED_VERSIONS:
        raise ArtifactError(
            f"{where} has format version {version}, and this sparsecc reads {SUPPORTED_VERSIONS.start} to "
            f"{SUPPORTED_VERSIONS.stop - 1}: compile the model again, or load it with the one that wrote it"
        )
    match = _FIRST_LINE.match(data)
    if match is None or hashlib.sha256(data[match.end() :]).hexdigest() != match[1].decode():
        raise ArtifactError(f"{where} does not match its own SHA-256, so the artifact is damaged")
    return Manifest(
        sparsecc_version=fields.get("sparsecc_version", _text),
        name=fields.get("name", _identifier),
        target=fields.get("target", _text),
        machine=fields.get("machine", _text),
        features=fields.get("features", _sequence(_text)),
        inputs=fields.get("inputs", _sequence(_tensor)),
        outputs=fields.get("outputs", _sequence(_tensor)),
        arena_bytes=fields.get("arena_bytes", _size),
        weights_bytes=fields.get("weights_bytes", _size),
        weights_embedded=fields.get("weights_embedded", _boolean),
        passes=fields.get("passes", _text),
        steps=fields.get("steps", _sequence(_step)),
        files=fields.get("files", _files),
        report=fields.get("report", _report),
        optional_features=fields.get("optional_features", _sequence(_text), ()),
        format_version=version,
    )


def is_plain_name(name: str) -> bool:
    """Whether `name` is a file name without folders, hidden files or characters that need quoting."""
    return _PLAIN_NAME.fullmatch(name) is not None


# --- readers of one value: return it, or raise ValueError with what was expected ------------------------


class _Fields:
    """The fields of a JSON object, each read with a reader; errors name the file and the field."""

    def __init__(self, values: Mapping[str, object], where: str) -> None:
        self._values = values
        self._where = where

    def get(self, name: str, read: Callable[[object], T], otherwise: T | None = None) -> T:
        """The field's value; `otherwise` where older writers left it out."""
        if name not in self._values:
            if otherwise is not None:
                return otherwise
            raise ArtifactError(f"{self._where} has no field {name!r}")
        try:
            return read(self._values[name])
        except ValueError as error:
            raise ArtifactError(f"{self._where}: field {name!r}: expected {error}") from error


def _object(value: object, where: str, what: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ArtifactError(f"{where}: expected {what} to be a JSON object")
    return cast(dict[str, object], value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string")
    return value


def _identifier(value: object) -> str:
    if not _IDENTIFIER.fullmatch(_text(value)):
        raise ValueError("a C identifier")
    return _text(value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("an integer")
    return value


def _size(value: object) -> int:
    if _integer(value) < 0:
        raise ValueError("an integer that is not negative")
    return _integer(value)


def _sequence(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    def read_all(value: object) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise ValueError("a list")
        return tuple(read(item) for item in cast(list[object], value))

    return read_all


def _record(value: object, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(cast(dict[str, object], value)) != names:
        raise ValueError(f"an object with the fields {', '.join(sorted(names))}")
    return cast(dict[str, Any], value)


def _tensor(value: object) -> TensorInfo:
    record = _record(value, {"name", "dtype", "shape"})
    dtype = _text(record["dtype"])
    try:
        known = np.dtype(dtype).kind in "biuf"
    except TypeError:
        known = False
    if not known:
        raise ValueError(f"a numpy number type, found {dtype!r}")
    return TensorInfo(_text(record["name"]), dtype, _sequence(_size)(record["shape"]))


def _step(value: object) -> StepInfo:
    record = _record(value, {"label", "kind"})
    return StepInfo(_text(record["label"]), _text(record["kind"]))


def _files(value: object) -> dict[str, FileInfo]:
    if not isinstance(value, dict):
        raise ValueError("an object of files")
    out: dict[str, FileInfo] = {}
    for name, item in cast(dict[str, object], value).items():
        if not is_plain_name(name) or name == MANIFEST:
            raise ValueError(f"plain file names, found {name!r}")
        record = _record(item, {"sha256", "bytes"})
        digest = _text(record["sha256"])
        if not _SHA256.fullmatch(digest):
            raise ValueError("a SHA-256 in 64 hexadecimal digits")
        out[name] = FileInfo(digest, _size(record["bytes"]))
    return out


def _report(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ValueError("an object")
    return cast(dict[str, object], value)
