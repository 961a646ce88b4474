"""The plan: a static list of kernel calls over one arena, and what an artifact is made from.

Kernels are plain C functions `int32_t symbol(void *p0, ..., int32_t s0, ..., int32_t begin, int32_t end)`:
first the pointers, then the scalars, then the half-open range of the step's parallel extent to compute.
They allocate nothing, keep no state and return 0.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

from sparsecc.targets.cpu import PLATFORM
from sparsecc.targets.machine import Platform

ALIGNMENT = 64  # bytes; start of the arena and of every weights entry
SLACK = 4096  # bytes readable before the first and behind the last arena byte that a plan hands out

Space = Literal["arena", "weights", "input", "output"]


@dataclass(frozen=True)
class Ref:
    """Where a kernel's pointer argument points.

    Attributes:
        space: arena, weights (the packed file), input or output (the caller's memory).
        index: which input or output; 0 for arena and weights.
        offset: bytes from the start of that space, input or output.
    """

    space: Space
    index: int = 0
    offset: int = 0


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        label: the node (or nodes) that it computes, for reports.
        symbol: the kernel's C symbol.
        pointers: one per pointer parameter, in order.
        scalars: int32 parameters, in order.
        extent: the kernel may be split anywhere in [0, extent) and the pieces run at the same time.
        kind: kernel family, for reports and profiles ("spmm", "depthwise", "generic", "copy", ...).
    """

    label: str
    symbol: str
    pointers: tuple[Ref, ...]
    scalars: tuple[int, ...]
    extent: int
    kind: str


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output: row-major, little-endian, naturally aligned, of this exact shape."""

    name: str
    dtype: str  # a numpy name: "float32", "int64", "bool", ...
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


class Weights:
    """The packed weights: arrays one behind the other, each at a multiple of `alignment` bytes.

    Equal content is stored once. The bytes wait in an unnamed temporary file, not in memory.
    """

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self._alignment = alignment
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the plan)
        self._at: dict[bytes, int] = {}
        self.nbytes = 0

    def add(self, array: npt.NDArray[np.generic]) -> Ref:
        """Append `array` (row-major) and return where it lies."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(data).digest()
        if key not in self._at:
            self._at[key] = self.nbytes
            padding = bytes(-data.nbytes % self._alignment)
            self._file.write(data)
            self._file.write(padding)
            self.nbytes += data.nbytes + len(padding)
        return Ref("weights", 0, self._at[key])

    def parts(self) -> Iterator[bytes]:
        """The file's content in order, in pieces, padding included."""
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            yield piece
        self._file.seek(0, 2)


@dataclass
class Plan:
    """All that an artifact's driver, manifest and report need.

    Attributes:
        name: C identifier that prefixes the library's public symbols.
        inputs, outputs: in the graph's order.
        steps: in order; each sees the finished results of all before it.
        arena_bytes: scratch memory of one run, without the slack that the runtime adds on both sides.
        weights: packed constants.
        objects: object files by name, each with the kernels' symbols; all are linked in.
        symbols: for each kernel symbol its (number of pointers, number of scalars).
        features: CPU features that the kernels use, in the names of `/proc/cpuinfo` ("avx2", "fma", ...).
        alternatives: for symbols of kernels that use `optional` that of the kernel with the same parameters
            which runs on processors without it.
        optional: CPU features that some processors have, in the same names.
        report: JSON-ready compile report, one entry per layer and totals.
        passes: spec string of the passes that made the graph.
        platform: what the library is linked for.
    """

    name: str
    target: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...]
    arena_bytes: int
    weights: Weights
    objects: dict[str, bytes]
    symbols: dict[str, tuple[int, int]]
    features: tuple[str, ...]
    alternatives: dict[str, str] = field(default_factory=dict[str, str])
    optional: tuple[str, ...] = ()
    passes: str = ""
    report: dict[str, object] = field(default_factory=dict[str, object])
    platform: Platform = PLATFORM
