/* A module without imports has neither huge pages nor a clock: profiles are all zeros. */
#ifndef SPARSECC_SYSTEM_H
#define SPARSECC_SYSTEM_H

#include <stddef.h>
#include <stdint.h>

static void sparsecc_wish_huge_pages(void *memory, size_t bytes) {
    (void)memory;
    (void)bytes;
}

static uint64_t sparsecc_now(void) { return 0; }

#endif
