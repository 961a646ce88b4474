"""Small networks on machines that only emulators have: equal to ONNX Runtime, and in 8 bits to x86."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulators import compiled, emulated, on_x86
from machine_networks import close, codes, convolutions, transformer
from networks import Network
from stepping import reference
from test_lower_codes import largest_sums

import sparsecc
from sparsecc.compiler import build_plan, prepare
from sparsecc.errors import ArtifactError, LoweringError, UsageError
from sparsecc.targets.linking import BIONIC, BIONIC_MATH

Array = npt.NDArray[Any]
ARM = ("arm64-linux", "arm64-linux+dotprod", "arm64-linux+i8mm", "arm64-linux+a55", "armv7-linux")
LINUX = (*ARM, "riscv64-linux", "riscv64-linux+v")


@pytest.mark.parametrize("target", LINUX)
def test_convolutions(target: str, tmp_path: Path) -> None:
    net = convolutions()
    proto = net.proto()
    close(emulated(compiled(proto, target, tmp_path), target, net.feeds), reference(proto, net.feeds))


@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux", "riscv64-linux"])
def test_transformer(target: str, tmp_path: Path) -> None:
    net = transformer()
    proto = net.proto()
    close(emulated(compiled(proto, target, tmp_path), target, net.feeds), reference(proto, net.feeds))


@pytest.mark.parametrize("target", LINUX)
def test_codes_are_those_of_x86(target: str, tmp_path: Path) -> None:
    net = codes()
    proto = net.proto()
    found = emulated(compiled(proto, target, tmp_path), target, net.feeds)
    for name, array in on_x86(proto, net.feeds, tmp_path).items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("made", [codes, largest_sums])
def test_one_library_with_and_without_sdot(made: Callable[[], Network], tmp_path: Path) -> None:
    """It chooses when it is loaded: the first processor would stop at SDOT, and the second has it."""
    net = made()
    proto = net.proto()
    artifact = compiled(proto, "arm64-linux", tmp_path)
    assert artifact.manifest.features == ("asimd",)
    assert artifact.manifest.optional_features == ("asimddp",)
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    expected = on_x86(proto, net.feeds, tmp_path)
    for cpu in ("cortex-a53", "cortex-a76"):
        with sparsecc.load(artifact.path, emulator=f"qemu-aarch64 -cpu {cpu}") as session:
            found = session.run(net.feeds)
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


def test_kernels_that_stand_in_for_others() -> None:
    """SDOT is in the kernels that have a stand-in and in no others; both read the same weights."""
    if shutil.which("aarch64-linux-gnu-objdump") is None:
        pytest.skip("aarch64-linux-gnu-objdump is not installed")
    plan = build_plan(prepare(codes().proto()), target="arm64-linux")
    assert plan.optional == ("asimddp",) and plan.alternatives
    assert not {*plan.alternatives} & {*plan.alternatives.values()}
    for name, data in plan.objects.items():
        with tempfile.NamedTemporaryFile(suffix=".o") as file:
            file.write(data)
            file.flush()
            command = ["aarch64-linux-gnu-objdump", "-d", file.name]
            text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert ("sdot" in text) == (name.removesuffix(".o") in plan.alternatives)


@pytest.fixture(scope="module")
def network() -> Network:
    """Two layers, and a call of the C library's mathematics."""
    net = Network()
    y = net.conv(net.input(1, 8, 9, 9), 8, 16, (3, 3), pads=[1] * 4, pattern="4x1 80")
    net.output(net.add("Sin", y))
    return net


def symbols(library: Path) -> set[str]:
    """Undefined dynamic symbols, without their versions."""
    text = subprocess.run(
        ["readelf", "-W", "--dyn-syms", str(library)], check=True, capture_output=True, text=True
    ).stdout
    return {match[1] for match in re.finditer(r" UND (\w+)", text)}


def alignments(library: Path) -> set[int]:
    """Of the segments that are loaded."""
    text = subprocess.run(
        ["readelf", "-W", "-l", str(library)], check=True, capture_output=True, text=True
    ).stdout
    return {int(line.split()[-1], 16) for line in text.splitlines() if line.strip().startswith("LOAD")}


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux", "riscv64-linux"])
def test_embedded_weights(target: str, embed: bool, network: Network, tmp_path: Path) -> None:
    proto = network.proto()
    artifact = compiled(proto, target, tmp_path, embed=embed)
    assert (artifact.path / "weights.bin").exists() != embed
    close(emulated(artifact, target, network.feeds), reference(proto, network.feeds))


def test_shared_library_under_the_emulator(network: Network, tmp_path: Path) -> None:
    """libmodel.so is found and loaded by the C library of the other machine."""
    root = Path("/usr/aarch64-linux-gnu")
    if not (root / "lib" / "ld-linux-aarch64.so.1").exists() or shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 or the C library for it (libc6-arm64-cross) is not installed")
    folder = compiled(network.proto(), "arm64-linux", tmp_path).path
    compiler = ["aarch64-linux-gnu-gcc"]
    if shutil.which(compiler[0]) is None:
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.17"]
    link = (f"-L{folder}", "-lmodel", "-o", str(tmp_path / "program"))
    subprocess.run([*compiler, f"-I{folder}", str(folder / "run_model.c"), *link], check=True)
    (tmp_path / "inputs").write_bytes(network.feeds["x0"].tobytes())
    words = [tmp_path / "program", folder / "weights.bin", 3, tmp_path / "inputs", tmp_path / "outputs"]
    emulator = ["qemu-aarch64", "-L", str(root), "-E", f"LD_LIBRARY_PATH={folder}"]
    subprocess.run([*emulator, *map(str, words)], check=True)
    (expected,) = reference(network.proto(), network.feeds)
    found = np.fromfile(tmp_path / "outputs", np.float32).reshape(expected.shape)
    close({"y": found}, [expected])


def test_library_checks_the_processor(tmp_path: Path) -> None:
    """An artifact for a newer processor refuses an older one by itself."""
    net = codes()
    artifact = compiled(net.proto(), "arm64-linux+i8mm", tmp_path)
    assert "i8mm" in artifact.manifest.features
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    with (
        sparsecc.load(artifact.path, emulator="qemu-aarch64 -cpu cortex-a57") as session,
        pytest.raises(ArtifactError, match="this processor lacks an instruction set"),
    ):
        session.run(net.feeds)


def test_android(network: Network, tmp_path: Path) -> None:
    """Nothing beyond bionic's names, pages of 16 KiB, and no library but its two."""
    from sparsecc.cli.elf import needed_libraries

    artifact = compiled(network.proto(), "arm64-android", tmp_path)
    library = artifact.path / "libmodel.so"
    assert artifact.manifest.machine == "aarch64-android"
    assert {"sinf", "pthread_create"} <= symbols(library) <= {*BIONIC.split(), *BIONIC_MATH.split()}
    assert alignments(library) == {0x4000}
    assert set(needed_libraries(library)) == {"libc.so", "libm.so"}
    with pytest.raises(ArtifactError, match="compiled for aarch64-android, and this machine is"):
        artifact.load()
    with pytest.raises(UsageError, match="there is no emulator for artifacts of aarch64-android"):
        sparsecc.load(artifact.path, emulator="")


@pytest.mark.parametrize("embed", [False, True])
def test_apple(network: Network, tmp_path: Path, embed: bool) -> None:
    artifact = compiled(network.proto(), "arm64-apple", tmp_path, embed=embed)
    data = (artifact.path / "libmodel.dylib").read_bytes()
    assert data.startswith(bytes.fromhex("cffaedfe0c000001")) and b"_model_run" in data
    assert (artifact.path / "libmodel.a").stat().st_size > 0
    assert artifact.manifest.machine == "aarch64-darwin"


# --- refusals -------------------------------------------------------------------------------------------


def test_another_architecture(network: Network, tmp_path: Path) -> None:
    artifact = sparsecc.compile(network.proto(), "arm64-linux", tmp_path / "a.scc")
    assert artifact.report.notes == ("Nothing was measured: this machine lacks aarch64-linux.",)
    with pytest.raises(ArtifactError, match="was compiled for aarch64-linux, and this machine is x86_64"):
        artifact.load()
    with pytest.raises(UsageError, match="the emulator 'noqemu' was not found"):
        sparsecc.load(artifact.path, emulator="noqemu -cpu max")


def test_no_cross_compiler(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(LoweringError, match=r"no C compiler for aarch64-linux was found .* aarch64-linux"):
        sparsecc.compile(network.proto(), "arm64-linux", tmp_path / "a.scc", measure=False)
