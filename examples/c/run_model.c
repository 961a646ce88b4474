/* Runs an artifact from C and prints its outputs. ARTIFACT is the folder that `sparsecc compile` wrote.
 *
 *     cc -O2 -I ARTIFACT run_model.c ARTIFACT/libmodel.a -lm -lpthread -o run_model
 *     cc -O2 -I ARTIFACT run_model.c -L ARTIFACT -Wl,-rpath,ARTIFACT -lmodel -o run_model
 *     ./run_model ARTIFACT/weights.bin 2 input0.bin ...
 *
 * The arguments are the weights, the number of threads and one file of raw numbers for each input.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model.h"

/* Reads `bytes` bytes, aligned as a tensor may need; exits on failure. */
static void *read_file(const char *path, size_t bytes) {
    void *const data = malloc(bytes + 1);
    FILE *const file = fopen(path, "rb");
    if (file == NULL || data == NULL || fread(data, 1, bytes + 1, file) != bytes) {
        fprintf(stderr, "%s: expected a file of %zu bytes\n", path, bytes);
        exit(1);
    }
    fclose(file);
    return data;
}

static void print_tensor(const model_tensor *tensor, const void *data) {
    int64_t count = 1;
    for (int32_t i = 0; i < tensor->rank; ++i) count *= tensor->shape[i];
    printf("%s", tensor->name);
    for (int64_t i = 0; i < count; ++i) {
        if (strcmp(tensor->type, "float32") == 0) printf(" %.9g", (double)((const float *)data)[i]);
        if (strcmp(tensor->type, "int64") == 0) printf(" %lld", (long long)((const int64_t *)data)[i]);
    }
    printf("\n");
}

static void check(int32_t status) {
    if (status == MODEL_OK) return;
    fprintf(stderr, "error: %s\n", model_error_string(status));
    exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3 + MODEL_INPUTS) {
        fprintf(stderr, "usage: %s WEIGHTS THREADS and %d input files\n", argv[0], MODEL_INPUTS);
        return 2;
    }
    const void *inputs[MODEL_INPUTS + 1] = {NULL};
    void *outputs[MODEL_OUTPUTS + 1] = {NULL};
    for (int i = 0; i < MODEL_INPUTS; ++i) inputs[i] = read_file(argv[3 + i], model_input(i)->bytes);
    for (int i = 0; i < MODEL_OUTPUTS; ++i) outputs[i] = malloc(model_output(i)->bytes);

    /* Scratch memory may be ours, for devices where nothing is allocated; with NULL the library allocates. */
    void *const arena = aligned_alloc(MODEL_ALIGNMENT, MODEL_ARENA_BYTES);
    model_options options = {0};
    if (!MODEL_WEIGHTS_EMBEDDED) options.weights_path = argv[1];
    options.threads = (int32_t)strtol(argv[2], NULL, 10);
    options.arena = arena;
    options.arena_bytes = MODEL_ARENA_BYTES;

    model_handle *handle = NULL;
    check(model_create(&options, &handle));
    check(model_run(handle, inputs, outputs));
    for (int i = 0; i < MODEL_OUTPUTS; ++i) print_tensor(model_output(i), outputs[i]);

    model_destroy(handle);
    free(arena);
    for (int i = 0; i < MODEL_INPUTS; ++i) free((void *)(uintptr_t)inputs[i]);
    for (int i = 0; i < MODEL_OUTPUTS; ++i) free(outputs[i]);
    return 0;
}
