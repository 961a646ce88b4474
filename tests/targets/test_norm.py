"""Layer and RMS normalisation against numpy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from harness import LANES, Buffer, call, layouts_of, load_kernels

from sparsecc.targets.kernels.norm import norm_call

RNG = np.random.default_rng(5)
EPSILON = 1e-5
ROWS = [(3, 7, 5), (1, 1, 1), (2, 33, 17), (1, 130, 96)]
PLANES = (3, 5, 7, 9)
CASES = [
    *((s, axes, layout) for s in ROWS for axes in ([2], [1], [1, 2]) for layout in ("rows", "features")),
    *(
        (PLANES, axes, name)
        for axes in ([1, 2, 3], [2, 3], [1], [3])
        for name in ("rows", "features", "planes")
    ),
]


@pytest.mark.parametrize("kind", ["layer", "rms", "plain"])
@pytest.mark.parametrize(("shape", "axes", "layout"), CASES, ids=str)
def test_norm(shape: tuple[int, ...], axes: list[int], layout: str, kind: str) -> None:
    where = layouts_of(shape)[layout]
    x = Buffer(where, shape, np.float32, RNG.standard_normal(shape) * 3 + 1)
    y = Buffer(where, shape, np.float32)
    factor_shape = [n if d in axes else 1 for d, n in enumerate(shape)]
    scale, bias = (RNG.standard_normal(factor_shape).astype(np.float32) for _ in range(2))
    layer, scaled = kind == "layer", kind != "plain"
    made = norm_call(
        shape, axes, where, where, LANES, epsilon=EPSILON, centered=kind != "rms", scaled=scaled, biased=layer
    )
    functions = load_kernels({made.symbol: made.make})
    pointers = [x, *([scale] if scaled else []), *([bias] if layer else []), y]
    call(functions[made.symbol], pointers, made.scalars, made.extent)
    v = x.elements.astype(np.float64)
    if kind != "rms":
        v = v - v.mean(tuple(axes), keepdims=True)
    want = v / np.sqrt((v * v).mean(tuple(axes), keepdims=True) + EPSILON)
    want = want * (scale if scaled else 1) + (bias if layer else 0)
    np.testing.assert_allclose(y.elements, want, rtol=1e-5, atol=4e-6)
    assert y.padding_intact()
