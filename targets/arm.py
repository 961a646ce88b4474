"""ARM: 64 bits with NEON on Linux, Android and Apple's systems, 32 bits with NEON and VFPv4 on Linux.

Products of 8-bit codes are SDOT where the processor has it (ARMv8.2 to 8.4), which a library sees when it is
loaded, and else bytes are widened. `+dotprod` and `+i8mm` (USDOT, ARMv8.6) have no such choice. Apple's
processors have SDOT from the first on. `+a55` is for cores that run instructions in order, such as
Cortex-A55; its library also runs on the large cores beside them.
"""

from __future__ import annotations

from dataclasses import replace

from sparsecc.targets.machine import Machine, Platform

_LINUX = Platform(
    "aarch64-linux",
    "aarch64-unknown-linux-gnu",
    "aarch64-linux-gnu.2.17",
    prefixes=("aarch64-linux-gnu-",),
    emulator="qemu-aarch64",
)
_ANDROID = Platform(
    "aarch64-android",
    "aarch64-unknown-linux-android",
    "aarch64-linux-musl",
    form="bionic",
    extras=("run_model.c", "model_jni.c", "Model.kt", "CMakeLists.txt"),
)
_APPLE = Platform(
    "aarch64-darwin",
    "arm64-apple-macos11",
    "aarch64-macos.11.0",
    library="libmodel.dylib",
    form="macho",
    runtime=("posix", "unchecked"),
)
_ARM32 = Platform(
    "armv7-linux",
    "armv7a-unknown-linux-gnueabihf",
    "arm-linux-gnueabihf.2.17",
    prefixes=("arm-linux-gnueabihf-",),
    abi=(("mfloat-abi", "hard"),),
    emulator="qemu-arm",
)

_QEMU = "run under qemu, equal to ONNX Runtime; not timed on hardware"
_ARM64 = Machine(
    "arm64-linux",
    4,
    32,
    ("asimd",),
    _LINUX,
    l2_bytes=512 * 1024,
    dot="asimddp",
    without_dot="asimd",
    attributes=("+neon",),
    by_lane=True,
    products="sdot, where the processor has it",
    verified=_QEMU,
)
_64 = (
    _ARM64,
    replace(
        _ARM64,
        name="arm64-android",
        platform=_ANDROID,
        verified="symbols against bionic's, 16 KiB pages; kernels as arm64-linux, not run on a device",
    ),
    replace(
        _ARM64,
        name="arm64-apple",
        platform=_APPLE,
        without_dot="",
        products="sdot",
        verified="linked; kernels as arm64-linux, not run on a device",
    ),
)


def _in_order(machine: Machine) -> Machine:
    """The same for cores that run in order: instructions as Cortex-A55 needs them, vectors loaded one by one.

    Arm's optimization guide gives it one multiply-add of a vector per cycle. Loading a pair of vectors takes
    six cycles in LLVM's model. Of what ARMv8.2 adds, only SDOT is used.
    """
    return replace(
        machine,
        name=f"{machine.name}+a55",
        without_dot="",
        products="sdot",
        cpu="cortex-a55",
        attributes=("+neon", "+slow-paired-128", "-fullfp16", "-rdm", "-lse", "-crc", "-rcpc"),
        l2_bytes=256 * 1024,
        fma=1.0,
        loads=1.0,
    )


MACHINES = (
    *_64,
    replace(_ARM64, name="arm64-linux+dotprod", without_dot="", products="sdot"),
    replace(_64[1], name="arm64-android+dotprod", without_dot="", products="sdot"),
    replace(_ARM64, name="arm64-linux+i8mm", dot="i8mm", without_dot="", products="usdot"),
    _in_order(_ARM64),
    _in_order(_64[1]),
    Machine(
        "armv7-linux",
        4,
        16,
        ("neon", "vfpv4", "idiva"),
        _ARM32,
        l2_bytes=512 * 1024,
        attributes=("+neon", "+vfp4", "+hwdiv", "+hwdiv-arm"),
        fma=0.5,
        loads=1.0,
        by_lane=True,
        verified=_QEMU,
    ),
)
