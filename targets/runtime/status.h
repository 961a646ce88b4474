/* Status codes of the library; the generated header repeats them under the model's own prefix. */
#ifndef SPARSECC_STATUS_H
#define SPARSECC_STATUS_H

#include <stdint.h>

enum {
    SPARSECC_OK = 0,
    SPARSECC_ERROR_ARGUMENT = 1,
    SPARSECC_ERROR_MEMORY = 2,
    SPARSECC_ERROR_WEIGHTS_FILE = 3,
    SPARSECC_ERROR_WEIGHTS_SIZE = 4,
    SPARSECC_ERROR_ALIGNMENT = 5,
    SPARSECC_ERROR_ARENA_SIZE = 6,
    SPARSECC_ERROR_THREADS = 7,
    SPARSECC_ERROR_CPU = 8,
    SPARSECC_ERROR_KERNEL = 9
};

static const char *sparsecc_error_string(int32_t status) {
    switch (status) {
        case SPARSECC_OK: return "no error";
        case SPARSECC_ERROR_ARGUMENT: return "a required pointer is NULL, or an option is out of range";
        case SPARSECC_ERROR_MEMORY: return "out of memory";
        case SPARSECC_ERROR_WEIGHTS_FILE: return "no weights were given, or the weights file cannot be opened or mapped";
        case SPARSECC_ERROR_WEIGHTS_SIZE: return "the weights do not have the size that this library was built for";
        case SPARSECC_ERROR_ALIGNMENT: return "weights or arena are not at a multiple of 64 bytes, or an input or output is not at a multiple of its element size";
        case SPARSECC_ERROR_ARENA_SIZE: return "the arena is smaller than the library needs";
        case SPARSECC_ERROR_THREADS: return "the threads could not be started";
        case SPARSECC_ERROR_CPU: return "this processor lacks an instruction set that the library was compiled for";
        case SPARSECC_ERROR_KERNEL: return "a kernel failed";
        default: return "unknown status";
    }
}

#endif
