"""Cases of convolutions, products, pooling, normalisation, resizing, attention and recurrent layers."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch_cases import RNG, X, bits, case, f32, floats, ints

LINEAR = [
    case("MatMul", {"x": floats(2, 3, 5), "y": floats(5, 4)}),
    case("MatMul", {"x": floats(5), "y": floats(3, 5, 4)}),
    *(
        case(
            "Gemm",
            {"x": floats(5, 3) if a else floats(3, 5)},
            {"w": floats(4, 5) if b else floats(5, 4), "c": c},
            transA=a,
            transB=b,
            alpha=alpha,
            beta=beta,
        )
        for a, b, alpha, beta, c in [
            (0, 1, 1.0, 1.0, floats(4)),
            (0, 1, 1.0, 1.0, floats(3, 1)),
            (1, 0, 0.5, 1.0, floats(1)),
            (1, 1, 2.0, 0.3, floats(3, 4)),
            (0, 0, 1.0, 1.0, floats(4)),
            (0, 0, 1.0, 0.0, floats(4)),
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
    case(
        "ConvTranspose",
        {"x": X},
        {"w": floats(6, 4, 3, 3), "b": floats(4)},
        strides=[2, 2],
        pads=[1, 1, 1, 1],
    ),
    case(
        "ConvTranspose", {"x": X}, {"w": floats(6, 2, 3, 3)}, group=2, strides=[2, 3], output_padding=[1, 2]
    ),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, pads=[0, 1, 2, 0], strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, output_shape=[14, 16], strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 4, 4)}, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, auto_pad="SAME_LOWER", strides=[2, 2]),
    case("ConvTranspose", {"x": X}, {"w": floats(6, 4, 3, 3)}, dilations=[2, 2]),
]
POOLS = [
    *(
        case(op, {"x": X}, kernel_shape=[3, 2], strides=[2, 1], pads=pads, ceil_mode=ceil)
        for op in ("AveragePool", "MaxPool")
        for ceil in (0, 1)
        for pads in ([1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 2, 1])
    ),
    case("AveragePool", {"x": X}, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case(
        "AveragePool", {"x": X}, kernel_shape=[3, 3], pads=[2, 0, 1, 1], count_include_pad=1, strides=[2, 2]
    ),
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
    case(
        "MaxUnpool",
        {"x": floats(1, 1, 2, 2), "i": ints([[[5, 7], [13, 15]]]).reshape(1, 1, 2, 2)},
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    *(case(op, {"x": X}) for op in ("GlobalAveragePool", "GlobalMaxPool")),
    *(
        case(
            "GridSample",
            {"x": X, "g": floats(2, 4, 5, 2).clip(-1.2, 1.2)},
            mode=m,
            padding_mode=p,
            align_corners=a,
        )
        for m, p, a in [
            ("linear", "zeros", 0),
            ("nearest", "border", 0),
            ("cubic", "zeros", 1),
            ("linear", "reflection", 1),
        ]
    ),
    case("AffineGrid", {"x": floats(2, 2, 3)}, {"s": ints(2, 3, 4, 5)}),
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
    case(
        "Resize",
        {"x": X},
        {"r": NO_ROI, "s": f32(1, 1, 1.6, 0.8)},
        mode="cubic",
        exclude_outside=1,
        cubic_coeff_a=-0.5,
    ),
    case(
        "Resize",
        {"x": X},
        {"r": f32(0, 0, 0.2, 0.1, 1, 1, 0.7, 1.2), "_": 0, "s": ints(2, 6, 5, 6)},
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=9.0,
    ),
    case(
        "Resize",
        {"x": X},
        {"r": NO_ROI, "_": 0, "s": ints(12, 12)},
        axes=[2, 3],
        keep_aspect_ratio_policy="not_larger",
    ),
]
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
    case(
        "RotaryEmbedding",
        {"x": floats(2, 3, 5, 8)},
        {"c": floats(9, 4), "s": floats(9, 4), "p": RNG.integers(0, 9, (2, 5))},
    ),
    case(
        "RotaryEmbedding", {"x": floats(2, 5, 24)}, {"c": floats(2, 5, 4), "s": floats(2, 5, 4)}, num_heads=3
    ),
    case(
        "RotaryEmbedding",
        {"x": floats(2, 5, 24)},
        {"c": floats(2, 5, 2), "s": floats(2, 5, 2)},
        num_heads=3,
        rotary_embedding_dim=4,
        interleaved=1,
    ),
]


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
    recurrent(
        "LSTM",
        4,
        activations=["HardSigmoid", "Softsign", "Relu"],
        activation_alpha=[0.3],
        activation_beta=[0.4],
    ),
    recurrent("RNN", 1, activations=["Relu"]),
    recurrent("RNN", 1, activations=["ScaledTanh"], activation_alpha=[0.7], activation_beta=[0.4]),
]
LAYERS = [*LINEAR, *POOLS, *NORMS, *RESIZE, *ATTENTION, *RECURRENT]
