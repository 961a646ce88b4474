"""What a kernel family hands to the planner for one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from sparsecc.targets.kernels.schedule import LoopKernel


@dataclass(frozen=True)
class KernelCall:
    """A kernel and how it is called; the pointers' order is the family's.

    Attributes:
        symbol: equal for equal code.
        make: builds the PrimFunc of that symbol.
        scalars: the int32 arguments after the pointers.
        extent: of the parallel range.
    """

    symbol: str
    make: Callable[[], tirx.PrimFunc]
    scalars: tuple[int, ...]
    extent: int


LoopCall = Callable[[LoopKernel, str], KernelCall]
"""Makes the call of planned loops, under a symbol, as the device runs them."""
