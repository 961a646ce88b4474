"""Makes the libraries of an artifact from its kernels and its driver, in the way of each object format.

The shared library shows the driver's exports only. The static one of ELF is combined into one object whose
other symbols are made local, so that two models can be linked into one program; that needs objcopy, and
without it, as for other formats, the objects are archived as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparsecc.errors import LoweringError
from sparsecc.targets.machine import Platform
from sparsecc.targets.toolchain import Toolchain, find_toolchain

STATIC_LIBRARY = "libmodel.a"

_COMPILE = (
    "-std=c11",
    "-O2",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-strict-overflow",
    "-Wall",
    "-Wextra",
)
_ELF = (
    "-shared",
    "-pthread",
    "-s",
    "-Wl,--gc-sections",
    "-Wl,-z,noexecstack",
    "-Wl,-z,relro",
    "-Wl,-z,now",
    "-Wl,-z,defs",
)
BIONIC = """
abort calloc clock_gettime close fstat free getauxval madvise memcpy memmove memset mmap munmap open
posix_memalign pthread_cond_broadcast pthread_cond_destroy pthread_cond_init pthread_cond_signal
pthread_cond_wait pthread_create pthread_join pthread_mutex_destroy pthread_mutex_init pthread_mutex_lock
pthread_mutex_unlock sysconf
"""
"""What a library may take from Android's libc.so; all of it is there since API level 21."""
BIONIC_MATH = """
acos acosf acosh acoshf asin asinf asinh asinhf atan atan2 atan2f atanf atanh atanhf ceil ceilf cos cosf cosh
coshf erf erff exp exp2 exp2f expf expm1 expm1f floor floorf fma fmaf fmod fmodf hypot hypotf ldexp ldexpf log
log10 log10f log1p log1pf log2 log2f logf nearbyint nearbyintf nextafter nextafterf pow powf rint rintf round
roundf sin sinf sinh sinhf sqrt sqrtf tan tanf tanh tanhf trunc truncf
"""
"""The same of its libm.so."""
# _SC_NPROCESSORS_ONLN in bionic; zig brings the headers of musl, which agree with it in what else is used.
_BIONIC_PROCESSORS = (
    97  # _SC_NPROCESSORS_ONLN in bionic; zig brings the headers of musl, which are alike else
)


@dataclass(frozen=True)
class Job:
    """One artifact's libraries.

    Attributes:
        toolchain: what to call.
        platform: what they are for.
        exports: symbols that the libraries show.
        work: existing folder for all that is made, and the commands' working folder.
    """

    toolchain: Toolchain
    platform: Platform
    exports: Sequence[str]
    work: Path

    def compile(self, *arguments: str) -> None:
        """Call the C compiler."""
        self.toolchain.call(self.toolchain.compiler, *arguments, cwd=self.work)

    def write(self, name: str, text: str) -> None:
        """Lay a file beside the others."""
        (self.work / name).write_text(text, encoding="utf-8")


def build_libraries(
    job: Job, objects: Mapping[str, bytes], files: Mapping[str, str], include: Sequence[Path]
) -> tuple[Path, Path]:
    """Compile the C sources and link them with the objects.

    Args:
        job: for whom and with what.
        objects: compiled kernels by name.
        files: texts by file name, laid beside each other; those that end in `.c` are compiled.
        include: folders of further headers.

    Returns:
        The paths of the platform's library and of `libmodel.a` in the working folder.

    Raises:
        LoweringError: a command failed or did not end; the message has the end of its output.
    """
    for name, text in files.items():
        job.write(name, text)
    parts: list[str] = []
    for index, data in enumerate(objects.values()):
        parts.append(f"kernel{index}.o")
        (job.work / parts[-1]).write_bytes(data)
    form = _FORMS[job.platform.form]
    for name in files:
        if name.endswith(".c"):
            compiled = f"{name.removesuffix('.c')}.o"
            folders = [f"-I{folder}" for folder in include]
            job.compile(*_COMPILE, *form.compile, *folders, "-c", name, "-o", compiled)
            parts.insert(0, compiled)
    form.shared(job, parts)
    form.static(job, parts)
    return job.work / job.platform.library, job.work / STATIC_LIBRARY


def build_program(platform: Platform, artifact: Path, work: Path) -> Path:
    """The program `run_model.c` of an artifact with its static library, linked statically.

    Raises:
        LoweringError: no C compiler for the platform, or it failed.
    """
    # zig links no glibc statically; musl's calls are the same
    musl = replace(platform, zig=re.sub(r"gnu(eabihf|)[0-9.]*$", r"musl\1", platform.zig))
    job = Job(find_toolchain(None, musl), musl, (), work)
    names = (f"-I{artifact}", str(artifact / "run_model.c"), str(artifact / STATIC_LIBRARY))
    job.compile("-std=c11", "-O2", *names, "-static", "-lm", "-lpthread", "-o", "run_model")
    return work / "run_model"


def build_rpc_library(
    platform: Platform,
    work: Path,
    files: Mapping[str, str | bytes],
    artifact: Path | None = None,
    compiler: str | None = None,
) -> Path:
    """A library that a TVM RPC server loads.

    Args:
        work: existing folder for all that is made.
        files: contents by file name, laid there; those that end in `.c` are compiled.
        artifact: whose header and static library they use.

    Raises:
        LoweringError: the platform is not Linux's, no C compiler for it, or it failed.
    """
    if platform.form != "elf":
        raise LoweringError(
            f"networks for {platform.name} cannot be timed on a TVM RPC server; those for Linux can"
        )
    job = Job(find_toolchain(compiler, platform), platform, (), work)
    for name, data in {**files, "rpc.map": "{ global: __tvm_ffi_*; local: *; };\n"}.items():
        (work / name).write_bytes(data.encode() if isinstance(data, str) else data)
    parts = [name for name in files if name.endswith(".c")]
    if artifact is not None:
        parts += [f"-I{artifact}", str(artifact / STATIC_LIBRARY), "-lm", "-lpthread"]
    flags = ("-std=c11", "-O2", "-fPIC", *_ELF, "-Wl,--version-script=rpc.map")
    job.compile(*flags, "-o", "rpc.so", *parts)
    return work / "rpc.so"


def _shared_elf(job: Job, parts: Sequence[str], *more: str) -> None:
    names = " ".join(f"{name};" for name in job.exports)
    job.write("exports.map", f"{{ global: {names} local: *; }};\n")
    library = job.platform.library
    named = (f"-Wl,-soname,{library}", "-Wl,--version-script=exports.map")
    job.compile(*_ELF, *named, "-o", library, *parts, *(more or ("-lm",)))


def _shared_bionic(job: Job, parts: Sequence[str]) -> None:
    """With stubs for Android's libraries, where the compiler brings none: they hold the names that may be
    used, and the library is found to need libc.so and libm.so at most."""
    pages = "-Wl,-z,max-page-size=16384"
    if not job.toolchain.bundled:
        _shared_elf(job, parts, pages, "-lm")
        return
    for library, names in (("c", BIONIC), ("m", BIONIC_MATH)):
        job.write(f"stub{library}.c", "".join(f"void {name}(void) {{}}\n" for name in names.split()))
        made = ("-shared", "-nostdlib", "-fno-builtin", "-w", f"-Wl,-soname,lib{library}.so")
        job.compile(*made, "-o", f"lib{library}.so", f"stub{library}.c")
    _shared_elf(job, parts, pages, "-nostdlib", "-Wl,--as-needed", "libc.so", "libm.so")


def _shared_macho(job: Job, parts: Sequence[str]) -> None:
    library = job.platform.library
    job.compile("-dynamiclib", f"-Wl,-install_name,@rpath/{library}", "-o", library, *parts)


def _shared_wasm(job: Job, parts: Sequence[str]) -> None:
    names = (*job.exports, "aligned_alloc", "free")
    exports = [f"-Wl,--export={name}" for name in names]
    job.compile(
        "-mexec-model=reactor", "-O2", "-s", "-Wl,--gc-sections", "-Wl,-z,stack-size=262144", *exports,
        "-o", job.platform.library, *parts, "-lm",
    )  # fmt: skip


def _static_elf(job: Job, parts: Sequence[str]) -> None:
    if job.toolchain.objcopy:
        keep = [f"--keep-global-symbol={name}" for name in job.exports]
        job.compile("-r", "-nostdlib", "-o", "combined.o", *parts)
        arguments = (*keep, "--strip-unneeded", "combined.o", "model.o")
        job.toolchain.call(job.toolchain.objcopy, *arguments, cwd=job.work)
        parts = ["model.o"]
    _static(job, parts)


def _static(job: Job, parts: Sequence[str]) -> None:
    job.toolchain.call(job.toolchain.archiver, "rcsD", STATIC_LIBRARY, *parts, cwd=job.work)


@dataclass(frozen=True)
class _Form:
    """How libraries are made: flags of the C compiler, and what makes the shared and the static one."""

    compile: tuple[str, ...]
    shared: Callable[[Job, Sequence[str]], None]
    static: Callable[[Job, Sequence[str]], None]


_FORMS = {
    "elf": _Form(("-pthread",), _shared_elf, _static_elf),
    "bionic": _Form((f"-DSPARSECC_SC_NPROCESSORS_ONLN={_BIONIC_PROCESSORS}",), _shared_bionic, _static_elf),
    "macho": _Form((), _shared_macho, _static),
    "wasm": _Form(("-msimd128",), _shared_wasm, _static),
}
