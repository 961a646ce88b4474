/* Runs a plan: the part of a driver that is the same for every model. The generated driver.c describes its
 * model in a constant `sparsecc_model` and forwards its public functions to the functions below.
 */
#ifndef SPARSECC_ENGINE_H
#define SPARSECC_ENGINE_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "pool.h"
#include "status.h"
#include "system.h"
#include "weights.h"

#define SPARSECC_HUGE_PAGE ((size_t)2 << 20)
#define SPARSECC_SMALL_REST ((size_t)256 << 10) /* the least for which a huge page is asked for */

/* What a step sees: the base address of every space of the plan. */
typedef struct sparsecc_frame {
    unsigned char *arena;
    const unsigned char *weights;
    const void *const *inputs;
    void *const *outputs;
    int optional; /* whether the processor has what some kernels use and others do without */
} sparsecc_frame;

typedef struct sparsecc_step {
    sparsecc_piece piece;
    int32_t extent;
    const char *label;
} sparsecc_step;

typedef struct sparsecc_tensor {
    size_t bytes;
    size_t itemsize;
} sparsecc_tensor;

typedef struct sparsecc_model {
    const sparsecc_step *steps;
    const sparsecc_tensor *inputs;
    const sparsecc_tensor *outputs;
    const sparsecc_cpu_bit *cpu_bits;
    const unsigned char *embedded; /* NULL: weights come from outside */
    size_t cpu_bit_count;
    uint32_t cpu_state;
    const sparsecc_cpu_bit *optional_bits;
    size_t optional_bit_count;
    uint32_t optional_state;
    int32_t step_count, input_count, output_count;
    size_t weights_bytes;
    size_t arena_bytes; /* with the slack on both sides */
    size_t slack;       /* bytes on each side that kernels may read, never write */
} sparsecc_model;

typedef struct sparsecc_options {
    const char *weights_path;
    const void *weights;
    size_t weights_bytes;
    void *arena;
    size_t arena_bytes;
    int32_t threads;
} sparsecc_options;

typedef struct sparsecc_handle {
    const sparsecc_model *model;
    sparsecc_weights weights;
    unsigned char *arena; /* with its slack */
    void *owned_arena;    /* NULL where the caller brought it */
    sparsecc_pool *pool;
    int optional; /* as the frame has it */
} sparsecc_handle;

static void sparsecc_destroy(sparsecc_handle *handle) {
    if (handle == NULL) return;
    sparsecc_pool_destroy(handle->pool);
    sparsecc_weights_close(&handle->weights);
    free(handle->owned_arena);
    free(handle);
}

/* Takes the caller's arena or allocates one, on huge pages but for a small rest: a layer's channels lie on a page each
 * otherwise, more than the first level of address translation holds. */
static int32_t sparsecc_arena_open(sparsecc_handle *handle, void *arena, size_t bytes) {
    const sparsecc_model *const model = handle->model;
    if (arena != NULL) {
        if (bytes < model->arena_bytes) return SPARSECC_ERROR_ARENA_SIZE;
        if ((uintptr_t)arena % SPARSECC_ALIGNMENT != 0) return SPARSECC_ERROR_ALIGNMENT;
    } else {
        const size_t filled = model->arena_bytes + SPARSECC_HUGE_PAGE - SPARSECC_SMALL_REST;
        const size_t huge = filled / SPARSECC_HUGE_PAGE * SPARSECC_HUGE_PAGE;
        const size_t wanted = huge > model->arena_bytes ? huge : model->arena_bytes;
        const size_t alignment = huge != 0 ? SPARSECC_HUGE_PAGE : SPARSECC_ALIGNMENT;
        if (posix_memalign(&handle->owned_arena, alignment, wanted) != 0) return SPARSECC_ERROR_MEMORY;
        arena = handle->owned_arena;
        if (huge != 0) sparsecc_wish_huge_pages(arena, huge);
    }
    handle->arena = arena;
    memset(handle->arena, 0, model->slack);
    memset(handle->arena + model->arena_bytes - model->slack, 0, model->slack);
    return SPARSECC_OK;
}

static int32_t sparsecc_open(sparsecc_handle *handle, const sparsecc_options *options) {
    const sparsecc_model *const model = handle->model;
    if (!sparsecc_cpu_has(model->cpu_bits, model->cpu_bit_count, model->cpu_state)) return SPARSECC_ERROR_CPU;
    handle->optional = sparsecc_cpu_has(model->optional_bits, model->optional_bit_count, model->optional_state);
    int32_t status = sparsecc_weights_open(options->weights, options->weights_bytes, options->weights_path,
                                           model->embedded, model->weights_bytes, &handle->weights);
    if (status != SPARSECC_OK) return status;
    status = sparsecc_arena_open(handle, options->arena, options->arena_bytes);
    if (status != SPARSECC_OK) return status;
    return sparsecc_pool_create(options->threads > 0 ? options->threads : 1, &handle->pool);
}

static int32_t sparsecc_create(const sparsecc_model *model, const sparsecc_options *options,
                               sparsecc_handle **out) {
    *out = NULL;
    if (options->threads < 0 || options->threads > SPARSECC_MAX_THREADS) return SPARSECC_ERROR_ARGUMENT;
    sparsecc_handle *const handle = calloc(1, sizeof(sparsecc_handle));
    if (handle == NULL) return SPARSECC_ERROR_MEMORY;
    handle->model = model;
    const int32_t status = sparsecc_open(handle, options);
    if (status != SPARSECC_OK) {
        sparsecc_destroy(handle);
        return status;
    }
    *out = handle;
    return SPARSECC_OK;
}

static int32_t sparsecc_check(const sparsecc_tensor *tensor, const void *data) {
    if (data == NULL) return tensor->bytes == 0 ? SPARSECC_OK : SPARSECC_ERROR_ARGUMENT;
    return (uintptr_t)data % tensor->itemsize == 0 ? SPARSECC_OK : SPARSECC_ERROR_ALIGNMENT;
}

/* Runs all steps; where `step_ns` is not NULL, stores each step's nanoseconds there. */
static int32_t sparsecc_run(const sparsecc_handle *handle, const void *const *inputs, void *const *outputs,
                            uint64_t *step_ns) {
    if (handle == NULL) return SPARSECC_ERROR_ARGUMENT;
    const sparsecc_model *const model = handle->model;
    if (inputs == NULL && model->input_count > 0) return SPARSECC_ERROR_ARGUMENT;
    if (outputs == NULL && model->output_count > 0) return SPARSECC_ERROR_ARGUMENT;
    for (int32_t i = 0; i < model->input_count; ++i) {
        const int32_t status = sparsecc_check(&model->inputs[i], inputs[i]);
        if (status != SPARSECC_OK) return status;
    }
    for (int32_t i = 0; i < model->output_count; ++i) {
        const int32_t status = sparsecc_check(&model->outputs[i], outputs[i]);
        if (status != SPARSECC_OK) return status;
    }
    const sparsecc_frame frame = {handle->arena + model->slack, handle->weights.base, inputs, outputs,
                                  handle->optional};
    for (int32_t i = 0; i < model->step_count; ++i) {
        const sparsecc_step *const step = &model->steps[i];
        const uint64_t start = step_ns != NULL ? sparsecc_now() : 0;
        if (sparsecc_pool_run(handle->pool, step->piece, &frame, step->extent) != 0) return SPARSECC_ERROR_KERNEL;
        if (step_ns != NULL) step_ns[i] = sparsecc_now() - start;
    }
    return SPARSECC_OK;
}

#endif
