/* Times a network on a TVM RPC server: functions as TVM FFI's C ABI has them, linked with the network's library.
 *
 *     model_open() -> status      model_run(times) -> status      model_profile() -> status
 *     model_step(index) -> nanoseconds of that step in the last profiled run      model_close()
 *
 * The inputs are those of inputs.bin, which is compiled in: each from a multiple of 64 bytes on.
 */
#include <stdint.h>
#include <stdlib.h>

#include "model.h"
#include "rpc_any.h"

__asm__(".pushsection .rodata\n"
        ".balign 64\n"
        ".globl sparsecc_rpc_inputs\n"
        "sparsecc_rpc_inputs:\n"
        ".incbin \"inputs.bin\"\n"
        ".byte 0\n"
        ".popsection\n");
extern const unsigned char sparsecc_rpc_inputs[];

enum { RPC_ALIGNMENT = 64 };

static @PREFIX@_handle *handle;
static const void *inputs[@UPPER@_INPUTS + 1];
static void *outputs[@UPPER@_OUTPUTS + 1];
static uint64_t step_ns[@UPPER@_STEPS + 1];

int __tvm_ffi_model_open(void *self, const rpc_any *arguments, int32_t count, rpc_any *result) {
    (void)self, (void)arguments, (void)count;
    const unsigned char *next = sparsecc_rpc_inputs;
    for (int i = 0; i < @UPPER@_INPUTS; ++i) {
        inputs[i] = next;
        next += (@PREFIX@_input(i)->bytes + RPC_ALIGNMENT - 1) / RPC_ALIGNMENT * RPC_ALIGNMENT;
    }
    for (int i = 0; i < @UPPER@_OUTPUTS; ++i) {
        outputs[i] = malloc(@PREFIX@_output(i)->bytes + 1);
        if (outputs[i] == NULL) return rpc_answer(result, @UPPER@_ERROR_MEMORY);
    }
    @PREFIX@_options options = {0};
    options.threads = 1;
    return rpc_answer(result, @PREFIX@_create(&options, &handle));
}

int __tvm_ffi_model_run(void *self, const rpc_any *arguments, int32_t count, rpc_any *result) {
    (void)self;
    int32_t status = @UPPER@_OK;
    for (int64_t i = count > 0 ? arguments[0].integer : 1; i > 0 && status == @UPPER@_OK; --i)
        status = @PREFIX@_run(handle, inputs, outputs);
    return rpc_answer(result, status);
}

int __tvm_ffi_model_profile(void *self, const rpc_any *arguments, int32_t count, rpc_any *result) {
    (void)self, (void)arguments, (void)count;
    return rpc_answer(result, @PREFIX@_profile(handle, inputs, outputs, step_ns));
}

int __tvm_ffi_model_step(void *self, const rpc_any *arguments, int32_t count, rpc_any *result) {
    (void)self;
    const int64_t index = count > 0 ? arguments[0].integer : 0;
    return rpc_answer(result, index >= 0 && index < @UPPER@_STEPS ? (int64_t)step_ns[index] : -1);
}

int __tvm_ffi_model_close(void *self, const rpc_any *arguments, int32_t count, rpc_any *result) {
    (void)self, (void)arguments, (void)count;
    @PREFIX@_destroy(handle);
    handle = NULL;
    for (int i = 0; i < @UPPER@_OUTPUTS; ++i) free(outputs[i]);
    return rpc_answer(result, 0);
}
