"""Make weights sparse with calibration data, one layer after the other, without training.

Y = W X  ->  W' with zeros in a pattern for which ||Y - W' Z||² is small, Z being the inputs that the layers
before, which are sparse already, leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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
from sparsecc.passes.criteria.moments import MAX_COLUMNS, Moments, rows
from sparsecc.passes.frontier import Frontier
from sparsecc.passes.one_shot_solvers import DAMPING, SOLVERS, Problem
from sparsecc.passes.sparsify import Sparsify

METHODS = tuple(SOLVERS)
Progress = Callable[[int, int], None]
"""Called with the number of layers that are done and of all."""


def one_shot(
    dense: ir.Model,
    model: ir.Model,
    item: Sparsify | Sequence[Sparsify],
    calibration: Calibration,
    *,
    method: str = "alps",
    regress: bool = True,
    damping: float = DAMPING,
    progress: Progress | None = None,
) -> PassResult:
    """Give the weights of `model` zeros, and other values where the method has them.

    The layers are taken in the order of the graph, each with what the sparse layers before it compute on the
    data. With a bias, the one that is best for any weights is put in. Whatever `item` leaves alone stays, and
    zeros that are there stay.

    Args:
        dense: what the outputs shall stay like; not changed.
        model: a copy of it, whose weights are replaced.
        item: pattern, sparsity per layer, and what to leave alone; or several, each for layers of its own.
        calibration: inputs; targets are not used.
        method: wanda (Sun et al. 2024), sparsegpt (Frantar and Alistarh 2023) or alps (Meng et al. 2024).
        regress: fit to the outputs of the dense model, which repairs errors of the layers before; else to
            what the dense weights make of the sparse model's inputs, as these papers do. Wanda has no choice.
        damping: pull towards the dense weights, as a share of the mean of the diagonal of Z Z'.
        progress: told about every layer.

    Raises:
        UsageError: a method, scope or damping that does not exist, data that do not fit the model, or a layer
            that two items are for.
        VerificationError: ONNX Runtime cannot run the model on the data.
    """
    if method not in SOLVERS:
        raise UsageError(f"the method is one of magnitude, {', '.join(METHODS)}, not {method!r}")
    items = (item,) if isinstance(item, Sparsify) else tuple(item)
    if any(one.scope != "layer" for one in items):
        raise UsageError(f"method {method} has a sparsity per layer; a global scope is for magnitude")
    if not damping > 0:
        raise UsageError(f"the damping must be positive, not {damping:g}")
    chosen, refusals = _chosen(model, items)
    layers, left_out = linear_layers(model)
    before = {layer.name: layer for layer in linear_layers(dense)[0]}
    places = {node: number for number, node in enumerate(model.graph)}
    todo = [layer for layer in layers if layer.value in chosen and layer.columns <= MAX_COLUMNS]
    todo.sort(key=lambda layer: places[layer.uses[0].node])
    done = {layer.value for layer in todo}
    whys = {refusal.where: refusal for refusal in left_out}
    more = [_refusal(value, whys) for value in chosen if value not in done]
    solve = _Solve(chosen, method, regress and method != "wanda", damping)
    fronts = Frontier(dense, calibration), Frontier(model, calibration)
    zeros = total = 0
    last: tuple[object, _Sums] | None = None
    for number, layer in enumerate(todo):
        if progress is not None:
            progress(number, len(todo))
        twin = before[layer.name]
        # queries, keys and values read the same inputs
        key = (twin.input_names, layer.input_names, layer.window, layer.groups, layer.bias is not None)
        if last is None or last[0] != key or layer.window > 1:
            last = (key, _sums(twin, layer, fronts, regress=solve.regress))
        solve.layer(twin, layer, last[1])
        array = constant_of(layer.value)
        assert array is not None
        zeros += array.size - int(np.count_nonzero(array))
        total += array.size
    if progress is not None:
        progress(len(todo), len(todo))
    notes = (f"{zeros} of {total} weights in {len(todo)} layers are zero",) if todo else ()
    return PassResult(bool(todo), (*refusals, *more), notes)


def _chosen(
    model: ir.Model, items: Sequence[Sparsify]
) -> tuple[dict[ir.Value, Sparsify], tuple[Refusal, ...]]:
    """The weights that are made sparse and by which item, and why others that are meant are not."""
    chosen: dict[ir.Value, Sparsify] = {}
    refusals: list[Refusal] = []
    for item in items:
        layers, more = item.layers(model)
        refusals += more
        for layer in layers:
            if layer.use.value in chosen:
                raise UsageError(f"{layer.use.layer} is to be made sparse twice")
            chosen[layer.use.value] = item
    return chosen, tuple(refusals)


def _refusal(value: ir.Value, whys: dict[str, Refusal]) -> Refusal:
    name = value.name or ""
    if name in whys:
        return whys[name]
    assert value.const_value is not None
    size = math.prod(value.const_value.shape.numpy())
    return Refusal(f"{name} with {size} weights has more than {MAX_COLUMNS} columns", name, "too-wide")


@dataclass
class _Sums:
    """Products over the data, of inputs with a constant one behind them.

    Attributes:
        gram: Z Z' of the sparse model's inputs, [groups, n, n].
        cross: X Z' with the dense model's inputs, or the sparse model's own, [groups, n, n].
        rows: number of rows.
    """

    gram: np.ndarray
    cross: np.ndarray
    rows: int


def _sums(
    twin: LinearLayer, layer: LinearLayer, fronts: tuple[Frontier, Frontier], *, regress: bool
) -> _Sums:
    constant = layer.bias is not None
    size = layer.columns + constant
    gram, cross = (Moments.zeros(layer.groups, size, size) for _ in range(2))
    once = len(layer.uses) == 1  # past its first use the front would keep what others see of it as it was
    if not regress:
        for values in fronts[1].read(layer.input_names, advance=once):
            for z in rows(layer, values, constant):
                gram.add(z, z)
        return _Sums(gram.sums, gram.sums, gram.rows)
    for left, right in zip(
        fronts[0].read(twin.input_names, advance=once),
        fronts[1].read(layer.input_names, advance=once),
        strict=True,
    ):
        for x, z in zip(rows(twin, left, constant), rows(layer, right, constant), strict=True):
            gram.add(z, z)
            cross.add(x, z)
    return _Sums(gram.sums, cross.sums, gram.rows)


@dataclass(frozen=True)
class _Solve:
    """How layers are solved."""

    items: Mapping[ir.Value, Sparsify]
    method: str
    regress: bool
    damping: float

    def layer(self, twin: LinearLayer, layer: LinearLayer, sums: _Sums) -> None:
        """Replace a layer's weight, and its bias where it has one."""
        item = self.items[layer.value]
        count, encoding = layer.columns, item.encoding()
        weights = twin.matrix
        left, gram = sums.cross, sums.gram[:, :count, :count]
        target, inputs, outputs = weights @ left[:, :count, :count], None, None
        if layer.bias is not None:  # the bias that is best for any weights, put in
            inputs = sums.gram[:, :count, count:]
            outputs = weights @ left[:, :count, count:]
            gram = gram - inputs @ inputs.swapaxes(1, 2) / sums.rows
            target = target - outputs @ inputs.swapaxes(1, 2) / sums.rows
        order = _order(layer)
        problem = Problem.of(
            weights[:, :, order], gram[:, order][:, :, order], target[:, :, order], encoding,
            item.sparsity, self.damping,
        )  # fmt: skip
        found = np.empty_like(weights)
        found[:, :, order] = SOLVERS[self.method](problem)
        _write(layer, found, encoding)
        if layer.bias is not None and inputs is not None and outputs is not None and self.method != "wanda":
            bias = constant_of(layer.bias)
            assert bias is not None
            shift = (outputs - found @ inputs).reshape(-1) / sums.rows
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
