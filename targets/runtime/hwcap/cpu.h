/* Does this processor have what the kernels were compiled for? By what Linux tells every process. */
#ifndef SPARSECC_CPU_H
#define SPARSECC_CPU_H

#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>

/* One bit of an entry of the auxiliary vector (AT_HWCAP or AT_HWCAP2). */
typedef struct sparsecc_cpu_bit {
    uint32_t entry, bit;
} sparsecc_cpu_bit;

/* Whether all `bits` are set; Linux saves the registers of whatever it announces. */
static int sparsecc_cpu_has(const sparsecc_cpu_bit *bits, size_t count, uint32_t state) {
    (void)state;
    for (size_t i = 0; i < count; ++i) {
        if (!(getauxval(bits[i].entry) >> bits[i].bit & 1)) return 0;
    }
    return 1;
}

#endif
