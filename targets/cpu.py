"""Target `cpu`: x86-64 with AVX2 or AVX-512, chosen by psABI level so that needed features are exact.

`host` (and `cpu`) is the highest level that this machine has; a level may also be named, to compile for
another machine. Products of 8-bit codes use VNNI where `host` has it or the name says `+vnni`, and sparse
ones on few columns VBMI2 too, which `+vbmi2` says; artifacts without such products do not need them.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sparsecc.errors import LoweringError, UsageError
from sparsecc.host import host_cpu, host_features
from sparsecc.targets.lower.state import Machine

_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

_LEVELS: dict[str, Machine] = {
    "x86-64-v3": Machine("x86-64-v3", 8, 16, _V3, l1_bytes=32 * 1024, l2_bytes=512 * 1024),
    "x86-64-v4": Machine("x86-64-v4", 16, 32, _V4, l1_bytes=32 * 1024, l2_bytes=1024 * 1024),
}
_VNNI = {"x86-64-v3": "avx_vnni", "x86-64-v4": "avx512_vnni"}
_WITH_VNNI = {f"{name}+vnni": replace(_LEVELS[name], dot=dot) for name, dot in _VNNI.items()}
_WITH_VBMI2 = {"x86-64-v4+vnni+vbmi2": replace(_WITH_VNNI["x86-64-v4+vnni"], expand="avx512_vbmi2")}
MACHINES = _LEVELS | _WITH_VNNI | _WITH_VBMI2
NAMES = ("cpu", "host", *MACHINES)


def machine_for(target: str) -> Machine:
    """The machine that a target name means.

    Raises:
        UsageError: no such target.
        LoweringError: `host` on a machine without AVX2.
    """
    if target in MACHINES:
        return MACHINES[target]
    if target not in NAMES:
        raise UsageError(f"there is no target {target!r}; targets are {', '.join(NAMES)}")
    features = host_features()
    best = sorted(MACHINES.values(), key=lambda m: (m.lanes, m.dot, m.expand), reverse=True)
    for machine in best:
        if features.issuperset(machine.all_features):
            return replace(
                machine,
                l1_bytes=_cache_bytes(0, machine.l1_bytes),
                l2_bytes=_cache_bytes(2, machine.l2_bytes),
                l3_bytes=_cache_bytes(3, machine.l3_bytes),
                cpu=host_cpu().kind,
            )
    raise LoweringError(
        f"this machine ({platform.machine()}) has no AVX2, so `{target}` cannot be chosen for it; "
        f"name the machine to compile for: {', '.join(MACHINES)}"
    )


def _cache_bytes(index: int, otherwise: int) -> int:
    """Size of a data cache of the first core, as Linux reports it."""
    path = Path(f"/sys/devices/system/cpu/cpu0/cache/index{index}/size")
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return otherwise
    return int(text[:-1]) * 1024 if text.endswith("K") and text[:-1].isdigit() else otherwise


def tvm_target(machine: Machine, features: Sequence[str] = ()) -> dict[str, object]:
    """TVM's description of a machine, of which kernels use the given `features`."""
    target: dict[str, object] = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": machine.name}
    more = [feature for feature in (machine.dot, machine.expand) if feature in features]
    if more:
        target["mattr"] = [f"+{feature.replace('_', '')}" for feature in more]
    return target
