"""Sources of kernels for GPUs: CUDA through nvcc and NVRTC, WGSL through naga, Metal as text."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec

import pytest
from gpu_harness import needs_wgpu, planned
from machine_networks import codes, convolutions, transformer
from networks import Network

from sparsecc.errors import LoweringError
from sparsecc.targets.gpu import nvidia
from sparsecc.targets.gpu.nvidia import KernelUse, compile_cuda, kernel_uses, parse_uses
from sparsecc.targets.gpu.plan import LAUNCHES, GpuPlan, launches_to_bytes, parse_launches
from sparsecc.targets.registry import GPUS

ARCHITECTURES = GPUS["cuda"].architectures


@pytest.fixture(scope="module")
def plans() -> list[GpuPlan]:
    """Every family of kernels, dense and sparse."""
    try:
        return [planned(make().proto(), "cuda") for make in (convolutions, transformer, codes)]
    except LoweringError as error:
        pytest.skip(str(error))


def test_cuda_binaries(plans: list[GpuPlan]) -> None:
    """One cubin for each architecture, for that architecture, and PTX for those to come."""
    for plan in plans:
        assert set(plan.files) == {
            "kernels.cu", "kernels.sm_80.cubin", "kernels.sm_90.cubin", "kernels.ptx", LAUNCHES
        }  # fmt: skip
        for architecture in ARCHITECTURES:
            cubin = plan.files[f"kernels.{architecture}.cubin"]
            assert cubin.startswith(b"\x7fELF")
            for launch in plan.launches:
                assert launch.kernel.encode() in cubin
        assert b".target sm_80" in plan.files["kernels.ptx"]
        assert b".entry" in plan.files["kernels.ptx"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_spills(plans: list[GpuPlan], architecture: str) -> None:
    """No kernel keeps anything in local memory, and all leave room for two groups on a multiprocessor."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found on PATH")
    for plan in plans:
        uses = kernel_uses(plan.files["kernels.cu"].decode(), architecture)
        assert {use.kernel for use in uses} == {launch.kernel for launch in plan.launches}
        blocks = {launch.kernel: launch.block for launch in plan.launches}
        for use in uses:
            assert use.spill_bytes == 0, use
            assert use.stack_bytes == 0, use
            x, y, z = blocks[use.kernel]
            assert 2 * use.registers * x * y * z <= 65536, use
            assert use.shared_bytes <= GPUS["cuda"].shared_bytes, use


def test_spills_are_read() -> None:
    text = (
        "ptxas info    : Compiling entry function 'k1' for 'sm_80'\n"
        "    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 16 bytes cumulative stack, 6144 bytes smem\n"
    )
    assert parse_uses(text) == [KernelUse("k1", "sm_80", 40, 6144, 16, 20)]


def test_nvrtc_compiles_the_same_source(plans: list[GpuPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no nvcc."""
    if not find_spec("cuda") or not find_spec("cuda.bindings") or not find_spec("nvidia"):
        pytest.skip("NVRTC is not installed: pip install sparsecc[cuda]")
    monkeypatch.setattr(nvidia.shutil, "which", lambda _: None)
    source = plans[0].files["kernels.cu"].decode()
    files = compile_cuda(source, ("sm_80",))
    assert files["kernels.sm_80.cubin"].startswith(b"\x7fELF")
    with pytest.raises(LoweringError, match=r"NVRTC cannot compile the kernels for sm_80: .*error"):
        compile_cuda("__global__ void k() { nonsense; }", ("sm_80",))


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia.shutil, "which", lambda _: None)
    monkeypatch.setattr(nvidia, "find_spec", lambda _: None)
    with pytest.raises(LoweringError, match="there is no CUDA compiler: install NVIDIA's tool kit"):
        compile_cuda("", ("sm_80",))


def test_nvcc_says_what_is_wrong() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc was not found on PATH")
    with pytest.raises(LoweringError, match=r"nvcc cannot compile the kernels for sm_80: .*nonsense"):
        compile_cuda("__global__ void k() { nonsense; }", ("sm_80",))


def test_vectors_are_loaded_whole(plans: list[GpuPlan]) -> None:
    """Inputs of layers without windows come four at a time: their alignment is seen."""
    source = plans[1].files["kernels.cu"].decode()
    products = re.findall(r'extern "C" __global__ void [^;{]*product_\w+\([^;{]*\{.*?\n\}', source, re.DOTALL)
    assert products
    for kernel in products:
        assert "*(float4*)(x_p" in kernel
        assert "*(float4*)(y_p" in kernel


@pytest.mark.parametrize("target", ["metal", "webgpu"])
def test_sources(target: str) -> None:
    """One kernel for each that is launched, with as many buffers as its launches bind."""
    for make in (convolutions, transformer):
        plan = planned(make().proto(), target)
        text = plan.files[GPUS[target].source].decode()
        for launch in plan.launches:
            if target == "metal":
                match = re.search(rf"kernel void {launch.kernel}\(([^{{]*)\{{", text)
                assert match is not None
                assert match[1].count("device ") == len(launch.pointers)
                assert match[1].count("constant ") == bool(launch.scalars)
            else:
                module = next(m for m in text.split("// Function: ")[1:] if f"fn {launch.kernel}(" in m)
                assert module.count("var<storage") == len(launch.pointers)
        assert text.count("union __TVMArgUnion {") == (target == "metal")


def test_wgsl_is_valid() -> None:
    """naga, which Firefox and wgpu have, takes every kernel as a module of its own."""
    device = needs_wgpu().gpu.request_adapter_sync().request_device_sync()
    for make in (convolutions, transformer):
        text = planned(make().proto(), "webgpu").files["kernels.wgsl"].decode()
        modules = [m for m in text.split("// Function: ") if "@compute" in m]
        assert modules
        for module in modules:
            device.create_shader_module(code="// " + module)
    with pytest.raises(Exception, match="nonsense"):
        device.create_shader_module(code="fn k() { nonsense; }")


def test_launches_are_read_back() -> None:
    net = Network()
    net.output(net.linear(net.input(16, 8), 8, 8))
    plan = planned(net.proto())
    data = plan.files[LAUNCHES]
    assert parse_launches(data) == plan.launches
    assert launches_to_bytes(plan.launches) == data
    for wrong in (
        b"{}",
        b"[]",
        b"nothing",
        data.replace(b'"arena"', b'"other"'),
        data.replace(b'"grid":[', b'"grid":[1,'),
    ):
        with pytest.raises(ValueError, match=r"."):
            parse_launches(wrong)
