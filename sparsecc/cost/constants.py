"""Constants of the cost model, one JSON file for each family of CPUs, fitted by `make cost-model`.

They are cycles of the model's nominal clock unless they say otherwise, so absolute times follow the CPU that
they were fitted on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_DEFAULT = "AuthenticAMD 26"
"""Whose constants unknown families take."""


@dataclass(frozen=True)
class SpmmConstants:
    """Of a kernel with lanes along positions.

    Attributes:
        product: of R x J.
        load: of a vector of X from L1.
        miss: added to that where a chunk's columns are far beyond L1.
        miss_center, miss_width: where half of it is added, and how gradually, in sizes of L1.
        unaligned: times a load costs where vectors straddle cache lines.
        latency: of an addition whose sum the next block needs.
        block: of any size.
        entry, entry_sum, chunk_sum: of a row block, of each of its sums, and of those that wait in memory.
        tile, call: of any size; a call finds its code, tables and pages outside of the caches.
        weight_byte: read once.
        far_input: of a vector of X from beyond L2.
        output, far_output: of a vector of Y, and what is added to that beyond L2.
    """

    product: float
    load: float
    miss: float
    miss_center: float
    miss_width: float
    unaligned: float
    latency: float
    block: float
    entry: float
    entry_sum: float
    chunk_sum: float
    weight_byte: float
    far_input: float
    output: float
    far_output: float
    tile: float
    call: float


@dataclass(frozen=True)
class RowsConstants:
    """Of the kernels for few columns: what a step takes, and what each column adds to it.

    Attributes:
        l3_bytes, memory_bytes: of weights that come per cycle from there.
        dense, dense_column: of a block with all its columns.
        block, block_column: of a stored block.
        lookup, lookup_column: of 16 weights.
        bucket: of a bucket, for each column.
        nibbles, nibbles_column: of a vector of weights.
        groups, groups_column: of a vector of stored weights.
        bitmap, csr: times the cycles that model.py counts.
        conversion: of a vector of weights to floats.
        call: of any size.
    """

    l3_bytes: float
    memory_bytes: float
    dense: float
    dense_column: float
    block: float
    block_column: float
    lookup: float
    lookup_column: float
    bucket: float
    nibbles: float
    nibbles_column: float
    groups: float
    groups_column: float
    bitmap: float
    csr: float
    conversion: float
    call: float


@dataclass(frozen=True)
class Constants:
    """Of all kernels.

    Attributes:
        spmm, dots: of these kernels.
        rows: of those for few columns.
    """

    spmm: SpmmConstants
    dots: SpmmConstants
    rows: RowsConstants


@cache
def constants_for(cpu: str = "") -> Constants:
    """Those of a family of CPUs, such as "AuthenticAMD 26", or for unknown ones of the default family."""
    path = constants_file(cpu)
    found = json.loads((path if path.is_file() else constants_file(_DEFAULT)).read_text("utf-8"))
    return Constants(
        SpmmConstants(**found["spmm"]), SpmmConstants(**found["dots"]), RowsConstants(**found["rows"])
    )


def constants_file(cpu: str) -> Path:
    """Where the constants of a family are."""
    return _FOLDER / f"{re.sub('[^a-z0-9]+', '-', cpu.lower())}.json"
