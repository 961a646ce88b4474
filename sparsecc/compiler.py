"""`compile`: passes, lowering, kernels, artifact, measurement."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir

Progress = Callable[[str, int, int], None]


def build_plan(
    model: ir.Model, *, target: str = "cpu", name: str = "model", dense_only: bool = False, progress: Progress | None = None
) -> Any:
    """Lower a prepared graph and compile its kernels."""
    from sparsecc.targets.build import build_objects
    from sparsecc.targets.cpu import machine_for, tvm_target
    from sparsecc.targets.lower.graph import GraphLowering

    machine = machine_for(target)
    lowering = GraphLowering(model, machine, dense_only=dense_only)
    plan = lowering.run(name, machine.name, None if progress is None else lambda d, t: progress("lower", d, t))
    objects = build_objects(
        lowering.low.makers,
        tvm_target(machine),
        source_version=generator_version(),
        progress=None if progress is None else lambda d, t: progress("kernels", d, t),
    )
    plan.objects = {f"{symbol}.o": data for symbol, data in objects.items()}
    return plan


def generator_version() -> str:
    """Digest of the kernel generators' sources; part of the kernel cache's key."""
    from sparsecc import targets

    digest = hashlib.sha256()
    folder = Path(targets.__file__ or "").parent
    for path in sorted([*folder.glob("*.py"), *folder.glob("kernels/*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()
