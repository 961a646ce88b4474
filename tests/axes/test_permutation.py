"""Permutation: positions against an independent labelling, exact outputs, whole networks, and refusals."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsecc.axes.dims import AxisExpr, Dim, size_of
from sparsecc.axes.groups import Groups
from sparsecc.axes.labels import labels
from sparsecc.axes.permutation import permutable, permute, permuted_positions, refusal, runs
from sparsecc.capture import capture
from sparsecc.errors import UsageError
from sparsecc.ir import evaluate, verify
from sparsecc.passes.hooks import relative_difference
from tests.zoo import MODELS


def order_of(size: int, seed: int) -> np.ndarray:
    """A random order."""
    return np.random.default_rng(seed).permutation(size)


def test_a_product_is_an_outer_sum() -> None:
    heads, features = Dim(2), Dim(3)
    orders = {features: np.array([2, 0, 1])}
    assert permuted_positions((heads, features), orders).tolist() == [2, 0, 1, 5, 3, 4]
    orders = {heads: np.array([1, 0]), features: np.array([2, 0, 1])}
    assert permuted_positions((heads, features), orders).tolist() == [5, 3, 4, 2, 0, 1]


def test_a_sum_is_a_concatenation() -> None:
    whole, first, second = Dim(5), Dim(2), Dim(3)
    whole.bind_sum(((first,), (second,)))
    orders = {second: np.array([2, 1, 0])}
    assert permuted_positions((whole,), orders).tolist() == [0, 1, 4, 3, 2]
    assert permuted_positions((), orders).tolist() == [0]


def test_runs_of_a_head_dimension_move_in_steps() -> None:
    whole, heads, features, rest = Dim(10), Dim(2), Dim(3), Dim(4)
    whole.bind_sum(((rest,), (heads, features)))
    assert list(runs((whole,), features)) == [(4, 1), (7, 1)]
    assert list(runs((whole,), heads)) == [(4, 3)]
    assert list(runs((whole, Dim(9)), heads)) == [(36, 27)]
    assert list(runs((whole,), Dim(4))) == []


@st.composite
def expressions(draw: st.DrawFn, depth: int = 2) -> tuple[AxisExpr, list[Dim]]:
    """An axis of one or two factors, some of them sums, and its dimensions, one of which may come twice."""
    axis: list[Dim] = []
    dims: list[Dim] = []
    for _ in range(draw(st.integers(1, 2))):
        if depth and draw(st.booleans()):
            terms: list[AxisExpr] = []
            for _ in range(draw(st.integers(2, 3))):
                term, inner = draw(expressions(depth - 1))
                terms.append(term)
                dims += inner
            whole = Dim(sum(map(size_of, terms)))
            whole.bind_sum(tuple(terms))
            axis.append(whole)
        elif dims and draw(st.booleans()):
            axis.append(dims[0])
        else:
            dims.append(Dim(draw(st.integers(1, 3))))
            axis.append(dims[-1])
    assume(size_of(tuple(axis)) <= 400)
    return tuple(axis), dims


@given(expressions(), st.integers(0, 99))
def test_every_position_gets_the_index_that_its_order_names(
    drawn: tuple[AxisExpr, list[Dim]], seed: int
) -> None:
    axis, dims = drawn
    orders = {dim: order_of(dim.size, seed + number) for number, dim in enumerate(dims)}
    positions = permuted_positions(axis, orders)
    assert sorted(positions.tolist()) == list(range(size_of(axis)))
    for dim in dims:
        for before in labels(axis, {dim: 0}):
            expected = np.where(before >= 0, orders[dim][before], -1)
            np.testing.assert_array_equal(before[positions], expected)


@given(expressions())
def test_runs_cover_what_the_labels_name(drawn: tuple[AxisExpr, list[Dim]]) -> None:
    axis, dims = drawn
    for dim in dims:
        found = np.zeros((dim.size, size_of(axis)), np.int64)
        for start, step in runs(axis, dim):
            for index in range(dim.size):
                found[index, start + index * step : start + (index + 1) * step] += 1
        expected = np.zeros_like(found)
        for array in labels(axis, {dim: 0}):
            expected[array[array >= 0], np.flatnonzero(array >= 0)] += 1
        np.testing.assert_array_equal(found, expected)


CONSTANTS = {
    "split": np.array([2, 3, 4], np.int64),
    "flat": np.array([2, 12], np.int64),
    "zero": np.array(0, np.float32),
    "one": np.array(1, np.float32),
    "eight": np.array(8, np.float32),
}
GRAPHS: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = {
    "residual and grouped convolutions": (
        """(float[2,4,5,5] x) => (float y) {
            a = Conv<pads=[1,1,1,1]>(x, wa, ba)  b = Relu(a)
            c = Conv<pads=[1,1,1,1], group=4>(b, wb)  d = Add(b, c)  y = Conv(d, wc) }""",
        {"wa": (12, 4, 3, 3), "ba": (12,), "wb": (12, 3, 3, 3), "wc": (3, 12, 1, 1)},
    ),
    "concatenation and a flattened product": (
        """(float[2,4,3,3] x) => (float y) {
            a = Conv(x, wa)  b = Conv(x, wb)  c = Concat<axis=1>(b, a, b)
            f = Flatten(c)  y = Gemm<transB=1>(f, wd) }""",
        {"wa": (5, 4, 1, 1), "wb": (6, 4, 1, 1), "wd": (7, 153)},
    ),
    "heads": (
        """(float[2,6] x) => (float y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            qs = Reshape(q, split)  ks = Reshape(k, split)  vs = Reshape(v, split)
            qh = Transpose<perm=[1,0,2]>(qs)  kh = Transpose<perm=[1,2,0]>(ks)
            vh = Transpose<perm=[1,0,2]>(vs)
            qk = MatMul(qh, kh)  o = MatMul(qk, vh)  t = Transpose<perm=[1,0,2]>(o)
            r = Reshape(t, flat)  y = MatMul(r, wo) }""",
        {"wq": (6, 12), "wk": (6, 12), "wv": (6, 12), "wo": (12, 5)},
    ),
    "a constant that is read as data": (
        """(float[2,6] x) => (float y) {
            a = MatMul(x, wa)  r = Range(zero, eight, one)  b = Mul(a, r)  y = MatMul(b, wb) }""",
        {"wa": (6, 8), "wb": (8, 3)},
    ),
}
"""Graphs that compute sums and products only, and the shapes of their weights."""


def whole(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """-1, 0 and 1, so that sums in any order are exact."""
    return np.random.default_rng(seed).integers(-1, 2, shape).astype(np.float32)


def exact_model(name: str) -> ir.Model:
    """One of `GRAPHS`."""
    text, shapes = GRAPHS[name]
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 23]> test {text}')
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    arrays = {key: whole(shape, number) for number, (key, shape) in enumerate(shapes.items())}
    arrays |= {key: array for key, array in CONSTANTS.items() if re.search(rf"[(,] ?{key}[,)]", text)}
    for key, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    return capture(proto)


@pytest.mark.parametrize("name", GRAPHS)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_any_orders_leave_every_bit_of_the_outputs(name: str, seed: int) -> None:
    model = exact_model(name)
    groups = Groups(model)
    orders = {
        group.dims[0]: order_of(group.size, seed + number) for number, group in enumerate(permutable(groups))
    }
    assert orders
    (given_input,) = model.graph.inputs
    assert given_input.shape is not None
    inputs = {"x": whole(given_input.shape.numpy(), seed)}
    reordered = permute(groups, orders)
    assert not verify(reordered)
    np.testing.assert_array_equal(evaluate(reordered, inputs)["y"], evaluate(model, inputs)["y"])


NETWORKS = (
    "ResNetForImageClassification",
    "LlamaForCausalLM",
    "MixtralForCausalLM",
    "SwinForImageClassification",
    "bidirectional-lstm",
    "gru",
    "channel-shuffle",
    "flip-channels",
    "group-norm",
    "dense-block",
    "stacked-qkv",
    "rotary-half",
    "rotary-interleaved",
    "pixel-shuffle",
    "einsum-attention",
    "overlapping-slices",
)


@pytest.mark.parametrize("name", NETWORKS)
def test_whole_networks_compute_the_same(name: str) -> None:
    """Up to the rounding of sums in another order, 8 units in the last place of the largest output."""
    model, inputs = MODELS[name].build(), MODELS[name].inputs(1)
    groups = Groups(model, inputs)
    orders = {group.dims[0]: order_of(group.size, number) for number, group in enumerate(permutable(groups))}
    reordered = permute(groups, orders)
    assert not verify(reordered)
    moved = [
        key
        for key, value in model.graph.initializers.items()
        if not np.array_equal(array_of(value), array_of(reordered.graph.initializers[key]))
    ]
    assert moved
    before, after = evaluate(model, inputs), evaluate(reordered, inputs)
    for key, array in before.items():
        assert relative_difference(after[key], array) <= 8 * np.finfo(np.float32).eps


def array_of(value: ir.Value) -> np.ndarray:
    """Contents of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def test_the_model_itself_stays_as_it_was() -> None:
    model = exact_model("heads")
    groups = Groups(model)
    before = {name: array_of(value).copy() for name, value in model.graph.initializers.items()}
    permute(groups, {group.dims[0]: np.arange(group.size)[::-1] for group in permutable(groups)})
    for name, value in model.graph.initializers.items():
        np.testing.assert_array_equal(array_of(value), before[name])


def test_what_cannot_be_reordered_is_refused_with_a_reason() -> None:
    groups = Groups(MODELS["flip-channels"].build(), MODELS["flip-channels"].inputs(1))
    codes = {found.code for group in groups if (found := refusal(group)) is not None}
    assert {"tied", "graph-input", "graph-output"} <= codes
    for group in groups:
        if refusal(group) is not None and len(group.dims) == 1:
            with pytest.raises(UsageError, match="cannot be reordered"):
                permute(groups, {group.dims[0]: np.arange(group.size)})


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1], [1, 2, 3]])
def test_an_order_must_name_each_index_once(order: list[int]) -> None:
    groups = Groups(exact_model("heads"))
    heads = next(group.dims[0] for group in permutable(groups) if group.size == 3)
    with pytest.raises(UsageError, match="each of its 3 indices once"):
        permute(groups, {heads: np.array(order)})
