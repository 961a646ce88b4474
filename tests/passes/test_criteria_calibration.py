"""Calibration data: what is accepted, every refusal's sentence, noise, and the losses of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pass_graphs import graph

from sparsecc.axes.groups import Groups, groups
from sparsecc.errors import UsageError
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.calibration import read_calibration
from sparsecc.passes.criteria.differentiation import default_loss

TWO_INPUTS = """(float[N,3] x, int64[N,2] ids) => (float y) {
    e = Gather(table, ids)  f = Flatten(e)  c = Concat<axis=1>(x, f)  y = MatMul(c, w) }"""
MODEL = graph(TWO_INPUTS, {"table": (11, 4), "w": (11, 5)})
GOOD: dict[str, np.ndarray] = {"x": np.ones((4, 3), np.float32), "ids": np.zeros((4, 2), np.int64)}


def streamed(batch: Any, targets: Sequence[np.ndarray] | None = None) -> list[Any]:
    """The checked form of one batch."""
    return list(Calibration([batch], targets).stream(MODEL))


def test_good_batches_pass_as_they_are() -> None:
    ((batch, target),) = streamed(GOOD, [np.arange(4)])
    assert batch["x"] is GOOD["x"] and batch["ids"] is GOOD["ids"]
    assert target.tolist() == [0, 1, 2, 3]


def test_types_of_the_same_kind_are_converted() -> None:
    ((batch, _),) = streamed({"x": np.full((4, 3), 0.1), "ids": np.full((4, 2), 7, np.uint8)})
    assert batch["x"].dtype == np.float32 and batch["ids"].dtype == np.int64
    assert (batch["x"] == np.float32(0.1)).all() and (batch["ids"] == 7).all()


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        ([1, 2], r"calibration batch 0 is a list, expected arrays by input name: x, ids"),
        ({**GOOD, "mask": GOOD["x"]}, r"has an input 'mask' that the model has not; its inputs are x, ids"),
        ({"x": GOOD["x"]}, r"calibration batch 0 lacks the input ids: int64\[N,2\]"),
        ({**GOOD, "x": np.ones((4, 5), np.float32)}, r"input x .* shape \[4, 5\], expected float32\[N,3\]"),
        ({**GOOD, "x": np.ones(3, np.float32)}, r"input x .* shape \[3\], expected float32\[N,3\]; reshape"),
        ({**GOOD, "ids": np.zeros((5, 2), np.int64)}, r"input ids .* but N is 4 in input x"),
        ({**GOOD, "x": np.ones((4, 3), np.int64)}, r"input x .* is of type int64, expected float32\[N,3\]"),
        ({**GOOD, "ids": np.zeros((4, 2), np.float32)}, r"input ids .* is of type float32, expected int64"),
        ({**GOOD, "ids": np.full((4, 2), 2**63, np.uint64)}, r"input ids .* is of type uint64"),
        ({**GOOD, "x": np.full((4, 3), np.nan, np.float32)}, r"input x of calibration batch 0 holds NaN"),
        ({**GOOD, "x": np.full((4, 3), 1e300)}, r"input x of calibration batch 0 holds NaN or infinity"),
    ],
)
def test_bad_batches(batch: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        streamed(batch)


def test_numbers_of_batches_and_targets() -> None:
    target = np.zeros(4, np.int64)
    with pytest.raises(UsageError, match="there are no calibration batches"):
        list(Calibration([]).stream(MODEL))
    with pytest.raises(UsageError, match="more calibration batches than targets, which are 1"):
        list(Calibration([GOOD, GOOD], [target]).stream(MODEL))
    with pytest.raises(UsageError, match="there are 2 targets for 1 calibration batches"):
        streamed(GOOD, [target, target])
    with pytest.raises(UsageError, match="target of calibration batch 0 holds NaN"):
        streamed(GOOD, [np.full(4, np.nan)])


def test_batches_can_be_made_anew_but_not_exhausted() -> None:
    calibration = Calibration(lambda: (GOOD for _ in range(3)))
    assert [len(list(calibration.stream(MODEL))) for _ in range(2)] == [3, 3]
    with pytest.raises(UsageError, match="an iterator ends after the first time"):
        Calibration(iter([GOOD]))


def test_noise_fits_the_model_and_is_seeded() -> None:
    text = """(float[N,3] x, int64[N,2] ids, bool[N,1] keep, int64[1] step) => (float y) {
        e = Gather(table, ids)  f = Flatten(e)  c = Concat<axis=1>(x, f)  m = MatMul(c, w)
        s = Cast<to=1>(step)  a = Mul(m, s)  y = Where(keep, a, m) }"""
    found = groups(graph(text, {"table": (11, 4), "w": (11, 5)}))
    batches = [batch for batch, _ in Calibration.noise(found, 40, seed=1).stream(found.model)]
    again = [batch for batch, _ in Calibration.noise(found, 40, seed=1).stream(found.model)]
    other = next(Calibration.noise(found, 1, seed=2).stream(found.model))[0]
    for first, second in zip(batches, again, strict=True):
        assert all((first[name] == second[name]).all() for name in first)
    ids = np.stack([batch["ids"] for batch in batches])
    assert set(ids.ravel()) == set(range(11))
    assert all(batch["keep"].all() and (batch["step"] == 1).all() for batch in batches)
    x = np.stack([batch["x"] for batch in batches])
    assert len(np.unique(x)) == x.size and (other["x"] != batches[0]["x"]).all()


@pytest.mark.parametrize(("size", "count"), [(16, 256), (256, 64), (4096, 32)])
def test_small_inputs_get_more_batches_of_noise(size: int, count: int) -> None:
    model = graph(f"(float[2,{size}] x) => (float y) {{ y = MatMul(x, w) }}", {"w": (size, 5)})
    found = Groups(model)
    assert sum(1 for _ in Calibration.noise(found).stream(model)) == count
    assert sum(1 for _ in Calibration.noise(found, 3).stream(model)) == 3


def test_random_tokens_come_behind_the_batches_that_were_given() -> None:
    text = """(float[N,4] x, int64[N,2] ids, int64[N,2] kinds) => (float y) {
        e = Gather(table, ids)  k = Gather(few, kinds)  b = Add(e, k)  s = ReduceSum<keepdims=0>(b, axes)
        a = Add(s, x)  y = MatMul(a, w) }"""
    model = graph(text, {"table": (11, 4), "few": (2, 4), "w": (4, 5), "axes": np.array([1])})
    ids, kinds = np.ones((3, 2), np.int64), np.eye(3, 2, dtype=np.int64)
    batches = [{"x": np.full((3, 4), number, np.float32), "ids": ids, "kinds": kinds} for number in range(40)]
    given = Calibration(batches, weights=[1.0 + number for number in range(40)])
    found = given.with_noise(model, seed=1)
    read = [batch for batch, _ in found.stream(model)]
    assert [float(batch["x"][0, 0]) for batch in read] == [*range(40), *range(40)]
    assert all((batch["kinds"] == kinds).all() for batch in read)
    assert all((batch["ids"] == 1).all() for batch in read[:40])
    assert {int(token) for batch in read[40:] for token in batch["ids"].ravel()} == set(range(11))
    assert found.weights == [*(given.weights or ()), *(given.weights or ())]
    again = [batch["ids"] for batch, _ in given.with_noise(model, seed=1).stream(model)]
    assert all((one["ids"] == two).all() for one, two in zip(read, again, strict=True))
    pixels = graph("(float[N,4] x) => (float y) { y = MatMul(x, w) }", {"w": (4, 5)})
    assert given.with_noise(pixels) is given


def test_pictures_of_noise_have_the_scale_of_those_given() -> None:
    text = "(float[N,3,16,16] x, float[N] t) => (float y) { a = ReduceMean<keepdims=0>(x)  y = Add(a, t) }"
    model = graph(text, {})
    generator = np.random.default_rng(0)
    batches = [
        {
            "x": (generator.standard_normal((4, 3, 16, 16)) * 20 + 100).astype(np.float32),
            "t": np.ones(4, np.float32),
        }
        for _ in range(30)
    ]
    given = Calibration(batches)
    read = [batch for batch, _ in given.with_noise(model, seed=2).stream(model)]
    assert len(read) == 60
    assert all((one["x"] == two["x"]).all() for one, two in zip(batches, read, strict=False))
    noise = np.stack([batch["x"] for batch in read[30:]])
    assert noise.dtype == np.float32 and len({batch["x"].tobytes() for batch in read[30:]}) == 30
    assert abs(noise.mean() - 100) < 10 and 14 < noise.std() < 26
    assert all((batch["t"] == 1).all() for batch in read)
    with pytest.raises(UsageError, match="calibration batch 0 lacks the input x"):
        Calibration([{"t": np.ones(4, np.float32)}]).with_noise(model)
    neighbours = np.corrcoef(noise[..., 1:].ravel(), noise[..., :-1].ravel())[0, 1]
    assert neighbours > 0.5  # surfaces, where the given ones are white


LOGITS = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def cross_entropy(logits: np.ndarray, classes: np.ndarray) -> float:
    """Mean over all positions of -log softmax at the class, classes along the last axis."""
    logits = logits.astype(np.float64).reshape(-1, logits.shape[-1])
    chosen = logits[np.arange(len(logits)), classes.reshape(-1)]
    return float(np.mean(np.log(np.exp(logits).sum(1)) - chosen))


CLASSES_LAST = np.array([[0, 3, 1], [2, 2, 0]])
CLASSES_FIRST = np.array([[0, 2, 1, 1], [2, 2, 0, 1]])
SQUARES: Callable[[np.ndarray], float] = lambda array: float(np.mean(array.astype(np.float64) ** 2))  # noqa: E731


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        (LOGITS, CLASSES_LAST, cross_entropy(LOGITS, CLASSES_LAST)),
        (LOGITS, CLASSES_FIRST, cross_entropy(LOGITS.transpose(0, 2, 1), CLASSES_FIRST)),
        (LOGITS, LOGITS * 0.5, SQUARES(LOGITS * 0.5)),
        (LOGITS, None, cross_entropy(LOGITS, LOGITS.argmax(-1))),
        (LOGITS[None], None, cross_entropy(LOGITS[None].transpose(0, 2, 3, 1), LOGITS[None].argmax(1))),
        (LOGITS[:, :, :1], None, SQUARES(LOGITS[:, :, :1]) / 2),
        (LOGITS[0, 0], None, cross_entropy(LOGITS[0, 0], LOGITS[0, 0].argmax(keepdims=True))),
    ],
)
def test_losses_of_its_own(output: np.ndarray, target: np.ndarray | None, expected: float) -> None:
    wanted = None if target is None else torch.from_numpy(target)
    loss = default_loss((torch.from_numpy(output),), wanted)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_targets_of_wrong_shape() -> None:
    logits = torch.from_numpy(LOGITS)
    with pytest.raises(
        UsageError, match=r"integer target has the shape \[2, 2\].*\[2, 3, 4\], without its class"
    ):
        default_loss((logits,), torch.zeros(2, 2, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"float target has the shape \[2, 3\], expected .*\[2, 3, 4\]"):
        default_loss((logits,), torch.zeros(2, 3))
    with pytest.raises(UsageError, match="has no floating-point output"):
        default_loss((torch.zeros(2, dtype=torch.int64),), None)


def test_every_output_counts_without_targets() -> None:
    first, second = torch.from_numpy(LOGITS), torch.from_numpy(LOGITS[:, 0] * 3)
    loss = default_loss((first, torch.zeros(2, dtype=torch.int64), second), None)
    expected = cross_entropy(LOGITS, LOGITS.argmax(-1)) + SQUARES(LOGITS[:, 0] * 3) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_weights_of_batches() -> None:
    data = Calibration([GOOD, GOOD], weights=[2, 0.5])
    assert len(list(data.stream(MODEL))) == 2
    assert [data.weight(0), data.weight(1), Calibration([GOOD]).weight(0)] == [2, 0.5, 1]
    fixed = graph("(float[2,3] x) => (float y) { y = MatMul(x, w) }", {"w": (3, 5)})
    batches = [{"x": np.ones((4, 3), np.float32)}, {"x": np.ones((2, 3), np.float32)}]
    cut = Calibration(batches, weights=[3, 1]).cut(fixed)
    assert [cut.weight(number) for number, _ in enumerate(cut.stream(fixed))] == [3, 3, 1]


@pytest.mark.parametrize(
    "weights, message",
    [
        ([1], "more calibration batches than weights, which are 1"),
        ([1, 2, 3], "3 weights for 2 calibration batches"),
        ([1, 0], "weight of calibration batch 1 is 0"),
        ([float("nan"), 1], "weight of calibration batch 0 is nan"),
    ],
)
def test_weights_that_do_not_fit(weights: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(Calibration([GOOD, GOOD], weights=weights).stream(MODEL))


def test_weights_in_files(tmp_path: Path) -> None:
    files = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for number, file in enumerate(files):
        np.savez(file, allow_pickle=False, x=np.ones((4, 3)), weight=number + 0.5)
    assert read_calibration(files, "--calibration").weights == [0.5, 1.5]
    assert read_calibration(files, "--calibration", ["x", "weight"]).weights is None
    np.savez(files[1], allow_pickle=False, x=np.ones((4, 3)))
    with pytest.raises(UsageError, match="1 of 2 files of --calibration have a weight"):
        read_calibration(files, "--calibration")
    np.savez(files[1], allow_pickle=False, weight=np.ones(2))
    with pytest.raises(UsageError, match=r"weight in --calibration .*two.npz is float64 \[2\], not a number"):
        read_calibration(files, "--calibration")
