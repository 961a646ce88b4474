"""sparsify: every pattern's exact count and shape, budgets, layers left out, golden text, bad options."""

from __future__ import annotations

import numpy as np
import pytest
from golden_text import Golden
from hypothesis import given
from hypothesis import strategies as st
from pass_graphs import Weights, array_of, codes, graph

from sparsecc.errors import UsageError
from sparsecc.ir import dump, encoding_of, get_encoding, verify, weight_uses
from sparsecc.ir.encoding import as_matrix
from sparsecc.ir.provenance import passes_of
from sparsecc.passes import Context, Pipeline
from sparsecc.passes.sparsify import Sparsify

TEXT = """(float[1,16,6,6] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, a__weight)  b = Conv<group=32>(a, b__weight)  c = Conv(b, c__weight)
    f = Flatten(c)  y = Gemm<transB=1>(f, d__weight) }"""
WEIGHTS: Weights = {
    "a.weight": (32, 16, 3, 3),
    "b.weight": (32, 1, 1, 1),
    "c.weight": (16, 32, 1, 1),
    "d.weight": (10, 576),
}


def sparsified(options: str) -> tuple[dict[str, np.ndarray], dict[str, str], Context]:
    """Arrays and encodings by layer, and the context."""
    model = graph(TEXT, WEIGHTS)
    ctx = Pipeline.parse(f"sparsify{{{options}}}").run(model)
    assert not verify(model)
    arrays: dict[str, np.ndarray] = {}
    encodings: dict[str, str] = {}
    for use in weight_uses(model):
        assert use.value.const_value is not None
        arrays[use.layer] = as_matrix(use.value.const_value.numpy(), use.axis)
        encodings[use.layer] = str(get_encoding(use.value, use.axis))
    return arrays, encodings, ctx


def zeros(array: np.ndarray) -> int:
    """Number of zero elements."""
    return int(np.count_nonzero(array == 0))


def test_golden(golden: Golden) -> None:
    model = graph(TEXT, WEIGHTS)
    Pipeline.parse("sparsify{pattern=4x1 sparsity=0.75 skip=d*}").run(model)
    golden(dump(model))


def test_unstructured_counts_are_exact() -> None:
    arrays, encodings, _ = sparsified("sparsity=0.7 min-size=0")
    assert zeros(arrays["a"]) == round(0.7 * 32 * 144)
    assert zeros(arrays["c"]) == round(0.7 * 512)
    assert encodings["a"] == "unstructured"
    kept = np.abs(arrays["a"][arrays["a"] != 0]).min()
    assert kept >= np.abs(as_matrix(array_of("a.weight", (32, 16, 3, 3)))[arrays["a"] == 0]).max()


@pytest.mark.parametrize("pattern", ["4x1", "2x1", "8x1", "16x1", "1x4", "4x4", "1x16"])
def test_blocks(pattern: str) -> None:
    rows, columns = map(int, pattern.split("x"))
    arrays, encodings, _ = sparsified(f"pattern={pattern} sparsity=0.8")
    count = (32 // rows) * (144 // columns)
    assert zeros(arrays["a"]) == round(0.8 * count) * rows * columns
    assert encodings["a"] == pattern
    assert encoding_of(arrays["a"]) == Sparsify(pattern=pattern, sparsity=0.8).encoding()


def test_rows_that_blocks_do_not_divide() -> None:
    arrays, encodings, _ = sparsified("pattern=4x1 sparsity=0.5")
    blocks = [arrays["d"][0:4], arrays["d"][4:8], arrays["d"][8:10]]
    empty = sum(int((block == 0).all(axis=0).sum()) for block in blocks)
    assert empty == round(0.5 * 3 * 576)
    assert encodings["d"] == "4x1"


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "2:16"])
def test_groups(pattern: str) -> None:
    n, m = map(int, pattern.split(":"))
    arrays, encodings, _ = sparsified(f"pattern={pattern} min-size=100")
    for layer in "acd":
        counts = np.count_nonzero(arrays[layer].reshape(-1, m), axis=1)
        assert (counts == n).all()
        assert encodings[layer] == pattern


def test_fan_in() -> None:
    arrays, encodings, _ = sparsified("pattern=fan-in sparsity=0.9")
    assert (np.count_nonzero(arrays["a"], axis=1) == 144 - round(0.9 * 144)).all()
    assert encodings["a"] == "fan-in"


def test_a_global_budget_is_exact_and_ignores_scale() -> None:
    arrays, _, _ = sparsified("pattern=4x1 sparsity=0.8 scope=global skip=d min-size=0")
    total = 8 * 144 + 4 * 32
    assert zeros(arrays["a"]) // 4 + zeros(arrays["c"]) // 4 == round(0.8 * total)
    scaled = graph(TEXT, {**WEIGHTS, "c.weight": array_of("c.weight", (16, 32, 1, 1)) * np.float32(100)})
    Pipeline.parse("sparsify{pattern=4x1 sparsity=0.8 scope=global skip=d min-size=0}").run(scaled)
    value = scaled.graph.initializers["c.weight"].const_value
    assert value is not None and zeros(value.numpy()) == zeros(arrays["c"])


def test_ties_go_to_earlier_blocks() -> None:
    model = graph("(float[1,8] x) => (float y) { y = MatMul(x, w) }", {"w": np.ones((8, 8), np.float32)})
    Pipeline.parse("sparsify{pattern=4x1 sparsity=0.5 min-size=0}").run(model)
    value = model.graph.initializers["w"].const_value
    assert value is not None
    assert (value.numpy().T[:4] == 0).all() and (value.numpy().T[4:] == 1).all()


def test_refusals() -> None:
    _, _, ctx = sparsified("sparsity=0.5 skip=d.weight")
    assert sorted(codes(ctx)) == ["depthwise", "skipped", "too-small"]
    assert {refusal.where for refusal in ctx.refusals} == {"b", "c", "d"}


def test_refusal_of_groups_that_do_not_divide() -> None:
    model = graph("(float[1,30] x) => (float y) { y = MatMul(x, w) }", {"w": (30, 64)})
    ctx = Pipeline.parse("sparsify{pattern=2:4}").run(model)
    assert codes(ctx) == ["indivisible"]


def test_refusal_of_a_tied_embedding() -> None:
    text = "(int64[2,3] i) => (float y) { e = Gather(emb, i) t = Transpose(emb) y = MatMul(e, t) }"
    model = graph(text, {"emb": (100, 16)})
    ctx = Pipeline.parse("sparsify{sparsity=0.5}").run(model)
    assert codes(ctx) == ["shared"]


def test_refusal_of_a_weight_used_along_two_axes() -> None:
    text = "(float[2,40] x) => (float y) { t = Transpose(w) a = MatMul(x, w) y = MatMul(a, t) }"
    model = graph(text, {"w": (40, 40)})
    ctx = Pipeline.parse("sparsify{sparsity=0.5}").run(model)
    assert codes(ctx) == ["shared"]


def test_the_given_array_is_not_touched() -> None:
    weight = array_of("w", (64, 64))
    before = weight.copy()
    model = graph("(float[1,64] x) => (float y) { y = MatMul(x, w) }", {"w": weight})
    Pipeline.parse("sparsify{sparsity=0.5}").run(model)
    np.testing.assert_array_equal(weight, before)
    assert passes_of(model.graph.initializers["w"]) == ("sparsify",)


@given(
    st.floats(0, 0.99), st.sampled_from(["unstructured", "4x1", "2x2"]), st.integers(1, 9), st.integers(1, 9)
)
def test_any_sparsity_is_met_to_the_block(sparsity: float, pattern: str, rows: int, columns: int) -> None:
    model = graph("(float[1,K] x) => (float y) { y = MatMul(x, w) }", {"w": (columns, rows)})
    Pipeline((Sparsify(pattern=pattern, sparsity=sparsity, min_size=0),)).run(model)
    value = model.graph.initializers["w"].const_value
    height, width = {"unstructured": (1, 1), "4x1": (4, 1), "2x2": (2, 2)}[pattern]
    assert value is not None
    matrix = value.numpy().T
    blocks = [
        matrix[r : r + height, c : c + width]
        for r in range(0, rows, height)
        for c in range(0, columns, width)
    ]
    assert sum(bool((block == 0).all()) for block in blocks) == round(sparsity * len(blocks))


PATTERN_SPECS = [
    "pattern=2:4",
    "pattern=4x1 sparsity=0.5",
    "pattern=4x1 sparsity=0.3",
    "pattern=4x4 sparsity=0.7",
    "pattern=unstructured sparsity=0.8",
    "pattern=fan-in sparsity=0.6",
    "pattern=unstructured sparsity=0",
    "pattern=unstructured sparsity=0.5 scope=global",
]


@pytest.mark.parametrize("second", PATTERN_SPECS)
@pytest.mark.parametrize("first", PATTERN_SPECS)
def test_zeros_that_are_there_stay_and_the_tag_is_what_they_are(first: str, second: str) -> None:
    model = graph(TEXT, WEIGHTS)
    Pipeline.parse(f"sparsify{{{first} min-size=0}}").run(model)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    Pipeline.parse(f"sparsify{{{second} min-size=0}}").run(model)
    assert not verify(model)
    for name, value in model.graph.initializers.items():
        old, new = before[name], value.const_value
        assert old is not None and new is not None
        kept = new.numpy() != 0
        np.testing.assert_array_equal(new.numpy()[kept], old.numpy()[kept])
        if first == second:
            np.testing.assert_array_equal(new.numpy(), old.numpy())


def tag_after(*specs: str) -> tuple[str, float, list[str]]:
    """The tag and zeros of layer d, and the last pass's notes."""
    model = graph(TEXT, WEIGHTS)
    notes: tuple[str, ...] = ()
    for spec in specs:
        notes = Pipeline.parse(f"sparsify{{{spec} skip=a,b,c}}").run(model).reports[-1].result.notes
    value = model.graph.initializers["d.weight"]
    assert value.const_value is not None
    return str(get_encoding(value)), zeros(value.const_value.numpy()) / 5760, list(notes[1:])


def test_what_existing_zeros_make_of_a_pattern() -> None:
    """Existing zeros count towards the asked share, block by block, and are never undone."""
    pattern, share, notes = tag_after("pattern=2:4", "pattern=4x1 sparsity=0.5")
    assert pattern == "unstructured" and share > 0.6
    assert notes == ["d had other zeros before, so it is unstructured, not 4x1"]
    assert tag_after("sparsity=0.8", "pattern=2:4")[0] == "2:4"
    pattern, share, notes = tag_after("pattern=4x1 sparsity=0.8", "pattern=4x1 sparsity=0.5")
    assert (pattern, share, notes) == ("4x1", pytest.approx(0.8, abs=0.02), [])
    pattern, share, notes = tag_after("pattern=4x1 sparsity=0.5", "pattern=4x1 sparsity=0.75")
    assert (pattern, share, notes) == ("4x1", pytest.approx(0.75, abs=0.02), [])


def test_ties_in_rows_and_groups() -> None:
    """Exactly as many stay, the later ones, whether numbers are equal or not."""
    for options, kept in (("pattern=2:4", 4), ("pattern=fan-in sparsity=0.75", 2)):
        w = np.array([[3, 1, 1, 1, 2, 2, 2, 2], [1, 1, 1, 1, 1, 1, 1, 1]], np.float32).T
        model = graph("(float[1,8] x) => (float y) { y = MatMul(x, w) }", {"w": w})
        Pipeline.parse(f"sparsify{{{options} min-size=0}}").run(model)
        value = model.graph.initializers["w"].const_value
        assert value is not None
        assert np.count_nonzero(value.numpy(), axis=0).tolist() == [kept, kept]
        assert (value.numpy()[-kept // 2 :, 1] == 1).all() and value.numpy()[0, 0] == 3


BAD = [
    ("pattern=dense sparsity=0.5", "not sparse"),
    ("pattern=3y2 sparsity=0.5", "not a pattern"),
    ("pattern=4:2", "0 < n < m"),
    ("pattern=4x1", "needs a sparsity"),
    ("pattern=4x1 sparsity=1.0", "under 1"),
    ("pattern=4x1 sparsity=nan", "under 1"),
    ("pattern=2:4 sparsity=0.75", "fixes the sparsity at 0.5"),
    ("pattern=2:4 scope=global", "no global budget"),
    ("sparsity=0.5 scope=model", "layer, global or erk"),
    ("sparsity=0.5 min-size=-1", "min-size"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline.parse(f"sparsify{{{options}}}")


def test_the_matching_sparsity_of_groups_is_accepted() -> None:
    assert str(Pipeline.parse("sparsify{pattern=2:4 sparsity=0.5}")) == "sparsify{pattern=2:4 sparsity=0.5}"
