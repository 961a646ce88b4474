"""Ordinary ops against ONNX Runtime, on row-major, feature-major and padded plane layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from harness import LANES, Buffer, call, layouts_of, load_kernels, run_chain
from onnx import TensorProto, helper

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.kernels.copy import copy_call, zero_halo_call
from sparsecc.targets.kernels.generic import legalize
from sparsecc.targets.kernels.ordered_nodes import ALONE
from sparsecc.targets.layout import Layout, PlaneSpec

Feeds = dict[str, Any]
RNG = np.random.default_rng(7)
node = helper.make_node


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: Any) -> Any:
    return np.array(values, np.int64)


X = floats(3, 5, 7, 9)
Y = floats(3, 5, 7, 9)
POSITIVE = np.abs(X) + np.float32(0.1)


def case(op: str, feeds: Feeds, constants: Feeds | None = None, outputs: int = 1, **attributes: Any) -> Any:
    constants = constants or {}
    names = [f"out{i}" for i in range(outputs)]
    made = node(op, [*feeds, *constants], names, **attributes)
    detail = "-".join(
        str(v) for v in (*attributes.values(), *(c.tolist() for c in constants.values() if c.size < 5))
    )
    return pytest.param([made], feeds, constants, names, id=f"{op}-{detail}" if detail else op)


UNARY = [
    "Abs", "Neg", "Exp", "Erf", "Tanh", "Sigmoid", "Sin", "Cos", "Tan", "Floor", "Ceil", "Round", "Relu",
    "Selu", "Softplus", "Softsign", "HardSwish", "HardSigmoid", "Sign", "Mish", "LeakyRelu", "Elu", "Gelu",
    "Atan", "Sinh", "Cosh", "IsNaN", "Identity",
]  # fmt: skip
ELEMENTWISE = [
    *(case(op, {"x": X}) for op in UNARY),
    *(case(op, {"x": POSITIVE}) for op in ("Sqrt", "Log", "Reciprocal")),
    case("Gelu", {"x": X}, approximate="tanh"),
    case("Exp", {"x": X * 60}),
    case("Log", {"x": np.array([1e-30, 0.5, 1.0, 1.0001, 3e38], np.float32)}),
    *(case(op, {"x": X, "y": floats(5, 1, 9)}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu")),
    *(case(op, {"x": X, "y": np.where(Y > 0, X, Y)}) for op in ("Less", "Greater", "LessOrEqual", "Equal")),
    *(case(op, {"x": X > 0, "y": Y > 0}) for op in ("And", "Or", "Xor")),
    case("Not", {"x": X > 0}),
    case("Where", {"c": X > 0, "x": X, "y": floats(1, 1, 7, 9)}),
    *(case("Pow", {"x": POSITIVE}, {"e": np.float32(e)}) for e in (2, 3, 0.5, 1.7)),
    case("Clip", {"x": X}, {"low": np.float32(-0.5), "high": np.float32(0.7)}),
    case("Mod", {"x": (X * 10).astype(np.int64), "y": ints(3)}),
    case("Mod", {"x": X, "y": np.array([0.3], np.float32)}, fmod=1),
    *(case("Cast", {"x": X * 10}, to=t) for t in (TensorProto.INT64, TensorProto.INT8, TensorProto.DOUBLE)),
    *(case("Cast", {"x": X > 0}, to=t) for t in (TensorProto.FLOAT, TensorProto.INT32)),
    case("Cast", {"x": (X * 10).astype(np.int64)}, to=TensorProto.FLOAT),
    case("Cast", {"x": X}, to=TensorProto.BOOL),
    case("BatchNormalization", {"x": X}, {k: np.abs(floats(5)) for k in "sbmv"}),
]
SHAPES = [
    *(case("Transpose", {"x": X}, perm=p) for p in ([0, 2, 3, 1], [0, 1, 3, 2], [3, 2, 1, 0])),
    case("Transpose", {"x": floats(2, 40, 50)}, perm=[0, 2, 1]),
    *(case("Reshape", {"x": floats(2, 8, 15)}, {"s": s}) for s in (ints(4, 4, 3, 5), ints(3, 80))),
    case("Slice", {"x": X}, {"a": ints(1, 8), "b": ints(4, -100), "c": ints(1, 3), "d": ints(1, -2)}),
    case("Slice", {"x": X}, {"a": ints(2), "b": ints(6), "c": ints(3)}),
    case("Concat", {"x": X, "y": floats(3, 2, 7, 9)}, axis=1),
    case("Concat", {"x": X, "y": floats(3, 5, 7, 21)}, axis=-1),
    case("Split", {"x": X}, {"s": ints(4, 5)}, outputs=2, axis=3),
    *(
        case("Pad", {"x": X}, {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, mode=m)
        for m in ("constant", "edge", "reflect")
    ),
    case("Expand", {"x": floats(3, 1, 7, 1)}, {"s": ints(3, 5, 7, 9)}),
    case("Tile", {"x": floats(3, 2, 7, 5)}, {"s": ints(1, 2, 1, 3)}),
    case("Squeeze", {"x": floats(3, 1, 7, 1)}, {"a": ints(1)}),
    case("Flatten", {"x": X}),
    case("DepthToSpace", {"x": floats(2, 8, 5, 7)}, blocksize=2),
    case("SpaceToDepth", {"x": floats(2, 3, 6, 8)}, blocksize=2),
    case("Trilu", {"x": floats(3, 9, 9)}, upper=0),
    case("Gather", {"x": X, "i": ints(1, -3, 4)}, axis=2),
    case("Gather", {"x": X}, {"i": ints(1, -3, 4)}, axis=3),
    case("GatherElements", {"x": X, "i": RNG.integers(-7, 7, (3, 5, 4, 9))}, axis=2),
    case("OneHot", {"x": ints(1, 2, -3)}, {"d": ints(5), "v": np.array([0.5, 2], np.float32)}),
    case(
        "Resize",
        {"x": X},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        mode="nearest",
    ),
    case(
        "Resize",
        {"x": X},
        {"r": np.zeros(0, np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
        mode="linear",
    ),
    case("GatherND", {"x": X, "i": RNG.integers(0, 3, (4, 2))}),
    case("ScatterND", {"x": X, "i": ints([0, 1], [2, 4]), "u": floats(2, 7, 9)}),
    case("ScatterND", {"x": X, "i": ints([0, 1], [0, -4]), "u": floats(2, 7, 9)}, reduction="add"),
    case("ScatterElements", {"x": floats(3, 4), "i": ints([0, -1], [3, 1]), "u": floats(2, 2)}, axis=1),
]
REDUCE = [
    *(
        case(op, {"x": X}, {"axes": ints(*axes)}, keepdims=len(axes) % 2)
        for op in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
        )
        for axes in ([-1], [1], [2, 3], [0, 2])
    ),
    case("ReduceProd", {"x": X}, {"axes": ints(3)}),
    case("ReduceLogSumExp", {"x": X}, {"axes": ints(1)}),
    case("ReduceMean", {"x": floats(3, 300)}, {"axes": ints(1)}),
    *(case(op, {"x": X}, axis=a, keepdims=0) for op in ("ArgMax", "ArgMin") for a in (1, 3)),
    case("CumSum", {"x": X}, {"axis": np.int64(2)}),
    case("CumSum", {"x": X}, {"axis": np.int64(1)}, reverse=1, exclusive=1),
    case("TopK", {"x": X}, {"k": ints(3)}, outputs=2),
    case("TopK", {"x": X}, {"k": ints(5)}, outputs=2, axis=1, largest=0),
    case("MatMul", {"x": floats(3, 4, 50), "y": floats(3, 50, 21)}),
    case("Einsum", {"x": floats(3, 4, 5), "y": floats(3, 5, 6)}, equation="bij,bjk->bik"),
    case("Softmax", {"x": X}, axis=1),
    case("LogSoftmax", {"x": X}, axis=-1),
    case("LayerNormalization", {"x": X}, {"s": floats(9), "b": floats(9)}),
    case("InstanceNormalization", {"x": X}, {"s": floats(5), "b": floats(5)}),
    case("GlobalAveragePool", {"x": X}),
    case("GlobalMaxPool", {"x": X}),
]


@pytest.mark.parametrize("layout", ["rows", "padded"])
@pytest.mark.parametrize(("nodes", "feeds", "constants", "outputs"), [*ELEMENTWISE, *SHAPES, *REDUCE])
def test_op(nodes: Any, feeds: Feeds, constants: Feeds, outputs: list[str], layout: str) -> None:
    rank = max(np.ndim(f) for f in feeds.values())
    if layout == "padded":
        layout = "planes" if rank == 4 and nodes[0].op_type not in ("ReduceMean", "Softmax") else "features"
    ours, expected, _ = run_chain(nodes, feeds, constants, outputs, layout=layout)
    for got, want in zip(ours, expected, strict=True):
        if want.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=5e-6, atol=4e-6)
        else:
            np.testing.assert_array_equal(got, want)


def test_chain_is_one_kernel() -> None:
    nodes = [
        node("Div", ["x", "c"], ["a"]), node("Erf", ["a"], ["e"]), node("Add", ["e", "one"], ["f"]),
        node("Mul", ["x", "f"], ["g"]), node("Reshape", ["g", "s"], ["h"]),
        node("Transpose", ["h"], ["y"], perm=[0, 2, 1, 3]),
    ]  # fmt: skip
    constants = {"c": np.float32(2**0.5), "one": np.float32(1), "s": ints(2, 30, 3, 16)}
    ours, expected, chain = run_chain(nodes, {"x": floats(2, 30, 48)}, constants, ["y"])
    assert len(chain.calls) == 1
    assert not chain.temporaries
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-6, atol=1e-6)


def test_reduction_inside_a_chain_keeps_a_temporary() -> None:
    nodes = [
        node("Mul", ["x", "x"], ["q"]), node("ReduceMean", ["q", "axes"], ["m"]),
        node("Add", ["m", "eps"], ["n"]),
        node("Sqrt", ["n"], ["r"]), node("Div", ["x", "r"], ["y"]),
    ]  # fmt: skip
    ours, expected, chain = run_chain(nodes, {"x": X}, {"axes": ints(-1), "eps": np.float32(1e-5)}, ["y"])
    assert [t.shape for t in chain.temporaries] == [(3, 5, 7, 1)]
    np.testing.assert_allclose(ours[0], expected[0], rtol=2e-6)


def test_two_outputs_and_a_large_constant() -> None:
    table = floats(100)
    nodes = [node("Add", ["x", "t"], ["a"]), node("Relu", ["a"], ["b"])]
    ours, expected, chain = run_chain(nodes, {"x": floats(3, 100)}, {"t": table}, ["a", "b"])
    assert list(chain.constants) == ["t"]
    for got, want in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_equal_chains_share_symbols() -> None:
    chains = [
        run_chain([node("Relu", [f"x{i}"], [f"y{i}"])], {f"x{i}": X}, {}, [f"y{i}"])[2].calls[0].symbol
        for i in range(2)
    ]
    assert chains[0] == chains[1]


def test_unsupported_op_names_the_node() -> None:
    value = ir.Value(name="x", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.FLOAT))
    made = ir.Node("", "NonZero", [value], name="finder")
    made.outputs[0].name = "y"
    made.outputs[0].shape, made.outputs[0].dtype = ir.Shape([1, 4]), ir.DataType.INT64
    layouts = {"x": Layout.rows([4]), "y": Layout.rows([1, 4])}
    with pytest.raises(UnsupportedOpError, match="NonZero node 'finder'"):
        legalize([made], layouts, constants={}, lanes=LANES, name="t")
    assert "TopK" in ALONE


COPY_SHAPES = [(3, 5, 7, 9), (2, 17, 33, 20), (1, 1, 1, 1)]


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
@pytest.mark.parametrize("shape", COPY_SHAPES, ids=str)
def test_copy_between_all_layouts(shape: tuple[int, ...], dtype: str) -> None:
    n, c, h, w = shape
    layouts = [
        *layouts_of(shape).values(),
        Layout.rows([n, h, w, c]).transpose((0, 3, 1, 2)),
        Layout.rows([w, h, c, n]).transpose((3, 2, 1, 0)),
    ]
    pairs = [(s, d) for s in layouts for d in layouts]
    calls = [copy_call(shape, dtype, s, d, LANES) for s, d in pairs]
    functions = load_kernels({c.symbol: c.make for c in calls})
    values = (floats(*shape) * 9).astype(dtype)
    for (source, destination), made in zip(pairs, calls, strict=True):
        x, y = Buffer(source, shape, dtype, values), Buffer(destination, shape, dtype)
        call(functions[made.symbol], [x, y], made.scalars, made.extent)
        np.testing.assert_array_equal(y.elements, values)
        assert y.padding_intact()


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 9, 14, 14)], ids=str)
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (3, 2, 3, 2), (1, 0, 1, 0)], ids=str)
def test_zero_halo_touches_no_element(shape: tuple[int, ...], pads: tuple[int, ...]) -> None:
    columns, top, bottom, left = pads
    spec = PlaneSpec(shape[3] + columns, top, bottom, left, True)
    layout = spec.layout(shape, LANES)
    x = Buffer(layout, shape, np.float32, floats(*shape))
    before = x.elements.copy()
    made = zero_halo_call(layout, shape, spec, LANES)
    functions = load_kernels({made.symbol: made.make})
    call(functions[made.symbol], [x], (), made.extent)
    np.testing.assert_array_equal(x.elements, before)
    x.elements[...] = 0
    memory = x.inside
    for n in range(shape[0]):
        for c in range(shape[1]):
            at = layout.origin + n * layout.strides[0] + c * layout.strides[1]
            plane = memory[
                at - top * spec.row_pitch - left : at + (shape[2] + bottom) * spec.row_pitch + left
            ]
            assert not plane.any(), "a convolution would read something other than zero"
