"""Every op of the table against ONNX Runtime, its settings known or computed at run time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from torch_graphs import Feeds, agree, graph_of, reference, run

from sparsecc.torch import to_torch
from sparsecc.torch.numbers import NUMBER_OPS, SOURCES
from sparsecc.torch.table import OPS

RNG = np.random.default_rng(11)
node = helper.make_node


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: Any) -> Any:
    return np.array(values, np.int64)


def bits(*shape: int) -> Any:
    return RNG.integers(0, 255, shape).astype(np.uint8)


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


def case(op: str, feeds: Feeds, constants: Feeds | None = None, outputs: int = 1, **attributes: Any) -> Any:
    """One node; empty names in `feeds` or `constants` (keys starting with _) leave an input out."""
    constants = constants or {}
    names = ["" if name.startswith("_") else name for name in (*feeds, *constants)]
    given = {k: v for k, v in feeds.items() if not k.startswith("_")}
    settings = {k: v for k, v in constants.items() if not k.startswith("_")}
    made = node(op, names, [f"out{i}" for i in range(outputs)], **attributes)
    small = [np.asarray(c) for c in settings.values() if np.size(c) < 6]
    detail = "-".join(str(v) for v in (*attributes.values(), *(c.tolist() for c in small)))
    return pytest.param([made], given, settings, made.output, id=f"{op}-{detail}" if detail else op)


X = floats(2, 6, 7, 8)
Y = floats(2, 6, 7, 8)
S = floats(2, 5, 4)
IN = X.clip(-0.9, 0.9)
POSITIVE = np.abs(X) + np.float32(0.1)
WHOLE = (X * 10).astype(np.int64)

UNARY = [
    "Abs", "Atan", "Asinh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid",
    "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Relu", "Round", "Selu", "Shrink",
    "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu",
]  # fmt: skip
ELEMENTWISE = [
    *(case(op, {"x": X}) for op in UNARY),
    *(case(op, {"x": IN}) for op in ("Acos", "Asin", "Atanh")),
    *(case(op, {"x": POSITIVE}) for op in ("Sqrt", "Log", "Reciprocal")),
    case("Acosh", {"x": POSITIVE + 1}),
    case("Round", {"x": f32(0.5, 1.5, -0.5, 2.5, -2.5)}),
    case("Celu", {"x": X}, alpha=2.0),
    case("Elu", {"x": X}, alpha=0.3),
    case("Selu", {"x": X}, alpha=1.2, gamma=0.7),
    case("Gelu", {"x": X}, approximate="tanh"),
    case("HardSigmoid", {"x": X}, alpha=0.4, beta=0.1),
    case("LeakyRelu", {"x": X}, alpha=0.3),
    case("ThresholdedRelu", {"x": X}, alpha=0.4),
    case("Shrink", {"x": X}, bias=0.1, lambd=0.7),
    case("IsInf", {"x": f32(1, np.inf, -np.inf, np.nan)}, detect_negative=0),
    case("IsInf", {"x": f32(1, np.inf, -np.inf, np.nan)}, detect_positive=0),
    *(case(op, {"x": X, "y": floats(6, 1, 8)}) for op in ("Add", "Sub", "Mul", "Div", "PRelu")),
    *(case(op, {"x": X, "y": Y, "z": floats(7, 1)}) for op in ("Max", "Min", "Sum", "Mean")),
    case("Max", {"x": X}),
    *(
        case(op, {"x": X, "y": np.where(Y > 0, X, Y)})
        for op in ("Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal")
    ),
    *(case(op, {"x": X > 0, "y": Y > 0}) for op in ("And", "Or", "Xor")),
    case("Not", {"x": X > 0}),
    case("Where", {"c": X > 0, "x": X, "y": floats(1, 1, 7, 8)}),
    *(case("Pow", {"x": POSITIVE}, {"e": np.float32(e)}) for e in (2, 3, 0.5, -1.7)),
    case("Pow", {"x": POSITIVE, "y": Y}),
    case("Pow", {"x": WHOLE}, {"e": np.float32(2)}),
    case("Clip", {"x": X}, {"low": np.float32(-0.5), "high": np.float32(0.7)}),
    case("Clip", {"x": X}, {"low": np.float32(0)}),
    case("Clip", {"x": X}, {"_": 0, "high": np.float32(0.2)}),
    case("Clip", {"x": X}, {"low": np.float32(0.7), "high": np.float32(-0.5)}),
    case("Clip", {"x": WHOLE}, {"low": np.int64(-3), "high": np.int64(4)}),
    case("Div", {"x": WHOLE, "y": ints(-3)}),
    case("Mod", {"x": WHOLE, "y": ints(-3)}),
    case("Mod", {"x": WHOLE, "y": ints(-3)}, fmod=1),
    case("Mod", {"x": X, "y": f32(0.3)}, fmod=1),
    *(case("Cast", {"x": X * 10}, to=t) for t in (TensorProto.INT64, TensorProto.INT8, TensorProto.DOUBLE)),
    *(case("Cast", {"x": X > 0}, to=t) for t in (TensorProto.FLOAT, TensorProto.INT32)),
    case("Cast", {"x": X}, to=TensorProto.BOOL),
    case("CastLike", {"x": X * 10, "y": ints(1)}),
    case("CastLike", {"y": f32(1)}, {"x": np.float64(3)}),
    *(case("BitShift", {"x": bits(3, 4), "y": bits(4) % 8}, direction=d) for d in ("LEFT", "RIGHT")),
    *(case(op, {"x": bits(3, 4), "y": bits(4)}) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    case("BitwiseNot", {"x": bits(3, 4)}),
]
LINEAR = [
    case("MatMul", {"x": floats(2, 3, 5), "y": floats(5, 4)}),
    case("MatMul", {"x": floats(5), "y": floats(3, 5, 4)}),
    *(
        case("Gemm", {"x": floats(5, 3) if a else floats(3, 5)}, {"w": floats(4, 5) if b else floats(5, 4), "c": c},
             transA=a, transB=b, alpha=alpha, beta=beta)
        for a, b, alpha, beta, c in [
            (0, 1, 1.0, 1.0, floats(4)), (0, 1, 1.0, 1.0, floats(3, 1)), (1, 0, 0.5, 1.0, floats(1)),
            (1, 1, 2.0, 0.3, floats(3, 4)), (0, 0, 1.0, 1.0, floats(4)), (0, 0, 1.0, 0.0, floats(4)),
        ]
    ),
    case("Gemm", {"x": floats(3, 5)}, {"w": floats(5, 4)}, alpha=0.5),
    case("Gemm", {"x": floats(3, 5)}, {"w": floats(5, 4)}),
    case("Einsum", {"x": floats(2, 3, 4), "y": floats(2, 4, 5)}, equation="bij,bjk->bik"),
    case("Einsum", {"x": floats(2, 3, 4), "y": floats(4, 5)}, equation="...i,ij"),
    case("Det", {"x": floats(3, 4, 4)}),
    case("MatMulInteger", {"x": bits(3, 5), "y": bits(5, 4)}, {"a": np.uint8(3), "b": np.uint8(9)}),
    case("Conv", {"x": X}, {"w": floats(4, 6, 3, 3), "b": floats(4)}, pads=[1, 1, 1, 1]),
    case("Conv", {"x": X}, {"w": floats(4, 6, 3, 3)}, pads=[0, 2, 1, 1], strides=[2, 1]),
    case("Conv", {"x": X}, {"w": floats(12, 1, 3, 2)}, group=6, dilations=[2, 1]),
    *(
        case("Conv", {"x": X}, {"w": floats(4, 6, 3, 2)}, auto_pad=p, strides=[2, 2])
        for p in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    case("Conv", {"x": floats(2, 3, 9)}, {"w": floats(4, 3, 3), "b": floats(4)}),
    case("Conv", {"x": floats(1, 2, 5, 6, 7)}, {"w": floats(4, 2, 3, 3, 3)}, pads=[1, 0, 1, 0, 1, 1]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3), "b": floats(4)}, strides=[2, 2], pads=[1, 1, 1, 1]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 2, 3, 3)}, group=2, strides=[2, 3], output_padding=[1, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, pads=[0, 1, 2, 0], strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, output_shape=[14, 16], strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 4, 4)}, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, dilations=[2, 2]),
]  # fmt: skip
POOLS = [
    *(
        case(op, {"x": X}, kernel_shape=[3, 2], strides=[2, 1], pads=pads, ceil_mode=ceil)
        for op in ("AveragePool", "MaxPool")
        for ceil in (0, 1)
        for pads in ([1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 2, 1])
    ),
    case("AveragePool", {"x": X}, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", {"x": X}, kernel_shape=[3, 3], pads=[2, 0, 1, 1], count_include_pad=1, strides=[2, 2]),
    case("AveragePool", {"x": X}, kernel_shape=[2, 2], dilations=[2, 1], pads=[1, 0, 1, 0]),
    *(
        case(op, {"x": X}, kernel_shape=[3, 3], strides=[2, 2], auto_pad=pad)
        for op in ("AveragePool", "MaxPool")
        for pad in ("SAME_UPPER", "SAME_LOWER")
    ),
    case("AveragePool", {"x": floats(2, 3, 9)}, kernel_shape=[3]),
    case("MaxPool", {"x": floats(1, 2, 5, 6, 7)}, kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
    case("MaxPool", {"x": X}, kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", {"x": X}, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], outputs=2),
    case("LpPool", {"x": X}, kernel_shape=[3, 2], strides=[2, 1], p=3),
    case("MaxUnpool", {"x": floats(1, 1, 2, 2), "i": ints([[[5, 7], [13, 15]]]).reshape(1, 1, 2, 2)},
         kernel_shape=[2, 2], strides=[2, 2]),
    *(case(op, {"x": X}) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    *(
        case("GridSample", {"x": X, "g": floats(2, 4, 5, 2).clip(-1.2, 1.2)}, mode=m, padding_mode=p,
             align_corners=a)
        for m, p, a in [("linear", "zeros", 0), ("nearest", "border", 0), ("cubic", "zeros", 1),
                        ("linear", "reflection", 1)]
    ),
    case("AffineGrid", {"x": floats(2, 2, 3)}, {"s": ints(2, 3, 4, 5)}),
]  # fmt: skip
LAYOUT = [
    *(case("Transpose", {"x": X}, perm=p) for p in ([0, 2, 3, 1], [3, 2, 1, 0])),
    case("Transpose", {"x": X}),
    *(case("Reshape", {"x": X}, {"s": s}) for s in (ints(4, 3, -1), ints(0, 0, 56), ints(-1))),
    case("Reshape", {"x": floats(0, 3)}, {"s": ints(3, 0)}, allowzero=1),
    *(case("Flatten", {"x": X}, axis=a) for a in (0, 1, 2, -1)),
    case("Squeeze", {"x": floats(3, 1, 7, 1)}, {"a": ints(1)}),
    case("Squeeze", {"x": floats(3, 1, 7, 1)}),
    case("Unsqueeze", {"x": floats(3, 7)}, {"a": ints(3, 0)}),
    case("Concat", {"x": X, "y": floats(2, 2, 7, 8)}, axis=1),
    case("Concat", {"x": X, "y": floats(2, 6, 7, 3)}, axis=-1),
    case("Split", {"x": X}, {"s": ints(3, 5)}, outputs=2, axis=3),
    case("Split", {"x": X}, outputs=3, axis=2, num_outputs=3),
    case("Split", {"x": X}, {"s": ints(6)}, axis=1),
    case("Slice", {"x": X}, {"a": ints(1, 8), "b": ints(4, -100), "c": ints(1, 3), "d": ints(1, -2)}),
    case("Slice", {"x": X}, {"a": ints(2, 0), "b": ints(6, 1)}),
    case("Slice", {"x": X}, {"a": ints(-1), "b": ints(-(2**62)), "c": ints(-2), "d": ints(-1)}),
    case("Slice", {"x": X}, {"a": ints(-3), "b": ints(2**62), "c": ints(2)}),
    case("Slice", {"x": X}, {"a": ints(5), "b": ints(1), "c": ints(1), "d": ints(-3)}),
    case("Expand", {"x": floats(3, 1, 7, 1)}, {"s": ints(5, 1, 8)}),
    case("Expand", {"x": floats(7)}, {"s": ints(2, 3, 1)}),
    case("Tile", {"x": floats(3, 2, 5)}, {"s": ints(1, 2, 3)}),
    *(
        case("Pad", {"x": X}, {"p": ints(0, 0, 1, 2, 0, 0, 3, 4)}, mode=m)
        for m in ("constant", "edge", "reflect", "wrap")
    ),
    case("Pad", {"x": X}, {"p": ints(1, 2), "v": np.float32(0.5), "a": ints(-2)}),
    case("Pad", {"x": X}, {"p": ints(0, 0, -1, 2, 0, 0, 1, -3)}),
    case("DepthToSpace", {"x": floats(2, 8, 5, 7)}, blocksize=2),
    case("DepthToSpace", {"x": floats(2, 8, 5, 7)}, blocksize=2, mode="CRD"),
    case("SpaceToDepth", {"x": floats(2, 3, 6, 8)}, blocksize=2),
    case("Trilu", {"x": floats(3, 5, 6)}, upper=0),
    case("Trilu", {"x": floats(5, 6)}, {"k": np.int64(-1)}),
    case("ConstantOfShape", {}, {"s": ints(2, 3)}, value=helper.make_tensor("v", TensorProto.INT64, [1], [7])),
    case("ConstantOfShape", {}, {"s": ints(2, 3)}),
    case("Range", {}, {"a": np.int64(2), "b": np.int64(11), "c": np.int64(3)}),
    case("Range", {}, {"a": np.float32(2), "b": np.float32(-1), "c": np.float32(-0.7)}),
    case("EyeLike", {"x": floats(3, 4)}, k=1),
    case("EyeLike", {"x": floats(3, 4)}, dtype=TensorProto.INT64),
    case("ReverseSequence", {"x": floats(4, 3, 2)}, {"n": ints(4, 1, 2)}),
    case("ReverseSequence", {"x": floats(3, 4)}, {"n": ints(4, 1, 2)}, batch_axis=0, time_axis=1),
    case("CenterCropPad", {"x": X}, {"s": ints(4, 11)}, axes=[1, 3]),
    case("Col2Im", {"x": floats(1, 8, 12)}, {"a": ints(4, 5), "b": ints(2, 2)}),
]
INDEXING = [
    *(case("Gather", {"x": X}, {"i": i}, axis=a) for i, a in [(ints(1, -3, 4), 2), (np.int64(-1), 1)]),
    case("Gather", {"x": floats(9, 4)}, {"i": ints([1, -3], [0, 8])}),
    case("Gather", {"x": X}, {"i": ints([1, -3], [0, 2])}, axis=-1),
    case("GatherElements", {"x": X, "i": RNG.integers(-7, 7, (2, 6, 4, 8))}, axis=2),
    case("GatherND", {"x": X, "i": ints([0, -1], [1, 3])}),
    case("GatherND", {"x": X, "i": RNG.integers(-6, 6, (2, 5, 1))}, batch_dims=1),
    *(
        case("ScatterElements", {"x": floats(3, 4), "i": ints([0, -1], [3, 1]), "u": floats(2, 2)}, axis=1,
             reduction=r)
        for r in ("none", "add", "mul", "max", "min")
    ),
    *(
        case("ScatterND", {"x": X, "i": ints([0, 1], [1, -4]), "u": floats(2, 7, 8)}, reduction=r)
        for r in ("none", "add", "mul", "max", "min")
    ),
    case("OneHot", {"x": ints(1, 2, -3, 7)}, {"d": ints(5), "v": f32(0.5, 2)}),
    case("OneHot", {"x": ints([1], [2])}, {"d": np.int64(4), "v": ints(0, 3)}, axis=1),
    case("TopK", {"x": X}, {"k": ints(3)}, outputs=2),
    case("TopK", {"x": X}, {"k": ints(5)}, outputs=2, axis=1, largest=0),
    case("TopK", {"x": f32(1, 2, 2, 1, 2)}, {"k": ints(4)}, outputs=2),
    *(case(op, {"x": X.round()}, axis=a, keepdims=a % 2) for op in ("ArgMax", "ArgMin") for a in (1, 2, -1)),
    *(case(op, {"x": X.round()}, axis=1, select_last_index=1) for op in ("ArgMax", "ArgMin")),
    case("Hardmax", {"x": X.round()}, axis=2),
    case("NonZero", {"x": X.round()}),
    case("Compress", {"x": X}, {"c": np.array([True, False, True])}, axis=2),
    case("Compress", {"x": X}, {"c": np.array([True, False, True])}),
    case("Unique", {"x": f32(2, 1, 1, 3, 2)}, outputs=4),
    case("Unique", {"x": ints([1, 2], [1, 2], [0, 3])}, outputs=4, axis=0),
    case("CumSum", {"x": X}, {"axis": np.int64(2)}),
    case("CumSum", {"x": X}, {"axis": np.int64(-3)}, reverse=1, exclusive=1),
]  # fmt: skip
SUMS = ["L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"]
REDUCE = [
    *(
        case(f"Reduce{op}", {"x": X}, {"a": ints(*axes)}, keepdims=len(axes) % 2)
        for op in SUMS
        for axes in ([-1], [0, 2])
    ),
    *(case(f"Reduce{op}", {"x": X}) for op in ("Sum", "Max", "Mean")),
    *(case(f"Reduce{op}", {"x": X}, noop_with_empty_axes=1) for op in ("Sum", "Mean", "Max")),
    case("ReduceLogSum", {"x": POSITIVE}, {"a": ints(1)}),
    *(case(f"Reduce{op}", {"x": WHOLE}, {"a": ints(1)}) for op in ("Sum", "Mean", "Max", "Prod")),
]
NORMS = [
    case("BatchNormalization", {"x": X}, {k: np.abs(floats(6)) for k in "sbmv"}, epsilon=1e-3),
    case("BatchNormalization", {"x": floats(3, 6)}, {k: np.abs(floats(6)) for k in "sbmv"}),
    case("LayerNormalization", {"x": X}, {"s": floats(8), "b": floats(8)}),
    case("LayerNormalization", {"x": X}, {"s": floats(7, 8)}, axis=2, epsilon=1e-2),
    case("LayerNormalization", {"x": X}, {"s": floats(1), "b": floats(1)}, outputs=3),
    case("RMSNormalization", {"x": X}, {"s": floats(8)}),
    case("RMSNormalization", {"x": X}, {"s": floats(1)}, axis=2, epsilon=1e-2),
    case("InstanceNormalization", {"x": X}, {"s": floats(6), "b": floats(6)}),
    case("GroupNormalization", {"x": X}, {"s": floats(6), "b": floats(6)}, num_groups=3),
    *(case("LRN", {"x": X}, size=n, alpha=0.3, bias=2.0) for n in (3, 5)),
    *(case("LpNormalization", {"x": X}, axis=1, p=p) for p in (1, 2)),
    case("MeanVarianceNormalization", {"x": X}),
    *(case(op, {"x": X}, axis=a) for op in ("Softmax", "LogSoftmax") for a in (1, -1)),
    case("Dropout", {"x": X}),
]
NO_ROI = np.zeros(0, np.float32)
RESIZE = [
    *(
        case("Resize", {"x": X}, {"r": NO_ROI, "s": s}, mode=m, coordinate_transformation_mode=c)
        for m in ("nearest", "linear", "cubic")
        for c in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        for s in (f32(1, 1, 2, 2), f32(1, 1, 0.6, 1.3))
    ),
    *(
        case("Resize", {"x": X}, {"r": NO_ROI, "s": f32(1, 1, 1.7, 0.4)}, mode="nearest", nearest_mode=n)
        for n in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    *(
        case("Resize", {"x": X}, {"r": NO_ROI, "_": 0, "s": ints(2, 6, 9, 11)}, mode=m)
        for m in ("nearest", "linear", "cubic")
    ),
    case("Resize", {"x": X}, {"r": NO_ROI, "s": f32(1, 1, 0.5, 0.6)}, mode="linear", antialias=1),
    case("Resize", {"x": X}, {"r": NO_ROI, "s": f32(1, 1, 0.5, 0.6)}, mode="cubic", antialias=1),
    case("Resize", {"x": X}, {"r": NO_ROI, "s": f32(1, 1, 1.6, 0.8)}, mode="cubic", exclude_outside=1,
         cubic_coeff_a=-0.5),
    case("Resize", {"x": X}, {"r": f32(0, 0, 0.2, 0.1, 1, 1, 0.7, 1.2), "_": 0, "s": ints(2, 6, 5, 6)},
         mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=9.0),
    case("Resize", {"x": X}, {"r": NO_ROI, "_": 0, "s": ints(12, 12)}, axes=[2, 3],
         keep_aspect_ratio_policy="not_larger"),
]  # fmt: skip
HEADS = {"q": floats(2, 4, 5, 8), "k": floats(2, 2, 6, 8), "v": floats(2, 2, 6, 3)}
FLAT = {"q": floats(2, 5, 32), "k": floats(2, 6, 32), "v": floats(2, 6, 12)}
PAST = {"pk": floats(2, 2, 3, 8), "pv": floats(2, 2, 3, 3)}
ATTENTION = [
    case("Attention", HEADS),
    case("Attention", HEADS, is_causal=1, scale=0.2),
    case("Attention", HEADS | {"m": floats(5, 6)}, softcap=2.0),
    case("Attention", HEADS | {"m": RNG.random((2, 1, 5, 6)) > 0.3}),
    case("Attention", HEADS | {"_": 0} | PAST, outputs=3),
    case("Attention", HEADS, outputs=4, qk_matmul_output_mode=3),
    case("Attention", FLAT, q_num_heads=4, kv_num_heads=4),
    case("RotaryEmbedding", {"x": floats(2, 3, 5, 8)}, {"c": floats(9, 4), "s": floats(9, 4),
                                                        "p": RNG.integers(0, 9, (2, 5))}),
    case("RotaryEmbedding", {"x": floats(2, 5, 24)}, {"c": floats(2, 5, 4), "s": floats(2, 5, 4)}, num_heads=3),
    case("RotaryEmbedding", {"x": floats(2, 5, 24)}, {"c": floats(2, 5, 2), "s": floats(2, 5, 2)}, num_heads=3,
         rotary_embedding_dim=4, interleaved=1),
]  # fmt: skip


def recurrent(op: str, gates: int, directions: int = 1, bias: bool = True, **attributes: Any) -> Any:
    """A layer of 3 inputs and 4 outputs over 5 steps of 2 sequences."""
    weights = {"w": floats(directions, gates * 4, 3), "r": floats(directions, gates * 4, 4)}
    weights |= {"b": floats(directions, gates * 8)} if bias else {"_b": 0}
    outputs = 3 if op == "LSTM" else 2
    if attributes.pop("lengths", False):
        weights["n"] = np.array([5, 2], np.int32)
    if attributes.pop("states", False):
        weights |= {"_n": 0, "h": floats(directions, 2, 4)}
        weights |= {"c": floats(directions, 2, 4)} if op == "LSTM" else {}
    if attributes.pop("peepholes", False):
        weights |= {"_n": 0, "_h": 0, "_c": 0, "p": floats(directions, 12)}
    return case(op, {"x": floats(5, 2, 3)}, weights, outputs=outputs, hidden_size=4, **attributes)


RECURRENT = [
    *(recurrent(op, gates) for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))),
    *(
        recurrent(op, gates, 2, states=True, direction="bidirectional")
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
    ),
    *(
        recurrent(op, gates, lengths=True, direction="reverse", bias=False)
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
    ),
    recurrent("GRU", 3, linear_before_reset=1),
    recurrent("GRU", 3, 2, linear_before_reset=1, lengths=True, direction="bidirectional"),
    recurrent("LSTM", 4, peepholes=True),
    recurrent("LSTM", 4, clip=0.5),
    recurrent("LSTM", 4, activations=["HardSigmoid", "Softsign", "Relu"], activation_alpha=[0.3], activation_beta=[0.4]),
    recurrent("RNN", 1, activations=["Relu"]),
    recurrent("RNN", 1, activations=["ScaledTanh"], activation_alpha=[0.7], activation_beta=[0.4]),
]  # fmt: skip
SCALE = f32(0.02)
OTHERS = [
    case("QuantizeLinear", {"x": X}, {"s": np.float32(0.02), "z": np.uint8(128)}),
    case("QuantizeLinear", {"x": X}, {"s": np.abs(floats(6)) + f32(0.1), "z": np.zeros(6, np.int8)}, axis=1),
    case("DequantizeLinear", {"x": bits(2, 6, 3)}, {"s": np.abs(floats(6)), "z": bits(6)}, axis=1),
    case("DequantizeLinear", {"x": bits(2, 6)}, {"s": np.float32(0.1)}),
    case("DynamicQuantizeLinear", {"x": X}, outputs=3),
    *(case(f"{n}Window", {}, {"n": np.int64(9)}, periodic=p) for n in ("Hann", "Hamming", "Blackman") for p in (0, 1)),
    case("DFT", {"x": floats(2, 8, 1)}, {"_": 0, "a": np.int64(1)}),
    case("DFT", {"x": floats(2, 8, 1)}, {"_": 0, "a": np.int64(1)}, onesided=1),
    case("DFT", {"x": floats(2, 8, 2)}, {"_": 0, "a": np.int64(-2)}, inverse=1),
    *(
        case("NegativeLogLikelihoodLoss", {"x": -POSITIVE, "t": RNG.integers(0, 6, (2, 7, 8))}, reduction=r)
        for r in ("mean", "sum", "none")
    ),
    case("SoftmaxCrossEntropyLoss", {"x": X, "t": RNG.integers(0, 6, (2, 7, 8))}, outputs=2),
]  # fmt: skip
SEQUENCES = [
    pytest.param(nodes, {"x": X}, constants, ["y"], id=nodes[0].op_type + "-" + nodes[-1].op_type + f"-{index}")
    for index, (constants, nodes) in enumerate(
        [
            ({"n": np.int64(3), "i": np.int64(-1)},
             [node("SplitToSequence", ["x", "n"], ["s"], axis=3), node("SequenceAt", ["s", "i"], ["y"])]),
            ({"n": ints(3, 5), "i": np.int64(1)},
             [node("SplitToSequence", ["x", "n"], ["s"], axis=3), node("SequenceAt", ["s", "i"], ["y"])]),
            ({}, [node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
                  node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1)]),
            ({}, [node("Neg", ["x"], ["n"]), node("SequenceConstruct", ["x", "n"], ["s"]),
                  node("ConcatFromSequence", ["s"], ["y"], axis=1)]),
            ({"p": np.int64(0)},
             [node("SequenceEmpty", [], ["e"]), node("SequenceInsert", ["e", "x"], ["a"]), node("Neg", ["x"], ["n"]),
              node("SequenceInsert", ["a", "n", "p"], ["b"]), node("ConcatFromSequence", ["b"], ["y"], axis=1)]),
            ({"p": np.int64(1)},
             [node("SplitToSequence", ["x"], ["s"], axis=1), node("SequenceErase", ["s", "p"], ["e"]),
              node("SequenceErase", ["e"], ["f"]), node("ConcatFromSequence", ["f"], ["y"], axis=1)]),
            ({}, [node("SplitToSequence", ["x"], ["s"], axis=1), node("SequenceLength", ["s"], ["y"])]),
        ]
    )
]  # fmt: skip
CASES = [
    *ELEMENTWISE, *LINEAR, *POOLS, *LAYOUT, *INDEXING, *REDUCE, *NORMS, *RESIZE, *ATTENTION, *RECURRENT, *OTHERS,
    *SEQUENCES,
]  # fmt: skip
RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}


@pytest.mark.parametrize(("nodes", "feeds", "constants", "outputs"), CASES)
def test_op(nodes: Any, feeds: Feeds, constants: Feeds, outputs: list[str]) -> None:
    model = graph_of(nodes, feeds, constants, outputs)
    agree(run(to_torch(model), feeds), reference(model, feeds))


@pytest.mark.parametrize(
    ("nodes", "feeds", "constants", "outputs"), [item for item in CASES if item.values[2]]
)
def test_settings_that_are_computed(nodes: Any, feeds: Feeds, constants: Feeds, outputs: list[str]) -> None:
    """What `test_op` has as constants are inputs of the graph here, read when the module runs."""
    expected = reference(graph_of(nodes, feeds, constants, outputs), feeds)
    inputs = {**feeds, **constants}
    agree(run(to_torch(graph_of(nodes, inputs, {}, outputs)), inputs), expected)


def test_what_onnx_runtime_has_no_kernel_for() -> None:
    """Against the formulas of the ONNX specification."""
    squares = np.pad(X.astype(np.float64) ** 2, ((0, 0), (1, 2), (0, 0), (0, 0)))
    window = sum(squares[:, k : k + 6] for k in range(4))
    nothing = floats(2, 0, 3)
    cases: list[tuple[Any, Any, Any]] = [
        (node("GlobalLpPool", ["x"], ["y"], p=3), X, (np.abs(X) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)),
        (node("LRN", ["x"], ["y"], size=4, alpha=0.3), X, (X / (1 + 0.3 / 4 * window) ** 0.75).astype(np.float32)),
        (node("ReduceMax", ["x", "a"], ["y"]), nothing, np.full((2, 1, 3), -np.inf, np.float32)),
        (node("ReduceMin", ["x", "a"], ["y"], keepdims=0), nothing, np.full((2, 3), np.inf, np.float32)),
    ]
    for made, x, expected in cases:
        constants = {"a": ints(1)} if made.op_type.startswith("Reduce") else {}
        model = graph_of([made], {"x": x}, constants, ["y"])
        agree(run(to_torch(model), {"x": x}), [expected])


def test_every_op_has_a_case() -> None:
    tested = {made.op_type for item in CASES for made in item.values[0]}
    assert OPS.keys() - tested == RANDOM | {"GlobalLpPool"}
    assert len(OPS) + len(SOURCES) >= 150
    assert NUMBER_OPS.keys() <= OPS.keys()


@pytest.mark.parametrize("op", sorted(RANDOM))
def test_random_ops_give_the_type_and_shape(op: str) -> None:
    like = op in ("Bernoulli", "Multinomial") or op.endswith("Like")
    attributes: dict[str, Any] = {} if like else {"shape": [200, 300]}
    x = np.full((200, 300), 0.25, np.float32)
    model = graph_of([node(op, ["x"] if like else [], ["y"], **attributes)], {"x": x}, {}, ["y"])
    (found,) = run(to_torch(model), {"x": x})
    assert found.shape == ((200, 1) if op == "Multinomial" else (200, 300))
    mean = {"Bernoulli": 0.25, "Multinomial": 149.5}.get(op, 0.5 if "Uniform" in op else 0.0)
    # Six deviations of the mean of this many draws.
    spread = {"Multinomial": 6 * 87 / 200**0.5}.get(op, 6 / 60000**0.5)
    assert abs(float(found.mean()) - mean) < spread
