"""What kernels cost on a machine, from a small model fitted on measurements."""

from sparsecc.cost.constants import constants_for
from sparsecc.cost.model import (
    VectorMachine,
    bitmap_seconds,
    csr_seconds,
    groups_seconds,
    lookup_seconds,
    nibbles_seconds,
    rows_seconds,
)
from sparsecc.cost.spmm import SpmmShape, spmm_seconds

__all__ = [
    "SpmmShape",
    "VectorMachine",
    "bitmap_seconds",
    "constants_for",
    "csr_seconds",
    "groups_seconds",
    "lookup_seconds",
    "nibbles_seconds",
    "rows_seconds",
    "spmm_seconds",
]
