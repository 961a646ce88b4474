/* Runs the network once: raw numbers in, raw numbers out.
 *
 *     cc -O2 -I ARTIFACT ARTIFACT/run_model.c ARTIFACT/libmodel.a -lm -lpthread -o run_model
 *     ./run_model ARTIFACT/weights.bin THREADS INPUTS OUTPUTS
 *
 * INPUTS holds all inputs one behind the other, in the order of model.h; OUTPUTS is written likewise.
 */
#include <stdio.h>
#include <stdlib.h>

#include "model.h"

static int fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5) return fail(argv[0], "expected WEIGHTS THREADS INPUTS OUTPUTS");
    const void *inputs[@UPPER@_INPUTS + 1] = {NULL};
    void *outputs[@UPPER@_OUTPUTS + 1] = {NULL};

    FILE *file = fopen(argv[3], "rb");
    if (file == NULL) return fail(argv[3], "cannot be read");
    for (int i = 0; i < @UPPER@_INPUTS; ++i) {
        const size_t bytes = @PREFIX@_input(i)->bytes;
        void *const data = malloc(bytes + 1);
        if (data == NULL || fread(data, 1, bytes, file) != bytes) return fail(argv[3], "is too short");
        inputs[i] = data;
    }
    fclose(file);
    for (int i = 0; i < @UPPER@_OUTPUTS; ++i) {
        outputs[i] = malloc(@PREFIX@_output(i)->bytes + 1);
        if (outputs[i] == NULL) return fail(argv[0], "out of memory");
    }

    @PREFIX@_options options = {0};
    if (!@UPPER@_WEIGHTS_EMBEDDED) options.weights_path = argv[1];
    options.threads = (int32_t)strtol(argv[2], NULL, 10);
    @PREFIX@_handle *handle = NULL;
    int32_t status = @PREFIX@_create(&options, &handle);
    if (status == @UPPER@_OK) status = @PREFIX@_run(handle, inputs, outputs);
    @PREFIX@_destroy(handle);
    if (status != @UPPER@_OK) return fail(argv[0], @PREFIX@_error_string(status));

    file = fopen(argv[4], "wb");
    if (file == NULL) return fail(argv[4], "cannot be written");
    for (int i = 0; i < @UPPER@_OUTPUTS; ++i) {
        const size_t bytes = @PREFIX@_output(i)->bytes;
        if (fwrite(outputs[i], 1, bytes, file) != bytes) return fail(argv[4], "cannot be written");
    }
    return fclose(file) == 0 ? 0 : fail(argv[4], "cannot be written");
}
