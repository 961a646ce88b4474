"""Make weights sparse with calibration data, one layer after the other, without training.

Y = W X  ->  W' with zeros in a pattern for which ||Y - W' Z||² is small, Z being the inputs that the layers
before, which are sparse already, leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import constant_of, replace_constant
from sparsecc.ir.encoding import encoding_of, fits, set_encoding
from sparsecc.ir.provenance import record
from sparsecc.ir.quantized import LARGEST
from sparsecc.passes.base import PassResult
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.moments import MAX_COLUMNS
from sparsecc.passes.frontier import Frontier
from sparsecc.passes.one_shot_blocks import Block, Reconstruction, blocks, reconstruct_block
from sparsecc.passes.one_shot_codes import on_grid
from sparsecc.passes.one_shot_importance import layer_shares, output_importance, squared_gradients
from sparsecc.passes.one_shot_solvers import DAMPING, MASKS, SOLVERS, Inputs, Problem
from sparsecc.passes.one_shot_state import State, fingerprint
from sparsecc.passes.one_shot_sums import Pair, Sums
from sparsecc.passes.sparsify import Sparsify

METHODS = tuple(SOLVERS)
Progress = Callable[[int, int], None]
"""Called with the number of layers that are done and of all."""


@dataclass(frozen=True)
class OneShot:
    """How weights are chosen and fitted.

    Attributes:
        method: wanda (Sun et al. 2024), gblm (Das et al. 2023), dsnot (Zhang et al. 2024), sparsegpt (Frantar
            and Alistarh 2023) or alps (Meng et al. 2024).
        regress: fit to the outputs of the dense model, which repairs errors of the layers before; else to
            what the dense weights make of the sparse model's inputs, as these papers do. An output that is
            added to another value, as in a residual connection, makes up for what that value has lost, too.
            Only for sparsegpt and alps, which change weights.
        damping: pull towards the dense weights, as a share of the mean of the diagonal of Z Z'.
        gradients: take the gradients of the loss on the data, through PyTorch, for what an error of each
            output costs, and let the sparsity differ between layers, with as many zeros over all.
        bits: 8 or 4 for weights on the grids that `quantize` stores, chosen with the zeros there; or 32.
        reconstruction: fit the weights that stay in each block by gradient, before the next block; or not.

    Raises:
        UsageError: a method, damping or number of bits that does not exist, or two that contradict.
    """

    method: str = "alps"
    regress: bool = True
    damping: float = DAMPING
    gradients: bool = False
    bits: int = 32
    reconstruction: Reconstruction | None = None

    def __post_init__(self) -> None:
        if self.method not in SOLVERS:
            raise UsageError(f"the method is one of magnitude, {', '.join(METHODS)}, not {self.method!r}")
        if not self.damping > 0:
            raise UsageError(f"the damping must be positive, not {self.damping:g}")
        if self.bits not in (32, *LARGEST):
            raise UsageError(f"weights have 32, 8 or 4 bits, not {self.bits}")
        if self.bits < 32 and self.reconstruction is not None:
            raise UsageError(
                "weights that are fitted by gradient leave the grid: quantise them in a second run"
            )


def one_shot(
    dense: ir.Model,
    model: ir.Model,
    item: Sparsify | Sequence[Sparsify],
    calibration: Calibration,
    options: OneShot | None = None,
    *,
    squares: Mapping[str, np.ndarray] | None = None,
    folder: Path | None = None,
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
        calibration: inputs; targets are used for gradients only.
        options: ALPS without gradients, if None.
        squares: of `squared_gradients`, where they are known, for the gradients of the options.
        folder: keeps finished layers, or blocks where these are fitted as a whole; a run that was interrupted
            goes on behind them, to the same result.
        progress: told about every layer.

    Raises:
        UsageError: a global scope, data that do not fit the model, a folder of another run, or a layer that
            two items are for.
        VerificationError: ONNX Runtime cannot run the model on the data, or values inside are not finite.
    """
    options = options or OneShot()
    items = (item,) if isinstance(item, Sparsify) else tuple(item)
    if any(one.scope != "layer" for one in items):
        raise UsageError(f"method {options.method} has a sparsity per layer; a global scope is for magnitude")
    chosen, refusals = _chosen(model, items)
    layers, left_out = linear_layers(model)
    places = {node: number for number, node in enumerate(model.graph)}
    todo = [layer for layer in layers if layer.value in chosen and layer.columns <= MAX_COLUMNS]
    todo.sort(key=lambda layer: places[layer.uses[0].node])
    done = {layer.value for layer in todo}
    whys = {refusal.where: refusal for refusal in left_out}
    more = [_refusal(value, whys) for value in chosen if value not in done]
    state = None
    if folder is not None:
        state = State(folder, fingerprint(dense, calibration, (*items, options)))
    before = {layer.name: layer for layer in linear_layers(dense)[0]}
    by_name = {layer.name: chosen[layer.value] for layer in todo}
    run = _Run(by_name, options, model, before, (Frontier(dense, calibration), Frontier(model, calibration)))
    if options.gradients or options.method == "gblm":
        twins = [before[layer.name] for layer in todo]
        run.weigh(twins, squares or squared_gradients(dense, twins, calibration))
    tell = progress or _silent
    number = 0
    steps = blocks(model, todo) if options.reconstruction else [Block((layer,), (), None) for layer in todo]
    for step, block in enumerate(steps):
        tell(number, len(todo))
        kept = None if state is None else state.read(step)
        if kept is None:
            run.block(block, lambda done, number=number: tell(number + done, len(todo)))
            if state is not None:
                state.write(step, run.changed)
        else:
            run.restore(block, kept)
        number += len(block.layers)
    tell(number, len(todo))
    return PassResult(bool(todo), (*refusals, *more), _notes(todo, run.ratios))


def _pass(values: Iterable[object]) -> None:
    """Move a front without looking at what it reads."""
    for _ in values:
        pass


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
class _Run:
    """Solves layers, and blocks of them.

    Attributes:
        items: pattern and sparsity, by the name of the layer.
        options: the method.
        model: the sparse one.
        before: layers of the dense model by name.
        fronts: of the dense and of the sparse model.
        importance: of outputs [outputs, 1], by the name of the layer.
        shares: sparsity of layers that have their own.
        slopes: norms of gradients [outputs, columns], by the name of the layer.
        ratios: of the errors after and before the fit, for each block.
        changed: arrays of the last block, by initializer.
    """

    items: Mapping[str, Sparsify]
    options: OneShot
    model: ir.Model
    before: dict[str, LinearLayer]
    fronts: tuple[Frontier, Frontier]
    importance: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    shares: dict[str, float] = field(default_factory=dict[str, float])
    slopes: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    ratios: list[float] = field(default_factory=list[float])
    changed: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    _last: tuple[object, Sums, Inputs] | None = None

    def weigh(self, twins: list[LinearLayer], squares: Mapping[str, np.ndarray]) -> None:
        """Learn from squared gradients of the dense layers what counts."""
        names = [twin.name for twin in twins if twin.name in squares]
        if self.options.method == "gblm":
            self.slopes = {name: np.sqrt(squares[name]) for name in names}
        if not self.options.gradients:
            return
        self.importance = {name: output_importance(squares[name]) for name in names}
        for item in dict.fromkeys(self.items.values()):
            those = [twin for twin in twins if self.items[twin.name] == item]
            self.shares |= layer_shares(those, squares, item.encoding(), item.sparsity)

    def block(self, block: Block, tell: Callable[[int], None]) -> None:
        """Solve the layers of a block one after the other, and fit them together if asked to."""
        self.changed = {}
        left, right = self.fronts
        output, fit = block.output, self.options.reconstruction
        inputs = [dict(batch) for batch in right.read(block.inputs)] if fit and output else []
        mark = right.mark() if fit and output else None
        for number, layer in enumerate(block.layers):
            tell(number)
            pair = self._pair(layer)
            # queries, keys and values read the same inputs
            if self._last is None or self._last[0] != pair.key or layer.window > 1:
                sums = pair.sums(self.fronts)
                self._last = (pair.key, sums, self.inputs(layer, sums))
            self.layer(pair.dense, layer, *self._last[1:])
        if fit is not None and output is not None and mark is not None:
            targets = [batch[output] for batch in left.read([output])]
            error, rest, changed = reconstruct_block(self.model, block, inputs, targets, fit, right.weights)
            self.ratios.append(rest / max(error, 1e-30))
            self.changed |= changed
            right.rewind(mark)
            self._last = None

    def _pair(self, layer: LinearLayer) -> Pair:
        regress = self.options.regress and self.options.method not in MASKS
        return Pair(self.before[layer.name], layer, regress)

    def restore(self, block: Block, arrays: Mapping[str, np.ndarray]) -> None:
        """Put in what an earlier run found for a block, with the fronts where they were after it."""
        left, right = self.fronts
        if self.options.reconstruction is not None and block.output is not None:
            _pass(right.read(block.inputs))
        for layer in block.layers:
            pair = self._pair(layer)
            if self.options.reconstruction is None or block.output is None:
                _pass(pair.read(self.fronts))
            elif pair.regress:
                _pass(left.read(pair.dense.input_names, advance=len(layer.uses) == 1))
        if self.options.reconstruction is not None and block.output is not None:
            _pass(left.read([block.output]))
        by_name = {layer.name: layer for layer in block.layers}
        for name, array in arrays.items():
            if name in by_name:
                self._write(by_name[name], array)
            else:
                replace_constant(self.model.graph.initializers[name], array)
                record(self.model.graph.initializers[name], "sparsify")

    def inputs(self, layer: LinearLayer, sums: Sums) -> Inputs:
        """H of a layer's inputs, centred where it has a bias, with columns as in a pattern."""
        count = layer.columns
        gram = sums.gram[:, :count, :count]
        if layer.bias is not None and self.options.method not in MASKS:
            mean = sums.gram[:, :count, count:]
            gram = gram - mean @ mean.swapaxes(1, 2) / sums.rows
        order = _order(layer)
        scaled = sums.gram[:, count:, :count] / math.sqrt(max(1, sums.rows))
        return Inputs(gram[:, order][:, :, order], self.options.damping, scaled[:, :, order])

    def layer(self, twin: LinearLayer, layer: LinearLayer, sums: Sums, inputs: Inputs) -> None:
        """Replace a layer's weight, and its bias where it has one."""
        item = self.items[layer.name]
        count, encoding = layer.columns, item.encoding()
        weights = twin.matrix
        aim = weights @ sums.cross[:, :count]
        if sums.lost is not None:
            aim += sums.lost
        target, mean, outputs = aim[:, :, :count], sums.gram[:, :count, count:], aim[:, :, count:]
        if layer.bias is not None:  # the bias that is best for any weights, put in
            target = target - outputs @ mean.swapaxes(1, 2) / sums.rows
        order = _order(layer)
        share = self.shares.get(layer.name, item.sparsity)
        rows = np.sqrt(self.importance.get(layer.name, np.ones((1, 1))))
        rows = np.broadcast_to(rows, (layer.shape[layer.axis], 1)).reshape(layer.groups, -1, 1)
        dense, aim = weights[:, :, order], target[:, :, order]
        slopes = self.slopes.get(layer.name)
        slopes = None if slopes is None else slopes.reshape(weights.shape)
        problem = Problem.of(rows * dense, inputs, rows * aim, encoding, share, slopes)
        solved = SOLVERS[self.options.method](problem) / rows
        if self.options.bits < 32:
            solved = on_grid(Problem.of(dense, inputs, aim, encoding, share), solved, self.options.bits)
        found = np.empty_like(weights)
        found[:, :, order] = solved
        tensor = layer.value.const_value
        assert tensor is not None
        array = layer.array_of(found.reshape(-1, count)).astype(tensor.dtype.numpy())
        self._write(layer, array)
        if layer.bias is not None and self.options.method not in MASKS:
            bias = constant_of(layer.bias)
            assert bias is not None
            shift = (outputs - found @ mean).reshape(-1) / sums.rows
            array = (bias + layer.bias_sign * shift).astype(bias.dtype)
            replace_constant(layer.bias, array)
            record(layer.bias, "sparsify")
            self.changed[layer.bias.name or ""] = array

    def _write(self, layer: LinearLayer, array: np.ndarray) -> None:
        encoding = self.items[layer.name].encoding()
        replace_constant(layer.value, array)
        found = encoding if fits(array, encoding, layer.axis) else encoding_of(array, layer.axis)
        set_encoding(layer.value, found)
        record(layer.value, "sparsify")
        self.changed[layer.name] = array


def _order(layer: LinearLayer) -> np.ndarray:
    """Places of the columns, channel by channel, in the order of `as_matrix`: channels innermost."""
    return np.arange(layer.columns).reshape(-1, layer.window).T.reshape(-1)
