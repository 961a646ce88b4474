"""All targets by name. A new one is a row, or a file with rows that is named here."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

from sparsecc.errors import LoweringError, UsageError
from sparsecc.host import host_cpu, host_features, host_machine
from sparsecc.targets import arm, cpu, riscv, wasm
from sparsecc.targets.gpu import machine as gpu
from sparsecc.targets.machine import Machine

MACHINES = {machine.name: machine for module in (cpu, arm, riscv, wasm) for machine in module.MACHINES}
PLATFORMS = {machine.platform.name: machine.platform for machine in MACHINES.values()}
HOST = ("cpu", "host")
GPUS = {device.name: device for device in gpu.GPUS}
NAMES = (*HOST, *MACHINES, *GPUS)


def machine_for(target: str) -> Machine:
    """The machine that a target name means.

    Raises:
        UsageError: no such target.
        LoweringError: `host` on a machine that none of the targets describes.
    """
    if target in MACHINES or target in GPUS:
        return MACHINES.get(target) or GPUS[target]
    if target not in HOST:
        raise UsageError(f"there is no target {target!r}; targets are {', '.join(NAMES)}")
    runnable = [machine for machine in MACHINES.values() if not missing_features(machine)]
    if not runnable:
        raise LoweringError(
            f"no target describes this machine ({platform.machine()}), so `{target}` cannot be chosen; "
            f"name the machine to compile for: {', '.join(MACHINES)}"
        )
    best = max(runnable, key=lambda found: (found.lanes, len(found.features), found.dot, found.expand))
    return replace(
        best,
        l1_bytes=_cache_bytes(0, best.l1_bytes),
        l2_bytes=_cache_bytes(2, best.l2_bytes),
        l3_bytes=_cache_bytes(3, best.l3_bytes),
        family=host_cpu().kind,
    )


def cpu_for(target: str) -> Machine:
    """The machine of a target whose kernels have predicted times.

    Raises:
        UsageError: no such target, or one for GPUs.
        LoweringError: as `machine_for`.
    """
    if target in GPUS:
        raise UsageError(
            f"target {target} is for GPUs, whose kernels are neither timed nor predicted; targets that are: "
            f"{', '.join((*HOST, *MACHINES))}"
        )
    return machine_for(target)


def missing_features(machine: Machine) -> list[str]:
    """What this machine lacks to run artifacts for another; its architecture and system come first."""
    if machine.platform.name != host_machine():
        return [machine.platform.name]
    return [feature for feature in machine.all_features if feature not in host_features()]


def _cache_bytes(index: int, otherwise: int) -> int:
    """Size of a data cache of the first core, as Linux reports it."""
    path = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size")
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return otherwise
    return int(text[:-1]) * 1024 if text.endswith("K") and text[:-1].isdigit() else otherwise
