"""How a driver asks for CPU features: the rows of the table that runtime/*/cpu.h reads.

x86 has CPUID (Intel SDM volume 2A), Linux on ARM and RISC-V the auxiliary vector (the kernel's uapi hwcap.h).
Features are named as /proc/cpuinfo names them; what has no row here is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

# CPUID bit of each x86 feature: leaf, subleaf, register (0 eax ... 3 edx), bit.
CPUID: dict[str, tuple[int, int, int, int]] = {
    "sse3": (1, 0, 2, 0),
    "pni": (1, 0, 2, 0),
    "ssse3": (1, 0, 2, 9),
    "fma": (1, 0, 2, 12),
    "sse4_1": (1, 0, 2, 19),
    "sse4_2": (1, 0, 2, 20),
    "popcnt": (1, 0, 2, 23),
    "avx": (1, 0, 2, 28),
    "f16c": (1, 0, 2, 29),
    "bmi1": (7, 0, 1, 3),
    "avx2": (7, 0, 1, 5),
    "bmi2": (7, 0, 1, 8),
    "avx512f": (7, 0, 1, 16),
    "avx512dq": (7, 0, 1, 17),
    "avx512ifma": (7, 0, 1, 21),
    "avx512cd": (7, 0, 1, 28),
    "avx512bw": (7, 0, 1, 30),
    "avx512vl": (7, 0, 1, 31),
    "avx512vbmi": (7, 0, 2, 1),
    "avx512_vbmi2": (7, 0, 2, 6),
    "avx512_vnni": (7, 0, 2, 11),
    "avx512_bitalg": (7, 0, 2, 12),
    "avx512_vpopcntdq": (7, 0, 2, 14),
    "avx_vnni": (7, 1, 0, 4),
    "avx512_bf16": (7, 1, 0, 5),
    "amx_bf16": (7, 0, 3, 22),
    "avx512_fp16": (7, 0, 3, 23),
    "amx_tile": (7, 0, 3, 24),
    "amx_int8": (7, 0, 3, 25),
}
# Bits of XCR0 that the operating system sets when it saves the registers of a family.
_XCR0_YMM, _XCR0_ZMM, _XCR0_TILE = 0x6, 0xE6, 0x60000

_HWCAP, _HWCAP2 = 16, 26
# Entry of the auxiliary vector, and bit.
_AUXILIARY: dict[str, tuple[int, int]] = {
    "asimd": (_HWCAP, 1),
    "asimdhp": (_HWCAP, 10),
    "asimddp": (_HWCAP, 20),
    "i8mm": (_HWCAP2, 13),
    "neon": (_HWCAP, 12),
    "vfpv4": (_HWCAP, 16),
    "idiva": (_HWCAP, 17),
    "v": (_HWCAP, ord("v") - ord("a")),
}

Rows = tuple[list[tuple[int, ...]], int]
"""Rows of the table, and what the operating system has to save."""


def _cpuid(features: Sequence[str]) -> Rows:
    """The XCR0 bits of the registers that the features use come second."""
    known = [feature for feature in features if feature in CPUID]
    state = 0
    for feature in known:
        if feature.startswith("amx"):
            state |= _XCR0_TILE
        elif feature.startswith("avx512"):
            state |= _XCR0_ZMM
        elif feature.startswith("avx") or feature in ("fma", "f16c"):
            state |= _XCR0_YMM
    return [CPUID[feature] for feature in known], state


def _auxiliary(features: Sequence[str]) -> Rows:
    return [_AUXILIARY[feature] for feature in features if feature in _AUXILIARY], 0


_CHECKS: dict[str, Callable[[Sequence[str]], Rows]] = {"x86": _cpuid, "hwcap": _auxiliary}


def rows_of(runtime: Sequence[str], features: Sequence[str]) -> Rows:
    """What the driver's table holds for the CPU check among the folders `runtime`."""
    return next((_CHECKS[folder](features) for folder in runtime if folder in _CHECKS), ([], 0))
