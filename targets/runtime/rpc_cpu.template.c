/* What processor a TVM RPC server has: cpu_text(n) -> bytes 8 n to 8 n + 7 of /proc/cpuinfo, zero behind its end. */
#include <stdint.h>
#include <stdio.h>

#include "rpc_any.h"

static unsigned char text[8192];

int __tvm_ffi_cpu_text(void *self, const rpc_any *arguments, int32_t count, rpc_any *result) {
    (void)self;
    if (text[0] == 0) {
        FILE *const file = fopen("/proc/cpuinfo", "rb");
        if (file != NULL) {
            if (fread(text, 1, sizeof text - 1, file) == 0) text[0] = '\n';
            fclose(file);
        }
    }
    const int64_t word = count > 0 ? arguments[0].integer : 0;
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i)
        if (word >= 0 && word < (int64_t)sizeof text / 8) value |= (uint64_t)text[8 * word + i] << (8 * i);
    return rpc_answer(result, (int64_t)value);
}
