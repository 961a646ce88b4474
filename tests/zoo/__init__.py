"""Networks that structural pruning must handle without a hint: small, real in structure, seeded weights."""

from .registry import MODELS, ZooModel, sample

__all__ = ["MODELS", "ZooModel", "sample"]
