/* Thread pool of one handle: splits a step's extent into a range for each thread, and those into chunks.
 *
 * A thread takes the chunks of its own range first, so that from step to step it works on the same positions,
 * which its caches have, and then what others have not come to. A range's ticket holds the step's number (high
 * 32 bits) and how many of its items nobody has taken yet (low 32 bits). Whoever swaps it from t to t - chunk
 * owns those items, and a successful swap proves that the step's fields, read before it, belong to that step:
 * they only change when no item of any range is left. So the caller never waits for a worker that sleeps or
 * comes late, only for items that were taken.
 *
 * Everything is static: two models in one program share no symbol.
 */
#ifndef SPARSECC_POOL_H
#define SPARSECC_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "status.h"

/* Its number in the system's C library, where the headers are of another one. */
#if !defined(SPARSECC_SC_NPROCESSORS_ONLN)
#define SPARSECC_SC_NPROCESSORS_ONLN _SC_NPROCESSORS_ONLN
#endif
#define SPARSECC_MAX_THREADS 256
#define SPARSECC_SPINS 4000 /* pauses before a thread sleeps: some 50 to 150 microseconds */

#if defined(__x86_64__) || defined(__i386__)
#define SPARSECC_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__) || defined(__arm__)
#define SPARSECC_PAUSE() __asm__ volatile("yield")
#else
#define SPARSECC_PAUSE() ((void)0)
#endif

/* Computes items [begin, end) of a step; returns 0 or a status that ends the run. */
typedef int32_t (*sparsecc_piece)(const void *frame, int32_t begin, int32_t end);

/* A thread's share of a step, on a cache line of its own. */
typedef struct sparsecc_range {
    _Alignas(64) _Atomic uint64_t ticket;
} sparsecc_range;

typedef struct sparsecc_pool sparsecc_pool;

/* A worker, and what it needs to know when it starts. */
typedef struct sparsecc_member {
    sparsecc_pool *pool;
    pthread_t id;
    int32_t number; /* of its range; the caller's is 0 */
} sparsecc_member;

struct sparsecc_pool {
    _Alignas(64) _Atomic uint32_t step; /* the number of the last one that was begun */
    _Alignas(64) _Atomic int32_t done;  /* items finished in this step */
    _Atomic int32_t status;             /* first failure in this step */
    _Alignas(64) _Atomic(sparsecc_piece) piece;
    _Atomic(const void *) frame;
    _Atomic int32_t extent;
    _Atomic int32_t chunk;
    _Alignas(64) _Atomic int32_t sleepers; /* workers in, or about to enter, a wait */
    _Atomic int32_t waiting;               /* the caller is in, or about to enter, a wait */
    _Atomic int32_t stop;
    pthread_mutex_t mutex;
    pthread_cond_t work;
    pthread_cond_t finished;
    int32_t spins;
    int32_t workers; /* that were started */
    int32_t threads; /* ranges: all workers' and the caller's */
    sparsecc_member members[SPARSECC_MAX_THREADS];
    sparsecc_range ranges[SPARSECC_MAX_THREADS];
};

static uint32_t sparsecc_pool_left(uint64_t ticket) { return (uint32_t)ticket; }

/* The first item of a thread's range of a step. */
static int32_t sparsecc_pool_first(const sparsecc_pool *pool, int32_t extent, int32_t number) {
    return (int32_t)((int64_t)extent * number / pool->threads);
}

/* Takes and computes chunks of one range until none is left. */
static void sparsecc_pool_take(sparsecc_pool *pool, int32_t number) {
    _Atomic uint64_t *const place = &pool->ranges[number].ticket;
    uint64_t ticket = atomic_load(place);
    while (sparsecc_pool_left(ticket) > 0) {
        const sparsecc_piece piece = atomic_load(&pool->piece);
        const void *const frame = atomic_load(&pool->frame);
        const int32_t extent = atomic_load(&pool->extent);
        const int32_t left = (int32_t)sparsecc_pool_left(ticket);
        int32_t count = atomic_load(&pool->chunk);
        if (count > left) count = left;
        if (!atomic_compare_exchange_weak(place, &ticket, ticket - (uint32_t)count)) continue;
        const int32_t begin = sparsecc_pool_first(pool, extent, number + 1) - left;
        const int32_t status = piece(frame, begin, begin + count);
        if (status != 0) {
            int32_t none = 0;
            atomic_compare_exchange_strong(&pool->status, &none, status);
        }
        if (atomic_fetch_add(&pool->done, count) + count == extent && atomic_load(&pool->waiting)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
        ticket = atomic_load(place);
    }
}

/* Takes and computes chunks until none is left in any range, a thread's own first. */
static void sparsecc_pool_work(sparsecc_pool *pool, int32_t number) {
    for (int32_t i = 0; i < pool->threads; ++i) sparsecc_pool_take(pool, (number + i) % pool->threads);
}

static int sparsecc_pool_idle(sparsecc_pool *pool, uint32_t seen) {
    return atomic_load(&pool->step) == seen && !atomic_load(&pool->stop);
}

static void *sparsecc_pool_worker(void *opaque) {
    const sparsecc_member *const member = opaque;
    sparsecc_pool *const pool = member->pool;
    uint32_t seen = 0;
    while (!atomic_load(&pool->stop)) {
        for (int32_t spin = 0; spin < pool->spins && sparsecc_pool_idle(pool, seen); ++spin) SPARSECC_PAUSE();
        if (sparsecc_pool_idle(pool, seen)) {
            pthread_mutex_lock(&pool->mutex);
            atomic_fetch_add(&pool->sleepers, 1);
            while (sparsecc_pool_idle(pool, seen)) pthread_cond_wait(&pool->work, &pool->mutex);
            atomic_fetch_sub(&pool->sleepers, 1);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = atomic_load(&pool->step);
        sparsecc_pool_work(pool, member->number);
    }
    return NULL;
}

/* Computes items [0, extent) of a step with all threads; returns 0 or the first failure's status. */
static int32_t sparsecc_pool_run(sparsecc_pool *pool, sparsecc_piece piece, const void *frame, int32_t extent) {
    if (pool == NULL || extent <= 1) return extent > 0 ? piece(frame, 0, extent) : 0;
    const int32_t chunk = extent / (4 * pool->threads);
    atomic_store(&pool->piece, piece);
    atomic_store(&pool->frame, frame);
    atomic_store(&pool->extent, extent);
    atomic_store(&pool->chunk, chunk > 0 ? chunk : 1);
    atomic_store(&pool->done, 0);
    atomic_store(&pool->status, 0);
    const uint32_t step = atomic_load(&pool->step) + 1;
    for (int32_t i = 0; i < pool->threads; ++i) {
        const int32_t items = sparsecc_pool_first(pool, extent, i + 1) - sparsecc_pool_first(pool, extent, i);
        atomic_store(&pool->ranges[i].ticket, (uint64_t)step << 32 | (uint32_t)items);
    }
    atomic_store(&pool->step, step);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->work);
        pthread_mutex_unlock(&pool->mutex);
    }
    sparsecc_pool_work(pool, 0);
    for (int32_t spin = 0; spin < pool->spins && atomic_load(&pool->done) != extent; ++spin) SPARSECC_PAUSE();
    if (atomic_load(&pool->done) != extent) {
        pthread_mutex_lock(&pool->mutex);
        atomic_store(&pool->waiting, 1);
        while (atomic_load(&pool->done) != extent) pthread_cond_wait(&pool->finished, &pool->mutex);
        atomic_store(&pool->waiting, 0);
        pthread_mutex_unlock(&pool->mutex);
    }
    return atomic_load(&pool->status);
}

/* Stops and joins the workers and frees the pool; NULL is allowed. No step may be running. */
static void sparsecc_pool_destroy(sparsecc_pool *pool) {
    if (pool == NULL) return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, 1);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 0; i < pool->workers; ++i) pthread_join(pool->members[i].id, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* Starts threads - 1 workers; *out stays NULL for one thread, which needs no pool. */
static int32_t sparsecc_pool_create(int32_t threads, sparsecc_pool **out) {
    *out = NULL;
    if (threads == 1) return SPARSECC_OK;
    void *memory = NULL;
    if (posix_memalign(&memory, 64, sizeof(sparsecc_pool)) != 0) return SPARSECC_ERROR_MEMORY;
    sparsecc_pool *const pool = memory;
    pool->threads = threads;
    for (int32_t i = 0; i < threads; ++i) atomic_init(&pool->ranges[i].ticket, 0);
    atomic_init(&pool->step, 0);
    atomic_init(&pool->done, 0);
    atomic_init(&pool->status, 0);
    atomic_init(&pool->piece, NULL);
    atomic_init(&pool->frame, NULL);
    atomic_init(&pool->extent, 0);
    atomic_init(&pool->chunk, 1);
    atomic_init(&pool->sleepers, 0);
    atomic_init(&pool->waiting, 0);
    atomic_init(&pool->stop, 0);
    /* Spinning on a processor that another of our threads needs only delays the work. */
    pool->spins = threads <= sysconf(SPARSECC_SC_NPROCESSORS_ONLN) ? SPARSECC_SPINS : 0;
    pool->workers = 0;
    if (pthread_mutex_init(&pool->mutex, NULL) != 0) goto no_mutex;
    if (pthread_cond_init(&pool->work, NULL) != 0) goto no_work;
    if (pthread_cond_init(&pool->finished, NULL) != 0) goto no_finished;
    for (; pool->workers < threads - 1; ++pool->workers) {
        sparsecc_member *const member = &pool->members[pool->workers];
        member->pool = pool;
        member->number = pool->workers + 1;
        if (pthread_create(&member->id, NULL, sparsecc_pool_worker, member) != 0) {
            sparsecc_pool_destroy(pool);
            return SPARSECC_ERROR_THREADS;
        }
    }
    *out = pool;
    return SPARSECC_OK;
no_finished:
    pthread_cond_destroy(&pool->work);
no_work:
    pthread_mutex_destroy(&pool->mutex);
no_mutex:
    free(pool);
    return SPARSECC_ERROR_THREADS;
}

#endif
