/* Steps of one thread, the caller's. */
#ifndef SPARSECC_POOL_H
#define SPARSECC_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#define SPARSECC_MAX_THREADS 1

/* Computes items [begin, end) of a step; returns 0 or a status that ends the run. */
typedef int32_t (*sparsecc_piece)(const void *frame, int32_t begin, int32_t end);

typedef struct sparsecc_pool sparsecc_pool;

static int32_t sparsecc_pool_run(sparsecc_pool *pool, sparsecc_piece piece, const void *frame, int32_t extent) {
    (void)pool;
    return extent > 0 ? piece(frame, 0, extent) : 0;
}

static void sparsecc_pool_destroy(sparsecc_pool *pool) { (void)pool; }

static int32_t sparsecc_pool_create(int32_t threads, sparsecc_pool **out) {
    (void)threads;
    *out = NULL;
    return SPARSECC_OK;
}

#endif
