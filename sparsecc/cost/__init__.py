"""What kernels cost on a machine, from a small model fitted on measurements."""

from sparsecc.cost.model import (
    SpmmShape,
    VectorMachine,
    csr_seconds,
    groups_seconds,
    lookup_seconds,
    nibbles_seconds,
    rows_seconds,
    spmm_seconds,
)

__all__ = [
    "SpmmShape",
    "VectorMachine",
    "csr_seconds",
    "groups_seconds",
    "lookup_seconds",
    "nibbles_seconds",
    "rows_seconds",
    "spmm_seconds",
]
