"""Criteria of derivatives against derivatives by hand and by complex steps, which are exact to rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from criteria_graphs import CNN, CNN_WEIGHTS, mlp
from pass_graphs import graph

from sparsecc.axes.groups import groups
from sparsecc.errors import UsageError, VerificationError
from sparsecc.passes.criteria import Calibration, group_scores
from sparsecc.passes.criteria.differentiation import Derivatives
from sparsecc.passes.criteria.gradients import HessianDiagonal

Pair = tuple[np.ndarray, np.ndarray]
"""Something for each weight of the perceptron: [5, 4] and [4, 3]."""

GENERATOR = np.random.default_rng(5)
BATCHES = [{"x": GENERATOR.standard_normal((6, 5))} for _ in range(3)]
TARGETS = [GENERATOR.integers(0, 3, 6) for _ in range(3)]
DATA = Calibration(BATCHES, TARGETS)
MODEL, W, V = mlp()


def gradient(x: np.ndarray, classes: np.ndarray, w: np.ndarray, v: np.ndarray) -> Pair:
    """Of the mean cross-entropy of tanh(x w) v, for complex weights too."""
    hidden = np.tanh(x @ w)
    exponents = np.exp(hidden @ v)
    slope = (exponents / exponents.sum(1, keepdims=True) - np.eye(3)[classes]) / len(x)
    return x.T @ ((slope @ v.T) * (1 - hidden**2)), hidden.T @ slope


def product(x: np.ndarray, classes: np.ndarray, vector: Pair) -> Pair:
    """Hessian times a vector: the gradient's derivative along it, by a complex step."""
    step = 1e-30
    first, second = gradient(x, classes, W + 1j * step * vector[0], V + 1j * step * vector[1])
    return np.imag(first) / step, np.imag(second) / step


def gradients() -> list[Pair]:
    """Of each batch."""
    return [gradient(batch["x"], classes, W, V) for batch, classes in zip(BATCHES, TARGETS, strict=True)]


def total_gradient() -> Pair:
    """Of all batches."""
    found = gradients()
    return sum(g for g, _ in found), sum(g for _, g in found)  # pyright: ignore[reportReturnType]


def total_product(vector: Pair) -> Pair:
    """Of all batches."""
    found = [product(batch["x"], classes, vector) for batch, classes in zip(BATCHES, TARGETS, strict=True)]
    return sum(h for h, _ in found), sum(h for _, h in found)  # pyright: ignore[reportReturnType]


def votes(saliency: Callable[[int], np.ndarray]) -> np.ndarray:
    """Mean of the two votes on the hidden units, from the saliency of weight 0 and of weight 1."""
    return (saliency(0).sum(0) + saliency(1).sum(1)) / 2


def slices(terms: list[Pair]) -> np.ndarray:
    """Mean of the two votes where the slices' sums are squared batch by batch."""
    first = sum(np.square((W * term[0]).sum(0)) for term in terms)
    second = sum(np.square((V * term[1]).sum(1)) for term in terms)
    return np.asarray(first + second) / 2


def expected_taylor_second() -> np.ndarray:
    """Gradient less half the Hessian's product with the weights."""
    terms: list[Pair] = []
    for batch, classes, found in zip(BATCHES, TARGETS, gradients(), strict=True):
        hessian = product(batch["x"], classes, (W, V))
        terms.append((found[0] - hessian[0] / 2, found[1] - hessian[1] / 2))
    return slices(terms)


WEIGHTS = (W, V)
EXPECTED: dict[str, Callable[[], np.ndarray]] = {
    "taylor": lambda: slices(gradients()),
    "taylor-second": expected_taylor_second,
    "snip": lambda: votes(lambda i: np.abs(WEIGHTS[i] * total_gradient()[i])),
    "grasp": lambda: votes(lambda i: WEIGHTS[i] * total_product(total_gradient())[i]),
    "crop": lambda: votes(lambda i: np.abs(WEIGHTS[i] * total_product(total_gradient())[i])),
    "fisher": lambda: votes(lambda i: WEIGHTS[i] ** 2 * sum(g[i] ** 2 for g in gradients()) / 2),
}


@pytest.mark.parametrize("criterion", EXPECTED)
def test_formulas(criterion: str) -> None:
    (scores,) = group_scores(groups(MODEL), criterion, normalization="none", calibration=DATA).values()
    np.testing.assert_allclose(scores, EXPECTED[criterion](), rtol=1e-9)


def test_the_diagonal_of_the_hessian() -> None:
    probes = 4
    found = groups(MODEL)
    derivatives = Derivatives(MODEL, DATA, {"w", "v"})
    first, second = np.zeros_like(W), np.zeros_like(V)
    for number in range(probes):
        signs = derivatives.signs(7, number)
        z = signs["w"].numpy(), signs["v"].numpy()
        assert set(np.unique(z[0])) == {-1, 1}
        products = total_product(z)
        first += z[0] * products[0] / probes
        second += z[1] * products[1] / probes
    expected = votes(lambda i: np.abs(WEIGHTS[i] ** 2 * (first, second)[i] / 2))
    (scores,) = group_scores(
        found, HessianDiagonal(probes=probes), normalization="none", calibration=DATA, seed=7
    ).values()
    np.testing.assert_allclose(scores, expected, rtol=1e-9)


def test_grasp_keeps_its_order_when_scores_are_negative() -> None:
    found = groups(MODEL)
    (plain,) = group_scores(found, "grasp", normalization="none", calibration=DATA).values()
    assert (plain < 0).any()
    for normalization in ("mean", "max", "sum", "l2"):
        (scores,) = group_scores(found, "grasp", normalization=normalization, calibration=DATA).values()
        assert (np.argsort(scores) == np.argsort(plain)).all()


def test_the_loss_can_be_given() -> None:
    def squares(outputs: tuple[torch.Tensor, ...], target: torch.Tensor | None) -> torch.Tensor:
        assert target is not None
        return (outputs[0] - target).square().sum() / 2

    targets = [np.random.default_rng(9).standard_normal((6, 3)) for _ in BATCHES]
    found = groups(MODEL)
    (scores,) = group_scores(
        found, "snip", normalization="none", calibration=Calibration(BATCHES, targets, squares)
    ).values()
    first, second = np.zeros_like(W), np.zeros_like(V)
    for batch, target in zip(BATCHES, targets, strict=True):
        hidden = np.tanh(batch["x"] @ W)
        error = hidden @ V - target
        first += batch["x"].T @ ((error @ V.T) * (1 - hidden**2))
        second += hidden.T @ error
    np.testing.assert_allclose(scores, votes(lambda i: np.abs(WEIGHTS[i] * (first, second)[i])), rtol=1e-9)


@pytest.mark.parametrize(
    ("loss", "error", "sentence"),
    [
        (
            lambda outputs, _: outputs[0],
            UsageError,
            r"loss gave a tensor of shape \[6, 3\], expected a tensor of one",
        ),
        (lambda outputs, _: 1.0, UsageError, "loss gave float, expected a tensor of one number"),
        (lambda outputs, _: torch.ones(()), UsageError, "does not depend on any parameter"),
        (lambda outputs, _: outputs[0].sum() / 0, VerificationError, "loss of calibration batch 0 is -?inf"),
    ],
)
def test_bad_losses(
    loss: Callable[[tuple[torch.Tensor, ...], torch.Tensor | None], torch.Tensor],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        group_scores(groups(MODEL), "snip", calibration=Calibration(BATCHES, None, loss))


def test_no_probe() -> None:
    with pytest.raises(UsageError, match="needs at least 1 probe, not 0"):
        HessianDiagonal(probes=0)


def test_a_channel_that_nothing_reads_scores_nothing() -> None:
    reader = np.random.default_rng(1).standard_normal((6, 8, 3, 3)).astype(np.float32)
    reader[:, 3] = 0
    found = groups(graph(CNN, {**CNN_WEIGHTS, "c.weight": reader}))
    data = Calibration([{"x": np.random.default_rng(2).standard_normal((2, 3, 8, 8)).astype(np.float32)}])
    for criterion in ("taylor", "snip"):
        scores = group_scores(found, criterion, calibration=data)["a.channels"]
        assert scores[3] == 0 and (np.delete(scores, 3) > 0).all()
