"""A cycle model of the sparse kernels: multiply-add and load throughput, cache level of X, loop overheads.

The constants were fitted on single-core measurements of Zen 4 and Zen 5. Absolute times follow a nominal
clock; choices only compare them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsecc.cost.constants import Constants, constants_for

FROM_L3, FROM_MEMORY = 20.0, 9.5
"""Bytes per cycle that one core reads."""


@dataclass(frozen=True)
class VectorMachine:
    """What the model knows of a core.

    Attributes:
        lanes: fp32 lanes.
        fma, loads: vector instructions of each kind per cycle.
        l1_bytes, l2_bytes: cache sizes.
        stream_bytes: bytes per cycle of weights from where they lie.
        clock: cycles per second, by which predictions are turned into time.
        constants: fitted on this family of CPUs, or another.
    """

    lanes: int
    fma: float = 2.0
    loads: float = 2.0
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    stream_bytes: float = FROM_L3
    clock: float = 4.0e9
    constants: Constants = field(default_factory=constants_for)


def rows_seconds(
    blocks: int, columns: int, lanes: int, machine: VectorMachine, *, dense: bool, value_bytes: int = 4
) -> float:
    """Predicted time of the kernel with lanes along rows: `blocks` of `lanes` x 1, `columns` accumulators."""
    compute = blocks * max(columns / machine.fma, (columns + 1 + (0 if dense else 0.5)) / machine.loads)
    compute += blocks * _conversion(value_bytes)
    stream = blocks * (value_bytes * lanes + (0 if dense else 4)) / machine.stream_bytes
    return max(compute, stream) / machine.clock


def lookup_seconds(
    steps: int, buckets: int, columns: int, machine: VectorMachine, value_bytes: int = 4
) -> float:
    """Predicted time of the lookup kernel: steps of 16 weights, buckets of all row blocks."""
    compute = steps * (1.2 + 0.95 * columns + _conversion(value_bytes)) + buckets * (2.0 + 0.5 * columns)
    stream = steps * 16 * (1 + value_bytes) / machine.stream_bytes
    return max(compute, stream) / machine.clock


def bitmap_seconds(
    weights: int, stored: int, columns: int, machine: VectorMachine, value_bytes: int = 4
) -> float:
    """Predicted time of the kernel with a bit for each weight, of which `stored` are nonzero."""
    steps = weights * value_bytes / 64
    step = {4: 1.5 + 0.47 * columns, 2: 2.2 + 0.94 * columns, 1: 0.3 + 2.7 * columns}[value_bytes]
    compute = steps * step
    stream = (stored * value_bytes + weights / 8) / machine.stream_bytes
    return max(compute, stream) / machine.clock


def nibbles_seconds(weights: int, columns: int, machine: VectorMachine) -> float:
    """Predicted time of the kernel for 4-bit weights with a scale per 32."""
    compute = weights / machine.lanes * (1.1 + 0.6 * columns)
    stream = weights * (0.5 + 4 / 32) / machine.stream_bytes
    return max(compute, stream) / machine.clock


def groups_seconds(groups: int, rows: int, columns: int, machine: VectorMachine) -> float:
    """Predicted time of the kernel for stored groups of 32 weights of 4 bits."""
    compute = groups * 32 / machine.lanes * (1.2 + 0.7 * columns) + rows * (6.0 + 8.0 * columns)
    stream = groups * (16 + 4 + 4) / machine.stream_bytes
    return max(compute, stream) / machine.clock


def _conversion(value_bytes: int) -> float:
    """Cycles until a vector of weights is in float32."""
    return 0.0 if value_bytes == 4 else 1.0


def csr_seconds(rounds: int, rows: int, columns: int, chains: int, machine: VectorMachine) -> float:
    """Predicted time of the CSR kernel: `rounds` of `chains` nonzeros for `columns` accumulators each."""
    compute = rounds * chains * (1.6 * columns - 0.35) + rows * (12.0 + chains * columns)
    stream = rounds * chains * 6 / machine.stream_bytes
    return max(compute, stream) / machine.clock
