"""RISC-V, 64 bits, on Linux: RV64GC, whose kernels are scalar code, and with vectors of 128 bits or more."""

from __future__ import annotations

from dataclasses import replace

from sparsecc.targets.machine import Machine, Platform

_LINUX = Platform(
    "riscv64-linux",
    "riscv64-unknown-linux-gnu",
    "riscv64-linux-gnu.2.27",
    prefixes=("riscv64-linux-gnu-",),
    abi=(("mabi", "lp64d"), ("vector-width", 128)),
    emulator="qemu-riscv64",
)
_SCALAR = Machine(
    "riscv64-linux",
    4,
    8,  # of four of the 32 scalar registers
    (),
    _LINUX,
    l2_bytes=512 * 1024,
    cpu="generic-rv64",
    attributes=("+m", "+a", "+f", "+d", "+c"),
    fma=0.25,
    loads=0.5,
    verified="run under qemu, equal to ONNX Runtime; not timed on hardware",
)
MACHINES = (
    _SCALAR,
    replace(
        _SCALAR,
        name="riscv64-linux+v",
        registers=32,
        features=("v",),
        attributes=(*_SCALAR.attributes, "+v"),
        fma=1.0,
        loads=1.0,
    ),
)
