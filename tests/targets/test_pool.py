"""Pooling against ONNX Runtime: odd sizes, paddings, strides, dilations, ceil mode."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from harness import LANES, Buffer, call, layouts_of, load_kernels
from onnx import TensorProto, helper

from sparsecc.targets.kernels.pool import Window, pool_call

RNG = np.random.default_rng(9)
SHAPES = [(3, 5, 7, 9), (1, 3, 23, 37), (1, 2, 4, 70), (2, 2, 3, 3)]
WINDOWS: list[tuple[list[int], int, list[int], int]] = [  # kernel, stride, pads, dilation
    ([3, 3], 2, [1, 1, 1, 1], 1),
    ([3, 3], 2, [0, 0, 1, 1], 1),
    ([3, 3], 2, [0, 0, 0, 0], 1),
    ([2, 2], 2, [0, 0, 0, 0], 1),
    ([3, 3], 1, [1, 1, 1, 1], 1),
    ([3, 2], 3, [1, 0, 1, 1], 1),
    ([2, 3], 1, [0, 1, 1, 0], 1),
    ([2, 2], 2, [1, 1, 1, 1], 2),
    ([3, 3], 1, [2, 2, 2, 2], 2),
]
KINDS = {"max": (False, False), "average": (True, False), "average-padded": (True, True)}


def reference(
    shape: tuple[int, ...], x: Any, window: tuple[list[int], int, list[int], int], kind: str, ceil: bool
) -> Any:
    kernel, stride, pads, dilation = window
    average, include_pad = KINDS[kind]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [stride] * 2,
        "pads": pads,
        "ceil_mode": int(ceil),
        "dilations": [dilation] * 2,
    }
    if average:
        attributes["count_include_pad"] = int(include_pad)
    node = helper.make_node("AveragePool" if average else "MaxPool", ["x"], ["y"], **attributes)
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node],
        "pool",
        [info("x", TensorProto.FLOAT, shape)],
        [info("y", TensorProto.FLOAT, ["n", "c", "h", "w"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pool(window: tuple[list[int], int, list[int], int], kind: str, layout: str) -> None:
    kernel, stride, pads, dilation = window
    average, include_pad = KINDS[kind]
    runs: list[tuple[Any, Buffer, Buffer, Any]] = []
    for shape, ceil in product(SHAPES, (False, True)):
        rows, columns = (Window(kernel[d], stride, pads[d], pads[d + 2], dilation) for d in (0, 1))
        where = layouts_of(shape)[layout]
        x = Buffer(where, shape, np.float32, RNG.standard_normal(shape))
        want = reference(shape, x.elements.copy(), window, kind, ceil)
        assert want.shape[2:] == (rows.output(shape[2], ceil), columns.output(shape[3], ceil))
        target = layouts_of(want.shape)[layout]
        made = pool_call(
            shape, where, target, LANES, rows=rows, columns=columns,
            average=average, include_pad=include_pad, ceil_mode=ceil,
        )  # fmt: skip
        runs.append((made, x, Buffer(target, want.shape, np.float32), want))
    functions = load_kernels({made.symbol: made.make for made, *_ in runs})
    for made, x, y, want in runs:
        call(functions[made.symbol], [x, y], made.scalars, made.extent)
        np.testing.assert_allclose(y.elements, want, rtol=2e-6, atol=1e-6)
        assert y.padding_intact()
