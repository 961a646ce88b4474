/* Does this processor, and its operating system, have what the kernels were compiled for? By CPUID. */
#ifndef SPARSECC_CPU_H
#define SPARSECC_CPU_H

#include <cpuid.h>
#include <stddef.h>
#include <stdint.h>

/* One bit of CPUID: leaf, subleaf, register (0 eax, 1 ebx, 2 ecx, 3 edx), bit. */
typedef struct sparsecc_cpu_bit {
    uint32_t leaf, subleaf;
    int32_t reg, bit;
} sparsecc_cpu_bit;

/* Whether all `bits` are set and the registers in `state` (bits of XCR0) are saved at context switches. */
static int sparsecc_cpu_has(const sparsecc_cpu_bit *bits, size_t count, uint32_t state) {
    uint32_t r[4];
    if (state != 0) {
        uint32_t low = 0, high = 0;
        if (!__get_cpuid_count(1, 0, &r[0], &r[1], &r[2], &r[3]) || !(r[2] >> 27 & 1)) return 0;
        __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if ((low & state) != state) return 0;
    }
    for (size_t i = 0; i < count; ++i) {
        if (!__get_cpuid_count(bits[i].leaf, bits[i].subleaf, &r[0], &r[1], &r[2], &r[3])) return 0;
        if (!(r[bits[i].reg] >> bits[i].bit & 1)) return 0;
    }
    return 1;
}

#endif
