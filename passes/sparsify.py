"""Zero the weights of least magnitude in a pattern that a kernel can use.

pattern 4x1, sparsity 0.5, blocks scored by their L2 norm:  keep the better half of the 4x1 blocks
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import replace_constant
from sparsecc.ir.encoding import Encoding, as_matrix, encoding_of, fits, from_matrix, row_major, set_encoding
from sparsecc.ir.provenance import record
from sparsecc.ir.weights import WeightUse, weight_uses
from sparsecc.passes.base import Context, Pass, PassResult
from sparsecc.passes.ratios import erk

Scores = NDArray[np.floating]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Layer:
    """A weight to be made sparse."""

    use: WeightUse

    @property
    def matrix(self) -> np.ndarray:
        """[outputs, all others], in row-major memory that may be the weight's own."""
        return row_major(as_matrix(_tensor(self.use.value).numpy(), self.use.axis))


@dataclass(frozen=True)
class Sparsify(Pass):
    """Magnitude sparsity.

    `sparsity` times the number of blocks, rounded, are zero afterwards; of equal blocks the earlier goes
    first. Zeros that are there already count and stay, so nothing that was pruned comes back, and the same
    pass twice is the same as once. Where such zeros lie across the pattern, the weight is tagged with what
    its zeros are. With a global budget one threshold holds for all layers: the score of a block is its norm
    over the root mean square of its layer, so that layers of different scale compete fairly. Constant
    fan-in rows and N:M groups are filled one by one and have no global budget. By ERK small layers keep more:
    see `ratios.erk`. Depthwise convolutions, weights that other ops read too, layers that are skipped or too
    small, and layers that N:M does not divide are refusals.

    Options:
        pattern: unstructured, N:M such as 2:4, RxC such as 4x1, or fan-in.
        sparsity: share of zeros, at least 0 and under 1; N:M fixes it at 1 - N/M.
        scope: layer (each alike), global or erk.
        skip: layer or parameter names to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
        only: names or globs of the layers that this is for; all where there are none.
    """

    pattern: str = "unstructured"
    sparsity: float = -1.0
    scope: str = "layer"
    skip: tuple[str, ...] = ()
    min_size: int = 1024
    only: tuple[str, ...] = ()

    name: ClassVar[str] = "sparsify"
    summary: ClassVar[str] = "zero weights of least magnitude in a pattern"
    keeps_numbers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        encoding = self.encoding()
        if self.scope not in ("layer", "global", "erk"):
            raise UsageError(f"option scope of pass sparsify is layer, global or erk, not {self.scope!r}")
        if self.min_size < 0:
            raise UsageError(f"option min-size of pass sparsify must not be negative, not {self.min_size}")
        if encoding.pattern == "n:m":
            fixed = 1 - encoding.n / encoding.m
            if self.sparsity != -1.0 and not math.isclose(self.sparsity, fixed, abs_tol=1e-9):
                raise UsageError(
                    f"pattern {self.pattern} fixes the sparsity at {fixed:g}, not {self.sparsity:g}"
                )
        elif not 0 <= self.sparsity < 1:
            given = "none" if self.sparsity == -1.0 else f"{self.sparsity:g}"
            raise UsageError(
                f"pattern {self.pattern} needs a sparsity of at least 0 and under 1, found {given}"
            )
        if self.scope == "global" and encoding.pattern in ("n:m", "fan-in"):
            raise UsageError(f"pattern {self.pattern} holds in every row, so it has no global budget")
        if self.scope == "erk" and encoding.pattern == "n:m":
            raise UsageError(f"pattern {self.pattern} has the same sparsity in every layer, so not by erk")

    def encoding(self) -> Encoding:
        """The encoding that the weights get.

        Raises:
            UsageError: the pattern is none that weights can be brought into.
        """
        encoding = Encoding.parse(self.pattern)
        if encoding.pattern == "dense" or encoding.value_type != "float32":
            raise UsageError(
                f"pattern {self.pattern!r} is not sparse; write unstructured, fan-in, 2:4 or 4x1"
            )
        return encoding

    def apply(self, model: ir.Model, ctx: Context) -> PassResult:
        """Zero weights in new tensors; files and modules that the model came from are never touched."""
        encoding = self.encoding()
        chosen, refusals = self.layers(model)
        zeros = total = 0
        notes: list[str] = []
        for layer, mask in zip(chosen, self._masks(chosen, encoding), strict=True):
            matrix, found = _write(layer, mask, encoding)
            zeros += matrix.size - int(np.count_nonzero(matrix))
            total += matrix.size
            if found != encoding:
                notes.append(f"{layer.use.layer} had other zeros before, so it is {found}, not {encoding}")
        if chosen:
            notes.insert(0, f"{zeros} of {total} weights in {len(chosen)} layers are zero")
        return PassResult(bool(chosen), refusals, tuple(notes))

    def layers(self, model: ir.Model) -> tuple[list[Layer], tuple[Refusal, ...]]:
        """The weights that are made sparse, in the graph's order, and why others that are meant are not."""
        encoding = self.encoding()
        layers: dict[ir.Value, Layer] = {}
        refusals: dict[ir.Value, Refusal] = {}
        for use in weight_uses(model):
            if self.only and not use.is_named(self.only):
                continue
            refusal = self._refusal(use, encoding)
            if refusal is not None:
                refusals[use.value] = refusal
            elif use.value in layers and layers[use.value].use.axis != use.axis:
                refusals[use.value] = Refusal(
                    f"{use.layer} is used along two different axes", use.layer, "shared"
                )
            else:
                layers[use.value] = Layer(use)
        chosen = [layer for value, layer in layers.items() if value not in refusals]
        return chosen, tuple(refusals.values())

    def _refusal(self, use: WeightUse, encoding: Encoding) -> Refusal | None:
        shape = tuple(_tensor(use.value).shape.numpy())
        size, columns = math.prod(shape), math.prod(shape) // shape[use.axis]
        if use.is_named(self.skip):
            return Refusal(f"{use.layer} is skipped by name", use.layer, "skipped")
        if use.depthwise:
            return Refusal(f"{use.layer} is depthwise, where zeros save nothing", use.layer, "depthwise")
        if use.shared:
            return Refusal(
                f"{use.layer} is also read by other ops, such as an embedding", use.layer, "shared"
            )
        if size < self.min_size:
            return Refusal(
                f"{use.layer} has {size} weights, under min-size {self.min_size}", use.layer, "too-small"
            )
        if encoding.pattern == "n:m" and columns % encoding.m:
            reason = f"{use.layer} has {columns} columns, which {encoding.m} does not divide"
            return Refusal(reason, use.layer, "indivisible")
        return None

    def shares(self, layers: list[Layer]) -> dict[str, float]:
        """The sparsity of each layer by its name, where it is known before looking at weights."""
        if self.scope == "erk":
            shapes = {layer.use.layer: _tensor(layer.use.value).shape.numpy() for layer in layers}
            return erk(shapes, self.sparsity)
        return {layer.use.layer: self.sparsity for layer in layers}

    def _masks(self, layers: list[Layer], encoding: Encoding) -> Iterator[Mask]:
        """Which blocks of each layer stay: [rows of blocks, columns of blocks]."""
        if self.scope == "global":
            yield from _keep_globally(
                [_fair_scores(layer.matrix, encoding) for layer in layers], self.sparsity
            )
            return
        shares = self.shares(layers)
        for layer in layers:
            yield _keep_blocks(layer.matrix, encoding, shares[layer.use.layer])


def keep_mask(matrix: np.ndarray, encoding: Encoding, sparsity: float) -> Mask:
    """Which weights of [outputs, columns] stay by magnitude, as `Sparsify` chooses for one layer."""
    keep = _keep_blocks(matrix, encoding, sparsity)
    rows, columns = _block_of(encoding)
    if rows * columns > 1:
        keep = keep.repeat(rows, axis=0).repeat(columns, axis=1)
    return keep[: matrix.shape[0], : matrix.shape[1]]


def _keep_blocks(matrix: np.ndarray, encoding: Encoding, sparsity: float) -> Mask:
    """Which blocks of a layer stay: [rows of blocks, columns of blocks]."""
    scores = block_scores(matrix, encoding)
    if encoding.pattern == "n:m":
        groups = scores.reshape(-1, encoding.m)
        return _keep_largest(groups, encoding.n).reshape(scores.shape)
    if encoding.pattern == "fan-in":
        width = scores.shape[1]
        return _keep_largest(scores, max(1, width - round(sparsity * width)))
    return _keep_best(scores, sparsity)


def _tensor(value: ir.Value) -> ir.TensorProtocol:
    if value.const_value is None:
        raise UsageError(f"{value.name} is no initializer")
    return value.const_value


def _block_of(encoding: Encoding) -> tuple[int, int]:
    """Rows and columns that are zeroed together."""
    return (encoding.rows, encoding.columns) if encoding.pattern == "block" else (1, 1)


def block_scores(matrix: np.ndarray, encoding: Encoding) -> Scores:
    """L2 norm of each block over the root of its size, so that smaller blocks at the edge compete fairly."""
    rows, columns = _block_of(encoding)
    if rows * columns == 1:
        return np.abs(matrix.astype(np.promote_types(matrix.dtype, np.float32), copy=False))
    energy = np.zeros((-(-matrix.shape[0] // rows), -(-matrix.shape[1] // columns)))
    sizes = np.zeros(energy.shape)
    for row, column in product(range(min(rows, matrix.shape[0])), range(min(columns, matrix.shape[1]))):
        part = matrix[row::rows, column::columns]
        energy[: part.shape[0], : part.shape[1]] += np.square(part, dtype=np.float64)
        sizes[: part.shape[0], : part.shape[1]] += 1
    energy /= sizes
    return np.sqrt(energy, out=energy)


def _fair_scores(matrix: np.ndarray, encoding: Encoding) -> Scores:
    """Scores over the root mean square of their layer."""
    scale = float(np.sqrt(np.mean(np.square(matrix, dtype=np.float64))))
    return block_scores(matrix, encoding) / max(scale, 1e-30)


def _keep_best(scores: Scores, sparsity: float) -> Mask:
    """All but round(sparsity * count) blocks, which have the lowest scores."""
    kept = scores.size - round(sparsity * scores.size)
    return _keep_largest(scores.reshape(1, -1), kept).reshape(scores.shape)


def _keep_globally(scores: list[Scores], sparsity: float) -> list[Mask]:
    if not scores:
        return []
    keep = _keep_best(np.concatenate([score.reshape(-1) for score in scores]), sparsity)
    parts = np.split(keep, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def _keep_largest(scores: Scores, kept: int) -> Mask:
    """The `kept` largest of each row, the later ones where equal; what is zero anyhow may be left out."""
    out = scores.shape[1] - kept
    if out <= 0:
        return np.ones(scores.shape, np.bool_)
    highest = np.partition(scores, out - 1, axis=1)[:, out - 1, None]  # of those that go
    keep = scores > highest
    missing = kept - np.count_nonzero(keep, axis=1, keepdims=True)
    tied = np.flatnonzero((missing > 0) & (highest > 0))
    if len(tied):
        equal = scores[tied] == highest[tied]
        behind = np.cumsum(equal[:, ::-1], axis=1, dtype=np.int32)[:, ::-1]
        keep[tied] |= equal & (behind <= missing[tied])
    return keep


def _write(layer: Layer, keep: Mask, encoding: Encoding) -> tuple[np.ndarray, Encoding]:
    """Zero all blocks but those; the new matrix, and what its zeros are now."""
    value, axis = layer.use.value, layer.use.axis
    matrix = layer.matrix.copy()
    rows, columns = _block_of(encoding)
    for row, column in product(range(min(rows, matrix.shape[0])), range(min(columns, matrix.shape[1]))):
        part = matrix[row::rows, column::columns]
        np.copyto(part, 0, where=~keep[: part.shape[0], : part.shape[1]])
    found = encoding if fits(matrix, encoding) else encoding_of(matrix)
    replace_constant(value, from_matrix(matrix, tuple(_tensor(value).shape.numpy()), axis))
    set_encoding(value, found)
    record(value, Sparsify.name)
    return matrix, found
