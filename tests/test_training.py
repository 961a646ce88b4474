"""Training with zeros: they hold, come as the methods' formulas say, and end up in the model."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsecc
from sparsecc.errors import UsageError
from sparsecc.ir.encoding import Encoding, as_matrix, fits, get_encoding
from sparsecc.ir.evaluate import evaluate
from sparsecc.ir.weights import weight_uses
from sparsecc.passes.ratios import erk
from sparsecc.training import METHODS, SparseTraining, distillation

STEPS = 40


class Network(nn.Module):
    """A convolution with batch norm, a linear layer and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Linear(16, 32)
        self.head = nn.Linear(32, 8)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(image))).mean((2, 3))
        return self.head(functional.relu(self.inner(x)))


@pytest.fixture(scope="module")
def model() -> ir.Model:
    torch.manual_seed(0)
    return sparsecc.capture(Network().eval(), (torch.zeros(16, 4, 6, 6),))


def batch(seed: int) -> tuple[Tensor, Tensor]:
    """Images, and which of eight linear features is the largest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(16, 4, 6, 6, generator=generator)
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(99))
    return x, (x.mean((2, 3)) @ weight).argmax(1)


def trained(training: SparseTraining, steps: int = STEPS) -> list[float]:
    """Losses of a loop as users write it."""
    optimizer = torch.optim.AdamW(training.module.parameters(), 1e-2, weight_decay=0.01)
    training.module.train()
    losses: list[float] = []
    for step in range(steps):
        x, y = batch(step % 4)
        loss = functional.cross_entropy(training.module(x), y)
        loss.backward()
        optimizer.step()
        training.step()
        losses.append(loss.item())
    training.module.eval()
    return losses


def weights_of(model: ir.Model) -> dict[str, tuple[np.ndarray, int]]:
    found: dict[str, tuple[np.ndarray, int]] = {}
    for use in weight_uses(model):
        assert use.value.const_value is not None
        found[use.layer] = (use.value.const_value.numpy(), use.axis)
    return found


@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "4x1", "fan-in"])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "fixed"])
def test_training_ends_with_the_pattern(model: ir.Model, method: str, pattern: str) -> None:
    share = 0.5
    if method == "rigl" and pattern == "2:4":
        pytest.skip("rigl refuses N:M")
    training = SparseTraining(
        model, pattern, None if ":" in pattern else share, method=method, steps=STEPS, every=5, min_size=256
    )
    losses = trained(training)
    assert np.mean(losses[-4:]) < 0.8 * np.mean(losses[:4])
    x, _ = batch(0)
    with torch.no_grad():
        expected = training.module(x).numpy()
    masks = [weight.mask.mask.numpy().copy() for weight in training._weights]  # pyright: ignore
    sparse = training.finish()
    found = evaluate(sparse, {sparse.graph.inputs[0].name or "": x.numpy()})
    np.testing.assert_allclose(next(iter(found.values())), expected, rtol=1e-4, atol=1e-4)
    arrays = weights_of(sparse)
    assert len(arrays) == 3
    for (array, axis), mask in zip(arrays.values(), masks, strict=True):
        assert method not in ("gradual", "rigl") or not array[mask == 0].any()
        seen = mask if method == "rigl" else array  # weights that came last may still be 0
        assert fits(seen, Encoding.parse(pattern), axis)
        assert np.mean(seen == 0) == pytest.approx(share, abs=0.02)


def test_zeros_that_are_there_stay_whatever_the_optimiser_does(model: ir.Model) -> None:
    sparse = sparsecc.sparsify(model, "4x1", 0.75, min_size=256).model
    before = {name: array == 0 for name, (array, _) in weights_of(sparse).items()}
    training = SparseTraining(sparse, method="fixed", min_size=256)
    optimizer = torch.optim.SGD(training.module.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for step in range(5):
        x, y = batch(step)
        functional.cross_entropy(training.module(x), y).backward()
        optimizer.step()
        training.step()
        with torch.no_grad():
            for parameter in training.module.parameters():
                parameter.add_(torch.randn_like(parameter))
    finished = training.finish()
    after = weights_of(finished)
    for name, zeros in before.items():
        assert zeros.mean() == 0.75
        assert np.array_equal(after[name][0] == 0, zeros)
    for use in weight_uses(finished):
        assert str(get_encoding(use.value, use.axis)).startswith("4x1")


def test_gradual_follows_the_cubic_schedule(model: ir.Model) -> None:
    training = SparseTraining(model, "unstructured", 0.8, method="gradual", steps=40, every=3, min_size=0)
    last = 30
    for step in range(1, 41):
        training.step()
        changed = last if step >= last else step - step % 3
        expected = 0.8 * (1 - (1 - changed / last) ** 3)
        assert training.sparsity == pytest.approx(expected, abs=2e-3)


def test_sr_ste_moves_all_weights_and_decays_those_that_are_not_used(model: ir.Model) -> None:
    training = SparseTraining(model, "2:4", method="sr-ste", min_size=512)
    (weight,) = (one for one in training._weights if one.layer.use.layer == "first")  # pyright: ignore
    x, y = batch(0)
    functional.cross_entropy(training.module(x), y).backward()
    dense = weight.original.detach()
    keep = keep_two_of_four(dense)
    # a module whose weights are the masked ones
    reference = sparsecc.to_torch(model)
    with torch.no_grad():
        for path, parameter in reference.named_parameters():
            owner, _, name = path.rpartition(".")
            parameter.copy_(getattr(training.module.get_submodule(owner), name))
    functional.cross_entropy(reference(x), y).backward()
    seen = reference.get_parameter("first.weight").grad
    assert seen is not None and 0.4 < float((keep == 0).float().mean()) < 0.6
    assert torch.equal(reference.get_parameter("first.weight") == 0, keep == 0)
    torch.testing.assert_close(weight.original.grad, seen + 2e-4 * (1 - keep) * dense)


def keep_two_of_four(weight: Tensor) -> Tensor:
    """By sorting, along the input channels at each position of the kernel."""
    matrix = as_matrix(weight.numpy(), 0)
    groups = np.abs(matrix).reshape(-1, 4)
    keep = np.zeros_like(groups)
    np.put_along_axis(keep, np.argsort(groups, axis=1)[:, 2:], 1, axis=1)
    array = keep.reshape(weight.shape[0], *weight.shape[2:], weight.shape[1])
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def test_rigl_grows_where_the_gradient_is_largest() -> None:
    torch.manual_seed(0)
    linear = sparsecc.capture(nn.Linear(32, 64, bias=False).eval(), (torch.zeros(8, 32),))
    training = SparseTraining(linear, "unstructured", 0.75, method="rigl", steps=100, every=1)
    (owner, mask) = training._weights[0].owner, training._weights[0].mask  # pyright: ignore[reportPrivateUsage]
    x, wanted = torch.randn(8, 32), torch.randn(8, 64)
    loss = functional.mse_loss(training.module(x), wanted)
    loss.backward()
    values = owner.parametrizations["weight"].original.detach().clone()  # pyright: ignore
    before = mask.mask.clone().bool()
    effective = (values * before).requires_grad_()
    transposed = effective.shape == (32, 64)
    functional.mse_loss(x @ (effective if transposed else effective.T), wanted).backward()
    gradient = effective.grad
    assert gradient is not None
    training.step()
    after = mask.mask.bool()
    part = 0.3 / 2 * (1 + math.cos(math.pi * 1 / 75))
    count = before.numel() - round((1 - 0.25 * (1 - part)) * before.numel())
    stay = torch.zeros_like(before).flatten()
    stay[(values.abs() * before).flatten().topk(count).indices] = True
    rest = gradient.abs().flatten().masked_fill(stay, -1.0)
    grown = rest.topk(int(before.sum()) - count).indices
    expected = stay.clone()
    expected[grown] = True
    assert torch.equal(after.flatten(), expected)
    assert int(after.sum()) == int(before.sum())
    new = after & ~before
    assert new.any() and not training._weights[0].tensor[new].any()  # pyright: ignore[reportPrivateUsage]


def test_srigl_keeps_the_number_of_weights_of_every_output(model: ir.Model) -> None:
    training = SparseTraining(model, "fan-in", 0.75, method="rigl", steps=STEPS, every=2, min_size=0)
    trained(training)
    for weight in training._weights:  # pyright: ignore[reportPrivateUsage]
        counts = np.count_nonzero(as_matrix(weight.mask.mask.numpy(), weight.layer.use.axis), axis=1)
        assert len(set(counts)) == 1 and counts[0] == round(0.25 * weight.mask.mask[0].numel())


def test_small_layers_keep_more_by_erk(model: ir.Model) -> None:
    training = SparseTraining(model, "unstructured", 0.8, method="rigl", scope="erk", steps=STEPS, min_size=0)
    trained(training)
    shapes = {use.layer: use.value.shape.numpy() for use in weight_uses(model) if use.value.shape is not None}
    expected = erk(shapes, 0.8)
    assert len(set(expected.values())) > 1
    assert training.sparsity == pytest.approx(0.8, abs=2e-3)
    for use in weight_uses(training.finish()):
        assert use.value.const_value is not None
        zeros = np.mean(use.value.const_value.numpy() == 0)
        assert zeros == pytest.approx(expected[use.layer], abs=4e-3)


def test_soft_thresholds_shrink_what_stays_and_let_gradients_through() -> None:
    linear = sparsecc.capture(nn.Linear(32, 64, bias=False).eval(), (torch.zeros(1, 32),))
    training = SparseTraining(linear, "unstructured", 0.5, method="st-3", steps=4)
    for _ in range(4):
        training.step()
    weight = training._weights[0]  # pyright: ignore[reportPrivateUsage]
    before, after = weight.original.detach(), weight.tensor
    threshold = before.abs().flatten().sort().values[before.numel() // 2 - 1]
    shrunk = before.sign() * (before.abs() - threshold).clamp(min=0)
    torch.testing.assert_close(after, shrunk * before.abs().sum() / shrunk.abs().sum(), atol=1e-4, rtol=1e-3)
    seen = getattr(weight.owner, weight.name)
    seen.backward(torch.ones_like(seen))
    torch.testing.assert_close(weight.original.grad, torch.ones_like(before))


def test_distillation_is_the_divergence_of_the_classes() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.standard_normal((2, 5, 3, 7))

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(theirs / 3), log_softmax(ours / 3)
    expected = 9 * (np.exp(p) * (p - q)).sum(-1).mean()
    found = distillation(torch.from_numpy(ours), torch.from_numpy(theirs), 3.0)
    assert float(found) == pytest.approx(expected)
    with pytest.raises(UsageError, match="must be alike"):
        distillation(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hope"}, "the method is one of fixed"),
        ({"steps": 0}, "at least 1"),
        ({"scope": "owl"}, "the scope is layer or erk"),
        ({"pattern": "2:4", "method": "rigl"}, "sr-ste is made for N:M"),
        ({"pattern": "2:4", "sparsity": 0.7}, "fixes the sparsity at 0.5"),
        ({"sparsity": 1.5}, "under 1"),
        ({"skip": ("*",)}, "no layer can be made sparse"),
    ],
)
def test_bad_input_is_named(model: ir.Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SparseTraining(model, **options)  # pyright: ignore[reportArgumentType]


def test_training_that_ends_too_early_is_refused(model: ir.Model) -> None:
    training = SparseTraining(model, "unstructured", 0.8, steps=100, min_size=0)
    for _ in range(50):
        training.step()
    with pytest.raises(UsageError, match="ended after 50 of 100 steps"):
        training.finish()
