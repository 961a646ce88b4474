"""Small plans whose kernels are compiled from C when the tests start, so that they need no TVM."""

from __future__ import annotations

import platform
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.targets.plan import Plan, Ref, Step, TensorSpec, Weights

Floats = npt.NDArray[np.float32]

COLUMNS = 50
SYMBOLS = {
    "t_scale": (3, 1),
    "t_add": (3, 0),
    "t_sums": (2, 1),
    "t_count": (1, 0),
    "t_zero": (1, 0),
    "t_sleep": (1, 1),
    "t_fail": (1, 1),
}


@cache
def kernel_object() -> bytes:
    """The compiled kernels.c."""
    source = Path(__file__).with_name("kernels.c")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "kernels.o"
        flags = ("-std=c11", "-O2", "-fPIC")
        subprocess.run(["cc", *flags, "-c", str(source), "-o", str(out)], check=True)
        return out.read_bytes()


def make_plan(
    steps: tuple[Step, ...],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    arena_bytes: int = 0,
    weights: Weights | None = None,
    name: str = "model",
    features: tuple[str, ...] = (),
) -> Plan:
    return Plan(
        name=name,
        target="cpu",
        inputs=inputs,
        outputs=outputs,
        steps=steps,
        arena_bytes=arena_bytes,
        weights=weights or Weights(),
        objects={"kernels": kernel_object()},
        symbols=dict(SYMBOLS),
        features=features,
        passes="sparsify{pattern=4x1}",
        report={"layers": [{"name": "scale", "zeros": 0.5}]},
    )


def example_plan(rows: int = 40, *, name: str = "model", features: tuple[str, ...] | None = None) -> Plan:
    """sums = row sums of (x * w + y), and scaled = x * w, for x and y of [rows, 50]."""
    size = rows * COLUMNS
    weights = Weights()
    unused = weights.add(np.arange(3, dtype=np.float32))  # so that the used weights do not lie at 0
    scale = weights.add(example_scale())
    assert unused.offset != scale.offset
    pad = -(-size * 4 // 64) * 64
    steps = (
        Step("scale (1)", "t_scale", (Ref("input", 0), scale, Ref("arena", 0, 0)), (COLUMNS,), size, "scale"),
        Step(
            'add "2" */ ??/',
            "t_add",
            (Ref("arena", 0, 0), Ref("input", 1), Ref("arena", 0, pad)),
            (),
            size,
            "add",
        ),
        Step("sums é", "t_sums", (Ref("arena", 0, pad), Ref("output", 0)), (COLUMNS,), rows, "reduce"),
        Step("again", "t_scale", (Ref("input", 0), scale, Ref("output", 1)), (COLUMNS,), size, "scale"),
    )
    return make_plan(
        steps,
        (TensorSpec("x", "float32", (rows, COLUMNS)), TensorSpec("y", "float32", (rows, COLUMNS))),
        (TensorSpec("sums", "float32", (rows,)), TensorSpec("scaled", "float32", (rows, COLUMNS))),
        arena_bytes=2 * pad,
        weights=weights,
        name=name,
        features=_some_features() if features is None else features,
    )


def example_scale() -> Floats:
    return np.linspace(-1.0, 2.0, COLUMNS, dtype=np.float32)


def example_inputs(rows: int = 40, seed: int = 0) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((rows, COLUMNS)).astype(np.float32) for name in ("x", "y")}


def expected(inputs: dict[str, Floats]) -> dict[str, Floats]:
    scaled = inputs["x"] * example_scale()
    return {"sums": (scaled + inputs["y"]).sum(axis=1), "scaled": scaled}


def check(inputs: dict[str, Floats], outputs: dict[str, npt.NDArray[Any]]) -> None:
    reference = expected(inputs)
    assert list(outputs) == list(reference)
    for name, value in reference.items():
        np.testing.assert_allclose(outputs[name], value, rtol=1e-5, atol=1e-4)


def _some_features() -> tuple[str, ...]:
    return ("sse4_2", "popcnt") if platform.machine() == "x86_64" else ()


def counting_plan(extent: int = 1000, repeats: int = 200, sleep: bool = False) -> Plan:
    """counts = [repeats] * extent if every step computes each item once, after all earlier steps."""
    out = Ref("output", 0)
    steps = [Step("zero", "t_zero", (out,), (), extent, "fill")]
    for index in range(repeats):
        # Odd extents in between leave workers with nothing, or less than a chunk each, to do.
        rest = Ref("arena", 0, 0)
        steps.append(Step(f"count {index}", "t_count", (out,), (), extent, "count"))
        steps.append(Step(f"rest {index}", "t_zero", (rest,), (), index % 5, "fill"))
        if sleep and index % 50 == 0:
            steps.append(Step(f"sleep {index}", "t_sleep", (rest,), (3,), 3, "sleep"))
    return make_plan(tuple(steps), (), (TensorSpec("counts", "int32", (extent,)),), arena_bytes=64)
