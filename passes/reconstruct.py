"""Update the weights that stay so that each layer's output is again what it was, without training (OBSPA).

Y = W X  ->  W'[:,K] = (W X X_K') inv(X_K X_K')  for the kept inputs K, one linear layer after the other
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.axes.dims import Dim, keep_mask
from sparsecc.axes.groups import Groups
from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import constant_of, replace_constant
from sparsecc.ir.provenance import record
from sparsecc.passes.criteria.calibration import Calibration
from sparsecc.passes.criteria.linear_layers import LinearLayer, linear_layers
from sparsecc.passes.criteria.moments import MAX_COLUMNS, Moments, rows, second_moments
from sparsecc.passes.frontier import Frontier
from sparsecc.passes.reconstruct_batch_norm import Statistics, adapted, estimate, normalizations

MODES = ("id", "ood", "noise")


def reconstruct(
    original: ir.Model,
    pruned: ir.Model,
    groups: Groups,
    kept: Mapping[Dim, np.ndarray],
    calibration: Calibration | None = None,
    *,
    mode: str = "id",
    regress: bool = False,
    damping: float = 0.01,
    shrink: bool = True,
    batch_norm: bool = False,
    seed: int = 0,
    refusals: list[Refusal] | None = None,
) -> ir.Model:
    """Fit the weights that read pruned inputs to the outputs of the model before pruning.

    Each convolution, Gemm and MatMul with a weight of its own is a least-squares problem in its kept input
    columns K: ||W X - W' X_K||², solved with H = X X' from the calibration inputs of the original. A constant
    input of 1 takes the mean of what was removed into the bias, where there is one, or into the mean that a
    batch normalisation right behind subtracts. With `regress` the layers are fitted one after the other, in
    the order of the graph, with X_K from the pruned model as far as it has been fitted, which repairs the
    error of the layers before too, at the price of two runs over the data per layer. A weight with several
    uses is fitted to all of them at the first.

    Follows OBSPA of SPA (arXiv 2403.18955), whose sequence of block updates has the same result as the one
    solution for all kept columns, and Frantar and Alistarh 2022 (Optimal Brain Compression).

    Args:
        original: the model before pruning, the one that `groups` are of.
        pruned: what the rewriter made of it with `kept`; not changed.
        groups: of the original.
        kept: mask [size] per free dimension; one that is absent keeps all.
        calibration: inputs; targets and loss are not used.
        mode: id for calibration data like the training data, ood for other data, to whose text and pictures
            noise is added, noise for none at all.
        regress: whether to fit layer by layer to the pruned model's own inputs.
        damping: added to the diagonal of H, as a share of its mean; pulls towards the weights as they were.
        shrink: whether to add columns / rows to the damping, since as many rows as columns or fewer fit noise
            at the price of everything else; the more data, the less it does.
        batch_norm: whether to estimate the running statistics of batch normalisations anew on the pruned
            model, in the same sweep; only with data like the training data.
        seed: of the noise.
        refusals: gets one entry for each weight with pruned inputs that was left as it was.

    Returns:
        A new model that shares all other tensors with `pruned`.

    Raises:
        UsageError: options that contradict each other, or data that do not fit the model.
    """
    if original is not groups.model:
        raise UsageError("the groups are of another model than the original; call groups() on the original")
    if not damping > 0:
        raise UsageError(f"the damping of a reconstruction must be positive, not {damping:g}")
    if batch_norm and mode != "id":
        raise UsageError(
            f"batch-norm statistics can only be estimated on data like the training data, not in mode "
            f"{mode}; leave batch_norm off or give such data with mode id"
        )
    data = _data(groups, calibration, mode, seed)
    result = pruned.clone()
    dense, statistics = original, None
    if mode != "id" and normalizations(original):
        dense = adapted(original, data)
        statistics = Statistics(original, dense, _masks(groups, kept))
        statistics.adapt(result)
    layers, left_out = _pairs(dense, result, groups, kept, everything=regress)
    if refusals is not None:
        refusals.extend(left_out)
    if not regress:
        by_layer = {pair.dense: pair for pair in layers}
        for layer, moments in second_moments(dense, by_layer, data):
            by_layer[layer].fit_to_moments(moments, damping, shrink)
    steps: list[tuple[int, LayerPair | ir.Node]] = []
    if batch_norm:
        steps.extend((_place(result, node), node) for node in normalizations(result))
    if regress:
        steps.extend((_place(result, pair.sparse.uses[0].node), pair) for pair in layers)
    if steps:
        before, after = Frontier(dense, data), Frontier(result, data)
        for _, step in sorted(steps, key=lambda item: item[0]):
            if isinstance(step, ir.Node):
                estimate(step, after)
            else:
                step.fit_to_outputs(before, after, damping, shrink)
    if statistics is not None:
        statistics.restore(result)
    return result


@dataclass(frozen=True, eq=False)
class LayerPair:
    """A linear layer before and after pruning.

    Attributes:
        dense: in the original.
        sparse: in the pruned model, whose weight and bias are changed.
        outputs: mask [outputs] of those that stay.
        columns: positions of the columns that stay, alike in all convolution groups.
    """

    dense: LinearLayer
    sparse: LinearLayer
    outputs: np.ndarray
    columns: np.ndarray

    @property
    def constant(self) -> bool:
        """Whether a constant input stands for the bias."""
        return self.dense.bias is not None and self.sparse.bias is not None

    @property
    def surviving(self) -> np.ndarray:
        """Numbers of the convolution groups that keep outputs."""
        return np.flatnonzero(self.outputs.reshape(self.dense.groups, -1).any(axis=1))

    @property
    def inputs(self) -> np.ndarray:
        """Positions in the dense moments of the inputs that stay, the constant one included."""
        return np.append(self.columns, self.dense.columns) if self.constant else self.columns

    def weights(self) -> np.ndarray:
        """The kept outputs of the original: [surviving groups, outputs, columns (+ 1)] in float64."""
        chosen = self.surviving
        matrix = self.dense.matrix
        if self.constant:
            bias = constant_of(self.dense.bias)
            assert bias is not None
            column = self.dense.bias_sign * bias.astype(np.float64)
            matrix = np.concatenate([matrix, column.reshape(*matrix.shape[:2], 1)], axis=2)
        mask = self.outputs.reshape(matrix.shape[:2])
        return np.stack([matrix[number][mask[number]] for number in chosen])

    def fit_to_moments(self, moments: Moments, damping: float, shrink: bool) -> None:
        """Update from H of the dense inputs, as `second_moments` gives it."""
        size = self.dense.columns + self.constant
        own = moments.sums[self.surviving][:, :size, :size]
        cross = own[:, :, self.inputs]
        self._fit(cross, cross[:, self.inputs], damping + shrink * len(self.columns) / moments.rows)

    def fit_to_outputs(self, before: Frontier, after: Frontier, damping: float, shrink: bool) -> None:
        """Update from the dense outputs and the pruned model's inputs.

        Args:
            before: of the original.
            after: of the pruned model, which has not come past the layer.
            damping: as a share of the mean of the diagonal.
            shrink: whether to add columns / rows to it.
        """
        count, size = len(self.surviving), len(self.inputs)
        cross = Moments.zeros(count, self.dense.columns + self.constant, size)
        gram = Moments.zeros(count, size, size)
        # Past the first use of a weight the front would keep what the second sees of the weight as it was.
        once = len(self.sparse.uses) == 1
        for left_values, right_values in zip(
            before.read(self.dense.input_names, advance=once),
            after.read(self.sparse.input_names, advance=once),
            strict=True,
        ):
            dense = rows(self.dense, left_values, self.constant)
            sparse = rows(self.sparse, right_values, self.constant)
            for left, right in _aligned(dense, sparse):
                cross.add(left[self.surviving], right)
                gram.add(right, right)
        self._fit(cross.sums, gram.sums, damping + shrink * len(self.columns) / gram.rows)

    def _fit(self, cross: np.ndarray, gram: np.ndarray, damping: float) -> None:
        found = regression(self.weights(), cross, gram, self.columns, damping)
        value, bias = self.sparse.value, self.sparse.bias
        kept = len(self.columns)
        assert value.const_value is not None
        matrix = found[:, :, :kept].reshape(-1, kept).astype(value.const_value.dtype.numpy())
        replace_constant(value, self.sparse.array_of(matrix))
        record(value, "reconstruct")
        if self.constant and bias is not None and bias.const_value is not None:
            column = self.sparse.bias_sign * found[:, :, kept].reshape(-1)
            replace_constant(bias, column.astype(bias.const_value.dtype.numpy()))
            record(bias, "reconstruct")


def regression(
    weights: np.ndarray, cross: np.ndarray, gram: np.ndarray, columns: np.ndarray, damping: float
) -> np.ndarray:
    """W' that minimises ||W X - W' Z||² + damping x mean(diag) x ||W' - W[:,K]||² per convolution group.

    Args:
        weights: W, [groups, outputs, n].
        cross: X Z', [groups, n, m].
        gram: Z Z', [groups, m, m]; Z are the inputs K, and perhaps a constant one, which is not damped.
        columns: K, positions in X of the first inputs of Z.
        damping: share of the mean of the diagonal; an input of Z that is always 0 keeps its column of W.

    Returns:
        [groups, outputs, m].
    """
    found = np.empty((*weights.shape[:2], gram.shape[2]))
    inner = np.arange(len(columns))
    for number, (own, left, right) in enumerate(zip(weights, cross, gram, strict=True)):
        diagonal = right[inner, inner]
        added = np.where(diagonal > 0, damping * diagonal.mean() if len(inner) else 0, 1)
        pulled, damped = left.copy(), right.copy()
        pulled[columns, inner] += added
        damped[inner, inner] += added
        found[number] = np.linalg.solve(damped, pulled.T @ own.T).T
    return found


def _data(groups: Groups, calibration: Calibration | None, mode: str, seed: int) -> Calibration:
    if mode not in MODES:
        raise UsageError(f"the mode of a reconstruction is one of {', '.join(MODES)}, not {mode!r}")
    if mode == "noise":
        if calibration is not None:
            raise UsageError(
                "mode noise makes its own inputs; leave calibration out, or choose mode id or ood"
            )
        return Calibration.noise(groups, seed=seed)
    if calibration is None:
        raise UsageError(
            f"mode {mode} needs calibration data and none were given; give some or choose mode noise"
        )
    return calibration.with_noise(groups.model, seed) if mode == "ood" else calibration


def _pairs(
    original: ir.Model, pruned: ir.Model, groups: Groups, kept: Mapping[Dim, np.ndarray], everything: bool
) -> tuple[list[LayerPair], list[Refusal]]:
    """Layers to fit, in the order of the graph, and why others with pruned inputs are not."""
    after = {layer.name: layer for layer in linear_layers(pruned)[0]}
    dense_layers, refusals = linear_layers(original)
    axes = {value.name: groups.analysis.axes[value] for value in groups.analysis.parameters}
    shrunk = {name: [not keep_mask(axis, kept).all() for axis in own] for name, own in axes.items()}
    found: list[LayerPair] = []
    for layer in dense_layers:
        if layer.name not in axes:
            continue
        outputs, inputs = (
            keep_mask(axes[layer.name][number], kept) for number in (layer.axis, layer.input_axis)
        )
        sparse = after.get(layer.name)
        if sparse is None or not (everything or not inputs.all()):
            continue
        if layer.columns > MAX_COLUMNS:
            why = f"{layer.name} has {layer.columns} columns, over the limit of {MAX_COLUMNS}"
            refusals.append(Refusal(why, layer.name, "too-wide"))
            continue
        positions = np.flatnonzero(inputs)[:, None] * layer.window + np.arange(layer.window)
        found.append(LayerPair(layer, sparse, outputs, positions.reshape(-1)))
    return found, [refusal for refusal in refusals if any(shrunk.get(refusal.where, ()))]


def _aligned(
    left: Iterator[np.ndarray], right: Iterator[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of parts with equal numbers of rows from two streams cut at different places."""
    first, second = np.empty((1, 0, 0)), np.empty((1, 0, 0))
    while True:
        first = next(left, first) if first.shape[1] == 0 else first
        second = next(right, second) if second.shape[1] == 0 else second
        count = min(first.shape[1], second.shape[1])
        if count == 0:
            return
        yield first[:, :count], second[:, :count]
        first, second = first[:, count:], second[:, count:]


def _masks(groups: Groups, kept: Mapping[Dim, np.ndarray]) -> dict[str, np.ndarray]:
    """What stays of each parameter with one axis."""
    axes = {value.name or "": groups.analysis.axes[value] for value in groups.analysis.parameters}
    return {name: keep_mask(own[0], kept) for name, own in axes.items() if len(own) == 1}


def _place(model: ir.Model, node: ir.Node) -> int:
    """Number of a node in the main graph."""
    return next(number for number, other in enumerate(model.graph) if other is node)
