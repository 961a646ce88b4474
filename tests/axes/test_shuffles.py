"""Channel shuffles between grouped convolutions whose groups do not divide each other."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import sparsecc
from sparsecc.axes.groups import Group, Groups
from sparsecc.errors import VerificationError
from sparsecc.ir.evaluate import evaluate
from sparsecc.oracle import check


class Shuffled(nn.Module):
    """Grouped convolution, a shuffle of groups x inner channels, depthwise, and grouped by `others`."""

    def __init__(self, groups: int, inner: int, others: int) -> None:
        super().__init__()
        channels = groups * inner
        self.stem = nn.Conv2d(3, 2 * groups, 1)
        self.first = nn.Conv2d(2 * groups, channels, 3, groups=groups)
        self.norm = nn.BatchNorm2d(channels)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.second = nn.Conv2d(channels, 2 * others, 1, groups=others)
        self.head = nn.Conv2d(2 * others, 5, 1)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, h, w] -> [n, 5, h - 2, w - 2]."""
        y = torch.relu(self.norm(self.first(self.stem(x))))
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)
        return self.head(self.second(self.depthwise(y)))


def captured(groups: int, inner: int, others: int) -> ir.Model:
    torch.manual_seed(0)
    module = Shuffled(groups, inner, others)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return sparsecc.capture(module.eval(), (torch.zeros(2, 3, 7, 6),))


def kinds(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


def middle(groups: Groups) -> Group:
    """The inputs of the second grouped convolution."""
    return next(
        g for g in groups if any(axis.parameter == "second.weight" and axis.axis == 1 for axis in g.axes)
    )


@pytest.mark.parametrize(
    ("shape", "units"),
    [
        ((3, 4, 3), 4),
        ((2, 3, 2), 3),
        ((3, 5, 3), 5),
        ((4, 6, 4), 1),
        ((3, 4, 6), 2),
        ((2, 9, 6), 3),
        ((5, 7, 5), 7),
    ],
)
def test_pruned_equals_masked(shape: tuple[int, int, int], units: int) -> None:
    """Layouts without a common refinement: as many channels go from every group on both sides."""
    model = captured(*shape)
    assert "Gather" in kinds(model) and "Transpose" not in kinds(model)
    found = Groups(model)
    group = middle(found)
    assert group.frozen is None and group.size == units
    channels, (groups, inner, others) = shape[0] * shape[1], shape
    for index in range(units):
        source = next(a for a in group.axes if a.parameter == "first.weight" and a.axis == 0).positions(index)
        place = next(a for a in group.axes if a.parameter == "depthwise.weight").positions(index)
        assert set(np.bincount(np.array(source) // inner, minlength=groups)) == {channels // units // groups}
        assert set(np.bincount(np.array(place) * others // channels, minlength=others)) == {
            channels // units // others
        }
    for seed in range(3):
        result = sparsecc.prune(model, 0.5, criterion="random", seed=seed)
        report = check(
            ir.to_proto(model),
            ir.to_proto(result.model),
            result.plan.to_json(),
            seed=seed,
            precision="float64",
        )
        assert report.difference <= 1e-12 and report.moved > 0.01


@pytest.mark.parametrize("shape", [(2, 4, 2), (4, 2, 2), (3, 6, 3), (2, 6, 3)])
def test_shuffles_that_fit_stay_as_they_are(shape: tuple[int, int, int]) -> None:
    assert "Gather" not in kinds(captured(*shape))


def test_a_transpose_without_order_is_no_shuffle() -> None:
    """It reverses all axes."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 23]> g (float[2,12,2,2] x) => (float[2,6,2,2] y)
        <int64[5] split = {2,3,4,2,2}, int64[4] whole = {2,12,2,2}> {
            a = Reshape(x, split)  b = Transpose(a)  c = Reshape(b, whole)  y = Conv<group = 3>(c, w) }"""
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 4, 1, 1), np.float32), "w"))
    assert "Gather" not in kinds(sparsecc.capture(proto))


@pytest.mark.parametrize("symbolic", [False, True])
def test_the_network_computes_the_same(symbolic: bool) -> None:
    torch.manual_seed(1)
    module = Shuffled(3, 4, 3).eval()
    x = torch.randn(2, 3, 7, 6)
    shapes = ({0: torch.export.Dim("batch")},) if symbolic else None
    model = sparsecc.capture(torch.export.export(module, (x,), dynamic_shapes=shapes))
    assert "Gather" in kinds(model)
    (found,) = evaluate(model, {model.graph.inputs[0].name or "": x.numpy()}).values()
    np.testing.assert_allclose(found, module(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_module_whose_forward_would_shuffle_otherwise_is_refused() -> None:
    """Its reshape runs with fewer channels, in another order: what it computes tells."""
    torch.manual_seed(1)
    module = Shuffled(3, 4, 3).eval()
    x = torch.randn(2, 3, 7, 6)
    result = sparsecc.prune(sparsecc.capture(module, (x,)), 0.25, criterion="random")
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(VerificationError):
        result.apply_to(module, (x,))
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
