"""Zero the weights of least magnitude in a pattern that a kernel can use.

pattern 4x1, sparsity 0.5, blocks scored by their L2 norm:  keep the better half of the 4x1 blocks
"""

from __future__ import annotations

import fnmatch
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from sparsecc.errors import Refusal, UsageError
from sparsecc.ir.edit import replace_constant
from sparsecc.ir.encoding import Encoding, as_matrix, block_sums, from_matrix, set_encoding
from sparsecc.ir.provenance import record, source_name
from sparsecc.ir.weights import WeightUse, weight_uses
from sparsecc.passes.base import Context, Pass, PassResult

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """A weight to be made sparse: its use and its matrix view [outputs, all others]."""

    use: WeightUse
    matrix: np.ndarray


@dataclass(frozen=True)
class Sparsify(Pass):
    """Magnitude sparsity.

    The number of blocks to zero is `sparsity` times the number of blocks, rounded; of equal blocks the
    earlier goes first. With a global budget one threshold holds for all layers: the score of a block is its
    norm over the root mean square of its layer, so that layers of different scale compete fairly. Constant
    fan-in rows and N:M groups are filled one by one and have no global budget. Depthwise convolutions,
    weights that other ops read too, layers that are skipped or too small, and layers that N:M does not
    divide are refusals.

    Options:
        pattern: unstructured, N:M such as 2:4, RxC such as 4x1, or fan-in.
        sparsity: share of zeros, at least 0 and under 1; N:M fixes it at 1 - N/M.
        scope: layer or global.
        skip: layer or parameter names to leave alone, or globs.
        min_size: weights with fewer elements are left alone.
    """

    pattern: str = "unstructured"
    sparsity: float = -1.0
    scope: str = "layer"
    skip: tuple[str, ...] = ()
    min_size: int = 1024

    name: ClassVar[str] = "sparsify"
    summary: ClassVar[str] = "zero weights of least magnitude in a pattern"
    keeps_numbers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        encoding = self.encoding()
        if self.scope not in ("layer", "global"):
            raise UsageError(f"option scope of pass sparsify is layer or global, not {self.scope!r}")
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
        layers: dict[ir.Value, Layer] = {}
        refusals: dict[ir.Value, Refusal] = {}
        for use in weight_uses(model):
            refusal = self._refusal(use, encoding)
            if refusal is not None:
                refusals[use.value] = refusal
            elif use.value in layers and layers[use.value].use.axis != use.axis:
                refusals[use.value] = Refusal(
                    f"{use.layer} is used along two different axes", use.layer, "shared"
                )
            else:
                layers[use.value] = Layer(use, as_matrix(_weights(use.value), use.axis))
        chosen = [layer for value, layer in layers.items() if value not in refusals]
        for layer, mask in zip(chosen, self._masks(chosen, encoding), strict=True):
            _write(layer, mask, encoding)
        zeros = sum(int(np.count_nonzero(_weights(layer.use.value) == 0)) for layer in chosen)
        total = sum(layer.matrix.size for layer in chosen)
        notes = (f"{zeros} of {total} weights in {len(chosen)} layers are zero",) if chosen else ()
        return PassResult(bool(chosen), tuple(refusals.values()), notes)

    def _refusal(self, use: WeightUse, encoding: Encoding) -> Refusal | None:
        names = (use.layer, source_name(use.value), use.value.name or "")
        columns = _weights(use.value).size // _weights(use.value).shape[use.axis]
        if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self.skip):
            return Refusal(f"{use.layer} is skipped by name", use.layer, "skipped")
        if use.depthwise:
            return Refusal(f"{use.layer} is depthwise, where zeros save nothing", use.layer, "depthwise")
        if use.shared:
            return Refusal(
                f"{use.layer} is also read by other ops, such as an embedding", use.layer, "shared"
            )
        if _weights(use.value).size < self.min_size:
            size = _weights(use.value).size
            return Refusal(
                f"{use.layer} has {size} weights, under min-size {self.min_size}", use.layer, "too-small"
            )
        if encoding.pattern == "n:m" and columns % encoding.m:
            reason = f"{use.layer} has {columns} columns, which {encoding.m} does not divide"
            return Refusal(reason, use.layer, "indivisible")
        return None

    def _masks(self, layers: list[Layer], encoding: Encoding) -> list[NDArray[np.bool_]]:
        """Which weights stay, per layer."""
        if encoding.pattern == "n:m":
            return [_keep_in_groups(layer.matrix, encoding.n, encoding.m) for layer in layers]
        if encoding.pattern == "fan-in":
            return [_keep_in_rows(layer.matrix, self.sparsity) for layer in layers]
        rows, columns = (encoding.rows, encoding.columns) if encoding.pattern == "block" else (1, 1)
        scores = [_block_scores(layer.matrix, rows, columns) for layer in layers]
        if self.scope == "global":
            scores = [
                score / max(float(np.sqrt(np.mean(np.square(layer.matrix, dtype=np.float64)))), 1e-30)
                for score, layer in zip(scores, layers, strict=True)
            ]
            kept = _keep_globally(scores, self.sparsity)
        else:
            kept = [_keep_best(score, self.sparsity) for score in scores]
        return [
            _expand(blocks, layer.matrix.shape, rows, columns)
            for blocks, layer in zip(kept, layers, strict=True)
        ]


def _weights(value: ir.Value) -> np.ndarray:
    if value.const_value is None:
        raise UsageError(f"{value.name} is no initializer")
    return value.const_value.numpy()


def _block_scores(matrix: np.ndarray, rows: int, columns: int) -> Matrix:
    """L2 norm of each block over the root of its size, so that smaller blocks at the edge compete fairly."""
    energy = block_sums(np.square(matrix, dtype=np.float64), rows, columns)
    sizes = block_sums(np.ones(matrix.shape), rows, columns) if rows * columns > 1 else 1.0
    return np.sqrt(energy / sizes)


def _keep_best(scores: Matrix, sparsity: float) -> NDArray[np.bool_]:
    """Zero exactly round(sparsity * count) blocks, the lowest scores, earlier blocks first where equal."""
    order = np.argsort(scores, axis=None, kind="stable")
    keep = np.ones(scores.size, np.bool_)
    keep[order[: round(sparsity * scores.size)]] = False
    return keep.reshape(scores.shape)


def _keep_globally(scores: list[Matrix], sparsity: float) -> list[NDArray[np.bool_]]:
    if not scores:
        return []
    keep = _keep_best(np.concatenate([score.reshape(-1) for score in scores]), sparsity)
    parts = np.split(keep, np.cumsum([score.size for score in scores])[:-1])
    return [part.reshape(score.shape) for part, score in zip(parts, scores, strict=True)]


def _keep_in_groups(matrix: np.ndarray, n: int, m: int) -> NDArray[np.bool_]:
    groups = np.abs(matrix).reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")
    keep = np.zeros(groups.shape, np.bool_)
    np.put_along_axis(keep, order[:, :n], True, axis=1)
    return keep.reshape(matrix.shape)


def _keep_in_rows(matrix: np.ndarray, sparsity: float) -> NDArray[np.bool_]:
    kept = max(1, matrix.shape[1] - round(sparsity * matrix.shape[1]))
    order = np.argsort(-np.abs(matrix), axis=1, kind="stable")
    keep = np.zeros(matrix.shape, np.bool_)
    np.put_along_axis(keep, order[:, :kept], True, axis=1)
    return keep


def _expand(blocks: NDArray[np.bool_], shape: tuple[int, ...], rows: int, columns: int) -> NDArray[np.bool_]:
    full = np.repeat(np.repeat(blocks, rows, axis=0), columns, axis=1)
    return full[: shape[0], : shape[1]]


def _write(layer: Layer, mask: NDArray[np.bool_], encoding: Encoding) -> None:
    value, shape = layer.use.value, _weights(layer.use.value).shape
    zeroed = np.where(mask, layer.matrix, np.zeros((), layer.matrix.dtype))
    replace_constant(value, from_matrix(zeroed, shape, layer.use.axis))
    set_encoding(value, encoding)
    record(value, Sparsify.name)
