"""x86-64 on Linux, chosen by psABI level so that needed features are exact; `host` is the highest level here.

Products of 8-bit codes use VNNI where `host` has it or the name says `+vnni`, and sparse ones on few columns
VBMI2 too, which `+vbmi2` says; artifacts without such products do not need them.
"""

from __future__ import annotations

from dataclasses import replace

from sparsecc.targets.machine import Machine, Platform

PLATFORM = Platform(
    "x86_64-linux",
    "x86_64-linux-gnu",
    "x86_64-linux-gnu.2.17",
    runtime=("posix", "x86"),
    prefixes=("x86_64-linux-gnu-",),
    emulator="qemu-x86_64",
)
_V2 = ("pni", "ssse3", "sse4_1", "sse4_2", "popcnt")
_V3 = ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_CHECKED = "run by the tests, where the processor has it"

_LEVELS = (
    Machine("x86-64-v2", 4, 16, _V2, PLATFORM, l2_bytes=256 * 1024, fma=1.0, fused=False),
    Machine("x86-64-v3", 8, 16, _V3, PLATFORM, l2_bytes=512 * 1024, products="pmaddwd"),
    Machine("x86-64-v4", 16, 32, _V4, PLATFORM, products="pmaddwd"),
)
_VNNI = {"x86-64-v3": "avx_vnni", "x86-64-v4": "avx512_vnni"}
_ROWS = tuple(replace(level, cpu=level.name, verified=_CHECKED) for level in _LEVELS)
_WITH_VNNI = tuple(
    replace(level, name=f"{level.name}+vnni", dot=_VNNI[level.name], products="vpdpbusd")
    for level in _ROWS
    if level.name in _VNNI
)
_WITH_VBMI2 = replace(_WITH_VNNI[-1], name="x86-64-v4+vnni+vbmi2", expand="avx512_vbmi2")
MACHINES = (*_ROWS, *_WITH_VNNI, _WITH_VBMI2)
