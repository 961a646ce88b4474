/* Kernels of the plans in these tests, with the signature of compiled ones. */
#define _DEFAULT_SOURCE

#include <stdint.h>
#include <time.h>

/* y[i] = x[i] * w[i % period] */
int32_t t_scale(void *x, void *w, void *y, int32_t period, int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; ++i) ((float *)y)[i] = ((float *)x)[i] * ((float *)w)[i % period];
    return 0;
}

/* z[i] = x[i] + y[i] */
int32_t t_add(void *x, void *y, void *z, int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; ++i) ((float *)z)[i] = ((float *)x)[i] + ((float *)y)[i];
    return 0;
}

/* y[r] = sum of row r, which has `columns` elements; rows differ in cost */
int32_t t_sums(void *x, void *y, int32_t columns, int32_t begin, int32_t end) {
    for (int32_t row = begin; row < end; ++row) {
        float sum = 0.0f;
        for (int32_t repeat = 0; repeat <= row % 7; ++repeat) {
            sum = 0.0f;
            for (int32_t i = 0; i < columns; ++i) sum += ((float *)x)[row * columns + i];
        }
        ((float *)y)[row] = sum;
    }
    return 0;
}

/* counts[i] += 1: shows whether every item is computed exactly once */
int32_t t_count(void *counts, int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; ++i) ((int32_t *)counts)[i] += 1;
    return 0;
}

/* counts[i] = 0 */
int32_t t_zero(void *counts, int32_t begin, int32_t end) {
    for (int32_t i = begin; i < end; ++i) ((int32_t *)counts)[i] = 0;
    return 0;
}

/* Sleeps `milliseconds` for each item. */
int32_t t_sleep(void *unused, int32_t milliseconds, int32_t begin, int32_t end) {
    const struct timespec pause = {0, milliseconds * 1000000L};
    (void)unused;
    for (int32_t i = begin; i < end; ++i) nanosleep(&pause, 0);
    return 0;
}

/* Fails where `fail` is among the items. */
int32_t t_fail(void *unused, int32_t fail, int32_t begin, int32_t end) {
    (void)unused;
    return fail >= begin && fail < end ? -1 : 0;
}
