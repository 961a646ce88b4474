"""Convolutions and linear layers of 8-bit codes with 8-bit weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsecc.targets.kernels.byte_products import HALF, taken_away
from sparsecc.targets.kernels.codes import LARGEST, Known, limits_of
from sparsecc.targets.kernels.dots import DotsForm, dots_kernel, word_matrix
from sparsecc.targets.kernels.epilogue import Epilogue, EpilogueOp, Operand
from sparsecc.targets.kernels.spmm import pack_spmm, tile_classes
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, Tail
from sparsecc.targets.lower.codes import Codes
from sparsecc.targets.lower.conv_planes import define_result
from sparsecc.targets.lower.layers import SpmmLayer
from sparsecc.targets.lower.regions import PlaneRegions
from sparsecc.targets.lower.rowwise import padded_rows_of, residuals, row_operand_pointers
from sparsecc.targets.lower.select import STREAMED, SpmmChoice, choose_spmm, parts_of
from sparsecc.targets.lower.state import Lowering, Pointer, Stored, base

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

MOST = 255
"""The largest code."""
_FOLDED = frozenset({"Relu", "Clip"})


@dataclass(frozen=True)
class Sums:
    """What int32 sums stand for: value = scale[m] * sum + bias[m].

    Attributes:
        scale, bias: [M], float64.
        reach: [M], what no magnitude of a value exceeds.
    """

    scale: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    reach: npt.NDArray[np.float64]

    @staticmethod
    def of(
        codes: npt.NDArray[np.int8], scale: FloatArray, source: Codes, bias: npt.NDArray[np.floating]
    ) -> Sums:
        """For weights [M, K]; the zero of the activations goes into the bias."""
        factor = scale.astype(np.float64) * np.float64(np.float32(source.scale))
        rows = codes.reshape(len(codes), -1).astype(np.int64)
        shifted = bias[: len(codes)].astype(np.float64) - factor * source.zero * rows.sum(axis=1)
        return Sums(factor, shifted, np.abs(shifted) + factor * MOST * np.abs(rows).sum(axis=1))

    def times(self, factor: float, bias: float = 0.0, reach: float = 0.0) -> Sums:
        """The values times a factor, with a number added to them and to their reach."""
        return Sums(self.scale * factor, self.bias * factor + bias, self.reach * factor + reach)


@dataclass(frozen=True)
class Finish:
    """How a kernel finishes sums: its epilogue, the arrays and tensors that this reads, and where it stores.

    Attributes:
        sums: with what could be folded into them.
        row_operands: [M] arrays.
        tensors: stored as `y`.
        limits: of codes; None for fp32.
        y: the result.
    """

    epilogue: Epilogue
    sums: Sums
    row_operands: tuple[FloatArray, ...]
    tensors: tuple[Stored, ...]
    limits: IntArray | None
    y: Stored

    @property
    def known(self) -> Known:
        """What a writer of codes need not do."""
        if self.limits is None:
            return Known()
        folded = not self.epilogue.ops or self.epilogue.tensor_pointers > 0
        return Known.of(self.limits, bounded=folded and bool((self.sums.reach < LARGEST).all()))

    def scale_and_bias(self) -> list[npt.NDArray[np.float32]]:
        """With room for a kernel's last block of rows."""
        M = len(self.sums.scale)
        room = padded_rows_of(M) - M
        return [np.pad(a, (0, room)).astype(np.float32) for a in (self.sums.scale, self.sums.bias)]

    def limit_pointers(self, low: Lowering) -> list[Pointer]:
        """What the kernel takes behind scale and bias."""
        return [] if self.limits is None else low.pack(self.limits)

    def operand_pointers(self, low: Lowering) -> list[Pointer]:
        """What the epilogue takes."""
        return [*row_operand_pointers(low, self.row_operands), *map(base, self.tensors)]


def start_pointers(low: Lowering, feature: str, codes: npt.NDArray[np.int8]) -> list[Pointer]:
    """What sums of [M, ...] weights start with, where products by `feature` need it."""
    taken = taken_away(feature)
    if not taken:
        return []
    starts = taken * codes.reshape(len(codes), -1).astype(np.int64).sum(axis=1)
    return low.pack(np.pad(starts, (0, padded_rows_of(len(codes)) - len(codes))).astype(np.int32))


def finish_of(
    low: Lowering, regions: PlaneRegions, call: Call, tail: Tail, sums: Sums, layout: Layout
) -> Finish:
    """Codes where the call ends in codes and its tensors are codes too, else fp32 in `layout`."""
    result = regions.codes.of(call.output)
    sources = [regions.codes.of(value) for value in tail.tensors]
    if result is not None:
        words = low.buffer(regions.words(result), "int32", f"{call.output.name}.codes")
        folded = _folded(tail, sums, result, sources, fused=low.machine.fused)
        if folded is not None:
            epilogue, steps, rows, limits = folded
            found = tuple(low.words(source.value) for source in sources if source is not None)
            if all(s.layout.same_elements(words.layout, result.words) for s in found):
                return Finish(epilogue, steps, rows, found, limits, words)
    y = low.buffer(layout, "float32", call.output.name or "")
    extra = tuple(residuals(low, tail, layout))
    return Finish(tail.epilogue, sums, tail.row_operands, extra, None, y)


def define_finished(low: Lowering, regions: PlaneRegions, call: Call, finish: Finish) -> None:
    """Record what a kernel left."""
    if finish.limits is None:
        define_result(low, regions, call, finish.y)
    else:
        low.define_words(call.output, finish.y)


def _folded(
    tail: Tail, sums: Sums, result: Codes, sources: list[Codes | None], *, fused: bool
) -> tuple[Epilogue, Sums, tuple[FloatArray, ...], IntArray] | None:
    """An epilogue that ends in codes: scales and zeros go into the sums, Relu and Clip into the limits."""
    inverse, M = 1.0 / np.float64(np.float32(result.scale)), len(sums.scale)
    ops = list(tail.epilogue.ops)
    limits = limits_of(result.zero)

    def everywhere(value: float) -> FloatArray:
        return np.full(M, value, np.float32)

    chain = all(Operand("step", index) in op.operands for index, op in enumerate(ops))
    if chain and ops and ops[-1].op in _FOLDED:
        limits = _limits(ops.pop(), result, inverse)
    if not ops:
        return Epilogue(), sums.times(inverse), (), limits
    residual = EpilogueOp("Add", (Operand("step", 0), Operand("tensor", 0)))
    swapped = EpilogueOp("Add", (Operand("tensor", 0), Operand("step", 0)))
    source = sources[0] if sources else None
    if len(ops) == 1 and ops[0] in (residual, swapped) and source is not None:
        factor = np.float64(np.float32(source.scale)) * inverse
        operands = (Operand("codes", 0), Operand("row", 0), Operand("step", 0))
        total = EpilogueOp("MulAdd", operands, (("fused", float(fused)),))
        folded = sums.times(inverse, -factor * source.zero, factor * MOST)
        return Epilogue((total,), 1, 1), folded, (everywhere(factor),), limits
    if sources:
        return None
    rows = tail.epilogue.row_pointers
    scaled = EpilogueOp("Mul", (Operand("step", len(ops)), Operand("row", rows)))
    return Epilogue((*ops, scaled), rows + 1, 0), sums, (*tail.row_operands, everywhere(inverse)), limits


def _limits(op: EpilogueOp, result: Codes, inverse: float) -> IntArray:
    """Relu and Clip as bounds of codes: rounding keeps the order of values."""
    bounds = dict(op.attributes) if op.op == "Clip" else {"min": 0.0}
    codes = {
        name: int(np.clip(np.rint(bound * inverse) + result.zero, 0, 255)) for name, bound in bounds.items()
    }
    return limits_of(result.zero, codes.get("min", 0), codes.get("max", 255))


def choose_dots(
    low: Lowering,
    node: str,
    codes: npt.NDArray[np.int8],
    taps: int,
    vectors: int,
    *,
    group_rows: int,
    batch: int,
) -> tuple[npt.NDArray[np.int32], SpmmChoice]:
    """The weights [M, C x taps] as words, and the form that is cheapest for their zeros."""
    words = word_matrix(codes, taps)
    layer = SpmmLayer(words, vectors, taps, group_rows, batch, words=True)
    choice = choose_spmm(layer, low.machine, dense_only=low.keep_dense(node), select=low.select(node))
    return words, choice


def dots_step(
    low: Lowering,
    call: Call,
    words: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    choice: SpmmChoice,
    finish: Finish,
    *,
    vectors: int,
    batch: int,
    x: Stored,
    strides: tuple[int, int, int],
) -> int:
    """Emit the product; `strides` are Y's between rows (of words), X's and Y's between batches."""
    widths, (first, second) = tile_classes(vectors, choice.width)
    tiles = (first + second) * batch
    parts = parts_of(tiles, words.shape[0], choice.rows)
    tables = pack_spmm(words, offsets, choice.rows, chunk=words.shape[1], parts=parts, dense=choice.dense)
    stream = tables.value.nbytes >= STREAMED
    dot, codes = low.machine.dot, words.view(np.int8)
    form = DotsForm(
        choice.rows,
        widths,
        low.machine.lanes,
        dot,
        stream,
        finish.limits is not None,
        finish.epilogue,
        finish.known,
        low.machine.fused,
        bool(low.machine.without_dot) and int(codes.min()) > -HALF,
    )
    symbol = _kernel(low, form)
    pitch, x_batch, y_batch = strides
    return low.step(
        call.name, "dots", symbol,
        [*low.pack(*tables.arrays(), *finish.scale_and_bias()), *start_pointers(low, dot, codes),
         *finish.limit_pointers(low), base(x), base(finish.y), *finish.operand_pointers(low)],
        [first, second, parts, pitch, finish.y.layout.origin, x_batch, y_batch,
         *(y_batch for _ in finish.tensors)],
        tiles * parts,
    )  # fmt: skip


def _kernel(low: Lowering, form: DotsForm) -> str:
    """The symbol of a form's kernel; where not every processor has its feature, another one stands in."""
    symbol = low.kernel("dots", form, lambda s: dots_kernel(form, s))
    if not low.machine.without_dot:
        low.use(form.feature)
        return symbol
    other = replace(form, feature=low.machine.without_dot)
    low.alternatives[symbol] = low.kernel("dots", other, lambda s: dots_kernel(other, s))
    return symbol
