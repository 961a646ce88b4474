"""Pooling, resampling, padding: channels pass, resized axes are kept."""

from __future__ import annotations

import numpy as np
import pytest
from axis_graphs import Case, check_rule

CASES: list[Case] = [
    Case(
        "y = MaxPool<kernel_shape = [2, 2]>(x)",
        {"x": (2, 3, 4, 4)},
        "x[a,b,!spatial,!spatial] y[a,b,!spatial,!spatial]",
    ),
    Case(
        "y, i = MaxPool<kernel_shape = [2, 2]>(x)",
        {"x": (2, 3, 4, 4)},
        "x[a,b,!spatial,!spatial] y[a,b,!spatial,!spatial]",
    ),
    Case(
        "z, i = MaxPool<kernel_shape = [2, 2]>(x)\ny = Cast<to = 1>(i)",
        {"x": (2, 3, 4, 4)},
        "x[!flat-indices,!flat-indices,!spatial,!spatial] y[!flat-indices,!flat-indices,!spatial,!spatial]",
    ),
    Case(
        "y = AveragePool<kernel_shape = [2], pads = [1, 1], count_include_pad = 1>(x)",
        {"x": (2, 3, 4)},
        "x[a,b,!spatial] y[a,b,!spatial]",
    ),
    Case("y = GlobalAveragePool(x)", {"x": (2, 3, 4, 4)}, "x[a,b,!spatial,!spatial] y[a,b,1,1]"),
    Case("y = GlobalMaxPool(x)", {"x": (2, 3, 4, 4)}, "x[a,b,!spatial,!spatial] y[a,b,1,1]"),
    Case(
        "y = LpPool<kernel_shape = [2, 2]>(x)",
        {"x": (2, 3, 4, 4)},
        "x[a,b,!spatial,!spatial] y[a,b,!spatial,!spatial]",
    ),
    Case("y = GlobalLpPool(x)", {"x": (2, 3, 4, 4)}, "x[a,b,!spatial,!spatial] y[a,b,1,1]", 16),
    Case(
        'y = Resize<mode = "nearest">(x, , scales)',
        {"x": (1, 3, 4, 4), "scales": np.array([1.0, 1.0, 2.0, 2.0], np.float32)},
        "x[1,a,!spatial,!spatial] scales[!no-data] y[1,a,!spatial,!spatial]",
    ),
    Case(
        'y = Resize<mode = "linear">(x, , , sizes)',
        {"x": (1, 3, 4, 4), "sizes": [1, 3, 7, 4]},
        "x[1,a,!spatial,b] y[1,a,!spatial,b]",
    ),
    Case(
        'y = Resize<mode = "nearest", axes = [2, 3]>(x, , , sizes)',
        {"x": (1, 3, 4, 4), "sizes": [7, 8]},
        "x[1,a,!spatial,!spatial] y[1,a,!spatial,!spatial]",
    ),
    Case(
        'y = Resize<mode = "nearest", axes = [1, 2, 3]>(x, , , sizes)',
        {"x": (1, 3, 4, 4), "sizes": [3, 7, 8]},
        "x[1,!spatial,!spatial,!spatial] y[1,!spatial,!spatial,!spatial]",
    ),
    Case(
        'y = Resize<mode = "nearest", axes = [2, 3], keep_aspect_ratio_policy = "not_larger">(x, , , sizes)',
        {"x": (1, 3, 4, 4), "sizes": [8, 16]},
        "x[1,a,!spatial,!spatial] y[1,a,!spatial,!spatial]",
    ),
    Case(
        'y = Resize<mode = "linear">(x, , scales)',
        {"x": (1, 1, 3, 4), "scales": np.array([1.0, 1.0, 1.2, 2.0], np.float32)},
        "x[1,1,!spatial,!spatial] scales[!no-data] y[1,1,!spatial,!spatial]",
    ),
    Case(
        'y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize">(x, roi, , sizes)',
        {
            "x": (1, 1, 3, 4),
            "roi": np.array([0.0, 0.0, 0.0, 0.1, 1.0, 1.0, 1.0, 0.9], np.float32),
            "sizes": [1, 1, 3, 4],
        },
        "x[1,1,a,!spatial] roi[!no-data] y[1,1,a,!spatial]",
    ),
    Case(
        'y = Resize<mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", '
        "extrapolation_value = 3.0>(x, roi, , sizes)",
        {
            "x": (1, 1, 3, 4),
            "roi": np.array([0.0, 0.0, 0.0, -0.5, 1.0, 1.0, 1.0, 1.5], np.float32),
            "sizes": [1, 1, 3, 6],
        },
        "x[1,1,a,!spatial] roi[!no-data] y[1,1,a,!spatial]",
    ),
    Case(
        "y = GridSample(x, g)",
        {"x": (2, 3, 4, 4), "g": (2, 5, 5, 2)},
        "x[a,b,!spatial,!spatial] g[a,!spatial,!spatial,!spatial] y[a,b,!spatial,!spatial]",
    ),
    Case(
        "y = GridSample(x, g)",
        {"x": (2, 3, 4, 4, 4), "g": (2, 5, 5, 5, 3)},
        "x[a,b,!spatial,!spatial,!spatial] g[a,!spatial,!spatial,!spatial,!spatial] "
        "y[a,b,!spatial,!spatial,!spatial]",
    ),
    Case("y = Pad(x, p)", {"x": (2, 3), "p": [0, 1, 0, 2]}, "x[a,b] y[a,(!padding|b|!padding)]"),
    Case("y = Pad(x, p, v)", {"x": (2, 3), "p": [0, 1, 0, 0], "v": 1.0}, "x[a,b] y[a,(!padding|b)]"),
    Case(
        "y = Pad(x, p, v, a)",
        {"x": (2, 3, 4), "p": [1, 1], "v": 0.0, "a": [-1]},
        "x[a,b,c] y[a,b,(!padding|c|!padding)]",
    ),
    Case('y = Pad<mode = "reflect">(x, p)', {"x": (2, 3), "p": [0, 1, 0, 1]}, "x[a,!padding] y[a,!padding]"),
    Case('y = Pad<mode = "edge">(x, p)', {"x": (2, 3), "p": [0, 1, 0, 1]}, "x[a,!padding] y[a,!padding]"),
    Case("y = Pad(x, p)", {"x": (2, 3), "p": [0, -1, 0, 0]}, "x[a,!padding] y[a,!padding]"),
    Case(
        "y = DepthToSpace<blocksize = 2>(x)",
        {"x": (1, 12, 2, 2)},
        "x[1,(!spatial !spatial a),!spatial,!spatial] y[1,a,!spatial,!spatial]",
    ),
    Case(
        'y = DepthToSpace<blocksize = 2, mode = "CRD">(x)',
        {"x": (1, 12, 2, 2)},
        "x[1,(a !spatial !spatial),!spatial,!spatial] y[1,a,!spatial,!spatial]",
    ),
    Case(
        "y = SpaceToDepth<blocksize = 2>(x)",
        {"x": (1, 3, 4, 4)},
        "x[1,a,!spatial,!spatial] y[1,(!spatial a),!spatial,!spatial]",
    ),
    Case(
        "y = CenterCropPad(x, s)",
        {"x": (4, 5, 3), "s": [4, 3, 5]},
        "x[a,!padding,!padding] y[a,!padding,!padding]",
    ),
    Case("y = CenterCropPad<axes = [1]>(x, s)", {"x": (4, 5), "s": [3]}, "x[a,!padding] y[a,!padding]"),
    Case(
        "y = Col2Im(x, i, b)",
        {"x": (1, 12, 4), "i": [3, 3], "b": [2, 2]},
        "x[1,(a !spatial),!spatial] y[1,a,!spatial,!spatial]",
    ),
    Case(
        "y = RoiAlign(x, r, b)",
        {"x": (2, 3, 4, 4), "r": (5, 4), "b": [0, 1, 1, 0, 0]},
        "x[!lookup,a,!spatial,!spatial] r[!spatial,!spatial] b[!spatial] y[!spatial,a,1,1]",
        16,
    ),
    Case(
        "y = MaxRoiPool<pooled_shape = [2, 2]>(x, r)",
        {"x": (2, 3, 4, 4), "r": np.zeros((5, 5), np.float32)},
        "x[!lookup,a,!spatial,!spatial] r[!spatial,!spatial] y[!spatial,a,!spatial,!spatial]",
        16,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)
