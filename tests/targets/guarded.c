/* Runs an artifact with an unmapped page right behind or before everything that it is given.
 *
 *     ./guarded behind|before WEIGHTS OUTPUTS input0.bin ...
 *
 * Kernels may look beyond no input, output or weight, and in the arena no further than its slack: a load or a
 * store there ends the program. The outputs are written to OUTPUTS one behind the other.
 */
#define _DEFAULT_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model.h"

#define PAGE ((size_t)4096)

static int behind;

/* `bytes` bytes that end where a page ends, as far as `alignment` allows, or begin where one begins. */
static unsigned char *guarded(size_t bytes, size_t alignment) {
    const size_t pages = (bytes + PAGE - 1) / PAGE * PAGE;
    unsigned char *const all = mmap(NULL, pages + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all + PAGE, pages, PROT_READ | PROT_WRITE) != 0) exit(3);
    memset(all + PAGE, 0xA5, pages);
    return all + PAGE + (behind ? (pages - bytes) / alignment * alignment : 0);
}

static unsigned char *from_file(const char *path, size_t bytes, size_t alignment) {
    unsigned char *const data = guarded(bytes, alignment);
    FILE *const file = fopen(path, "rb");
    if (file == NULL || fread(data, 1, bytes, file) != bytes) exit(4);
    fclose(file);
    return data;
}

static size_t element(const model_tensor *tensor) {
    size_t count = 1;
    for (int32_t i = 0; i < tensor->rank; ++i) count *= (size_t)tensor->shape[i];
    return count == 0 ? 1 : tensor->bytes / count;
}

int main(int argc, char **argv) {
    if (argc != 4 + MODEL_INPUTS) return 2;
    behind = strcmp(argv[1], "behind") == 0;
    const void *inputs[MODEL_INPUTS + 1] = {NULL};
    void *outputs[MODEL_OUTPUTS + 1] = {NULL};
    for (int i = 0; i < MODEL_INPUTS; ++i)
        inputs[i] = from_file(argv[4 + i], model_input(i)->bytes, element(model_input(i)));
    for (int i = 0; i < MODEL_OUTPUTS; ++i)
        outputs[i] = guarded(model_output(i)->bytes, element(model_output(i)));
    model_options options = {0};
    options.weights = from_file(argv[2], MODEL_WEIGHTS_BYTES, MODEL_ALIGNMENT);
    options.weights_bytes = MODEL_WEIGHTS_BYTES;
    options.arena = guarded(MODEL_ARENA_BYTES, MODEL_ALIGNMENT);
    options.arena_bytes = MODEL_ARENA_BYTES;
    model_handle *handle = NULL;
    if (model_create(&options, &handle) != MODEL_OK) return 5;
    if (model_run(handle, inputs, outputs) != MODEL_OK) return 6;
    model_destroy(handle);
    FILE *const file = fopen(argv[3], "wb");
    if (file == NULL) return 7;
    for (int i = 0; i < MODEL_OUTPUTS; ++i) fwrite(outputs[i], 1, model_output(i)->bytes, file);
    return fclose(file) == 0 ? 0 : 8;
}
