"""Reductions: sums let indices go, means count them, extrema keep them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest
from axis_graphs import Case, check_rule

from sparsecc.axes import analysis
from sparsecc.axes.groups import groups
from sparsecc.axes.trace import Trace

CASES: list[Case] = [
    Case("y = ReduceSum(x, a)", {"x": (2, 3, 4), "a": [1]}, "x[a,b,c] y[a,1,c]"),
    Case("y = ReduceSum<keepdims = 0>(x, a)", {"x": (2, 3, 4), "a": [-1, 0]}, "x[a,b,c] y[b]"),
    Case("y = ReduceSum(x)", {"x": (2, 3)}, "x[a,b] y[1,1]"),
    Case("y = ReduceSum<noop_with_empty_axes = 1>(x)", {"x": (2, 3)}, "x[a,b] y[a,b]"),
    Case("y = ReduceL1<keepdims = 0>(x, a)", {"x": (2, 3), "a": [0]}, "x[a,b] y[b]"),
    Case("y = ReduceL2<keepdims = 0>(x, a)", {"x": (2, 3), "a": [0]}, "x[a,b] y[b]"),
    Case("y = ReduceSumSquare<keepdims = 0>(x, a)", {"x": (2, 3), "a": [0]}, "x[a,b] y[b]"),
    Case("y = ReduceMean(x, a)", {"x": (2, 3, 4), "a": [1]}, "x[a,b~,c] y[a,1,c]"),
    Case("y = ReduceMax(x, a)", {"x": (2, 3), "a": [1]}, "x[a,!extremum] y[a,1]"),
    Case("y = ReduceMin<keepdims = 0>(x, a)", {"x": (2, 3), "a": [1]}, "x[a,!extremum] y[a]"),
    Case("y = ReduceProd(x, a)", {"x": (2, 3), "a": [0]}, "x[!extremum,a] y[1,a]"),
    Case("y = ReduceLogSum(x, a)", {"x": (2, 3), "a": [1]}, "x[a,!extremum] y[a,1]"),
    Case("y = ReduceLogSumExp(x, a)", {"x": (2, 3), "a": [1]}, "x[a,!extremum] y[a,1]"),
    Case("y = ArgMax<axis = 1>(x)", {"x": (2, 3)}, "x[a,!extremum] y[a,1]"),
    Case("y = ArgMin<axis = -1, keepdims = 0>(x)", {"x": (2, 3)}, "x[a,!extremum] y[a]"),
    Case("y = CumSum(x, a)", {"x": (2, 3), "a": np.array(1, np.int64)}, "x[a,!cumulative] y[a,!cumulative]"),
    Case(
        "y = CumSum<exclusive = 1, reverse = 1>(x, a)",
        {"x": (2, 3), "a": np.array(-2, np.int64)},
        "x[!cumulative,a] y[!cumulative,a]",
    ),
    Case("y, i = TopK(x, k)", {"x": (2, 5), "k": [3]}, "x[a,!extremum] y[a,!extremum]"),
    Case("v, y = TopK<axis = 0, sorted = 0>(x, k)", {"x": (4, 3), "k": [2]}, "x[!extremum,a] y[!extremum,a]"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_axes_and_numbers(case: Case) -> None:
    check_rule(case)


def test_mean_of_what_the_data_did_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime up to 1.31 leaves the shape of an empty input as it is: that is not the axes' sizes."""
    text = """<ir_version: 10, opset_import: ["" : 23]>
    choose (float[4] mask, float[4,6] x) => (float[n,1] y)
    <float[6,6] w = {WEIGHTS}, int64[1] axes = {-1}> {
      h = MatMul(x, w)
      where = NonZero(mask)
      at = Transpose(where)
      rows = GatherND(h, at)
      y = ReduceMean(rows, axes)
    }""".replace("{WEIGHTS}", f"{{{', '.join(['0.5'] * 36)}}}")
    model = ir.from_proto(onnx.parser.parse_model(text))
    really = analysis.trace

    def as_older_versions(model: ir.Model, inputs: Mapping[str, np.ndarray] | None = None) -> Trace:
        result = really(model, inputs)
        result.shapes[model.graph.outputs[0]] = (0, 6)
        return result

    monkeypatch.setattr(analysis, "trace", as_older_versions)
    found = groups(model, {"mask": np.zeros(4, np.float32), "x": np.ones((4, 6), np.float32)})
    mean = next(node for node in model.graph if node.op_type == "ReduceMean")
    assert "its shape is not known" in found.analysis.uncovered[mean].reason
