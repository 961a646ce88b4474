# ruff: noqa: N802 (names of the CUDA driver)
"""Artifacts for GPUs from the public functions and the command line, and what they say to wrong input."""

from __future__ import annotations

import ctypes
import importlib.machinery
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from gpu_harness import needs_opencl, needs_wgpu
from machine_networks import close, convolutions, transformer
from networks import Network
from stepping import reference

import sparsecc
from sparsecc.artifact import cuda, opencl, webgpu
from sparsecc.artifact.cuda import CudaDevice, binary_for
from sparsecc.artifact.device import DeviceEngine
from sparsecc.cli.main import main
from sparsecc.compiler import Artifact
from sparsecc.errors import ArtifactError, LoweringError, UsageError
from sparsecc.targets.gpu.plan import ALIGNMENT, LAUNCHES, Launch, parse_launches


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Network]:
    folder = tmp_path_factory.mktemp("gpu")
    net = convolutions()
    onnx.save(net.proto(), folder / "model.onnx")
    return sparsecc.compile(folder / "model.onnx", "opencl", folder / "model.scc"), net


def small_cuda(folder: Path) -> Path:
    net = Network()
    net.output(net.linear(net.input(16, 8), 8, 8))
    onnx.save(net.proto(), folder / "model.onnx")
    try:
        return sparsecc.compile(folder / "model.onnx", "cuda", folder / "model.scc").path
    except LoweringError as error:
        pytest.skip(str(error))


def test_files(small: tuple[Artifact, Network]) -> None:
    """Sources, launches and weights, and every part of a buffer where any device can bind it."""
    artifact, _ = small
    manifest = artifact.manifest
    assert {"kernels.cl", LAUNCHES, "weights.bin", "report.html"} == set(manifest.files)
    assert manifest.machine == "opencl"
    launches = parse_launches((artifact.path / LAUNCHES).read_bytes())
    assert len(launches) == len(manifest.steps)
    for launch in launches:
        for argument in launch.pointers:
            assert argument.offset % ALIGNMENT == 0
    assert "chosen by a count of their loads" in artifact.report.notes[0]
    assert all(layer.reason for layer in artifact.report.layers)


@needs_opencl
def test_session(small: tuple[Artifact, Network]) -> None:
    artifact, net = small
    want = reference(net.proto(), net.feeds)
    with artifact.load() as session:
        close(session.run(net.feeds), want, 1e-5)
        timed = session.profile(net.feeds)
        assert [kind for _, kind, _ in timed] == [step.kind for step in session.steps]
        assert all(seconds > 0 for *_, seconds in timed)
        with pytest.raises(ArtifactError, match="expected shape"):
            session.run({**net.feeds, "x0": net.feeds["x0"][:, :, :5]})
    with pytest.raises(UsageError, match="the session is closed"):
        session.run(net.feeds)


@needs_opencl
def test_devices_by_name_and_number(small: tuple[Artifact, Network]) -> None:
    path = small[0].path
    name = opencl.device_names()[0]
    for choice in ("0", "", name[:12].upper()):
        sparsecc.load(path, device=choice).close()
    for choice in ("99", "no such device"):
        with pytest.raises(UsageError, match=f"there is no OpenCL device '{choice}'; devices are 0 "):
            sparsecc.load(path, device=choice)


@needs_opencl
def test_out_of_memory(small: tuple[Artifact, Network]) -> None:
    """The driver's refusal is a sentence."""
    device = opencl.OpenClDevice(small[0].path / "kernels.cl")
    with pytest.raises(
        ArtifactError, match=r"the OpenCL device .* could not allocate 1152921504606846976 bytes"
    ):
        device.allocate(2**60)


@needs_opencl
def test_command_line(
    small: tuple[Artifact, Network], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, net = small
    for name, array in net.feeds.items():
        np.save(tmp_path / f"{name}.npy", array)
    given = [word for name in net.feeds for word in ("--input", f"{name}={tmp_path / name}.npy")]
    out = tmp_path / "result.npz"
    assert main(["run", str(artifact.path), *given, "--device", "0", "-o", str(out)]) == 0
    with np.load(out) as arrays:
        close(dict(arrays), reference(net.proto(), net.feeds), 1e-5)
    assert main(["run", str(artifact.path), "--device", "nothing"]) == 2
    assert "there is no OpenCL device 'nothing'" in capsys.readouterr().err
    assert main(["inspect", str(artifact.path)]) == 0


def test_without_pyopencl(small: tuple[Artifact, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl, "find_spec", lambda _: None)
    with pytest.raises(ArtifactError, match=r"run `pip install sparsecc\[opencl\]`"):
        sparsecc.load(small[0].path)


def test_without_a_device(small: tuple[Artifact, Network], monkeypatch: pytest.MonkeyPatch) -> None:
    class NothingError(Exception):
        """What the loader raises without drivers."""

    def none() -> list[Any]:
        raise NothingError("PLATFORM_NOT_FOUND_KHR")

    monkeypatch.setattr(opencl, "_pyopencl", lambda: SimpleNamespace(get_platforms=none, Error=NothingError))
    with pytest.raises(
        ArtifactError, match="there is no OpenCL device: install the driver of the GPU, or PoCL"
    ):
        sparsecc.load(small[0].path)


def test_usage(small: tuple[Artifact, Network], tmp_path: Path) -> None:
    path = small[0].path
    with pytest.raises(UsageError, match="has no threads and needs no emulator"):
        sparsecc.load(path, threads=2)
    with pytest.raises(UsageError, match="stay in a file: leave out --embed"):
        sparsecc.compile(path.parent / "model.onnx", "opencl", tmp_path / "m.scc", embed=True)
    assert not (tmp_path / "m.scc").exists()
    with pytest.raises(
        UsageError, match=r"there is no target 'cuda\+tensor'; targets are .*opencl, cuda, metal"
    ):
        sparsecc.compile(path.parent / "model.onnx", "cuda+tensor", tmp_path / "m.scc")


def test_metal_is_source_only(small: tuple[Artifact, Network], tmp_path: Path) -> None:
    path = sparsecc.compile(small[0].path.parent / "model.onnx", "metal", tmp_path / "m.scc").path
    with pytest.raises(ArtifactError, match=r"sparsecc runs no artifacts for metal: kernels\.metal"):
        sparsecc.load(path)


@pytest.mark.parametrize("make", [convolutions, transformer], ids=["convolutions", "transformer"])
def test_webgpu(make: Callable[[], Network], tmp_path: Path) -> None:
    """The same launches through wgpu, on Mesa's Vulkan for CPUs where there is no GPU."""
    needs_wgpu()
    net = make()
    onnx.save(net.proto(), tmp_path / "model.onnx")
    artifact = sparsecc.compile(tmp_path / "model.onnx", "webgpu", tmp_path / "m.scc")
    with artifact.load() as session:
        for _ in range(2):
            close(session.run(net.feeds), reference(net.proto(), net.feeds), 1e-5)
    with pytest.raises(UsageError, match="there is no WebGPU device 'nothing'; devices are 0 "):
        sparsecc.load(artifact.path, device="nothing")


def test_without_wgpu(
    small: tuple[Artifact, Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = sparsecc.compile(small[0].path.parent / "model.onnx", "webgpu", tmp_path / "m.scc").path
    monkeypatch.setattr(webgpu, "find_spec", lambda _: None)
    with pytest.raises(ArtifactError, match=r"run `pip install sparsecc\[webgpu\]`"):
        sparsecc.load(path)


def test_damage(small: tuple[Artifact, Network], tmp_path: Path) -> None:
    """A byte of the source, and launches that name memory outside of their buffers."""
    path = tmp_path / "damaged.scc"
    path.mkdir()
    for file in small[0].path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    source = (path / "kernels.cl").read_text()
    (path / "kernels.cl").write_text(source.replace("barrier", "barrieR", 1))
    with pytest.raises(ArtifactError, match="does not match its SHA-256"):
        sparsecc.load(path)


class _Memory:
    """A device that only hands out numbers."""

    def allocate(self, nbytes: int) -> int:
        return nbytes

    def part(self, buffer: int, offset: int, nbytes: int) -> tuple[int, int, int]:
        return buffer, offset, nbytes

    def write(self, buffer: int, array: Any) -> None:
        assert array.nbytes <= buffer

    def read(self, buffer: int, array: Any) -> None:
        raise AssertionError

    def launch(self, launch: Launch, pointers: Any) -> None:
        raise AssertionError

    def wait(self) -> None:
        raise AssertionError

    def close(self) -> None:
        """Nothing is held."""


def test_memory_outside(small: tuple[Artifact, Network], tmp_path: Path) -> None:
    manifest = small[0].manifest
    (tmp_path / "weights.bin").write_bytes(bytes(manifest.weights_bytes))
    data = (small[0].path / LAUNCHES).read_bytes()
    (tmp_path / LAUNCHES).write_bytes(data)
    DeviceEngine(manifest, tmp_path, _Memory())
    smaller = replace(manifest, arena_bytes=manifest.arena_bytes - 512)
    with pytest.raises(ArtifactError, match="names memory outside of its buffers"):
        DeviceEngine(smaller, tmp_path, _Memory())
    (tmp_path / LAUNCHES).write_bytes(data[:100])
    with pytest.raises(ArtifactError, match="so the artifact is damaged"):
        DeviceEngine(manifest, tmp_path, _Memory())


def test_cuda_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_cuda(tmp_path)
    monkeypatch.setattr(cuda, "find_spec", lambda _: None)
    with pytest.raises(ArtifactError, match=r"run `pip install sparsecc\[cuda\]`"):
        sparsecc.load(path)


def test_cuda_without_a_driver(tmp_path: Path) -> None:
    if importlib.machinery.PathFinder.find_spec("cuda") is None:
        pytest.skip("cuda-bindings is not installed: pip install sparsecc[cuda]")
    try:
        CudaDevice(tmp_path)
    except (ArtifactError, UsageError) as error:
        assert (
            "driver cannot be loaded" in str(error) or "CUDA device" in str(error) or "compute" in str(error)
        )
    else:
        pytest.skip("this machine has a GPU")


def test_binary_for_each_capability(tmp_path: Path) -> None:
    """A cubin runs on its own generation, from its minor number on; others compile the PTX."""
    with pytest.raises(ArtifactError, match=r"no kernels for compute capability 8\.6"):
        binary_for(tmp_path, 8, 6)
    for name in ("kernels.sm_80.cubin", "kernels.sm_90.cubin", "kernels.ptx"):
        (tmp_path / name).touch()
    found = {c: binary_for(tmp_path, *c).name for c in ((8, 0), (8, 6), (9, 0), (10, 0), (12, 1))}
    assert found == {
        (8, 0): "kernels.sm_80.cubin", (8, 6): "kernels.sm_80.cubin", (9, 0): "kernels.sm_90.cubin",
        (10, 0): "kernels.ptx", (12, 1): "kernels.ptx",
    }  # fmt: skip
    with pytest.raises(ArtifactError, match=r"no kernels for compute capability 7\.5: it needs 8\.0"):
        binary_for(tmp_path, 7, 5)


class _Driver:
    """NVIDIA's driver as far as it can be without a GPU: memory is numbers, and launches are kept."""

    CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=8, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=6
    )

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        self.launched: list[tuple[Any, ...]] = []
        self.loaded = b""

    def cuDeviceGetAttribute(self, attribute: int, device: int) -> tuple[int, int]:
        return 0, attribute

    def cuDeviceGetCount(self) -> tuple[int, int]:
        return 0, 1

    def cuModuleLoadData(self, image: bytes) -> tuple[int, str]:
        self.loaded = image
        return 0, "module"

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[int, str]:
        return 0, name.decode()

    def cuMemAlloc(self, nbytes: int) -> tuple[int, int]:
        address = 1 << 20 | len(self.memory) << 32
        self.memory[address] = nbytes
        return 0, address

    def cuLaunchKernel(self, *arguments: Any) -> tuple[int]:
        self.launched.append(arguments)
        return (0,)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: (0, 0)


def test_cuda_launches_fit_the_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each launch passes what the kernel's source declares, and addresses inside of what was allocated."""
    path = small_cuda(tmp_path)
    driver = _Driver()
    monkeypatch.setattr(cuda, "_driver", lambda: driver)
    source = (path / "kernels.cu").read_text()
    with sparsecc.load(path, device="0") as session:
        session.run({"x0": np.zeros((16, 8), np.float32)})
    assert driver.loaded == (path / "kernels.sm_80.cubin").read_bytes()
    assert len(driver.launched) == len(session.steps)
    for function, *sizes, shared, stream, (values, types), extra in driver.launched:
        match = re.search(rf"__launch_bounds__\((\d+), \d+\) {function}\(([^)]*)\) {{", source)
        assert match is not None
        parameters = match[2].split(", ")
        assert len(parameters) == len(values) == len(types)
        for parameter, value, kind in zip(parameters, values, types, strict=True):
            assert kind is (ctypes.c_void_p if "*" in parameter else ctypes.c_int), parameter
            if "*" in parameter:
                assert any(start <= value < start + size for start, size in driver.memory.items())
        assert int(np.prod(sizes[3:])) == int(match[1])
        assert (shared, stream, extra) == (0, 0, 0)
