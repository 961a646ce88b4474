/* Where the packed weights come from: a file mapped read-only, the caller's memory, or the library itself. */
#ifndef SPARSECC_WEIGHTS_H
#define SPARSECC_WEIGHTS_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "status.h"

#define SPARSECC_ALIGNMENT 64

typedef struct sparsecc_weights {
    const unsigned char *base;
    void *mapping; /* NULL where the memory is not ours */
    size_t bytes;
} sparsecc_weights;

/* Maps all of `path`, which must have exactly `bytes` > 0 bytes; processes that map it share the pages. */
static int32_t sparsecc_weights_map(const char *path, size_t bytes, sparsecc_weights *out) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return SPARSECC_ERROR_WEIGHTS_FILE;
    int32_t status = SPARSECC_OK;
    struct stat info;
    if (fstat(file, &info) != 0 || !S_ISREG(info.st_mode)) {
        status = SPARSECC_ERROR_WEIGHTS_FILE;
    } else if ((uint64_t)info.st_size != bytes) {
        status = SPARSECC_ERROR_WEIGHTS_SIZE;
    } else {
        void *const mapping = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file, 0);
        if (mapping == MAP_FAILED) {
            status = SPARSECC_ERROR_WEIGHTS_FILE;
        } else {
            *out = (sparsecc_weights){mapping, mapping, bytes};
        }
    }
    close(file);
    return status;
}

/* Takes weights from the caller's memory, else from the file, else from the library (`embedded`, or NULL). */
static int32_t sparsecc_weights_open(const void *memory, size_t memory_bytes, const char *path,
                                     const unsigned char *embedded, size_t bytes, sparsecc_weights *out) {
    static const _Alignas(SPARSECC_ALIGNMENT) unsigned char nothing[SPARSECC_ALIGNMENT] = {0};
    if (memory != NULL) {
        if (memory_bytes != bytes) return SPARSECC_ERROR_WEIGHTS_SIZE;
        if ((uintptr_t)memory % SPARSECC_ALIGNMENT != 0) return SPARSECC_ERROR_ALIGNMENT;
        *out = (sparsecc_weights){memory, NULL, bytes};
        return SPARSECC_OK;
    }
    if (bytes == 0) embedded = nothing;
    if (path != NULL && bytes > 0) return sparsecc_weights_map(path, bytes, out);
    if (embedded == NULL) return SPARSECC_ERROR_WEIGHTS_FILE;
    *out = (sparsecc_weights){embedded, NULL, bytes};
    return SPARSECC_OK;
}

static void sparsecc_weights_close(sparsecc_weights *weights) {
    if (weights->mapping != NULL) munmap(weights->mapping, weights->bytes);
    weights->mapping = NULL;
}

#endif
