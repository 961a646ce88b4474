"""What a target is: the vector machine that kernels are made for, and the platform that runs the library.

A target is one row of data: lowering reads its vectors, TVM its LLVM names, the tool chain its platform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Platform:
    """What a library is linked for.

    Attributes:
        name: architecture and system, as manifests have them.
        triple: LLVM's, of the kernels.
        zig: target of `zig cc`.
        library: the file that is loaded or linked at run time.
        form: how libraries are made: "elf", "bionic", "macho" or "wasm" (toolchain.py).
        runtime: folders of runtime/ besides the common one, whose headers the driver includes.
        prefixes: of cross compilers to look for, such as Debian's.
        abi: further entries of TVM's target.
        emulator: the usual user-mode emulator, or "".
        extras: templates of runtime/ that become files of the artifact, such as `run_model.c`.
    """

    name: str
    triple: str
    zig: str
    library: str = "libmodel.so"
    form: str = "elf"
    runtime: tuple[str, ...] = ("posix", "hwcap")
    prefixes: tuple[str, ...] = ()
    abi: tuple[tuple[str, str | int], ...] = ()
    emulator: str = ""
    extras: tuple[str, ...] = ("run_model.c",)


@dataclass(frozen=True)
class Machine:
    """The vector machine that kernels are made for.

    Attributes:
        name: of the target.
        lanes: fp32 lanes of a vector register.
        registers: vector registers.
        features: CPU features needed, in the names of /proc/cpuinfo.
        platform: what its library is linked for.
        l1_bytes, l2_bytes: data cache sizes of a core.
        l3_bytes: size of the last cache.
        dot: the feature that products of 8-bit codes use (kernels/codes.py), where there are any; or "".
        without_dot: what multiplies them where a processor lacks `dot`: the library holds both kernels and
            chooses when it is loaded. "": `dot` is needed.
        expand: that which spreads bytes by a mask (kernels/bitmap.py); or "".
        cpu: LLVM's name of the processor.
        attributes: LLVM's features besides those of the processor.
        family: of CPUs, whose constants of the cost model hold; "" for the default ones.
        fma, loads: vector instructions of each kind per cycle.
        fused: whether a multiply-add is rounded once.
        by_lane: whether multiply-adds take one lane of a register as a factor.
        products: what multiplies 8-bit codes, for users.
        verified: how artifacts for it were checked, for users.
    """

    name: str
    lanes: int
    registers: int
    features: tuple[str, ...]
    platform: Platform
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 1024 * 1024
    l3_bytes: int = 32 * 1024 * 1024
    dot: str = ""
    without_dot: str = ""
    expand: str = ""
    cpu: str = "generic"
    attributes: tuple[str, ...] = ()
    family: str = ""
    fma: float = 2.0
    loads: float = 2.0
    fused: bool = True
    by_lane: bool = False
    products: str = "32-bit multiply-adds"
    verified: str = ""

    @property
    def sure_dot(self) -> str:
        """`dot` where no processor lacks it, else ""."""
        return "" if self.without_dot else self.dot

    @property
    def all_features(self) -> tuple[str, ...]:
        """With those that only some kernels use and that no kernel can do without."""
        wanted = (self.sure_dot, self.expand)
        more = [feature for feature in wanted if feature and feature not in self.features]
        return (*self.features, *more)

    def tvm_target(self, features: Sequence[str] = ()) -> dict[str, object]:
        """TVM's description of the machine, of which kernels use the given `features`."""
        found: dict[str, object] = {"kind": "llvm", "mtriple": self.platform.triple, "mcpu": self.cpu}
        found.update(self.platform.abi)
        optional = [feature for feature in (self.dot, self.expand) if feature in features]
        used = [LLVM_NAMES[feature] for feature in optional if feature in LLVM_NAMES]
        if self.attributes or used:
            found["mattr"] = [*self.attributes, *used]
        return found


LLVM_NAMES = {
    "avx_vnni": "+avxvnni",
    "avx512_vnni": "+avx512vnni",
    "avx512_vbmi2": "+avx512vbmi2",
    "asimddp": "+dotprod",
    "i8mm": "+i8mm",
}
"""LLVM's names of the features that only some kernels use."""
