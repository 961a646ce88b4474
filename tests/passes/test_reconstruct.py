"""Reconstruction: the algebra against the sequential update, exact recovery, errors, what is left alone."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir
import pytest
from criteria_graphs import Pruned, array, without
from pass_graphs import Weights, array_of, graph

import sparsecc
from sparsecc.axes.groups import groups
from sparsecc.errors import Refusal, UsageError
from sparsecc.ir import evaluate, random_inputs, verify
from sparsecc.ir.provenance import passes_of
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.obspa import StructuredOBS
from sparsecc.passes.hooks import relative_difference
from sparsecc.passes.reconstruct import reconstruct, regression
from sparsecc.passes.reconstruct_batch_norm import adapted


def run(pruned: Pruned, calibration: Calibration | None, **options: bool | float | str) -> ir.Model:
    """Reconstruct and verify the graph."""
    found = reconstruct(
        pruned.original,
        pruned.model,
        pruned.groups,
        pruned.kept,
        calibration,
        **options,  # pyright: ignore[reportArgumentType]
    )
    assert not verify(found)
    return found


def data(model: ir.Model, count: int = 8, seed: int = 100) -> Calibration:
    """Random inputs."""
    return Calibration([random_inputs(model, seed + number) for number in range(count)])


def error(pruned: ir.Model, original: ir.Model) -> float:
    """Squared output error over the squared output, on inputs that nothing was fitted to."""
    lost = total = 0.0
    for seed in range(4):
        inputs = random_inputs(original, seed)
        expected, found = evaluate(original, inputs)["y"], evaluate(pruned, inputs)["y"]
        lost += float(np.sum(np.square(found - expected, dtype=np.float64)))
        total += float(np.sum(np.square(expected, dtype=np.float64)))
    return lost / total


def moments_of(columns: int, seed: int = 0) -> np.ndarray:
    """A well-conditioned H of correlated inputs."""
    generator = np.random.default_rng(seed)
    inputs = generator.standard_normal((columns, columns)) @ generator.standard_normal((columns, 200))
    return inputs @ inputs.T


def one_by_one(weights: np.ndarray, moments: np.ndarray, blocks: list[np.ndarray]) -> np.ndarray:
    """Remove block after block and update the rest each time (Frantar and Alistarh 2022, eq. 3 and 4)."""
    weights, inverse = weights.copy(), np.linalg.inv(moments)
    gone = np.zeros(len(moments), np.bool_)
    for block in blocks:
        own = np.linalg.inv(inverse[np.ix_(block, block)])
        weights -= weights[:, block] @ own @ inverse[block]
        inverse -= inverse[:, block] @ own @ inverse[block]
        gone[block] = True
    return weights[:, ~gone]


@pytest.mark.parametrize("blocks", [[[4]], [[0], [7], [3]], [[2, 3], [8, 9]], [[9, 0, 5], [1, 2, 3]]])
def test_one_solution_equals_the_sequence_of_block_updates(blocks: list[list[int]]) -> None:
    moments, weights = moments_of(10), np.random.default_rng(1).standard_normal((6, 10))
    kept = np.delete(np.arange(10), sum(blocks, []))  # noqa: RUF017
    damping = 0.01
    damped = moments + damping * np.diag(moments)[kept].mean() * np.eye(10)
    expected = one_by_one(weights, damped, [np.array(block) for block in blocks])
    cross = moments[:, kept]
    found = regression(weights[None], cross[None], cross[kept][None], kept, damping)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("damping", [1e-6, 0.01, 1.0])
def test_uncorrelated_inputs_of_equal_power_mean_plain_slicing(damping: float) -> None:
    weights = np.random.default_rng(1).standard_normal((2, 6, 10))
    kept = np.array([0, 3, 4, 9])
    cross = np.tile(np.eye(10)[:, kept], (2, 1, 1)) * 7
    found = regression(weights, cross, cross[:, kept], kept, damping)
    np.testing.assert_allclose(found, weights[:, :, kept], rtol=0, atol=1e-14)


def test_dead_inputs_keep_their_weights() -> None:
    moments, weights = moments_of(6), np.random.default_rng(1).standard_normal((1, 4, 6))
    moments[2] = moments[:, 2] = 0
    kept = np.array([0, 2, 5])
    cross = moments[:, kept]
    found = regression(weights, cross[None], cross[kept][None], kept, 0.01)
    np.testing.assert_allclose(found[0, :, 1], weights[0, :, 2], rtol=0, atol=1e-13)


def test_a_network_with_uncorrelated_features_is_only_sliced() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    model = graph(
        "(double[16,8] x) => (double y) { a = MatMul(x, w)  y = MatMul(a, v) }",
        {"w": basis, "v": np.random.default_rng(1).standard_normal((8, 5))},
    )
    pruned = without(model, {"w.1": [1, 4, 6]})
    eye = np.concatenate([np.eye(8), -np.eye(8)])
    for regress in (False, True):
        found = run(pruned, Calibration([{"x": eye}]), regress=regress)
        for name in ("w", "v"):
            np.testing.assert_allclose(array(found, name), array(pruned.model, name), rtol=0, atol=1e-14)


def doubled(shape: tuple[int, ...], axis: int, seed: int = 0) -> np.ndarray:
    """A weight whose second half along an axis repeats the first."""
    half = list(shape)
    half[axis] //= 2
    weight = np.random.default_rng(seed).standard_normal(half).astype(np.float32)
    return np.concatenate([weight, weight], axis)


MATMUL = "(float[12,6] x) => (float y) { a = MatMul(x, w)  r = Relu(a)  y = MatMul(r, v) }"
GEMM = "(float[12,6] x) => (float y) { a = MatMul(x, w)  r = Relu(a)  y = Gemm<transB=1>(r, v, c) }"
TURNED = """(float[12,6] x) => (float y) {
    a = MatMul(x, w)  r = Relu(a)  t = Transpose<perm=[1,0]>(v)  m = MatMul(r, t)  y = Add(m, c) }"""
CONV = "(float[2,6,7,7] x) => (float y) { a = Conv(x, w)  r = Relu(a)  y = Conv<pads=[1,1,1,1]>(r, v, c) }"
STRIDED = """(float[2,6,9,8] x) => (float y) {
    a = Conv(x, w)  r = Relu(a)  y = Conv<strides=[2,1], dilations=[1,2], pads=[0,1,1,2]>(r, v) }"""
POINTWISE = "(float[2,6,7] x) => (float y) { a = Conv(x, w)  r = Relu(a)  y = Conv(r, v, c) }"
GROUPED = """(float[2,6,7,7] x) => (float y) {
    a = Conv<group=2>(x, w)  r = Relu(a)  y = Conv<group=2, pads=[1,1,1,1]>(r, v, c) }"""


@pytest.mark.parametrize("regress", [False, True])
@pytest.mark.parametrize(
    ("text", "weights", "key", "removed"),
    [
        (MATMUL, {"w": doubled((6, 8), 1), "v": (8, 5)}, "w.1", [0, 2, 5, 7]),
        (GEMM, {"w": doubled((6, 8), 1), "v": (5, 8), "c": (5,)}, "w.1", [0, 2, 5, 7]),
        (TURNED, {"w": doubled((6, 8), 1), "v": (5, 8), "c": (5,)}, "w.1", [4, 5, 6, 7]),
        (CONV, {"w": doubled((8, 6, 1, 1), 0), "v": (5, 8, 3, 3), "c": (5,)}, "w.0", [0, 2, 5, 7]),
        (STRIDED, {"w": doubled((8, 6, 1, 1), 0), "v": (5, 8, 2, 3)}, "w.0", [0, 1, 6, 7]),
        (POINTWISE, {"w": doubled((8, 6, 3), 0), "v": (5, 8, 1), "c": (5,)}, "w.0", [0, 2, 5]),
    ],
)
def test_what_others_repeat_is_recovered(
    text: str, weights: Weights, key: str, removed: list[int], regress: bool
) -> None:
    model = graph(text, weights)
    pruned = without(model, {key: removed})
    assert error(pruned.model, model) > 0.05
    found = run(pruned, data(model), regress=regress, damping=1e-9, shrink=False)
    assert error(found, model) < 1e-10


@pytest.mark.parametrize("regress", [False, True])
def test_channels_inside_the_groups_of_a_convolution(regress: bool) -> None:
    half = doubled((4, 3, 1, 1), 0)
    other = doubled((4, 3, 1, 1), 0, seed=1)
    model = graph(GROUPED, {"w": np.concatenate([half, other]), "v": (6, 4, 3, 3), "c": (6,)})
    pruned = without(model, {"v.1": [0, 3]})
    assert array(pruned.model, "v").shape == (6, 2, 3, 3) and error(pruned.model, model) > 0.05
    found = run(pruned, data(model), regress=regress, damping=1e-9, shrink=False)
    assert error(found, model) < 1e-10


@pytest.mark.parametrize("regress", [False, True])
def test_whole_groups_of_a_convolution(regress: bool) -> None:
    text = """(float[2,6,7,7] x) => (float y) {
        a = Conv(x, w)  b = Conv<group=4>(a, v)  r = Relu(b)  y = Conv(r, u) }"""
    model = graph(text, {"w": doubled((8, 6, 1, 1), 0), "v": doubled((8, 2, 3, 3), 0), "u": (5, 8, 1, 1)})
    (group,) = [group for group in groups(model).prunable if group.size == 4]
    pruned = without(model, {group.name: [0, 1]})
    assert array(pruned.model, "v").shape == (4, 2, 3, 3) and error(pruned.model, model) > 0.05
    assert error(run(pruned, data(model), regress=regress, damping=1e-9, shrink=False), model) < 1e-10


@pytest.mark.parametrize("regress", [False, True])
def test_the_bias_takes_up_what_is_constant(regress: bool) -> None:
    text = """(float[12,6] x) => (float y) {
        a = Gemm(x, w, b)  r = Relu(a)  y = Gemm(r, v, c) }"""
    w = array_of("w", (6, 8))
    w[:, [1, 6]] = 0
    b = np.where(np.isin(np.arange(8), [1, 6]), 2, 0.1).astype(np.float32)
    model = graph(text, {"w": w, "b": b, "v": (8, 5), "c": (5,)})
    pruned = without(model, {"w.1": [1, 6]})
    assert error(pruned.model, model) > 0.05
    found = run(pruned, data(model), regress=regress, damping=1e-9, shrink=False)
    assert error(found, model) < 1e-10
    expected = array(model, "c") + 2 * array(model, "v")[[1, 6]].sum(0)
    np.testing.assert_allclose(array(found, "c"), expected, rtol=1e-4)


def test_the_mean_of_a_batch_norm_takes_up_what_is_constant() -> None:
    text = """(float[2,6,5,5] x) => (float y) {
        a = Conv(x, w, b)  r = Relu(a)  m = Conv(r, v)  y = BatchNormalization(m, s, t, mean, variance) }"""
    w = array_of("w", (8, 6, 1, 1))
    w[[1, 6]] = 0
    b = np.where(np.isin(np.arange(8), [1, 6]), 2, 0.1).astype(np.float32)
    norm: Weights = {"s": (5,), "t": (5,), "mean": (5,), "variance": np.full(5, 3, np.float32)}
    model = graph(text, {"w": w, "b": b, "v": (5, 8, 3, 3), **norm})
    pruned = without(model, {"w.0": [1, 6]})
    assert error(pruned.model, model) > 0.05
    found = run(pruned, data(model), damping=1e-9, shrink=False)
    assert error(found, model) < 1e-10
    expected = array(model, "mean") - 2 * array(model, "v")[:, [1, 6]].sum((1, 2, 3))
    np.testing.assert_allclose(array(found, "mean"), expected, rtol=1e-4)


def deep(seed: int) -> Pruned:
    """Six layers with correlated features, without half of their channels."""
    generator = np.random.default_rng(seed)
    sizes = [16, 24, 24, 24, 24, 24, 5]
    text, weights = "", dict[str, np.ndarray]()
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        rank = min(14, inputs, outputs)
        weight = generator.standard_normal((outputs, rank)) @ generator.standard_normal((rank, inputs))
        weights[f"w{layer}"] = (weight * np.sqrt(2 / inputs / rank)).astype(np.float32)
        weights[f"b{layer}"] = (generator.standard_normal(outputs) / 4).astype(np.float32)
        text += f"  a{layer} = Gemm<transB=1>({f'r{layer - 1}' if layer else 'x'}, w{layer}, b{layer})"
        text += f"  r{layer} = Relu(a{layer})" if layer < 5 else "  y = Identity(a5)"
    model = graph(f"(float[64,16] x) => (float y) {{ {text} }}", weights)
    return without(model, {f"w{layer}.0": list(range(0, 24, 2)) for layer in range(5)})


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_errors_fall_and_fall_further_layer_by_layer(seed: int) -> None:
    pruned = deep(seed)
    plain = error(pruned.model, pruned.original)
    apart = error(run(pruned, data(pruned.original)), pruned.original)
    in_turn = error(run(pruned, data(pruned.original), regress=True), pruned.original)
    noise = error(run(pruned, None, mode="noise"), pruned.original)
    assert apart < plain / 3
    assert noise < plain / 3
    assert in_turn < apart


def test_errors_of_a_convolutional_network_fall() -> None:
    text = """(float[4,3,8,8] x) => (float y) {
        a = Conv<pads=[1,1,1,1]>(x, a__weight)  b = BatchNormalization(a, s, t, mean, variance)  c = Relu(b)
        d = Conv<pads=[1,1,1,1], group=12>(c, d__weight, d__bias)  e = Relu(d)
        f = Conv<pads=[1,1,1,1], strides=[2,2]>(e, f__weight, f__bias)  r = Relu(f)
        y = Conv(r, g__weight, g__bias) }"""
    mixing = array_of("mixing", (12, 6)) / 6
    weights: Weights = {
        "a.weight": np.einsum("or,rikl->oikl", mixing, array_of("basis", (6, 3, 3, 3))),
        **dict.fromkeys(("s", "t", "mean", "d.bias", "f.bias"), (12,)),
        "variance": np.ones(12, np.float32),
        "d.weight": (12, 1, 3, 3),
        "f.weight": (12, 12, 3, 3),
        "g.weight": (5, 12, 1, 1),
        "g.bias": (5,),
    }
    model = graph(text, weights)
    pruned = without(model, {"a.weight.0": [0, 2, 3, 5], "f.weight.0": [1, 7, 8, 9]})
    plain = error(pruned.model, model)
    for options in ({}, {"regress": True}):
        assert error(run(pruned, data(model), **options), model) < plain / 2


def test_only_what_was_fitted_is_new() -> None:
    pruned = deep(0)
    before = {name: array(pruned.model, name).copy() for name in pruned.model.graph.initializers}
    found = run(pruned, data(pruned.original, 2))
    for name, values in before.items():
        np.testing.assert_array_equal(array(pruned.model, name), values)
        assert not passes_of(pruned.model.graph.initializers[name])
    fitted = {name for name in before if (array(found, name) != before[name]).any()}
    assert fitted == {name for name in before if name[1] != "0"}
    assert all(passes_of(found.graph.initializers[name]) == ("reconstruct",) for name in fitted)
    untouched = found.graph.initializers["w0"].const_value
    assert untouched is pruned.model.graph.initializers["w0"].const_value


@pytest.mark.parametrize("regress", [False, True])
def test_nothing_pruned_nothing_changed(regress: bool) -> None:
    model = deep(0).original
    found = run(without(model, {}), data(model, 2), regress=regress)
    for name in model.graph.initializers:
        assert relative_difference(array(found, name), array(model, name)) < 1e-6, name


@pytest.mark.parametrize("regress", [False, True])
def test_a_weight_with_two_uses_is_fitted_to_both(regress: bool) -> None:
    text = """(float[12,6] x, float[12,6] z) => (float y) {
        a = MatMul(x, w)  b = MatMul(z, w)  r = Relu(a)  s = Relu(b)
        c = MatMul(r, v)  d = MatMul(s, v)  y = Sub(c, d) }"""
    model = graph(text, {"w": doubled((6, 8), 1), "v": (8, 5)})
    pruned = without(model, {"w.1": [4, 1, 6, 3]})
    assert error(pruned.model, model) > 0.05
    assert error(run(pruned, data(model), regress=regress, damping=1e-9, shrink=False), model) < 1e-10


def test_statistics_of_a_batch_norm() -> None:
    text = """(float[3,4,5,5] x) => (float y) {
        a = Conv(x, w)  b = Conv(a, v)  n = BatchNormalization(b, s, t, mean, variance)
        r = Relu(n)  c = Conv(r, u)  y = BatchNormalization(c, s2, t2, mean2, variance2) }"""
    weights: Weights = {"w": (6, 4, 1, 1), "v": (5, 6, 3, 3), "u": (3, 5, 1, 1)}
    for suffix, size in (("", 5), ("2", 3)):
        names = dict.fromkeys((f"s{suffix}", f"t{suffix}", f"mean{suffix}"), (size,))
        weights = {**weights, **names, f"variance{suffix}": np.ones(size, np.float32)}
    model = graph(text, weights)
    pruned = without(model, {"w.0": [1, 2]})
    calibration = data(model, 3)
    found = run(pruned, calibration, batch_norm=True)
    part = found.clone()
    values = {value.name: value for node in part.graph for value in node.outputs}
    part.graph.outputs.extend([values["b"], values["c"]])
    seen = [evaluate(part, batch) for batch, _ in calibration.stream(model)]
    for name, suffix in (("b", ""), ("c", "2")):
        stacked = np.concatenate([batch[name] for batch in seen]).astype(np.float64)
        np.testing.assert_allclose(
            array(found, f"mean{suffix}"), stacked.mean((0, 2, 3)), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(array(found, f"variance{suffix}"), stacked.var((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize("regress", [False, True])
def test_few_rows_are_trusted_less(regress: bool) -> None:
    pruned = deep(2)
    few = Calibration([{"x": random_inputs(pruned.original, 50)["x"][np.arange(64) % 8]}])
    trusting = error(run(pruned, few, regress=regress, shrink=False), pruned.original)
    careful = error(run(pruned, few, regress=regress), pruned.original)
    assert careful < trusting * 0.9


def test_what_is_left_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """(int64[3] ids) => (float y, float z) {
        e = Gather(table, ids)  t = Transpose<perm=[1,0]>(table)  y = MatMul(e, t)  z = MatMul(e, v) }"""
    model = graph(text, {"table": (9, 6), "v": (6, 4)})
    pruned = without(model, {"v.0": [2]})
    monkeypatch.setattr("sparsecc.passes.reconstruct.MAX_COLUMNS", 5)
    refusals: list[Refusal] = []
    calibration = Calibration([{"ids": np.array([1, 5, 7])}])
    found = reconstruct(model, pruned.model, pruned.groups, pruned.kept, calibration, refusals=refusals)
    assert [(refusal.where, refusal.code) for refusal in refusals] == [("table", "shared"), ("v", "too-wide")]
    for name in ("table", "v"):
        np.testing.assert_array_equal(array(found, name), array(pruned.model, name))


def test_bad_options() -> None:
    pruned = deep(0)
    some = data(pruned.original, 1)
    with pytest.raises(UsageError, match="mode of a reconstruction is one of id, ood, noise, not 'none'"):
        run(pruned, some, mode="none")
    with pytest.raises(UsageError, match="mode id needs calibration data and none were given"):
        run(pruned, None)
    with pytest.raises(UsageError, match="mode noise makes its own inputs; leave calibration out"):
        run(pruned, some, mode="noise")
    with pytest.raises(UsageError, match="damping of a reconstruction must be positive, not 0"):
        run(pruned, some, damping=0.0)
    with pytest.raises(UsageError, match="statistics can only be estimated on data like the training data"):
        run(pruned, some, mode="ood", batch_norm=True)
    with pytest.raises(UsageError, match="the groups are of another model than the original"):
        reconstruct(pruned.model, pruned.model, pruned.groups, pruned.kept, some)
    with pytest.raises(UsageError, match="calibration batch 0 lacks the input x"):
        run(pruned, Calibration([{}]))


BLOCK = """(float[2,3,6,6] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, a__weight)
    n = BatchNormalization(a, n__scale, n__bias, n__mean, n__variance)
    r = Relu(n)  c = Conv(r, c__weight)
    m = BatchNormalization(c, m__scale, m__bias, m__mean, m__variance)
    s = Relu(m)  p = GlobalAveragePool(s)  f = Flatten(p)  y = Gemm<transB=1>(f, d__weight, d__bias) }"""
BLOCK_WEIGHTS: Weights = {
    "a.weight": (8, 3, 3, 3), "c.weight": (6, 8, 3, 3), "d.weight": (5, 6), "d.bias": (5,),
    **{f"{norm}.{part}": np.full(size, value, np.float32)
       for norm, size in (("n", 8), ("m", 6))
       for part, value in (("scale", 1), ("bias", 0.3), ("mean", 0.1), ("variance", 2))},
}  # fmt: skip


def shifted(model: ir.Model, seed: int) -> Calibration:
    """Inputs of another scale and mean than `random_inputs` gives."""
    batches = [random_inputs(model, seed + number) for number in range(8)]
    return Calibration([{"x": 9 * batch["x"] + 5} for batch in batches])


@pytest.mark.parametrize("regress", [False, True])
def test_data_of_another_scale_leave_the_statistics(regress: bool) -> None:
    pruned = without(graph(BLOCK, BLOCK_WEIGHTS), {"a.weight.0": [1, 4, 6]})
    found = run(pruned, shifted(pruned.original, 50), mode="ood", regress=regress)
    kept = [0, 2, 3, 5, 7]
    np.testing.assert_array_equal(array(found, "n.variance"), array(pruned.original, "n.variance")[kept])
    np.testing.assert_array_equal(array(found, "m.variance"), array(pruned.original, "m.variance"))
    assert np.abs(array(found, "m.mean") - array(pruned.original, "m.mean")).max() > 1e-3
    assert not np.array_equal(array(found, "c.weight"), array(pruned.model, "c.weight"))


def test_data_that_fit_the_statistics_are_like_training_data() -> None:
    """Where the statistics are those of the data and noise already, modes ood and id are one."""
    model = graph(BLOCK, BLOCK_WEIGHTS)
    given = Calibration([random_inputs(model, 50 + number) for number in range(8)])
    same = given.with_noise(model)
    pruned = without(adapted(model, same), {"c.weight.0": [0, 3]})
    expected, found = run(pruned, same, mode="id"), run(pruned, given, mode="ood")
    for name in ("d.weight", "d.bias", "m.mean"):
        np.testing.assert_allclose(array(found, name), array(expected, name), rtol=1e-4, atol=1e-5)


TOKENS = """(int64[N,6] ids) => (float[N,6,3] y) {
    e = Gather(table, ids)  a = MatMul(e, a__weight)  r = Relu(a)  y = MatMul(r, d__weight) }"""
TOKEN_WEIGHTS: Weights = {"table": (40, 5), "a.weight": (5, 12), "d.weight": (12, 3)}


@pytest.mark.parametrize("regress", [False, True])
def test_noise_is_added_to_other_data(regress: bool) -> None:
    model = graph(TOKENS, TOKEN_WEIGHTS)
    few = Calibration([{"ids": np.random.default_rng(number).integers(0, 4, (8, 6))} for number in range(4)])
    pruned = without(model, {"d.weight.0": [1, 4, 7]})
    found = run(pruned, few, mode="ood", regress=regress, seed=3)
    expected = run(pruned, few.with_noise(model, 3), mode="id", regress=regress)
    alone = run(pruned, few, mode="id", regress=regress)
    np.testing.assert_array_equal(array(found, "d.weight"), array(expected, "d.weight"))
    assert np.abs(array(found, "d.weight") - array(alone, "d.weight")).max() > 1e-3


def test_obspa_ranks_as_it_reconstructs() -> None:
    model = graph(TOKENS, TOKEN_WEIGHTS)
    few = Calibration([{"ids": np.random.default_rng(number).integers(0, 4, (8, 6))} for number in range(4)])
    results = [
        sparsecc.prune(model, 0.25, criterion=criterion, data=few, reconstruct=mode, seed=3)
        for criterion, mode in (("obspa", "ood"), (StructuredOBS(adapt=True), "ood"), ("obspa", "id"))
    ]
    first, second, third = (array(result.model, "a.weight") for result in results)
    np.testing.assert_array_equal(first, second)
    assert first.shape != third.shape or (first != third).any()
