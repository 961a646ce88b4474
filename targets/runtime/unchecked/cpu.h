/* Platforms on which every processor that loads the library has what the kernels were compiled for. */
#ifndef SPARSECC_CPU_H
#define SPARSECC_CPU_H

#include <stddef.h>
#include <stdint.h>

typedef struct sparsecc_cpu_bit {
    uint32_t none;
} sparsecc_cpu_bit;

static int sparsecc_cpu_has(const sparsecc_cpu_bit *bits, size_t count, uint32_t state) {
    (void)bits;
    (void)state;
    return count == 0;
}

#endif
