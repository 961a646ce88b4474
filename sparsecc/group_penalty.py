"""Regularisers on dependency groups: training that empties channels, heads or widths before `prune` does.

penalty = GroupPenalty(module, model, plan=result.plan)   # or ratio=0.5, or neither
loss = cross_entropy(module(x), y) + 1e-3 * penalty()
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from sparsecc.axes.groups import Group, groups
from sparsecc.errors import UsageError
from sparsecc.passes.prune_plan import PrunePlan, group_mask, masks_of


class GroupPenalty:
    """A term of the loss that draws whole indices of dependency groups to zero.

    What goes with one index, over all parameters that its group slices, is one vector. The penalty is summed
    over the groups of the root of the vector's length n times

    - with a plan: the norms of the indices that the plan deletes, and no others (MaskSparsity, Jiang et al.
      2022, there on the scales of batch normalisations). They fade while the rest learns to do without
      them, and `replay` deletes them afterwards.
    - with a ratio: half the squared k-support norm of the norms (Argyriou et al. 2012), the envelope over
      groups of Refael et al. 2023 (WGSEF): nothing pulls at more than half the squares of a network with k
      indices in each group, so which ones stay is found while training.
    - with neither: all norms, the group lasso (Yuan and Lin 2006).

    Attributes:
        names: of the groups that count.

    Args:
        module: of `sparsecc.to_torch(model)`, or of `SparseTraining`.
        model: that the module was made of; gives the groups.
        plan: of a `prune` of this model or one of the same architecture.
        ratio: share of the indices of each group that shall go, over 0 and under 1.

    Raises:
        UsageError: plan and ratio at once, a ratio out of range, a module of another model, or nothing to
            count.
        VerificationError: a plan of another architecture.
    """

    def __init__(
        self, module: nn.Module, model: ir.Model, *, plan: PrunePlan | None = None, ratio: float | None = None
    ) -> None:
        if plan is not None and ratio is not None:
            raise UsageError("give a plan or a ratio: a plan says which indices go, a ratio only how many")
        if ratio is not None and not 0 < ratio < 1:
            raise UsageError(f"the ratio must be over 0 and under 1, not {ratio:g}")
        names = getattr(module, "initializer_names", None)
        if not isinstance(names, dict):
            raise UsageError(
                f"a {type(module).__name__} has no parameters by the names of a model; give to_torch(model)"
            )
        found = groups(model)
        if plan is not None:
            masks_of(found, plan)  # which checks that the plan is for this architecture
        parameters = _parameters(module, {str(path): str(name) for path, name in names.items()})
        for name, parameter in parameters.items():
            value = model.graph.initializers.get(name)
            shape = None if value is None or value.shape is None else value.shape.numpy()
            if shape != tuple(parameter.shape):
                raise UsageError(
                    f"{name} is {list(parameter.shape)} in the module and {shape and list(shape)} in the "
                    f"model; give the model that the module was made of"
                )
        self._ratio = ratio
        self._terms = [term for group in found.prunable if (term := _term(group, parameters, plan))]
        self.names = tuple(term.name for term in self._terms)
        if not self._terms:
            raise UsageError(
                "no group has an index to be drawn to zero: nothing is prunable or the plan is empty"
            )

    def __call__(self) -> Tensor:
        """The penalty, a single number with gradients."""
        total = torch.zeros(())
        for term in self._terms:
            norms = term.norms()
            if self._ratio is None:
                found = norms[term.chosen].sum()
            else:
                kept = max(1, len(norms) - round(self._ratio * len(norms)))
                found = k_support(norms, kept)
            total = total + math.sqrt(term.length) * found
        return total

    @torch.no_grad()
    def norms(self) -> dict[str, np.ndarray]:
        """Euclidean norm of each index [size of the group] float32, by group."""
        return {term.name: term.norms().numpy() for term in self._terms}


def k_support(norms: Tensor, count: int) -> Tensor:
    """Half the squared k-support norm: the largest convex function that is ½ |a|² for all a with k entries.

    Proposition 2.1 of Argyriou, Foygel and Srebro 2012. The largest k - r - 1 entries count with their
    squares, the others with the square of their sum over r + 1.

    Args:
        norms: a, [n] and not negative.
        count: k, from 1 to n.
    """
    ordered = norms.sort(descending=True).values
    tails = ordered.detach().flip(0).cumsum(0).flip(0).tolist()
    values = [math.inf, *ordered.detach().tolist()]
    ranks = range(count)
    found = (r for r in ranks if values[count - r - 1] > tails[count - r - 1] / (r + 1) >= values[count - r])
    first = count - next(found, ranks[-1]) - 1  # none where sums are rounded, as between equal norms
    tail = ordered[first:].sum().square() / (count - first)
    return (ordered[:first].square().sum() + tail) / 2


@dataclass(frozen=True)
class _Slices:
    """An axis of a parameter.

    Attributes:
        tensor: the parameter.
        axis: of it.
        places: positions along the axis, and the index that each goes with.
    """

    tensor: Tensor
    axis: int
    places: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Term:
    """One group.

    Attributes:
        name: of the group.
        size: number of its indices.
        slices: of parameters that are trained.
        chosen: indices that count.
        length: elements that go with an index, on average.
    """

    name: str
    size: int
    slices: tuple[_Slices, ...]
    chosen: Tensor
    length: float

    def norms(self) -> Tensor:
        """Euclidean norm of what goes with each index."""
        squares = torch.zeros(self.size)
        for part in self.slices:
            positions, indices = part.places
            others = [axis for axis in range(part.tensor.dim()) if axis != part.axis]
            rows = part.tensor.square().sum(others) if others else part.tensor.square()
            squares = squares.index_add(0, indices, rows[positions].float())
        return (squares + torch.finfo(torch.float32).tiny).sqrt()


def _parameters(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """Trained parameters by initializer, those behind a mask too."""
    found: dict[str, Tensor] = {}
    for path, parameter in module.named_parameters():
        plain = path.replace("parametrizations.", "").removesuffix(".original")
        if plain in names:
            found[names[plain]] = parameter
    return found


def _term(group: Group, parameters: dict[str, Tensor], plan: PrunePlan | None) -> _Term | None:
    kept = np.zeros(group.size, bool) if plan is None else group_mask(group, plan)
    if kept is None or kept.all():
        return None
    slices: list[_Slices] = []
    elements = 0
    for axis in group.axes:
        if axis.parameter not in parameters:
            continue
        tensor = parameters[axis.parameter]
        for labels in axis.labels:
            (positions,) = np.nonzero(labels >= 0)
            places = torch.from_numpy(positions), torch.from_numpy(labels[positions].astype(np.int64))
            slices.append(_Slices(tensor, axis.axis, places))
            elements += len(positions) * tensor.numel() // tensor.shape[axis.axis]
    if not slices:
        return None
    chosen = torch.from_numpy(np.flatnonzero(~kept))
    return _Term(group.name, group.size, tuple(slices), chosen, elements / group.size)
