"""PrimFunc -> object file with plain C symbols, built in parallel and cached by content.

The cache's key covers what the kernel is specialised for, the generators' sources, the target and TVM's
version, so equal kernels of different layers, models and runs are compiled once.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build

from sparsecc.targets.cache import KernelCache, cache_folder


def _object_bytes(func: tirx.PrimFunc, target: tvm.target.Target) -> bytes:
    mod = tvm.IRModule({str(func.attrs["global_symbol"]): func})
    passes = [
        tirx.transform.BindTarget(target.with_host(target)),
        tirx.transform.StmtSimplify(),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]
    with target, tvm.transform.PassContext(opt_level=3):
        lowered = tvm.ir.transform.Sequential(passes)(mod)
        built = codegen_build(lowered, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        built.write_to_file(str(path), "o")
        return path.read_bytes()


def structural_name(prefix: str, key: object) -> str:
    """A C symbol for the kernel that `key` describes; equal keys give equal symbols."""
    return f"{prefix}_{hashlib.sha256(repr(key).encode()).hexdigest()[:12]}"


def build_objects(
    makers: dict[str, Callable[[], tirx.PrimFunc]],
    target_dict: dict[str, object],
    *,
    source_version: str | None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, bytes]:
    """Compile each kernel to an object file.

    Args:
        makers: for each symbol, a function that makes its PrimFunc; the symbol must identify the content.
        target_dict: TVM target, such as {"kind": "llvm", "mcpu": "znver4"}.
        source_version: digest of the kernel generators; a change of code is a change of key. None: build
            anew and keep nothing.
        workers: threads; by default the number of cores.
        progress: called with (done, total).
    """
    key = repr((sorted(target_dict.items()), tvm.__version__, source_version))
    cache = KernelCache(cache_folder(), hashlib.sha256(key.encode()).hexdigest()[:16])
    target = tvm.target.Target(target_dict)
    done = 0

    def one(symbol: str) -> bytes:
        nonlocal done
        data = cache.read(symbol) if source_version else None
        if data is None:
            data = _object_bytes(makers[symbol](), target)
            if source_version:
                cache.write(symbol, data)
        done += 1
        if progress:
            progress(done, len(makers))
        return data

    symbols: Sequence[str] = list(makers)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        objects = dict(zip(symbols, pool.map(one, symbols), strict=True))
    if source_version:
        cache.shrink()
    return objects
