"""Runs a lowered graph step by step, suspicious of every step, and compares it with ONNX Runtime.

- the arena starts as NaN, and a buffer becomes NaN again when its first writer is about to run
- a step may change only the buffers that it is given, and no buffer that lives has a byte of another one
- every step runs in a few pieces, the last first, as threads might
- inputs and outputs lie between canaries
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from networks import Network
from onnx.reference import ReferenceEvaluator

from sparsecc.capture import capture
from sparsecc.compiler import generator_version
from sparsecc.host import host_features
from sparsecc.passes.pipeline import COMPILE_PIPELINE, Pipeline
from sparsecc.targets.build import build_objects
from sparsecc.targets.lower.graph import GraphLowering
from sparsecc.targets.lower.memory import Buffer
from sparsecc.targets.lower.state import Selector
from sparsecc.targets.plan import ALIGNMENT, SLACK, Plan
from sparsecc.targets.registry import machine_for

Array = npt.NDArray[Any]
V2, V3, V4 = "x86-64-v2", "x86-64-v3", "x86-64-v4"
TARGETS = (V3, V4)
EVERY = (V2, *TARGETS)
"""With vectors of four lanes, as ARM, RISC-V and WebAssembly have them."""
GUARD = 4096  # canary bytes around inputs and outputs
_CANARY = 0xA5
_LOADED: dict[str, Any] = {}


def reference(proto: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime computes without its own fusions; for float64, where it lacks ops, ONNX itself."""
    if any(array.dtype == np.float64 for array in feeds.values()):
        return [np.asarray(r) for r in ReferenceEvaluator(proto).run(None, dict(feeds))]
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(r) for r in session.run(None, dict(feeds))]


def lowered(
    proto: onnx.ModelProto,
    target: str = V4,
    *,
    passes: str = COMPILE_PIPELINE,
    dense_only: bool = False,
    selector: Selector | None = None,
) -> tuple[GraphLowering, Plan]:
    """The plan of a model, its objects included, and the lowering that made it."""
    model: ir.Model = capture(proto)
    Pipeline.parse(passes).run(model)
    machine = machine_for(target)
    lowering = GraphLowering(model, machine, dense_only=dense_only, selector=selector)
    plan = lowering.run("test", machine.name)
    objects = build_objects(
        lowering.low.makers, machine.tvm_target(plan.features), source_version=generator_version()
    )
    plan.objects = {f"{symbol}.o": data for symbol, data in objects.items()}
    return lowering, plan


def load_objects(plan: Plan) -> dict[str, Any]:
    """The kernels of a plan by symbol; a kernel that was loaded before is not linked again."""
    keys = {name.removesuffix(".o"): hashlib.sha256(data).hexdigest() for name, data in plan.objects.items()}
    missing = [symbol for symbol, key in keys.items() if f"{symbol}.{key}" not in _LOADED]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            for symbol in missing:
                (Path(folder) / f"{symbol}.o").write_bytes(plan.objects[f"{symbol}.o"])
            library = Path(folder) / "kernels.so"
            objects = [f"{symbol}.o" for symbol in missing]
            subprocess.run(["cc", "-shared", "-o", library.name, *objects, "-lm"], check=True, cwd=folder)
            loaded = ctypes.CDLL(str(library))
        _LOADED.update({f"{symbol}.{keys[symbol]}": loaded[symbol] for symbol in missing})
    return {symbol: _LOADED[f"{symbol}.{key}"] for symbol, key in keys.items()}


class Memory:
    """Bytes between canaries, aligned as a plan needs them."""

    def __init__(self, nbytes: int, around: int) -> None:
        raw = np.full(nbytes + 2 * around + 2 * ALIGNMENT, _CANARY, np.uint8)
        start = -raw.ctypes.data % ALIGNMENT
        self.all = raw[start : start + nbytes + 2 * around]
        self.inside = self.all[around : around + nbytes]
        self._outside = (self.all[:around], self.all[around + nbytes :])

    def intact(self) -> bool:
        """Whether nothing was written outside."""
        return all(bool(np.all(part == _CANARY)) for part in self._outside)


def check_places(lowering: GraphLowering, plan: Plan) -> list[Buffer]:
    """No two buffers that live at the same time share a byte; returns all that lie in the arena."""
    pointers = (p.target for s in lowering.low.steps for p in s.pointers)
    arena = {id(b): b for b in pointers if isinstance(b, Buffer) and b.fixed is None}
    buffers = list(arena.values())
    for a, b in combinations(buffers, 2):
        assert a.first is not None and b.first is not None
        together = a.first <= b.last and b.first <= a.last
        apart = a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset
        assert apart or not together, f"{a.name} and {b.name} share memory"
    for buffer in buffers:
        assert buffer.offset % ALIGNMENT == 0 and buffer.offset + buffer.nbytes <= plan.arena_bytes
    return buffers


def run_steps(lowering: GraphLowering, plan: Plan, feeds: Mapping[str, Array], seed: int = 0) -> list[Array]:
    """The outputs of a run with all checks on; skips where this processor lacks what the plan needs."""
    if missing := sorted(set(plan.features) - host_features()):
        pytest.skip(f"this processor has no {', '.join(missing)}")
    rng = np.random.default_rng(seed)
    functions = load_objects(plan)
    buffers = check_places(lowering, plan)
    arena = Memory(plan.arena_bytes, SLACK)
    weights = Memory(plan.weights.nbytes, 0)
    weights.inside[:] = np.frombuffer(b"".join(plan.weights.parts()), np.uint8)
    packed = weights.inside.copy()
    inputs = [Memory(spec.nbytes, GUARD) for spec in plan.inputs]
    outputs = [Memory(spec.nbytes, GUARD) for spec in plan.outputs]
    for spec, memory in zip(plan.inputs, inputs, strict=True):
        memory.inside[:] = np.frombuffer(np.ascontiguousarray(feeds[spec.name]).tobytes(), np.uint8)
    arena.inside[: len(arena.inside) // 4 * 4].view(np.float32)[:] = np.nan
    spaces = {
        "arena": lambda _: arena.inside,
        "weights": lambda _: weights.inside,
        "input": lambda i: inputs[i].inside,
        "output": lambda i: outputs[i].inside,
    }
    for number, (step, pending) in enumerate(zip(plan.steps, lowering.low.steps, strict=True)):
        for buffer in buffers:
            if buffer.first == number:
                arena.inside[buffer.offset : buffer.offset + buffer.nbytes // 4 * 4].view(np.float32)[:] = (
                    np.nan
                )
        given = {id(p.target): p.target for p in pending.pointers if isinstance(p.target, Buffer)}
        before = arena.inside.copy()
        addresses = [
            ctypes.c_void_p(spaces[ref.space](ref.index).ctypes.data + ref.offset) for ref in step.pointers
        ]
        cuts = sorted({0, step.extent, *(int(c) for c in rng.integers(0, step.extent + 1, 2))})
        for begin, end in reversed(list(pairwise(cuts))):
            scalars = [ctypes.c_int32(s) for s in (*step.scalars, begin, end)]
            assert functions[step.symbol](*addresses, *scalars) == 0
        for buffer in given.values():
            if buffer.fixed is None:
                place = slice(buffer.offset, buffer.offset + buffer.nbytes)
                before[place] = arena.inside[place]
        assert np.array_equal(before, arena.inside), f"{step.label} wrote outside its buffers"
        assert all(m.intact() for m in (arena, *inputs, *outputs)), f"{step.label} wrote outside the spaces"
    assert np.array_equal(packed, weights.inside), "a step wrote to the weights"
    for spec, memory in zip(plan.inputs, inputs, strict=True):
        assert memory.inside.tobytes() == np.ascontiguousarray(feeds[spec.name]).tobytes(), "an input changed"
    return [
        memory.inside.view(np.dtype(spec.dtype)).reshape(spec.shape)
        for spec, memory in zip(plan.outputs, outputs, strict=True)
    ]


def assert_close(found: Array, expected: Array, what: str, tolerance: float = 1e-5) -> None:
    """Equal integers; floats within `tolerance` of the largest magnitude."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, what
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(found, expected, err_msg=what)
        return
    scale = max(float(np.abs(expected).max(initial=0.0)), 0.1)  # of sums of numbers around 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale, err_msg=what)


def check(
    net: Network,
    *targets: str,
    tolerance: float = 1e-5,
    passes: str = COMPILE_PIPELINE,
    dense_only: bool = False,
) -> dict[str, Plan]:
    """Lower, run and compare for each target (by default both); returns the plans by target."""
    proto = net.proto()
    expected = reference(proto, net.feeds)
    plans: dict[str, Plan] = {}
    for target in targets or TARGETS:
        lowering, plans[target] = lowered(proto, target, passes=passes, dense_only=dense_only)
        found = run_steps(lowering, plans[target], net.feeds)
        for spec, ours, theirs in zip(plans[target].outputs, found, expected, strict=True):
            assert_close(ours, theirs, f"{target}: output {spec.name}", tolerance)
    return plans
