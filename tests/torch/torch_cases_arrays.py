"""Cases of elementwise, layout, indexing, reduction, quantisation, signal and sequence ops."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper
from torch_cases import IN, POSITIVE, RNG, WHOLE, X, Y, bits, case, f32, floats, ints, node

UNARY = [
    "Abs", "Atan", "Asinh", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Mish", "Neg", "Relu", "Round",
    "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh",
    "ThresholdedRelu",
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
    case(
        "ConstantOfShape", {}, {"s": ints(2, 3)}, value=helper.make_tensor("v", TensorProto.INT64, [1], [7])
    ),
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
        case(
            "ScatterElements",
            {"x": floats(3, 4), "i": ints([0, -1], [3, 1]), "u": floats(2, 2)},
            axis=1,
            reduction=r,
        )
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
]
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
OTHERS = [
    case("QuantizeLinear", {"x": X}, {"s": np.float32(0.02), "z": np.uint8(128)}),
    case("QuantizeLinear", {"x": X}, {"s": np.abs(floats(6)) + f32(0.1), "z": np.zeros(6, np.int8)}, axis=1),
    case("DequantizeLinear", {"x": bits(2, 6, 3)}, {"s": np.abs(floats(6)), "z": bits(6)}, axis=1),
    case("DequantizeLinear", {"x": bits(2, 6)}, {"s": np.float32(0.1)}),
    case("DynamicQuantizeLinear", {"x": X}, outputs=3),
    *(
        case(f"{n}Window", {}, {"n": np.int64(9)}, periodic=p)
        for n in ("Hann", "Hamming", "Blackman")
        for p in (0, 1)
    ),
    case("DFT", {"x": floats(2, 8, 1)}, {"_": 0, "a": np.int64(1)}),
    case("DFT", {"x": floats(2, 8, 1)}, {"_": 0, "a": np.int64(1)}, onesided=1),
    case("DFT", {"x": floats(2, 8, 2)}, {"_": 0, "a": np.int64(-2)}, inverse=1),
    *(
        case("NegativeLogLikelihoodLoss", {"x": -POSITIVE, "t": RNG.integers(0, 6, (2, 7, 8))}, reduction=r)
        for r in ("mean", "sum", "none")
    ),
    case("SoftmaxCrossEntropyLoss", {"x": X, "t": RNG.integers(0, 6, (2, 7, 8))}, outputs=2),
]
SEQUENCES = [
    pytest.param(
        nodes, {"x": X}, constants, ["y"], id=nodes[0].op_type + "-" + nodes[-1].op_type + f"-{index}"
    )
    for index, (constants, nodes) in enumerate(
        [
            (
                {"n": np.int64(3), "i": np.int64(-1)},
                [node("SplitToSequence", ["x", "n"], ["s"], axis=3), node("SequenceAt", ["s", "i"], ["y"])],
            ),
            (
                {"n": ints(3, 5), "i": np.int64(1)},
                [node("SplitToSequence", ["x", "n"], ["s"], axis=3), node("SequenceAt", ["s", "i"], ["y"])],
            ),
            (
                {},
                [
                    node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
                    node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1),
                ],
            ),
            (
                {},
                [
                    node("Neg", ["x"], ["n"]),
                    node("SequenceConstruct", ["x", "n"], ["s"]),
                    node("ConcatFromSequence", ["s"], ["y"], axis=1),
                ],
            ),
            (
                {"p": np.int64(0)},
                [
                    node("SequenceEmpty", [], ["e"]),
                    node("SequenceInsert", ["e", "x"], ["a"]),
                    node("Neg", ["x"], ["n"]),
                    node("SequenceInsert", ["a", "n", "p"], ["b"]),
                    node("ConcatFromSequence", ["b"], ["y"], axis=1),
                ],
            ),
            (
                {"p": np.int64(1)},
                [
                    node("SplitToSequence", ["x"], ["s"], axis=1),
                    node("SequenceErase", ["s", "p"], ["e"]),
                    node("SequenceErase", ["e"], ["f"]),
                    node("ConcatFromSequence", ["f"], ["y"], axis=1),
                ],
            ),
            ({}, [node("SplitToSequence", ["x"], ["s"], axis=1), node("SequenceLength", ["s"], ["y"])]),
        ]
    )
]
ARRAYS = [*ELEMENTWISE, *LAYOUT, *INDEXING, *REDUCE, *OTHERS, *SEQUENCES]
