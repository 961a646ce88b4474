"""What this machine is: its architecture and the instruction sets of its processor."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


def host_machine() -> str:
    """Architecture and system of this process, such as "x86_64-linux"."""
    machine = platform.machine().lower()
    return f"{_MACHINES.get(machine, machine)}-{platform.system().lower()}"


@cache
def host_features() -> frozenset[str]:
    """Features that every processor of this machine has, in the names of `/proc/cpuinfo` ("avx2", "fma").

    Empty where the system does not tell.
    """
    try:
        text = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    sets = [
        frozenset(value.split())
        for name, _, value in (line.partition(":") for line in text.splitlines())
        if name.strip() in ("flags", "Features")
    ]
    return frozenset.intersection(*sets) if sets else frozenset()
