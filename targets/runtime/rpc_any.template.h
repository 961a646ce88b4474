/* TVMFFIAny of tvm/ffi/c_api.h, with integers only. */
#ifndef RPC_ANY_H
#define RPC_ANY_H

#include <stdint.h>

typedef struct rpc_any {
    int32_t type;
    uint32_t padding;
    int64_t integer;
} rpc_any;

static inline int rpc_answer(rpc_any *result, int64_t value) {
    *result = (rpc_any){1, 0, value};
    return 0;
}

#endif
