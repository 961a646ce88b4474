"""Runs lowered graphs on an OpenCL device whose memory starts as NaN, and compares with ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from networks import Network
from stepping import reference

from sparsecc.artifact.device import DeviceEngine, Memory
from sparsecc.artifact.manifest import WEIGHTS, Manifest, TensorInfo
from sparsecc.artifact.opencl import OpenClDevice, device_names
from sparsecc.compiler import prepare
from sparsecc.errors import ArtifactError
from sparsecc.targets.gpu.build import device_plan
from sparsecc.targets.gpu.plan import GpuPlan
from sparsecc.targets.plan import TensorSpec
from sparsecc.targets.registry import GPUS

Array = npt.NDArray[Any]
TOLERANCE = 1e-5
"""Of the largest value; sums of a few hundred products in another order."""


def _has_device() -> bool:
    try:
        return bool(device_names())
    except ArtifactError:
        return False


needs_opencl = pytest.mark.skipif(
    not _has_device(), reason="no OpenCL device: pip install pyopencl, apt-get install pocl-opencl-icd"
)


def needs_wgpu() -> Any:
    """The wgpu package; skips where it is missing or finds no adapter."""
    if find_spec("wgpu") is None:
        pytest.skip("wgpu is not installed: pip install wgpu")
    import wgpu

    if not wgpu.gpu.enumerate_adapters_sync():
        pytest.skip("wgpu finds no adapter: apt-get install mesa-vulkan-drivers")
    return wgpu


class PoisonedDevice(OpenClDevice):
    """Memory that nobody has written is NaN, or -1 as an integer."""

    def allocate(self, nbytes: int) -> Memory:
        buffer = super().allocate(nbytes)
        self.write(buffer, np.full(nbytes, 0xFF, np.uint8))
        return buffer


def planned(proto: onnx.ModelProto, target: str = "opencl", *, dense_only: bool = False) -> GpuPlan:
    """The plan with its sources."""
    gpu = GPUS[target]
    return device_plan(prepare(proto), gpu, dense_only=dense_only)


def run(plan: GpuPlan, feeds: dict[str, Array]) -> list[Array]:
    """The outputs of the second of two runs: what the first left in memory must not matter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, data in plan.files.items():
            (folder / file).write_bytes(data)
        (folder / WEIGHTS).write_bytes(b"".join(plan.weights.parts()))
        engine = DeviceEngine(_manifest(plan), folder, PoisonedDevice(folder / "kernels.cl"))
        outputs = [np.empty(spec.shape, spec.dtype) for spec in plan.outputs]
        for _ in range(2):
            engine.run([np.ascontiguousarray(feeds[spec.name]) for spec in plan.inputs], outputs)
        engine.close()
    return outputs


def _manifest(plan: GpuPlan) -> Manifest:
    def infos(specs: Sequence[TensorSpec]) -> tuple[TensorInfo, ...]:
        return tuple(TensorInfo(s.name, s.dtype, s.shape) for s in specs)

    return Manifest(
        "", plan.name, plan.target, plan.target, (), infos(plan.inputs), infos(plan.outputs),
        plan.arena_bytes, plan.weights.nbytes, False, "", (), {},
    )  # fmt: skip


def check(net: Network, tolerance: float = TOLERANCE, *, dense_only: bool = False) -> GpuPlan:
    """Lower and run; every output must be ONNX Runtime's."""
    proto = net.proto()
    plan = planned(proto, dense_only=dense_only)
    for found, want in zip(run(plan, net.feeds), reference(proto, net.feeds), strict=True):
        assert found.dtype == want.dtype
        assert found.shape == want.shape
        if want.dtype.kind == "f":
            limit = tolerance * float(np.abs(want).max(initial=0.0)) + 1e-30
            np.testing.assert_allclose(found, want, rtol=0, atol=limit)
        else:
            np.testing.assert_array_equal(found, want)
    return plan
