"""`sparsify`: the pass of that name on a copy of a model, with what became of every layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.encoding import get_encoding
from sparsecc.ir.weights import weight_uses
from sparsecc.passes.base import Context
from sparsecc.passes.criteria import Calibration
from sparsecc.passes.criteria.linear_layers import linear_layers
from sparsecc.passes.one_shot import OneShot, one_shot
from sparsecc.passes.one_shot_blocks import Reconstruction
from sparsecc.passes.one_shot_importance import squared_gradients
from sparsecc.passes.one_shot_solvers import DAMPING
from sparsecc.passes.permute import Permute
from sparsecc.passes.ratios import owl as weigh_outliers
from sparsecc.passes.sparsify import Sparsify

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class LayerZeros:
    """The zeros of one weight.

    Attributes:
        name: the layer's name.
        shape: of its weight.
        pattern: the encoding that its zeros follow.
        zeros: share of zeros.
    """

    name: str
    shape: tuple[int, ...]
    pattern: str
    zeros: float


@dataclass(frozen=True)
class SparsifyResult:
    """A sparse copy of a model.

    Attributes:
        model: the copy.
        layers: all weights of convolutions and matrix products, in the graph's order.
        refusals: the layers that stayed as they were, the groups whose order could not change, and why.
        zeros: share of zeros over all of `layers`.
        notes: short sentences on what was reordered.
    """

    model: ir.Model
    layers: tuple[LayerZeros, ...]
    refusals: tuple[Refusal, ...]
    zeros: float
    notes: tuple[str, ...] = ()


def sparsify(
    model: ir.Model,
    pattern: str = "4x1",
    sparsity: float | None = None,
    *,
    scope: str = "layer",
    skip: Sequence[str] = (),
    min_size: int = 1024,
    permute: bool = False,
    method: str = "magnitude",
    calibration: Calibration | None = None,
    gradients: bool = False,
    damping: float = DAMPING,
    bits: int = 32,
    reconstruct: int = 0,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SparsifyResult:
    """Zero weights in a pattern, on a copy.

    Nothing is trained. Magnitude alone costs accuracy, more the more is zeroed; with calibration data the
    layers are taken one after the other and keep their outputs on these data as well as their zeros allow.

    Args:
        model: as `sparsecc.capture` gives it; not changed.
        pattern: unstructured, blocks of R outputs by C inputs such as 4x1, N:M such as 2:4, or fan-in.
        sparsity: share of zeros, at least 0 and under 1; None is 0.8, and N:M fixes it at 1 - N/M.
        scope: what each layer gets: "layer" all alike, "global" what is above one threshold, "erk" more
            weights where a layer is small, and with data "owl" where it has outliers (see `passes.ratios`).
        skip: names of layers or parameters to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
        permute: first reorder channels, heads and features so that the pattern keeps more; the network
            computes the same. For blocks and N:M only, and with the sparsity of each layer by itself.
        method: magnitude, or with data wanda, gblm, dsnot, sparsegpt or alps: see `OneShot`. The later
            ones take more time and keep more accuracy.
        calibration: some batches of inputs like those that the model will see, for these methods.
        gradients: let what an error of each output costs decide too, and the sparsity differ between
            layers; needs PyTorch.
        damping: pull of sparsegpt and alps towards the dense weights, as a share of the mean square of the
            inputs; larger where the data are few, or alike, and other data will come.
        bits: 8 or 4 for weights that `quantize` stores in so many bits as they are, chosen with the data; 32.
        reconstruct: epochs of fitting the weights that stay in each block to its outputs in the dense model,
            by gradient on the data; needs PyTorch. 0 is none.
        folder: keeps what is finished; a run that was interrupted goes on from there, to the same result.
        seed: of the search for orders, and of the order of the data in `reconstruct`.
        progress: told about all phases.

    Raises:
        UsageError: a pattern, sparsity, scope or method that does not exist or contradicts another, a pattern
            for which the order makes no difference, or data that do not fit the model.
        VerificationError: ONNX Runtime cannot run the model that is to be reordered or fitted.
    """
    if (method == "magnitude") != (calibration is None):
        raise UsageError(
            f"method {method} needs no calibration data: choose another such as alps, or leave them out"
            if method == "magnitude"
            else f"method {method} needs calibration data: some batches of inputs"
        )
    if calibration is None and (gradients or bits < 32 or reconstruct or folder or damping != DAMPING):
        raise UsageError(
            "gradients, damping, bits, reconstruct and folder need a method with calibration data"
        )
    if reconstruct < 0:
        raise UsageError(f"the number of epochs must not be negative, not {reconstruct}")
    if sparsity is None:
        sparsity = -1.0 if ":" in pattern else 0.8
    if scope == "owl" and calibration is None:
        raise UsageError("scope owl weighs inputs: it needs a method with calibration data")
    item = Sparsify(
        pattern, sparsity, "layer" if scope == "owl" else scope, skip=tuple(skip), min_size=min_size
    )
    if scope == "owl" and item.encoding().pattern == "n:m":
        raise UsageError(f"pattern {pattern} has the same sparsity in every layer, so not by owl")
    copy = model.clone()
    tell = progress or _silent
    refusals, notes = (), ()
    if permute:
        order = Permute(pattern, sparsity, tuple(skip), min_size)
        tell("permute", 0, 1)
        squares = None
        if gradients and calibration is not None:
            squares = squared_gradients(copy, linear_layers(copy)[0], calibration.cut(copy))
        done = order.reorder(copy, Context(seed), lambda done, total: tell("permute", done, total), squares)
        refusals, notes = done.refusals, done.notes
    tell("sparsify", 0, 1)
    if calibration is None:
        result = item.apply(copy, Context())
    else:
        dense = copy.clone()
        data = calibration.cut(copy)
        fit = Reconstruction(reconstruct, seed=seed) if reconstruct else None
        options = OneShot(method, damping=damping, gradients=gradients, bits=bits, reconstruction=fit)
        result = one_shot(
            dense, copy, _items(dense, item, data, owl=scope == "owl"), data, options, folder=folder,
            progress=lambda done, total: tell("sparsify", done, total),
        )  # fmt: skip
        notes = (*notes, *result.notes)
    layers, zeros, total = zeros_of(copy)
    return SparsifyResult(copy, layers, (*result.refusals, *refusals), zeros / total if total else 0.0, notes)


def _items(model: ir.Model, item: Sparsify, data: Calibration, *, owl: bool) -> list[Sparsify]:
    """One item for each layer with a sparsity of its own, or the one for all."""
    if item.scope != "erk" and not owl:
        return [item]
    chosen, _ = item.layers(model)
    shares = item.shares(chosen)
    if owl:
        values = {layer.use.value: layer.use.layer for layer in chosen}
        layers = [layer for layer in linear_layers(model)[0] if layer.value in values]
        found = weigh_outliers(model, layers, data, item.sparsity)
        shares |= {values[layer.value]: found[layer.name] for layer in layers}
    return [replace(item, sparsity=share, scope="layer", only=(name,)) for name, share in shares.items()]


def _silent(phase: str, done: int, total: int) -> None:
    """Nobody is told."""


def zeros_of(model: ir.Model) -> tuple[tuple[LayerZeros, ...], int, int]:
    """Each weight's zeros, and the number of zeros and of weights over all; shared weights count once."""
    layers: dict[ir.Value, LayerZeros] = {}
    zeros = total = 0
    for use in weight_uses(model):
        if use.value in layers or use.value.const_value is None:
            continue
        array = use.value.const_value.numpy()
        empty = array.size - int(np.count_nonzero(array))
        share = empty / array.size if array.size else 0.0
        layers[use.value] = LayerZeros(use.layer, array.shape, str(get_encoding(use.value, use.axis)), share)
        zeros += empty
        total += array.size
    return tuple(layers.values()), zeros, total
