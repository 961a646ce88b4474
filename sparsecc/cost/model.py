"""A cycle model of the kernels for few columns: instructions, and the weights' bytes from L3 or memory.

Instructions are counted here, what they cost is fitted (constants.py). Absolute times follow a nominal clock;
choices only compare them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sparsecc.cost.constants import Constants, constants_for

FITTED = 2.0
"""Multiply-adds and loads per cycle of the machine that constants were fitted on."""


@dataclass(frozen=True)
class VectorMachine:
    """What the model knows of a core.

    Attributes:
        lanes: fp32 lanes.
        fma, loads: vector instructions of each kind per cycle.
        l1_bytes, l2_bytes: cache sizes.
        from_memory: whether the weights of layers with few columns lie beyond L3.
        clock: cycles per second, by which predictions are turned into time.
        constants: fitted on this family of CPUs, or another.
    """

    lanes: int
    fma: float = FITTED
    loads: float = FITTED
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    from_memory: bool = False
    clock: float = 4.0e9
    constants: Constants = field(default_factory=constants_for)

    def streaming(self, compute: float, nbytes: float) -> float:
        """Seconds of a kernel that computes and reads weights at the same time."""
        c = self.constants.rows
        stream = nbytes / (c.memory_bytes if self.from_memory else c.l3_bytes)
        return float(((compute**4 + stream**4) ** 0.25 + c.call) / self.clock)


def rows_seconds(
    blocks: int, columns: int, lanes: int, machine: VectorMachine, *, dense: bool, value_bytes: int = 4
) -> float:
    """Predicted time of the kernel with lanes along rows: `blocks` of `lanes` x 1, `columns` accumulators."""
    c = machine.constants.rows
    step = c.dense + c.dense_column * columns if dense else c.block + c.block_column * columns
    compute = blocks * (step * FITTED / machine.fma + _conversion(value_bytes, machine))
    nbytes = blocks * (value_bytes * lanes + (0 if dense else 4))
    return machine.streaming(compute, nbytes)


def lookup_seconds(
    steps: int, buckets: int, columns: int, machine: VectorMachine, value_bytes: int = 4
) -> float:
    """Predicted time of the lookup kernel: steps of 16 weights, buckets of all row blocks."""
    c = machine.constants.rows
    step = c.lookup + c.lookup_column * columns + _conversion(value_bytes, machine)
    compute = steps * step + buckets * c.bucket * columns
    nbytes = steps * 16 * (1 + value_bytes)
    return machine.streaming(compute, nbytes)


def bitmap_seconds(
    weights: int, stored: int, columns: int, machine: VectorMachine, value_bytes: int = 4
) -> float:
    """Predicted time of the kernel with a bit for each weight, of which `stored` are nonzero."""
    steps = weights * value_bytes / 64
    step = {4: 1.5 + 0.47 * columns, 2: 2.2 + 0.94 * columns, 1: 0.3 + 2.7 * columns}[value_bytes]
    compute = steps * step
    nbytes = stored * value_bytes + weights / 8
    return machine.streaming(machine.constants.rows.bitmap * compute, nbytes)


def nibbles_seconds(weights: int, columns: int, machine: VectorMachine) -> float:
    """Predicted time of the kernel for 4-bit weights with a scale per 32."""
    c = machine.constants.rows
    compute = weights / machine.lanes * (c.nibbles + c.nibbles_column * columns)
    nbytes = weights * (0.5 + 4 / 32)
    return machine.streaming(compute, nbytes)


def groups_seconds(groups: int, rows: int, columns: int, machine: VectorMachine) -> float:
    """Predicted time of the kernel for stored groups of 32 weights of 4 bits."""
    c = machine.constants.rows
    compute = groups * 32 / machine.lanes * (c.groups + c.groups_column * columns)
    compute += rows * (6.0 + 8.0 * columns)
    nbytes = groups * (16 + 4 + 4)
    return machine.streaming(compute, nbytes)


def _conversion(value_bytes: int, machine: VectorMachine) -> float:
    """Cycles until a vector of weights is in float32."""
    return 0.0 if value_bytes == 4 else machine.constants.rows.conversion


def csr_seconds(rounds: int, rows: int, columns: int, chains: int, machine: VectorMachine) -> float:
    """Predicted time of the CSR kernel: `rounds` of `chains` nonzeros for `columns` accumulators each."""
    compute = rounds * chains * (1.6 * columns - 0.35) + rows * (12.0 + chains * columns)
    nbytes = rounds * chains * 6
    return machine.streaming(machine.constants.rows.csr * compute, nbytes)
