"""PrimFunc -> object file with plain C symbols, built in parallel and cached by content.

The cache key covers the IR text, the target and TVM's version, so equal kernels of different layers,
models and runs are compiled once. `SPARSECC_CACHE` names the folder (default: the user's cache folder).
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


def cache_folder() -> Path:
    """Where compiled kernels are kept."""
    named = os.environ.get("SPARSECC_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sparsecc" / "kernels"


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
    source_version: str,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, bytes]:
    """Compile each kernel to an object file.

    Args:
        makers: for each symbol, a function that makes its PrimFunc; the symbol must identify the content.
        target_dict: TVM target, such as {"kind": "llvm", "mcpu": "znver4"}.
        source_version: digest of the kernel generators; a change of code is a change of key.
        workers: threads; by default the number of cores.
        progress: called with (done, total).
    """
    folder = cache_folder()
    stem = hashlib.sha256(
        repr((sorted(target_dict.items()), tvm.__version__, source_version)).encode()
    ).hexdigest()[:16]
    target = tvm.target.Target(target_dict)
    done = 0

    def one(symbol: str) -> bytes:
        nonlocal done
        path = folder / stem / f"{symbol}.o"
        try:
            data = path.read_bytes()
        except OSError:
            data = _object_bytes(makers[symbol](), target)
            _store(path, data)
        done += 1
        if progress:
            progress(done, len(makers))
        return data

    symbols: Sequence[str] = list(makers)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return dict(zip(symbols, pool.map(one, symbols), strict=True))


def _store(path: Path, data: bytes) -> None:
    """Write atomically; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as handle:
            handle.write(data)
        os.replace(handle.name, path)
    except OSError:
        return
