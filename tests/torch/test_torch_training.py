"""Gradients, training steps, and what train mode changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional
from torch_graphs import graph_of

from sparsecc import to_torch
from sparsecc.capture import capture
from sparsecc.torch.module import BatchNorm

node = helper.make_node


class Network(nn.Module):
    """Convolutions with batch norm, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, stride=2, groups=2)
        self.head = nn.Linear(4, 3)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        nn.init.uniform_(self.norm.running_mean, -0.5, 0.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.gelu(self.norm(self.first(image)))
        return self.head(functional.silu(self.second(x)).mean((2, 3)))


class Perceptron(nn.Module):
    """Linear layers, layer norm and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 5)
        self.norm = nn.LayerNorm(5)
        self.outer = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.outer(torch.tanh(self.norm(self.inner(x)))), -1)


def pair(make: type[nn.Module], *shape: int) -> tuple[nn.Module, nn.Module, Tensor]:
    """A module, the converted graph of it and an input, in double precision."""
    torch.manual_seed(1)
    module = make().eval()
    x = torch.randn(*shape)
    return module.double(), to_torch(capture(module.float(), x)).double(), x.double()


@pytest.mark.parametrize(("make", "shape"), [(Network, (2, 2, 5, 5)), (Perceptron, (3, 3))])
def test_gradients(make: type[nn.Module], shape: tuple[int, ...]) -> None:
    _, converted, x = pair(make, *shape)
    names, parameters = zip(*converted.named_parameters(), strict=True)

    def call(image: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(converted, dict(zip(names, values, strict=True)), (image,))

    inputs = tuple(item.detach().requires_grad_() for item in (x, *parameters))
    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_the_module(training: bool) -> None:
    """In train mode batch norm takes the batch and moves its statistics, as the module's own does."""
    module, converted, x = pair(Network, 4, 2, 6, 6)
    module.double()
    module.train(training)
    converted.train(training)
    gradients: list[dict[str, Tensor]] = []
    for each in (module, converted):
        (each(x) ** 2).sum().backward()
        found = {name: p.grad for name, p in each.named_parameters()}
        gradients.append({name: gradient for name, gradient in found.items() if gradient is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        # The graph holds some constants in float32.
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-6, atol=1e-6)
    for name in ("norm.running_mean", "norm.running_var"):
        ours, theirs = converted.get_buffer(name), module.get_buffer(name)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_batch_norm_can_be_frozen() -> None:
    _, converted, x = pair(Network, 4, 2, 6, 6)
    converted.train()
    norms = [part for part in converted.modules() if isinstance(part, BatchNorm)]
    assert len(norms) == 1
    assert str(norms[0]) == "BatchNorm(epsilon=1e-05, momentum=0.1)"
    norms[0].eval()
    before = converted.get_buffer("norm.running_mean").clone()
    frozen = converted(x)
    assert torch.equal(converted.get_buffer("norm.running_mean"), before)
    torch.testing.assert_close(frozen, converted.eval()(x), rtol=0, atol=0)


def test_the_loss_goes_down() -> None:
    torch.manual_seed(2)
    converted = to_torch(capture(Network().eval(), torch.randn(16, 2, 6, 6))).train()
    images, labels = torch.randn(16, 2, 6, 6), torch.randint(0, 3, (16,))
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.2, momentum=0.9)
    losses: list[float] = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = functional.cross_entropy(converted(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_drops_in_train_mode_only() -> None:
    x = np.ones((100, 100), np.float32)
    constants: dict[str, Any] = {"r": np.float32(0.3)}
    module = to_torch(graph_of([node("Dropout", ["x", "r"], ["y"])], {"x": x}, constants, ["y"]))
    image = torch.from_numpy(x)
    assert torch.equal(module(image), image)
    dropped = module.train()(image)
    share = float((dropped == 0).float().mean())
    assert abs(share - 0.3) < 6 * (0.3 * 0.7 / x.size) ** 0.5
    assert torch.all((dropped == 0) | (dropped == 1 / torch.tensor(0.7)))


def test_statistics_that_the_graph_computes_pass_gradients() -> None:
    """Batch norm of a weight by its own mean and variance, as weight standardisation exports it."""
    nodes = [
        node("ReduceMean", ["w", "axes"], ["mean"], keepdims=0),
        node("Mul", ["w", "w"], ["square"]),
        node("ReduceMean", ["square", "axes"], ["variance"], keepdims=0),
        node("BatchNormalization", ["w", "one", "zero", "mean", "variance"], ["v"]),
        node("Gemm", ["x", "v"], ["y"], transB=1),
    ]
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "axes": np.array([0], np.int64),
        "one": np.ones(4, np.float32),
        "zero": np.zeros(4, np.float32),
    }
    feeds = {"x": rng.standard_normal((2, 4)).astype(np.float32)}
    module = to_torch(graph_of(nodes, feeds, constants, ["y"])).double()
    x = torch.from_numpy(feeds["x"]).double()
    weight = module.get_parameter("w").detach().requires_grad_()

    def call(values: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"w": values}, (x,))

    assert torch.autograd.gradcheck(call, (weight,))


def test_training_is_captured_again() -> None:
    torch.manual_seed(3)
    x = torch.randn(8, 2, 6, 6)
    converted = to_torch(capture(Network().eval(), x)).train()
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    converted(x).square().sum().backward()
    optimizer.step()
    model: ir.Model = capture(converted, x)
    for name, value in (*converted.named_parameters(), *converted.named_buffers()):
        tensor = model.graph.initializers[name].const_value
        assert tensor is not None
        np.testing.assert_array_equal(tensor.numpy(), value.detach().numpy())
