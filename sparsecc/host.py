"""What this machine is: its architecture and the instruction sets of its processor."""

from __future__ import annotations

import platform
from dataclasses import dataclass
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


def multiplies_bfloat16() -> bool:
    """Whether this machine's processors have products of bfloat16, several times as fast as float32's."""
    return not host_features().isdisjoint(("avx512_bf16", "amx_bf16", "bf16"))


@dataclass(frozen=True)
class Cpu:
    """A processor model.

    Attributes:
        vendor: such as "AuthenticAMD".
        family, model: its numbers, as text.
        name: what it calls itself.
    """

    vendor: str
    family: str
    model: str
    name: str

    @property
    def kind(self) -> str:
        """Vendor and family, which share a microarchitecture: "AuthenticAMD 26"."""
        return f"{self.vendor} {self.family}"

    def __str__(self) -> str:
        return f"{self.kind}.{self.model} {self.name}"


@cache
def host_cpu() -> Cpu:
    """The first processor of this machine; parts that the system does not tell are "?"."""
    try:
        text = _CPUINFO.read_text(encoding="ascii", errors="replace")
    except OSError:
        text = ""
    return cpu_of(text)


def cpu_of(text: str) -> Cpu:
    """The first processor of what `/proc/cpuinfo` says."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())

    def first(*keys: str) -> str:
        return next((found[key] for key in keys if key in found), "?")

    return Cpu(
        first("vendor_id", "CPU implementer"),
        first("cpu family", "CPU architecture"),
        first("model", "CPU part"),
        first("model name"),
    )
