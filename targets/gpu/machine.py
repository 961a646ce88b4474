"""What a GPU target is, and all of them: a new one is a row here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sparsecc.targets.machine import Machine, Platform


@dataclass(frozen=True)
class Gpu(Machine):
    """A device whose kernels have threads.

    Attributes:
        language: of the sources, as TVM's target kind has it.
        architectures: that binaries are made for beside the source, as nvcc names them.
        shared_bytes: shared memory of a group that kernels may use.
        types: numpy types that its kernels can hold.
        families: of kernels, for users.
    """

    language: str = "opencl"
    architectures: tuple[str, ...] = ()
    shared_bytes: int = 16 * 1024
    types: frozenset[str] = frozenset()
    families: tuple[str, ...] = (
        "product",
        "rows",
        "groups",
        "depthwise",
        "matmul",
        "softmax",
        "norm",
        "generic",
        "copy",
    )

    @property
    def source(self) -> str:
        """The file of the sources."""
        return self.platform.library

    def tvm_target(self, features: object = ()) -> dict[str, object]:
        """TVM's description of the device."""
        found: dict[str, object] = {"kind": self.language}
        if self.architectures:
            found["arch"] = self.architectures[0]
        return found


_COMMON = ("float32", "int32", "uint32", "int8", "uint8", "int16", "uint16", "bool")
_WIDE = frozenset((*_COMMON, "int64", "uint64"))


def _gpu(name: str, library: str, types: frozenset[str], verified: str, **more: Any) -> Gpu:
    platform = Platform(name, "", "", library=library, form=name, runtime=(), extras=())
    return Gpu(
        name,
        1,
        64,
        (),
        platform,
        products="fp32 of codes",
        verified=verified,
        language=name,
        types=types,
        **more,
    )


GPUS = (
    _gpu(
        "opencl",
        "kernels.cl",
        _WIDE | {"float64"},
        "run under PoCL, equal to ONNX Runtime; not run on a GPU",
    ),
    _gpu(
        "cuda",
        "kernels.cu",
        _WIDE | {"float64"},
        "compiled for sm_80 and sm_90, no spills; same schedules as opencl; not run on a GPU",
        architectures=("sm_80", "sm_90"),
    ),
    _gpu("metal", "kernels.metal", _WIDE, "source only: generated, not compiled"),
    _gpu(
        "webgpu",
        "kernels.wgsl",
        frozenset(("float32", "int32", "uint32")),
        "run under Mesa's llvmpipe, equal to ONNX Runtime; not run on a GPU",
    ),
)
