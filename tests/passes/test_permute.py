"""permute: golden text, same numbers, more that is kept, the search's own account, refusals, options."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from golden_text import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from pass_graphs import Weights, array_of, codes, graph, run

import sparsecc
from sparsecc.axes.dims import Dim
from sparsecc.errors import UsageError
from sparsecc.ir import dump
from sparsecc.ir.encoding import Encoding, as_matrix
from sparsecc.ir.provenance import passes_of
from sparsecc.passes import Context, Pipeline
from sparsecc.passes.permute import Permute
from sparsecc.passes.permute_search import Weight, retention, search
from sparsecc.passes.sparsify import Sparsify

TEXT = """(float[1,8,6,6] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, a__weight, a__bias)  r = Relu(a)
    b = Conv(r, b__weight)  s = Add(b, r)  c = Conv(s, c__weight)
    f = Flatten(c)  y = Gemm<transB=1>(f, d__weight) }"""
WEIGHTS: Weights = {
    "a.weight": (32, 8, 3, 3),
    "a.bias": (32,),
    "b.weight": (32, 32, 1, 1),
    "c.weight": (16, 32, 1, 1),
    "d.weight": (10, 576),
}
HEADS = """(float[6,32] x) => (float y) {
    q = MatMul(x, q__weight)  k = MatMul(x, k__weight)  v = MatMul(x, v__weight)
    qs = Reshape(q, split)  ks = Reshape(k, split)  vs = Reshape(v, split)
    qh = Transpose<perm=[1,0,2]>(qs)  kh = Transpose<perm=[1,2,0]>(ks)  vh = Transpose<perm=[1,0,2]>(vs)
    qk = MatMul(qh, kh)  p = Softmax(qk)  o = MatMul(p, vh)  t = Transpose<perm=[1,0,2]>(o)
    r = Reshape(t, flat)  y = MatMul(r, o__weight) }"""
HEAD_WEIGHTS: Weights = {
    **{f"{name}.weight": (32, 48) for name in "qkv"},
    "o.weight": (48, 32),
    "split": [6, 3, 16],
    "flat": [6, 48],
}


def kept(model: ir.Model, pattern: str, sparsity: float) -> float:
    """The sum of the norms of the blocks (of the values for N:M) that `sparsify` leaves of a model."""
    item = Sparsify(pattern, sparsity, min_size=0)
    encoding = item.encoding()
    sparse = model.clone()
    layers, _ = item.layers(sparse)
    item.apply(sparse, Context())
    total = 0.0
    for layer in layers:
        matrix = layer.matrix.astype(np.float64)
        rows, columns = encoding.rows or 1, encoding.columns or 1
        for row in range(0, matrix.shape[0], rows):
            for column in range(0, matrix.shape[1], columns):
                total += float(np.linalg.norm(matrix[row : row + rows, column : column + columns]))
    return total


def test_golden(golden: Golden) -> None:
    model = graph(TEXT, WEIGHTS)
    run("permute{pattern=4x1 sparsity=0.75}", model)
    golden(dump(model))


PATTERNS = [
    ("4x1", 0.8),
    ("2x1", 0.5),
    ("8x1", 0.6),
    ("4x4", 0.7),
    ("1x4", 0.7),
    ("2:4", -1.0),
    ("1:8", -1.0),
]


@pytest.mark.parametrize(("pattern", "sparsity"), PATTERNS)
@pytest.mark.parametrize(("text", "weights"), [(TEXT, WEIGHTS), (HEADS, HEAD_WEIGHTS)], ids=["cnn", "heads"])
def test_numbers_stay_and_more_is_kept(text: str, weights: Weights, pattern: str, sparsity: float) -> None:
    model = graph(text, weights)
    before = kept(model, pattern, sparsity)
    ctx = run(f"permute{{pattern={pattern} sparsity={sparsity} min-size=0}}", model, tolerance=2e-6)
    assert ctx.reports[0].result.changed
    assert kept(model, pattern, sparsity) > before


def test_rows_that_belong_together_find_each_other() -> None:
    """Rows with values in one of four column ranges, in turn: in 4x1 blocks nothing is lost at 75 %."""
    rows = np.arange(32)
    a = array_of("a", (32, 64)) * (np.arange(64)[None] // 16 == rows[:, None] % 4).astype(np.float32)
    text = "(float[1,64] x) => (float y) { h = Gemm<transB=1>(x, a)  r = Relu(h)  y = MatMul(r, b) }"
    model = graph(text, {"a": a, "b": array_of("b", (32, 3))})
    alone = model.clone()
    Pipeline.parse("sparsify{pattern=4x1 sparsity=0.75}").run(alone)
    assert np.count_nonzero(matrix_of(alone, "a")) == a.size // 16
    run("permute{pattern=4x1 sparsity=0.75}", model, tolerance=1e-6)
    run("sparsify{pattern=4x1 sparsity=0.75}", model, tolerance=1e-6)
    assert np.count_nonzero(matrix_of(model, "a")) == a.size // 4


def test_columns_of_equal_support_are_spread_over_stripes() -> None:
    """Rows of b read a run of 8 columns: 2:4 cuts half of it, until each stripe holds two of the run."""
    b = np.where(np.arange(16)[None] // 8 == np.arange(8)[:, None] % 2, array_of("b", (8, 16)), 0)
    text = "(float[1,9] x) => (float y) { h = MatMul(x, a)  r = Relu(h)  y = Gemm<transB=1>(r, b) }"
    model = graph(text, {"a": array_of("a", (9, 16)), "b": b.astype(np.float32)})
    run("permute{pattern=2:4 min-size=0}", model, tolerance=1e-6)
    run("sparsify{pattern=2:4 skip=a min-size=0}", model, tolerance=1e-6)
    assert np.count_nonzero(matrix_of(model, "b")) == np.count_nonzero(b)


def matrix_of(model: ir.Model, name: str) -> np.ndarray:
    """Contents of an initializer."""
    value = model.graph.initializers[name].const_value
    assert value is not None
    return value.numpy()


def test_equal_seeds_give_equal_orders() -> None:
    def weights_of(seed: int) -> list[bytes]:
        model = graph(TEXT, WEIGHTS)
        Pipeline.parse("permute{pattern=4x1 sparsity=0.7}").run(model, Context(seed))
        return [matrix_of(model, name).tobytes() for name in model.graph.initializers]

    assert weights_of(3) == weights_of(3)
    assert weights_of(3) != weights_of(4)


@settings(max_examples=40)
@given(
    st.integers(0, 999),
    st.sampled_from(["4x1", "2x1", "3x2", "4x4", "1x4", "2:4", "1:4", "2:3"]),
    st.floats(0, 0.99),
    st.integers(1, 14),
    st.integers(1, 5),
    st.integers(0, 6),
)
def test_the_search_never_keeps_less(
    seed: int, pattern: str, sparsity: float, size: int, step: int, rounds: int
) -> None:
    """The dimension is the outer factor of the rows, a part of the columns, and both of another weight."""
    encoding = Encoding.parse(pattern)
    m = max(encoding.m, 1)
    dim, inner, other = Dim(size), Dim(step), Dim(m * 3)
    tail = Dim(size + m)
    tail.bind_sum(((Dim(m),), (dim,)))
    shapes = [((dim, inner), (other,)), ((other,), (tail, Dim(m))), ((dim,), (dim, Dim(m)))]
    rng = np.random.default_rng(seed)
    weights = [
        Weight(
            str(number), rng.standard_normal([int(np.prod([d.size for d in axis])) for axis in axes]), axes
        )
        for number, axes in enumerate(shapes)
    ]
    keeps = retention(encoding, sparsity)
    originals = [weight.matrix.copy() for weight in weights]
    before = sum(keeps.kept(matrix)[0] for matrix in originals)
    orders = search(weights, [dim], keeps, rounds=rounds, seed=seed)
    after = sum(keeps.kept(weight.matrix)[0] for weight in weights)
    if not orders:
        assert all(np.array_equal(a.matrix, b) for a, b in zip(weights, originals, strict=True))
    else:
        assert after > before
        again = [Weight(w.name, matrix, w.axes) for w, matrix in zip(weights, originals, strict=True)]
        for weight, found in zip(again, weights, strict=True):
            np.testing.assert_array_equal(weight.reordered(dim, orders[dim]), found.matrix)


@given(
    st.sampled_from(["4x1", "2x2", "3x1", "1x4", "2:4", "1:4"]),
    st.floats(0, 0.99),
    st.integers(1, 9),
    st.integers(1, 3),
)
def test_what_is_said_to_be_kept_is_what_sparsify_keeps(
    pattern: str, sparsity: float, rows: int, groups: int
) -> None:
    encoding = Encoding.parse(pattern)
    shape = (4 * groups, rows)
    model = graph("(float[1,K] x) => (float y) { y = MatMul(x, w) }", {"w": shape})
    given_sparsity = -1.0 if encoding.pattern == "n:m" else sparsity
    matrix = as_matrix(array_of("w", shape), 1)
    found = retention(encoding, sparsity).kept(matrix)[0]
    assert found == pytest.approx(kept(model, pattern, given_sparsity), rel=1e-5)


def test_provenance_names_the_weights_that_moved() -> None:
    model = graph(TEXT, WEIGHTS)
    run("permute{pattern=4x1 sparsity=0.8}", model)
    assert passes_of(model.graph.initializers["a.weight"]) == ("permute",)
    assert passes_of(model.graph.initializers["a.bias"]) == ("permute",)


def test_nothing_to_reorder_changes_nothing() -> None:
    model = graph("(float[1,64] x) => (float y) { y = MatMul(x, w) }", {"w": (64, 64)})
    before = dump(model)
    ctx = run("permute{pattern=4x1 sparsity=0.8}", model, tolerance=0)
    assert not ctx.reports[0].result.changed
    assert dump(model) == before


def test_skipped_layers_have_no_say() -> None:
    model = graph(TEXT, WEIGHTS)
    ctx = run("permute{pattern=4x1 sparsity=0.8 skip=*}", model, tolerance=0)
    assert not ctx.reports[0].result.changed


def test_refusal_of_channels_that_are_tied_one_by_one() -> None:
    text = """(float[1,8] x) => (float y) {
        h = MatMul(x, a)  f = Slice(h, start, end, axis, step)  s = Add(h, f)  y = MatMul(s, b) }"""
    ends = {"start": [31], "end": [-33], "axis": [1], "step": [-1]}
    model = graph(text, {"a": (8, 32), "b": (32, 64), **ends})
    ctx = run("permute{pattern=4x1 sparsity=0.8 min-size=0}", model, tolerance=0)
    assert codes(ctx) == ["tied"]


BAD = [
    ("pattern=unstructured sparsity=0.5", "the same in every order"),
    ("pattern=fan-in sparsity=0.5", "the same in every order"),
    ("pattern=4x1", "needs a sparsity"),
    ("sparsity=0.8", "fixes the sparsity"),
    ("pattern=2:4 sparsity=0.7", "fixes the sparsity"),
    ("pattern=4x1 sparsity=0.5 rounds=-1", "must not be negative"),
    ("pattern=dense", "not sparse"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(f"permute{{{options}}}")


def test_the_public_function_reorders_on_a_copy() -> None:
    model = graph(TEXT, WEIGHTS)
    before = dump(model)
    phases: list[str] = []
    plain = sparsecc.sparsify(model, "4x1", 0.8)
    better = sparsecc.sparsify(
        model, "4x1", 0.8, permute=True, progress=lambda phase, *_: phases.append(phase)
    )
    assert dump(model) == before
    assert dict.fromkeys(phases) == dict.fromkeys(["permute", "sparsify"])
    assert better.zeros == pytest.approx(plain.zeros, abs=1e-3)
    assert plain.notes == () and "are in another order" in better.notes[0]
    norms = [
        sum(float(np.abs(matrix_of(result.model, f"{name}.weight")).sum()) for name in "abcd")
        for result in (plain, better)
    ]
    assert norms[1] > norms[0]
    with pytest.raises(UsageError, match="the same in every order"):
        sparsecc.sparsify(model, "unstructured", 0.8, permute=True)


def test_its_spec_parses_back() -> None:
    spec = "permute{pattern=2x1 sparsity=0.7 rounds=3}"
    assert str(Pipeline.parse(spec)) == spec
    assert Pipeline.parse(spec).passes == (Permute("2x1", 0.7, rounds=3),)
