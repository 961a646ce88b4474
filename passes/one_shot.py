"""Make weights sparse with calibration data, one layer after the other, without training.

Y = W X  ->  W' with zeros in a pattern for which ||Y - W' Z||² is small, Z being the inputs that the layers
before, which are sparse already, leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import constant_of, replace_constant
from sparsecc.ir.encoding import Encoding, encoding_of, fits, set_encoding
from sparsecc.ir.provenance import record
from sparsecc.passes.base import PassResult
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.moments import MAX_COLUMNS
from sparsecc.passes.frontier import Frontier
from sparsecc.passes.one_shot_blocks import Block, Reconstruction, blocks, reconstruct_block
from sparsecc.passes.one_shot_solvers import DAMPING, SOLVERS, Inputs, Problem
from sparsecc.passes.one_shot_sums import Pair, Sums
from sparsecc.passes.sparsify import Sparsify

METHODS = tuple(SOLVERS)
Progress = Callable[[int, int], None]
"""Called with the number of layers that are done and of all."""


def one_shot(
    dense: ir.Model,
    model: ir.Model,
    item: Sparsify,
    calibration: Calibration,
    *,
    method: str = "alps",
    regress: bool = True,
    damping: float = DAMPING,
    shares: Mapping[str, float] | None = None,
    reconstruction: Reconstruction | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """Give the weights of `model` zeros, and other values where the method has them.

    The layers are taken in the order of the graph, each with what the sparse layers before it compute on the
    data. With a bias, the one that is best for any weights is put in. Whatever `item` leaves alone stays, and
    zeros that are there stay.

    Args:
        dense: what the outputs shall stay like; not changed.
        model: a copy of it, whose weights are replaced.
        item: pattern, sparsity per layer, and what to leave alone.
        calibration: inputs; targets are not used.
        method: wanda (Sun et al. 2024), sparsegpt (Frantar and Alistarh 2023) or alps (Meng et al. 2024).
        regress: fit to the outputs of the dense model, which repairs errors of the layers before; else to
            what the dense weights make of the sparse model's inputs, as these papers do. An output that is
            added to another value, as in a residual connection, makes up for what that value has lost, too.
            Wanda has no choice.
        damping: pull towards the dense weights, as a share of the mean of the diagonal of Z Z'.
        shares: sparsity of single layers by the names of their initializers.
        reconstruction: fit the weights that stay in each block by gradient, before the next block; or not.
        progress: told about every layer.

    Raises:
        UsageError: a method, scope or damping that does not exist, or data that do not fit the model.
        VerificationError: ONNX Runtime cannot run the model on the data, or values inside are not finite.
    """
    if method not in SOLVERS:
        raise UsageError(f"the method is one of magnitude, {', '.join(METHODS)}, not {method!r}")
    if item.scope != "layer":
        raise UsageError(f"method {method} has a sparsity per layer; a global scope is for magnitude")
    if not damping > 0:
        raise UsageError(f"the damping must be positive, not {damping:g}")
    chosen, refusals = item.layers(model)
    wanted = {layer.use.value for layer in chosen}
    layers, left_out = linear_layers(model)
    before = {layer.name: layer for layer in linear_layers(dense)[0]}
    places = {node: number for number, node in enumerate(model.graph)}
    todo = [layer for layer in layers if layer.value in wanted and layer.columns <= MAX_COLUMNS]
    todo.sort(key=lambda layer: places[layer.uses[0].node])
    done = {layer.value for layer in todo}
    whys = {refusal.where: refusal for refusal in left_out}
    more = [_refusal(value, whys) for value in (layer.use.value for layer in chosen) if value not in done]
    solve = _Solve(item, method, regress and method != "wanda", damping, shares or {})
    fronts = Frontier(dense, calibration), Frontier(model, calibration)
    tell = progress or _silent
    ratios: list[float] = []
    number = 0
    for block in blocks(model, todo) if reconstruction else [Block(tuple(todo), (), None)]:
        inputs = [dict(batch) for batch in fronts[1].read(block.inputs)] if block.output else []
        mark = fronts[1].mark() if block.output else None
        last: tuple[object, Sums, Inputs] | None = None
        for layer in block.layers:
            tell(number, len(todo))
            pair = Pair(before[layer.name], layer, solve.regress)
            # queries, keys and values read the same inputs
            if last is None or last[0] != pair.key or layer.window > 1:
                sums = pair.sums(fronts)
                last = (pair.key, sums, solve.inputs(layer, sums))
            solve.layer(pair.dense, layer, *last[1:])
            number += 1
        if reconstruction is not None and block.output is not None and mark is not None:
            targets = [batch[block.output] for batch in fronts[0].read([block.output])]
            error, rest = reconstruct_block(model, block, inputs, targets, reconstruction)
            ratios.append(rest / max(error, 1e-30))
            fronts[1].rewind(mark)
    tell(number, len(todo))
    return PassResult(bool(todo), (*refusals, *more), _notes(todo, ratios))


def _silent(done: int, total: int) -> None:
    """Nobody is told."""


def _notes(layers: list[LinearLayer], ratios: list[float]) -> tuple[str, ...]:
    zeros = total = 0
    for layer in layers:
        array = constant_of(layer.value)
        assert array is not None
        zeros += array.size - int(np.count_nonzero(array))
        total += array.size
    notes = [f"{zeros} of {total} weights in {len(layers)} layers are zero"] if layers else []
    if ratios:
        notes.append(
            f"{len(ratios)} blocks were fitted by gradient, which left {np.mean(ratios):.0%} of their error"
        )
    return tuple(notes)


def _refusal(value: ir.Value, whys: dict[str, Refusal]) -> Refusal:
    name = value.name or ""
    if name in whys:
        return whys[name]
    assert value.const_value is not None
    size = math.prod(value.const_value.shape.numpy())
    return Refusal(f"{name} with {size} weights has more than {MAX_COLUMNS} columns", name, "too-wide")


@dataclass(frozen=True)
class _Solve:
    """How layers are solved."""

    item: Sparsify
    method: str
    regress: bool
    damping: float
    shares: Mapping[str, float]

    def inputs(self, layer: LinearLayer, sums: Sums) -> Inputs:
        """H of a layer's inputs, centred where it has a bias, with columns as in a pattern."""
        count = layer.columns
        gram = sums.gram[:, :count, :count]
        if layer.bias is not None:
            mean = sums.gram[:, :count, count:]
            gram = gram - mean @ mean.swapaxes(1, 2) / sums.rows
        order = _order(layer)
        return Inputs(gram[:, order][:, :, order], self.damping)

    def layer(self, twin: LinearLayer, layer: LinearLayer, sums: Sums, inputs: Inputs) -> None:
        """Replace a layer's weight, and its bias where it has one."""
        count, encoding = layer.columns, self.item.encoding()
        weights = twin.matrix
        aim = weights @ sums.cross[:, :count]
        if sums.lost is not None:
            aim += sums.lost
        target, mean, outputs = aim[:, :, :count], sums.gram[:, :count, count:], aim[:, :, count:]
        if layer.bias is not None:  # the bias that is best for any weights, put in
            target = target - outputs @ mean.swapaxes(1, 2) / sums.rows
        order = _order(layer)
        share = self.shares.get(layer.name, self.item.sparsity)
        problem = Problem.of(weights[:, :, order], inputs, target[:, :, order], encoding, share)
        found = np.empty_like(weights)
        found[:, :, order] = SOLVERS[self.method](problem)
        _write(layer, found, encoding)
        if layer.bias is not None and self.method != "wanda":
            bias = constant_of(layer.bias)
            assert bias is not None
            shift = (outputs - found @ mean).reshape(-1) / sums.rows
            replace_constant(layer.bias, (bias + layer.bias_sign * shift).astype(bias.dtype))
            record(layer.bias, "sparsify")


def _order(layer: LinearLayer) -> np.ndarray:
    """Places of the columns, channel by channel, in the order of `as_matrix`: channels innermost."""
    return np.arange(layer.columns).reshape(-1, layer.window).T.reshape(-1)


def _write(layer: LinearLayer, weights: np.ndarray, encoding: Encoding) -> None:
    tensor = layer.value.const_value
    assert tensor is not None
    array = layer.array_of(weights.reshape(-1, layer.columns)).astype(tensor.dtype.numpy())
    replace_constant(layer.value, array)
    found = encoding if fits(array, encoding, layer.axis) else encoding_of(array, layer.axis)
    set_encoding(layer.value, found)
    record(layer.value, "sparsify")
