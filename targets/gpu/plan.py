"""What a device runs: kernel launches over buffers, as data that an artifact carries in `launches.json`.

    {"launches": [{"kernel": "...", "grid": [x, y], "block": [x, y, z], "scalars": [...],
                   "pointers": [[space, index, offset, bytes], ...]}, ...]}

Arguments are the pointers, then the int32 scalars, in the order of the kernel's parameters. Spaces are those
of `Ref`; offsets are multiples of `ALIGNMENT`, so that every API can bind a part of a buffer by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, cast, get_args

from sparsecc.targets.plan import Plan, Space

ALIGNMENT = 512  # bytes; NVIDIA's OpenCL asks for the most, 4096 bits
LAUNCHES = "launches.json"


@dataclass(frozen=True)
class Argument:
    """A part of a buffer that a kernel sees.

    Attributes:
        space: arena, weights (the packed file), input or output.
        index: which input or output; 0 for arena and weights.
        offset, nbytes: the part, in bytes.
    """

    space: Space
    index: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel: `grid` groups of `block` threads."""

    kernel: str
    grid: tuple[int, int]
    block: tuple[int, int, int]
    pointers: tuple[Argument, ...]
    scalars: tuple[int, ...]


@dataclass
class GpuPlan(Plan):
    """A plan for a device.

    Attributes:
        launches: one for each step.
        files: sources and binaries of the kernels, by file name.
    """

    launches: tuple[Launch, ...] = ()
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])


def launches_to_bytes(launches: tuple[Launch, ...]) -> bytes:
    """The content of `launches.json`."""
    entries = [
        {
            "kernel": launch.kernel,
            "grid": launch.grid,
            "block": launch.block,
            "pointers": [(p.space, p.index, p.offset, p.nbytes) for p in launch.pointers],
            "scalars": launch.scalars,
        }
        for launch in launches
    ]
    return json.dumps({"launches": entries}, indent=None, separators=(",", ":")).encode()


def parse_launches(data: bytes) -> tuple[Launch, ...]:
    """Read `launches.json`.

    Raises:
        ValueError: it is not what `launches_to_bytes` writes.
    """
    try:
        entries = cast(list[Any], json.loads(data)["launches"])
        return tuple(_launch(entry) for entry in entries)
    except (KeyError, TypeError) as error:
        raise ValueError(f"a field is missing or of the wrong kind: {error}") from error


def _launch(entry: dict[str, Any]) -> Launch:
    grid, block = _numbers(entry["grid"], 2), _numbers(entry["block"], 3)
    pointers: list[Argument] = []
    for space, *numbers in entry["pointers"]:
        if space not in get_args(Space):
            raise ValueError(f"there is no buffer {space!r}")
        pointers.append(Argument(space, *_numbers(numbers, 3)))
    scalars = _numbers(entry["scalars"], len(entry["scalars"]), least=-(2**31))
    return Launch(
        str(entry["kernel"]), (grid[0], grid[1]), (block[0], block[1], block[2]), tuple(pointers), scalars
    )


def _numbers(values: Any, count: int, least: int = 0) -> tuple[int, ...]:
    if len(values) != count or not all(type(v) is int and v >= least for v in values):
        raise ValueError(f"expected {count} whole numbers, found {values!r}")
    return tuple(values)
