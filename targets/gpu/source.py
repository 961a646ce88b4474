"""PrimFunc -> source text of a device's language, by TVM's code generators."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx
from tvm.support import nvcc  # noqa: F401  (registers the compiler that is replaced below)
from tvm.tirx.build import codegen_build

from sparsecc.errors import LoweringError
from sparsecc.targets.gpu.machine import Gpu

# TVM would compile CUDA sources at once, for one architecture; we want the text.
tvm.register_global_func("tvm_callback_cuda_compile", lambda code, *_: b"\0", override=True)


def kernel_sources(
    makers: dict[str, Callable[[], tirx.PrimFunc]],
    gpu: Gpu,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """The source of each kernel.

    Args:
        makers: for each symbol, a function that makes its PrimFunc; the symbol must identify the content.
        progress: called with (done, total).
    """
    found: dict[str, str] = {}
    for done, (symbol, make) in enumerate(makers.items()):
        found[symbol] = kernel_source(make(), gpu)
        if progress:
            progress(done + 1, len(makers))
    return found


def kernel_source(func: tirx.PrimFunc, gpu: Gpu) -> str:
    """The text of one kernel, whose parameters are in the PrimFunc's order.

    Raises:
        LoweringError: TVM has no code for it in this language.
    """
    symbol = str(func.attrs["global_symbol"])
    target = tvm.target.Target(gpu.tvm_target())
    mod = tvm.IRModule({symbol: func.with_attr("target", target)})
    try:
        with target, tvm.transform.PassContext(opt_level=3):
            built: Any = codegen_build(tirx.transform.LowerIntrin()(mod), target)
    except (tvm.error.InternalError, ValueError) as error:
        raise LoweringError(
            f"TVM cannot write kernel {symbol} for {gpu.name}: {str(error).splitlines()[-1]}"
        ) from error
    text = str(built.inspect_source())
    if gpu.language == "webgpu":
        text = _as_wgsl(text, symbol)
    if gpu.language == "cuda":
        text = re.sub(r"__launch_bounds__\((\d+)\)", _bounds, text)
    if gpu.language in _SIGNATURES:
        _check_order(text, symbol, [str(p.name) for p in func.params], _SIGNATURES[gpu.language])
    return text


def _bounds(match: re.Match[str]) -> str:
    """Launch bounds that let ptxas spend 80 registers on a thread before it spills any."""
    threads = int(match[1])
    return f"__launch_bounds__({threads}, {max(1, _RESIDENT // threads)})"


_RESIDENT = 768  # threads of a multiprocessor with 64 Ki registers


def _as_wgsl(text: str, symbol: str) -> str:
    """WGSL without literals of infinity, which it lacks, and with bindings that may share a buffer.

    A buffer that one binding writes may have no binding that only reads, and all values lie in one arena.
    """
    if re.search(r"\bnanf?\b", text):
        raise LoweringError(f"kernel {symbol} needs a not-a-number, which WGSL cannot write down")
    text = re.sub(r"\binff\b", _LARGEST, text)
    return text.replace("var<storage, read>", "var<storage, read_write>")


_LARGEST = "3.40282347e+38f"  # finite, in the place of infinity
_SIGNATURES = {"opencl": r"__kernel void {}\(([^)]*)\) {{", "cuda": r"{}\(([^)]*)\) {{"}


def _check_order(text: str, symbol: str, names: list[str], pattern: str) -> None:
    """Launches pass arguments by position, so the signature must have the PrimFunc's order."""
    match = re.search(pattern.format(symbol), text)
    found = [] if match is None else [re.findall(r"\w+", p)[-1] for p in match[1].split(",")]
    if found != names:
        raise LoweringError(f"kernel {symbol} has the parameters {found}: expected {names}")


def joined(sources: dict[str, str], gpu: Gpu) -> str:
    """All kernels as one file, where the language has such; declarations come once.

    In WGSL every kernel is a module of its own, which a line `// Function: ` and its name begins.
    """
    if gpu.language not in _HEADS:
        return "\n".join(sources.values())
    marker, head = _HEADS[gpu.language]
    return head + "\n".join(marker + text.partition(marker)[2] for text in sources.values())


_CUDA_TYPES = """\
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#else
#include <cstdint>
#endif
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000ll)
#define CUDART_NAN __longlong_as_double(0x7fffffffffffffffll)
"""
_METAL_TYPES = (
    "#include <metal_stdlib>\nusing namespace metal;\n\nunion __TVMArgUnion {\n int v_int[2];\n};\n"
)
_HEADS = {
    "cuda": ('extern "C" __global__', _CUDA_TYPES),
    "metal": ("};\n", _METAL_TYPES.removesuffix("};\n")),
}
"""What a kernel's own text begins with, and what all of them need before it."""
