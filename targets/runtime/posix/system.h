/* What the engine asks of the operating system besides memory, threads and files. */
#ifndef SPARSECC_SYSTEM_H
#define SPARSECC_SYSTEM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

/* Wishes for huge pages; a refusal costs only speed. */
static void sparsecc_wish_huge_pages(void *memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

/* Nanoseconds of a clock that only goes forward. */
static uint64_t sparsecc_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
