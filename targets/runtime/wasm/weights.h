/* Where the packed weights come from: the caller's memory, or the module itself. There are no files. */
#ifndef SPARSECC_WEIGHTS_H
#define SPARSECC_WEIGHTS_H

#include <stddef.h>
#include <stdint.h>

#include "status.h"

#define SPARSECC_ALIGNMENT 64

typedef struct sparsecc_weights {
    const unsigned char *base;
} sparsecc_weights;

/* Takes weights from the caller's memory, else from the module (`embedded`, or NULL). */
static int32_t sparsecc_weights_open(const void *memory, size_t memory_bytes, const char *path,
                                     const unsigned char *embedded, size_t bytes, sparsecc_weights *out) {
    (void)path;
    if (memory != NULL) {
        if (memory_bytes != bytes) return SPARSECC_ERROR_WEIGHTS_SIZE;
        if ((uintptr_t)memory % SPARSECC_ALIGNMENT != 0) return SPARSECC_ERROR_ALIGNMENT;
        out->base = memory;
        return SPARSECC_OK;
    }
    if (embedded == NULL && bytes > 0) return SPARSECC_ERROR_WEIGHTS_FILE;
    out->base = embedded;
    return SPARSECC_OK;
}

static void sparsecc_weights_close(sparsecc_weights *weights) { (void)weights; }

#endif
