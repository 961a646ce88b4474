/* Neural network @PREFIX@, compiled by sparsecc. Link libmodel.so, or libmodel.a with -lm -lpthread.
 *
 *     @PREFIX@_options options = {0};
 *     @PREFIX@_handle *handle = NULL;
 *     options.weights_path = "weights.bin";
 *     options.threads = 2;
 *     int32_t status = @PREFIX@_create(&options, &handle);
 *     if (status == @UPPER@_OK) status = @PREFIX@_run(handle, inputs, outputs);
 *     if (status != @UPPER@_OK) puts(@PREFIX@_error_string(status));
 *     @PREFIX@_destroy(handle);
 *
 * Threads: a handle runs one input at a time, so calls with the same handle must not overlap. Different
 * handles are independent and may run at the same time; handles that map the same weights file share its
 * memory. The library has no mutable global state. After fork(), the child must not use its parent's handles.
 */
#ifndef @UPPER@_MODEL_H
#define @UPPER@_MODEL_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define @UPPER@_API __attribute__((visibility("default")))
#else
#define @UPPER@_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define @UPPER@_INPUTS @INPUTS@
#define @UPPER@_OUTPUTS @OUTPUTS@
#define @UPPER@_STEPS @STEPS@
#define @UPPER@_ARENA_BYTES @ARENA_BYTES@ /* scratch memory of one handle */
#define @UPPER@_WEIGHTS_BYTES @WEIGHTS_BYTES@
#define @UPPER@_WEIGHTS_EMBEDDED @EMBEDDED@
#define @UPPER@_ALIGNMENT 64 /* bytes; of an arena or weights that the caller brings */

@CONSTANTS@

/* Status codes. */
#define @UPPER@_OK 0
#define @UPPER@_ERROR_ARGUMENT 1     /* a required pointer is NULL, or an option is out of range */
#define @UPPER@_ERROR_MEMORY 2       /* out of memory */
#define @UPPER@_ERROR_WEIGHTS_FILE 3 /* no weights, or their file cannot be opened or mapped */
#define @UPPER@_ERROR_WEIGHTS_SIZE 4 /* not @UPPER@_WEIGHTS_BYTES bytes */
#define @UPPER@_ERROR_ALIGNMENT 5    /* weights or arena: 64 bytes; inputs and outputs: their element's size */
#define @UPPER@_ERROR_ARENA_SIZE 6   /* less than @UPPER@_ARENA_BYTES */
#define @UPPER@_ERROR_THREADS 7      /* the threads could not be started */
#define @UPPER@_ERROR_CPU 8          /* this processor lacks an instruction set that the kernels use */
#define @UPPER@_ERROR_KERNEL 9       /* a kernel failed */

typedef struct @PREFIX@_handle @PREFIX@_handle;

/* Zero-initialise, then set what is needed. */
typedef struct @PREFIX@_options {
    const char *weights_path; /* file to map read-only; not needed if weights are embedded or given */
    const void *weights;      /* weights in memory that outlives the handle; goes before the path */
    size_t weights_bytes;     /* size of `weights` */
    void *arena;              /* scratch memory for this handle alone that outlives it; NULL: allocated */
    size_t arena_bytes;       /* size of `arena` */
    int32_t threads;          /* threads of a run, the caller's included, at most 256; 0 means 1 */
} @PREFIX@_options;

/* An input or output: row-major, without gaps. */
typedef struct @PREFIX@_tensor {
    const char *name;
    const char *type; /* "float32", "int64", "bool", ... */
    int32_t rank;
    const int64_t *shape; /* `rank` sizes */
    size_t bytes;
} @PREFIX@_tensor;

/* Makes a handle. `options` may be NULL where the weights are embedded. On failure *handle is NULL. */
@UPPER@_API int32_t @PREFIX@_create(const @PREFIX@_options *options, @PREFIX@_handle **handle);

/* Reads inputs[0 .. @UPPER@_INPUTS) and writes outputs[0 .. @UPPER@_OUTPUTS), which must not overlap each
 * other or the inputs. Tensors need the alignment of their elements only. */
@UPPER@_API int32_t @PREFIX@_run(@PREFIX@_handle *handle, const void *const inputs[], void *const outputs[]);

/* Runs as above and stores the nanoseconds of each step in step_ns[0 .. @UPPER@_STEPS). */
@UPPER@_API int32_t @PREFIX@_profile(@PREFIX@_handle *handle, const void *const inputs[], void *const outputs[],
                             uint64_t *step_ns);

/* Frees the handle, its threads and what it allocated; NULL is allowed. */
@UPPER@_API void @PREFIX@_destroy(@PREFIX@_handle *handle);

/* What a status code means, as a constant string. */
@UPPER@_API const char *@PREFIX@_error_string(int32_t status);

/* Which layer a step computes; NULL where there is no such step. */
@UPPER@_API const char *@PREFIX@_step_label(int32_t step);

/* Description of an input or output; NULL where there is no such index. */
@UPPER@_API const @PREFIX@_tensor *@PREFIX@_input(int32_t index);
@UPPER@_API const @PREFIX@_tensor *@PREFIX@_output(int32_t index);

#ifdef __cplusplus
}
#endif

#endif
