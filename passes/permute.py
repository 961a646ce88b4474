"""Reorder channels, heads and features network-wide so that a pattern keeps more of the weights.

permute{pattern=4x1 sparsity=0.9},sparsify{pattern=4x1 sparsity=0.9}:  rows with values in the same columns
become neighbours, and the 4x1 blocks that stay hold more. The network computes the same, up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from sparsecc.axes.groups import Groups
from sparsecc.axes.permutation import permutable, permute, refusal
from sparsecc.errors import UsageError
from sparsecc.ir.provenance import record
from sparsecc.passes.base import Context, Pass, PassResult
from sparsecc.passes.one_shot_importance import factors
from sparsecc.passes.permute_search import Weight, retention, search
from sparsecc.passes.sparsify import Layer, Sparsify

Progress = Callable[[int, int], None]
"""Called with how many dimensions are done, and how many there are."""

_WORTH_SAYING = ("no-rule", "inexact", "unification", "tied")
"""Codes of refusals that another way to write the model could avoid."""


@dataclass(frozen=True)
class Permute(Pass):
    """Better orders of dimensions for a pattern; run it before `sparsify` with the same options.

    The orders are searched on the weights that `sparsify` would make sparse, each with the sparsity by
    itself. What is compared is the sum of the norms of the blocks that stay (of the values for N:M) over all
    weights that a dimension is part of; an order that does not raise it is not taken. Groups that are frozen
    or tied index by index keep their order and are refusals.

    Options:
        pattern: RxC such as 4x1, or N:M such as 2:4.
        sparsity: share of zeros that `sparsify` will make; N:M fixes it.
        skip: layer or parameter names that `sparsify` will leave alone, or globs.
        min_size: weights with fewer elements are left alone by `sparsify`.
        rounds: of swaps, for each dimension, at most; 0 takes the first order that is found.
    """

    pattern: str = "2:4"
    sparsity: float = -1.0
    skip: tuple[str, ...] = ()
    min_size: int = 1024
    rounds: int = 24

    name: ClassVar[str] = "permute"
    summary: ClassVar[str] = "reorder channels, heads and features so that a pattern keeps more"

    def __post_init__(self) -> None:
        encoding = self._sparsify().encoding()
        if encoding.pattern not in ("block", "n:m"):
            raise UsageError(
                f"pattern {self.pattern} is the same in every order, so permute has nothing to do; "
                f"write RxC such as 4x1, or N:M such as 2:4"
            )
        if self.rounds < 0:
            raise UsageError(f"option rounds of pass permute must not be negative, not {self.rounds}")

    def _sparsify(self) -> Sparsify:
        return Sparsify(self.pattern, self.sparsity, skip=self.skip, min_size=self.min_size)

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Reorder in place.

        Raises:
            UsageError: random inputs do not fit the model.
            VerificationError: ONNX Runtime cannot run the model.
        """
        return self.reorder(model, ctx)

    def reorder(
        self,
        model: ir.Model,
        ctx: Context,
        progress: Progress | None = None,
        squares: Mapping[str, np.ndarray] | None = None,
    ) -> PassResult:
        """As `apply`, telling how far it is.

        Args:
            model: reordered in place.
            ctx: with the seed.
            progress: told about every dimension.
            squares: squared gradients [outputs, columns] by initializer, as `squared_gradients` gives them:
                then a weight counts by what the loss would miss without it, not by its magnitude.
        """
        groups = Groups(model)
        weights = _weights(groups, self._sparsify().layers(model)[0], squares or {})
        chosen = permutable(groups)
        orders = search(
            weights,
            [group.dims[0] for group in chosen],
            retention(self._sparsify().encoding(), self.sparsity),
            rounds=self.rounds,
            seed=ctx.seed,
            progress=progress,
        )
        changed = [group for group in chosen if group.dims[0] in orders]
        if changed:
            model.graph = permute(groups, orders).graph
            for name in dict.fromkeys(name for group in changed for name in group.parameters):
                record(model.graph.initializers[name], self.name)
        notes = (f"{len(changed)} of {len(chosen)} groups that can be reordered are in another order",)
        refusals = [found for group in groups if (found := refusal(group)) and found.code in _WORTH_SAYING]
        return PassResult(bool(changed), tuple(refusals), notes)


def _weights(groups: Groups, layers: list[Layer], squares: Mapping[str, np.ndarray]) -> list[Weight]:
    """The layers as the search sees them; one whose axes are not known is left out."""
    found: list[Weight] = []
    for layer in layers:
        axes = groups.analysis.axes.get(layer.use.value)
        if axes is not None:
            others = [axis for number, axis in enumerate(axes) if number != layer.use.axis]
            columns = tuple(dim for axis in (*others[1:], *others[:1]) for dim in axis)
            matrix, square = layer.matrix, squares.get(layer.use.value.name or "")
            if square is not None:
                matrix = matrix * factors(square).astype(matrix.dtype)
            found.append(Weight(layer.use.layer, matrix, (axes[layer.use.axis], columns)))
    return found
