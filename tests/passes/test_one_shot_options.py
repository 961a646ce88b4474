"""Sparsity with data: residual connections, gradients, grids, blocks, going on after a stop, bad data."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from pass_graphs import Weights, graph
from test_round_to_outputs import inputs

import sparsecc
from sparsecc.cli.main import main
from sparsecc.errors import UsageError, VerificationError
from sparsecc.ir import evaluate, verify
from sparsecc.ir.edit import constant_of
from sparsecc.ir.encoding import Encoding, get_encoding
from sparsecc.ir.quantized import quantized_of
from sparsecc.passes.base import Context
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.linear_layers import linear_layers
from sparsecc.passes.frontier import Frontier
from sparsecc.passes.one_shot import OneShot, one_shot
from sparsecc.passes.one_shot_blocks import Reconstruction, blocks
from sparsecc.passes.one_shot_codes import on_grid
from sparsecc.passes.one_shot_importance import layer_shares, output_importance, squared_gradients
from sparsecc.passes.one_shot_solvers import Inputs, Problem, alps
from sparsecc.passes.one_shot_sums import Pair
from sparsecc.passes.permute import Permute
from sparsecc.passes.sparsify import Sparsify

RESIDUAL = """(float[4,24] x) => (float y) {
    a1 = MatMul(x, a)  a2 = Relu(a1)  a3 = MatMul(a2, b)  r = Add(x, a3)
    c1 = MatMul(r, c)  c2 = Relu(c1)  c3 = MatMul(c2, d)  c4 = Add(c3, k)  s = Add(r, c4)
    e1 = MatMul(s, e)  e2 = Relu(e1)  e3 = MatMul(e2, f)  y = Add(e3, s) }"""
RESIDUAL_WEIGHTS: Weights = dict.fromkeys("abcdef", (24, 24)) | {"k": (24,)}
SHAPE = (4, 24)
ITEM = Sparsify(pattern="unstructured", sparsity=0.5, min_size=0)


def network() -> ir.Model:
    return graph(RESIDUAL, RESIDUAL_WEIGHTS)


def lost(found: ir.Model, dense: ir.Model) -> float:
    """Share of the output's variance, on data that no calibration saw."""
    error = total = 0.0
    for batch in inputs(SHAPE, 40, seed=1):
        wanted = evaluate(dense, batch)["y"]
        error += float(np.square(wanted - evaluate(found, batch)["y"]).sum())
        total += float(np.square(wanted - wanted.mean()).sum())
    return error / total


def relative(found: ir.Model, dense: ir.Model) -> float:
    """Mean square error on such data, of every channel over its mean square and then of every position."""
    pairs = [
        (evaluate(dense, batch)["y"], evaluate(found, batch)["y"]) for batch in inputs(SHAPE, 40, seed=1)
    ]
    wanted, away = np.concatenate([a for a, _ in pairs]), np.concatenate([a - b for a, b in pairs])
    channels = np.square(wanted).mean(axis=0)
    norms = (np.square(wanted) / channels).mean(axis=1, keepdims=True)
    return float((np.square(away) / channels / norms).mean())


def sparse(options: OneShot, item: Sparsify = ITEM, count: int = 60, folder: Path | None = None) -> ir.Model:
    dense = network()
    found = dense.clone()
    one_shot(dense, found, item, Calibration(inputs(SHAPE, count)), options, folder=folder)
    assert not verify(found)
    return found


def arrays(model: ir.Model) -> dict[str, np.ndarray]:
    found = {name: constant_of(value) for name, value in model.graph.initializers.items()}
    return {name: array for name, array in found.items() if array is not None}


def test_what_a_residual_connection_lost_is_wanted_of_the_layer_behind() -> None:
    """D Z' by hand, with D the difference of the two streams; the bias between is looked through."""
    dense = network()
    found = dense.clone()
    for name in "ab":
        array = constant_of(found.graph.initializers[name])
        assert array is not None
        found.graph.initializers[name].const_value = ir.tensor(array * 0.9, name=name)
    data = Calibration(inputs(SHAPE, 3))
    layers = {model: {layer.name: layer for layer in linear_layers(model)[0]} for model in (dense, found)}
    fronts = Frontier(dense, data), Frontier(found, data)
    _, sums = (Pair(layers[dense][name], layers[found][name], True).sums(fronts) for name in "cd")
    for name in ("r", "c2"):
        for model in (dense, found):
            value = next(v for node in model.graph for v in node.outputs if v.name == name)
            model.graph.outputs.append(value)
    wanted = np.zeros((24, 25))
    for batch in inputs(SHAPE, 3):
        left, right = evaluate(dense, batch), evaluate(found, batch)
        constant = np.ones((4, 1), np.float32)
        wanted += (left["r"] - right["r"]).T @ np.concatenate([right["c2"], constant], axis=1)
    assert sums.lost is not None
    np.testing.assert_allclose(sums.lost[0], wanted, rtol=1e-4, atol=1e-3)


def test_batch_normalisation_in_a_residual_connection() -> None:
    """The layer in front of it must lose D over the scale of the normalisation."""
    text = """(float[2,8,5,5] x) => (float y) {
        a1 = Conv(x, a)  b1 = Conv(a1, b)  b2 = BatchNormalization(b1, s, t, m, v)  y = Add(a1, b2) }"""
    weights: Weights = {
        "a": (8, 8, 1, 1), "b": (8, 8, 1, 1), "s": np.linspace(0.5, 4, 8).astype(np.float32), "t": (8,),
        "m": (8,), "v": np.linspace(3, 1, 8).astype(np.float32),
    }  # fmt: skip
    dense = graph(text, weights)
    found = dense.clone()
    array = constant_of(found.graph.initializers["a"])
    assert array is not None
    found.graph.initializers["a"].const_value = ir.tensor(array * 0.9, name="a")
    data = Calibration(inputs((2, 8, 5, 5), 2))
    left, right = ({layer.name: layer for layer in linear_layers(m)[0]} for m in (dense, found))
    sums = Pair(left["b"], right["b"], True).sums((Frontier(dense, data), Frontier(found, data)))
    wanted = np.zeros((8, 9))
    for batch in inputs((2, 8, 5, 5), 2):
        z = np.einsum("oi,nihw->nhwo", 0.9 * array[:, :, 0, 0], batch["x"]).reshape(-1, 8)
        scale = np.linspace(0.5, 4, 8) / np.sqrt(np.linspace(3, 1, 8) + 1e-5)
        wanted += (z / 9 / scale).T @ np.concatenate([z, np.ones((len(z), 1))], axis=1)
    assert sums.lost is not None
    np.testing.assert_allclose(sums.lost[0], wanted, rtol=1e-3, atol=1e-2)


def test_residual_connections_are_repaired() -> None:
    assert lost(sparse(OneShot()), network()) < 0.8 * lost(sparse(OneShot(regress=False)), network())


def test_gradients_are_those_of_the_loss() -> None:
    dense = network()
    data = Calibration(inputs(SHAPE, 2), [batch["x"] * 0 for batch in inputs(SHAPE, 2)])
    layers, _ = linear_layers(dense)
    found = squared_gradients(dense, layers, data)
    step, name = 1e-2, "f"
    array = constant_of(dense.graph.initializers[name])
    assert array is not None
    for row, column in ((0, 0), (3, 7)):
        total = 0.0
        for batch in inputs(SHAPE, 2):
            values: list[float] = []
            for sign in (1, -1):
                moved = dense.clone()
                changed = array.copy()
                changed[column, row] += sign * step
                moved.graph.initializers[name].const_value = ir.tensor(changed, name=name)
                values.append(float(np.mean(np.square(evaluate(moved, batch)["y"], dtype=np.float64))))
            total += ((values[0] - values[1]) / (2 * step)) ** 2
        assert found[name][row, column] == pytest.approx(total, rel=2e-2)


@pytest.mark.parametrize("pattern", ["unstructured", "4x1"])
def test_layers_differ_and_the_total_is_exact(pattern: str) -> None:
    dense = network()
    layers, _ = linear_layers(dense)
    squares = squared_gradients(dense, layers, Calibration(inputs(SHAPE, 4)))
    found = layer_shares(layers, squares, Encoding.parse(pattern), 0.5)
    assert max(found.values()) - min(found.values()) > 0.02
    assert all(0.29 <= share <= 0.71 for share in found.values())
    blocks_of = 24 * 24 // (4 if pattern == "4x1" else 1)
    assert sum(round(share * blocks_of) for share in found.values()) == 3 * blocks_of
    model = sparse(OneShot(gradients=True), Sparsify(pattern=pattern, sparsity=0.5, min_size=0))
    zeros = sum(int((arrays(model)[name] == 0).sum()) for name in "abcdef")
    assert zeros == 3 * 24 * 24


def test_n_m_has_its_own_sparsity_in_every_layer() -> None:
    layers, _ = linear_layers(network())
    ones = {layer.name: np.ones((24, 24)) for layer in layers}
    assert layer_shares(layers, ones, Encoding.parse("2:4"), 0.5) == {}
    np.testing.assert_allclose(output_importance(np.ones((3, 4))), 1)
    assert output_importance(np.diag([9.0, 3, 0])).ravel() == pytest.approx([2.25, 0.75, 0.05])


def test_orders_by_what_the_loss_would_miss() -> None:
    """Every other feature counts a hundred times: reordered they share blocks, and the numbers stay."""
    text, weights = "(float[4,24] x) => (float y) { a1 = MatMul(x, a)  a2 = Relu(a1)  y = MatMul(a2, b) }", {
        "a": (24, 64), "b": (64, 24),
    }  # fmt: skip
    dense = graph(text, weights)
    squares = {
        "a": np.where(np.arange(64) % 2, 100.0, 1.0)[:, None] + np.zeros((64, 24)),
        "b": np.ones((24, 64)),
    }
    model = dense.clone()
    item = Permute("4x1", 0.5, min_size=0)
    assert item.reorder(model, Context(), squares=squares).changed
    for batch in inputs(SHAPE, 2):
        wanted = evaluate(dense, batch)["y"]
        np.testing.assert_allclose(evaluate(model, batch)["y"], wanted, atol=1e-4 * np.abs(wanted).max())
    before, after = arrays(dense)["a"].T, arrays(model)["a"].T
    places = [int(np.abs(before - row).sum(axis=1).argmin()) for row in after]
    alike = [len({place % 2 for place in places[start : start + 4]}) == 1 for start in range(0, 64, 4)]
    assert np.mean(alike) > 0.8
    by_size = dense.clone()
    item.reorder(by_size, Context())
    assert not np.array_equal(arrays(by_size)["a"], arrays(model)["a"])


def test_codes_are_on_the_grid_and_none_is_better_alone() -> None:
    rng = np.random.default_rng(0)
    weights, data = (
        rng.standard_normal((1, 6, 64)),
        rng.standard_normal((300, 64)) @ rng.standard_normal((64, 64)),
    )
    inputs_ = Inputs((data.T @ data)[None], 0.01)
    case = Problem.of(weights, inputs_, weights @ (data.T @ data), Encoding.parse("unstructured"), 0.5)
    solved = alps(case)
    for bits, largest in ((8, 127), (4, 7)):
        found = on_grid(case, solved, bits)
        assert not found[solved == 0].any()
        grid = quantized_of(found[0].astype(np.float32))
        assert grid is not None
        assert grid.bits == bits
        assert np.abs(grid.codes).max() == largest
        scale = np.repeat(grid.scale[:, None], 64, 1) if bits == 8 else np.repeat(grid.scale, 32, 1)
        for row, column, step in itertools.product(range(6), range(64), (-1, 1)):
            code = int(grid.codes[row, column])
            if code == 0 or abs(code + step) > largest or abs(code) == largest:
                continue
            moved = found.copy()
            moved[0, row, column] += step * scale[row, column]
            assert case.error(moved) >= case.error(found) - 1e-6 * abs(case.error(found))


@pytest.mark.parametrize("bits", [8, 4])
def test_quantize_keeps_the_values(bits: int) -> None:
    """Chosen together they lose less than weights that are rounded afterwards, and are stored as they are."""
    text, weights = "(float[4,32] x) => (float y) { a1 = MatMul(x, a)  a2 = Relu(a1)  y = MatMul(a2, b) }", {
        "a": (32, 64), "b": (64, 32),
    }  # fmt: skip
    dense = graph(text, weights)
    data = Calibration(inputs((4, 32), 60))
    losses: list[float] = []
    for chosen in (bits, 32):
        result = sparsecc.sparsify(
            dense, "unstructured", 0.5, method="alps", calibration=data, bits=chosen, min_size=0
        )
        stored = sparsecc.quantize(result.model, bits=bits, min_size=0).model
        error = 0.0
        for batch in inputs((4, 32), 30, seed=1):
            wanted, found = evaluate(dense, batch)["y"], evaluate(stored, batch)["y"]
            error += float(np.square(wanted - found).sum())
            if chosen == bits:
                same = evaluate(result.model, batch)["y"]
                np.testing.assert_allclose(found, same, rtol=1e-4, atol=1e-4 * np.abs(same).max())
        losses.append(error)
    assert losses[0] < losses[1]


def test_blocks_end_where_all_passes_through_one_value() -> None:
    model = network()
    layers, _ = linear_layers(model)
    found = blocks(model, layers, least=2)
    assert [[layer.name for layer in block.layers] for block in found] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert [(block.inputs, block.output) for block in found] == [
        (("x",), "a3"), (("x", "a3"), "s"), (("s",), "y"),
    ]  # fmt: skip
    (whole,) = blocks(model, layers, least=7)
    assert (len(whole.layers), whole.output) == (6, "y")


def test_no_block_ends_inside_a_residual_connection_or_with_two_outputs() -> None:
    text = """(float[4,24] x) => (float y, float z) {
        a1 = MatMul(x, a)  b1 = MatMul(a1, b)  r = Add(a1, b1)  y = MatMul(r, c)  z = MatMul(r, d) }"""
    model = graph(text, dict.fromkeys("abcd", (24, 24)))
    found = blocks(model, linear_layers(model)[0], least=1)
    shown = [("".join(layer.name for layer in block.layers), block.output) for block in found]
    assert shown == [("a", "a1"), ("b", "r"), ("cd", None)]


@pytest.mark.parametrize("pattern", ["unstructured", "4x1", "2:4"])
def test_blocks_fitted_by_gradient_lose_less(pattern: str) -> None:
    item = Sparsify(pattern=pattern, sparsity=-1.0 if ":" in pattern else 0.5, min_size=0)
    dense, plain = network(), sparse(OneShot(), item)
    fitted = sparse(OneShot(reconstruction=Reconstruction(epochs=10)), item)
    assert relative(fitted, dense) < 0.9 * relative(plain, dense)
    for name in "abcdef":
        assert np.mean(arrays(fitted)[name] == 0) == 0.5
        assert str(get_encoding(fitted.graph.initializers[name], 1)) == pattern


@pytest.mark.parametrize("options", [OneShot(), OneShot(reconstruction=Reconstruction(epochs=2))])
def test_an_interrupted_run_goes_on_to_the_same_result(options: OneShot, tmp_path: Path) -> None:
    whole = arrays(sparse(options))
    dense = network()
    data = Calibration(inputs(SHAPE, 60))

    def stop(done: int, total: int) -> None:
        if done >= 3:
            raise KeyboardInterrupt

    broken = dense.clone()
    with contextlib.suppress(KeyboardInterrupt):
        one_shot(dense, broken, ITEM, data, options, folder=tmp_path, progress=stop)
    steps = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert (len(steps) == 3) == (options.reconstruction is None)
    told: list[int] = []
    again = dense.clone()
    one_shot(dense, again, ITEM, data, options, folder=tmp_path, progress=lambda done, _: told.append(done))
    for name, array in arrays(again).items():
        np.testing.assert_array_equal(array, whole[name])
    with pytest.raises(UsageError, match="another model, data or options"):
        one_shot(dense, dense.clone(), ITEM, data, OneShot("wanda"), folder=tmp_path)
    next(tmp_path.glob("*.npz")).write_bytes(b"no zip")
    with pytest.raises(UsageError, match="damaged"):
        one_shot(dense, dense.clone(), ITEM, data, options, folder=tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_values_that_are_not_finite_name_the_layer() -> None:
    weights = dict(RESIDUAL_WEIGHTS) | {"b": np.full((24, 24), 3e38, np.float32)}
    dense = graph(RESIDUAL, weights)
    with pytest.raises(
        VerificationError, match="input r of layer c is NaN or infinite in calibration batch 0"
    ):
        one_shot(dense, dense.clone(), ITEM, Calibration(inputs(SHAPE, 2)))


def test_a_layer_without_calibration() -> None:
    model = graph("(float[n,24] x) => (float y) { y = MatMul(x, a) }", {"a": (24, 24)})
    empty = Calibration([{"x": np.zeros((0, 24), np.float32)}])
    with pytest.raises(UsageError, match="no row for layer a"):
        one_shot(model, model.clone(), ITEM, empty)


def test_a_sparsity_that_the_pattern_cannot_reach() -> None:
    data = Calibration(inputs(SHAPE, 1))
    with pytest.raises(UsageError, match=r"fixes the sparsity at 0.5, not 0.7"):
        sparsecc.sparsify(network(), "2:4", 0.7, method="alps", calibration=data)


def test_bad_options() -> None:
    data = Calibration(inputs(SHAPE, 1))
    with pytest.raises(UsageError, match="32, 8 or 4 bits, not 5"):
        sparsecc.sparsify(network(), method="alps", calibration=data, bits=5)
    with pytest.raises(UsageError, match="leave the grid"):
        sparsecc.sparsify(network(), method="alps", calibration=data, bits=8, reconstruct=2)
    with pytest.raises(UsageError, match="need a method with calibration"):
        sparsecc.sparsify(network(), gradients=True)
    with pytest.raises(UsageError, match="damping must be positive, not 0"):
        sparsecc.sparsify(network(), method="alps", calibration=data, damping=0)
    with pytest.raises(UsageError, match="need a method with calibration"):
        sparsecc.sparsify(network(), damping=0.1)
    with pytest.raises(UsageError, match="must not be negative"):
        sparsecc.sparsify(network(), method="alps", calibration=data, reconstruct=-1)


def test_damping_pulls_towards_the_dense_weights() -> None:
    data = Calibration(inputs(SHAPE, 3))
    gaps: list[float] = []
    for damping in (0.01, 1.0, 1e4):
        model = sparsecc.sparsify(
            network(), "unstructured", 0.5, min_size=0, method="alps", calibration=data, damping=damping
        ).model
        before, after = arrays(network()), arrays(model)
        gaps.append(sum(float(np.square((before[n] - after[n])[after[n] != 0]).sum()) for n in "abcdef"))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3 * gaps[0]


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ir.save(network(), tmp_path / "dense.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([batch["x"] for batch in inputs(SHAPE, 20)]))
    command = [
        "sparsify", str(tmp_path / "dense.onnx"), "-o", str(tmp_path / "sparse.onnx"), "--pattern", "4x1",
        "--sparsity", "0.5", "--min-size", "0", "--calibration", str(tmp_path / "data.npz"), "--gradients",
        "--damping", "0.1", "--reconstruct", "2", "--resume", str(tmp_path / "state"),
    ]  # fmt: skip
    assert main(command) == 0
    assert "blocks were fitted by gradient" in capsys.readouterr().out
    assert list((tmp_path / "state").glob("step-*.npz"))
    np.savez(tmp_path / "wide.npz", x=np.zeros((4, 25), np.float32))
    assert main([*command[:-2], "--force", "--calibration", str(tmp_path / "wide.npz")]) == 2
    assert "[4, 25]" in capsys.readouterr().err


@pytest.mark.parametrize("options", [OneShot(), OneShot("wanda"), OneShot(gradients=True)], ids=repr)
def test_a_batch_that_counts_twice_is_one_that_comes_twice(options: OneShot) -> None:
    first, second = inputs(SHAPE, 2)
    found = [network(), network(), network()]
    for model, data in zip(
        found,
        (
            Calibration([first, second], weights=[2, 1]),
            Calibration([first, first, second]),
            Calibration([first, second]),
        ),
        strict=True,
    ):
        one_shot(network(), model, ITEM, data, options)
    weighted, repeated, alike = (np.stack([arrays(model)[name] for name in "abcdef"]) for model in found)
    np.testing.assert_allclose(weighted, repeated, rtol=2e-4, atol=2e-5)
    assert not np.allclose(weighted, alike, atol=1e-3)
