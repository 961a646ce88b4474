"""What another library pruned is read off the weights, and judged: with a stand-in for that library."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import coverage_peers as peers
from tests.zoo import registry
from tests.zoo.samples import Floats, Sample

Prune = Callable[[nn.Module, Mapping[str, torch.Tensor], list[nn.Module], str], None]


class Residual(nn.Module):
    """A normalised residual stream of width 8 with a hidden layer of width 6."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(3, 8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 6)
        self.down = nn.Linear(6, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = self.enter(x)
        return self.head(x + self.down(torch.relu(self.up(self.norm(x)))))


def cut(layer: nn.Module, axis: int, kept: list[int]) -> None:
    """Keep rows (0) or columns (1) of a linear layer; all of a norm."""
    index = torch.tensor(kept)
    for name, parameter in list(layer.named_parameters()):
        if axis < parameter.ndim:
            setattr(layer, name, nn.Parameter(parameter.detach().index_select(axis, index)))


def prune_residual(shift: int = 0) -> Prune:
    """Cut the stream and the hidden layer; the reader of the stream takes positions moved by `shift`."""

    def prune(
        module: nn.Module, _inputs: Mapping[str, torch.Tensor], ignored: list[nn.Module], _by: str
    ) -> None:
        assert isinstance(module, Residual)
        assert ignored == [module.head]
        stream, hidden = [0, 2, 5, 6], [1, 2, 4]
        cut(module.enter, 0, stream)
        cut(module.norm, 0, stream)
        module.norm.normalized_shape = (4,)
        cut(module.up, 1, stream)
        cut(module.up, 0, hidden)
        cut(module.down, 1, hidden)
        cut(module.down, 0, stream)
        cut(module.head, 1, [index + shift for index in stream])

    return prune


def prune_half(
    module: nn.Module, _inputs: Mapping[str, torch.Tensor], _ignored: list[nn.Module], _by: str
) -> None:
    assert isinstance(module, Residual)
    cut(module.up, 0, [0, 1])


def prune_nothing(
    _module: nn.Module, _inputs: Mapping[str, torch.Tensor], _ignored: list[nn.Module], _by: str
) -> None:
    pass


def crash_by_magnitude(
    module: nn.Module, inputs: Mapping[str, torch.Tensor], ignored: list[nn.Module], by: str
) -> None:
    if by == peers.MAGNITUDE:
        cut(module.get_submodule("up"), 0, [0])
        raise IndexError
    prune_residual()(module, inputs, ignored, by)


def crash(
    _module: nn.Module, _inputs: Mapping[str, torch.Tensor], _ignored: list[nn.Module], _by: str
) -> None:
    raise KeyError("enter")


@pytest.mark.parametrize(
    ("prune", "outcome"),
    [
        (prune_residual(), "equal"),
        (prune_residual(shift=1), "wrong"),
        (prune_half, "does not run"),
        (prune_nothing, "pruned nothing"),
        (crash, "crashed"),
        (crash_by_magnitude, "equal"),
    ],
)
def test_outcomes(monkeypatch: pytest.MonkeyPatch, prune: Prune, outcome: str) -> None:
    zoo = Sample(Residual, {"x": Floats((4, 3))})
    monkeypatch.setattr(peers, "sample", lambda _name: zoo)
    monkeypatch.setattr(peers, "_prune", prune)
    result = peers.torch_pruning("residual")
    assert result.outcome == outcome, result
    if outcome == "equal":
        assert result.difference is not None and result.difference <= 1e-6
        assert result.parameters is not None and 0.3 < result.parameters < 0.5
    if outcome == "wrong":
        assert result.difference is not None and result.difference > 0.01


def test_files_are_no_modules() -> None:
    assert peers.torch_pruning(registry.LIGHT[0]).outcome == "no module"


def test_kept_positions_are_read_off_distinct_elements() -> None:
    before = np.random.default_rng(0).permutation(60).reshape(5, 4, 3).astype(np.float32)
    after = before[np.ix_([0, 3], [1, 2, 3], [0, 1, 2])]
    assert peers.kept_of({"a": before, "b": before}, {"a": after, "b": before}) == {
        "a": {"0": [0, 3], "1": [1, 2, 3]}
    }
    assert peers.kept_of({"a": before}, {"a": after[:, ::-1]}) == {"a": {"0": [0, 3], "1": [1, 2, 3]}}
    mixed = after.copy()
    mixed[0, 0, 0], mixed[1, 1, 1] = after[1, 1, 1], after[0, 0, 0]
    with pytest.raises(ValueError, match="a is no slice of what it was"):
        peers.kept_of({"a": before}, {"a": mixed})


def test_kept_positions_of_a_large_tensor() -> None:
    generator = np.random.default_rng(0)
    before = generator.permutation(204 * 204).reshape(204, 204, 1, 1).astype(np.float32)
    kept = [sorted(generator.permutation(204)[:102].tolist()) for _ in range(2)]
    after = before[np.ix_(*kept, [0], [0])]
    assert peers.kept_of({"a": before}, {"a": after}) == {"a": {"0": kept[0], "1": kept[1]}}


def test_equal_elements_are_nudged_apart() -> None:
    module = nn.BatchNorm1d(300)
    peers.make_distinct(module)
    for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
        assert tensor is not None
        assert len(set(tensor.tolist())) == 300
        assert torch.allclose(tensor, torch.full_like(tensor, tensor[0].item()), atol=1e-4)
