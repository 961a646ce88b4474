"""What kernels cost on a machine, from a small model fitted on measurements."""

from sparsecc.cost.model import (
    FROM_L3,
    FROM_MEMORY,
    SpmmShape,
    VectorMachine,
    bitmap_seconds,
    csr_seconds,
    groups_seconds,
    lookup_seconds,
    nibbles_seconds,
    rows_seconds,
    spmm_seconds,
)

__all__ = [
    "FROM_L3",
    "FROM_MEMORY",
    "SpmmShape",
    "VectorMachine",
    "bitmap_seconds",
    "csr_seconds",
    "groups_seconds",
    "lookup_seconds",
    "nibbles_seconds",
    "rows_seconds",
    "spmm_seconds",
]
