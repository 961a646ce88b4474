"""What the lowering for a device adds to that for CPUs: grids, groups of threads, and aligned buffers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.gpu.kernels.nest import THREADS, nest_call
from sparsecc.targets.gpu.machine import Gpu
from sparsecc.targets.gpu.plan import ALIGNMENT, Argument, Launch
from sparsecc.targets.layout import Layout, round_up
from sparsecc.targets.lower.state import Lowering, Pointer, Stored
from sparsecc.targets.plan import Ref, Weights

QUAD = 4
"""Elements that a thread loads at once: rows that products read begin at multiples of it."""


class DeviceLowering(Lowering):
    """The state of one lowering for a device."""

    def __init__(self, model: ir.Model, gpu: Gpu, *, dense_only: bool, dense_layers: frozenset[str]) -> None:
        super().__init__(model, gpu, dense_only=dense_only, dense_layers=dense_layers)
        self.gpu = gpu
        self.weights = Weights(ALIGNMENT)
        self.loops = nest_call
        self._threads: list[tuple[tuple[int, int], tuple[int, int, int]]] = []

    def step(
        self,
        label: str,
        kind: str,
        symbol: str,
        pointers: Sequence[Pointer],
        scalars: Sequence[int],
        extent: int,
    ) -> int:
        """A kernel of loops, with a thread for each element."""
        return self.launch(
            label, kind, symbol, pointers, scalars, (-(-extent // THREADS), 1), (THREADS, 1, 1)
        )

    def launch(
        self,
        label: str,
        kind: str,
        symbol: str,
        pointers: Sequence[Pointer],
        scalars: Sequence[int],
        grid: tuple[int, int],
        block: tuple[int, ...],
    ) -> int:
        """Append a launch; returns its index.

        Raises:
            UnsupportedOpError: the grid is larger than every device's.
        """
        if grid[1] > LARGEST_GRID:
            raise UnsupportedOpError(
                f"{label}: {grid[1]} rows of thread groups, and devices have {LARGEST_GRID}: "
                "use a smaller batch"
            )
        x, y, z = (*block, *(1 for _ in range(3 - len(block))))
        self._threads.append((grid, (x, y, z)))
        return super().step(label, kind, symbol, pointers, scalars, prod(grid))

    def launches(self) -> tuple[Launch, ...]:
        """All launches, once the buffers are placed."""
        return tuple(
            Launch(
                step.symbol, grid, block, tuple(self._argument(p) for p in step.pointers), tuple(step.scalars)
            )
            for step, (grid, block) in zip(self.steps, self._threads, strict=True)
        )

    def _argument(self, pointer: Pointer) -> Argument:
        assert pointer.offset == 0
        if isinstance(pointer.target, Ref):
            at, nbytes = pointer.target, self.weights.nbytes - pointer.target.offset
        else:
            at, nbytes = pointer.target.ref(0), pointer.target.nbytes
        return Argument(at.space, at.index, at.offset, max(nbytes, 1))


LARGEST_GRID = 65535
"""Groups of threads along y that CUDA, Metal and WebGPU all allow."""


def planes(shape: Sequence[int]) -> Layout:
    """[N, C, ...] with the positions of a channel one behind the other, padded to whole quads."""
    positions = prod(shape[2:])
    pitch = round_up(positions, QUAD)
    inner = [prod(shape[d + 1 :]) for d in range(2, len(shape))]
    return Layout((shape[1] * pitch, pitch, *inner), 0, max(1, shape[0] * shape[1] * pitch))


def is_flat(stored: Stored, shape: Sequence[int]) -> bool:
    """Whether the positions of each channel lie one behind the other and may be read in quads."""
    layout = stored.layout
    inner = tuple(prod(shape[d + 1 :]) for d in range(2, len(shape)))
    together = all(s == i or n == 1 for s, i, n in zip(layout.strides[2:], inner, shape[2:], strict=True))
    return (
        together
        and stored.dtype == "float32"
        and in_quads(stored, (layout.strides[0], layout.strides[1]), prod(shape[2:]))
    )


def in_quads(stored: Stored, strides: Sequence[int], count: int) -> bool:
    """Whether rows `strides` apart, of `count` elements, begin at quads and end in memory of this value."""
    aligned = all(s % QUAD == 0 for s in strides) and stored.layout.origin % QUAD == 0
    return aligned and (
        count % QUAD == 0 or (not stored.exact and all(s >= round_up(count, QUAD) for s in strides))
    )
