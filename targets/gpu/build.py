"""Graph -> plan for a device, with the sources of its kernels and, for CUDA, their binaries."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sparsecc.targets.gpu.lower.graph import DeviceGraph
from sparsecc.targets.gpu.machine import Gpu
from sparsecc.targets.gpu.nvidia import compile_cuda
from sparsecc.targets.gpu.plan import LAUNCHES, GpuPlan, launches_to_bytes
from sparsecc.targets.gpu.source import joined, kernel_sources

Part = Callable[[int, int], None] | None


def device_plan(
    model: ir.Model,
    gpu: Gpu,
    *,
    name: str = "model",
    dense_only: bool = False,
    dense_layers: frozenset[str] = frozenset(),
    lowered: Part = None,
    generated: Part = None,
) -> GpuPlan:
    """Lower a graph that went through the compile pipeline, and write its kernels.

    Args:
        model: with static shapes; not changed.
        name: of the artifact.
        dense_only, dense_layers: keep all layers, or those of these nodes, dense.
        lowered, generated: told how much is done of how much.

    Raises:
        UnsupportedOpError, LoweringError: the graph cannot be lowered, or there is no compiler for the
        binaries.
    """
    lowering = DeviceGraph(model, gpu, dense_only=dense_only, dense_layers=dense_layers)
    plan = lowering.run(name, lowered)
    source = joined(kernel_sources(lowering.low.makers, gpu, generated), gpu)
    plan.files = {gpu.source: source.encode(), LAUNCHES: launches_to_bytes(plan.launches)}
    if gpu.architectures:
        plan.files |= compile_cuda(source, gpu.architectures)
    return plan
