"""The core's limit: multiply-adds on registers, by a loop that a C compiler cannot shorten."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from pathlib import Path

from sparsecc.timing import pinned

_SOURCE = """
#include <time.h>
typedef float vector __attribute__((vector_size(BYTES)));
double flops(long rounds) {
    vector acc[16], a, b;
    for (int i = 0; i < BYTES / 4; i++) { a[i] = 0.5f; b[i] = 0.25f; }
    for (int i = 0; i < 16; i++) acc[i] = a;
    __asm__ volatile("" : "+v"(a), "+v"(b));
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (long r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) { acc[i] = acc[i] * a + b; }
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) __asm__ volatile("" : "+v"(acc[i]));
    clock_gettime(CLOCK_MONOTONIC, &to);
    double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    return (double)rounds * 16 * (BYTES / 4) * 2 / seconds;
}
"""


def peak_flops(rounds: int = 2_000_000, trials: int = 7) -> float:
    """Largest fp32 FLOP/s of one core that was seen, with the widest vectors that it has."""
    wide = "avx512f" in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    with tempfile.TemporaryDirectory(prefix="sparsecc-peak-") as name:
        source, library = Path(name) / "peak.c", Path(name) / "peak.so"
        source.write_text(_SOURCE, encoding="ascii")
        flags = [
            "-O2",
            "-march=native",
            "-mprefer-vector-width=512",
            "-ffp-contract=fast",
            "-shared",
            "-fPIC",
        ]
        size = f"-DBYTES={64 if wide else 32}"
        subprocess.run(["cc", *flags, size, "-o", str(library), str(source)], check=True)
        function = ctypes.CDLL(str(library)).flops
        function.restype, function.argtypes = ctypes.c_double, [ctypes.c_long]
        with pinned(1):
            return max(float(function(rounds)) for _ in range(trials))
