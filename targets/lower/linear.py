"""Linear layers (MatMul, Gemm with constant weights): feature-major for many columns, else lanes on rows."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from sparsecc.ir import encoding_of
from sparsecc.ir.quantized import BITS, BLOCK, Quantized, is_bfloat16, quantized_of
from sparsecc.targets.kernels.csr import CsrForm, csr_chains, csr_kernel, pack_csr
from sparsecc.targets.kernels.groups import GroupsForm, groups_kernel, pack_groups
from sparsecc.targets.kernels.lookup import LookupForm, lookup_kernel, pack_lookup
from sparsecc.targets.kernels.nibbles import NibblesForm, nibbles_kernel, pack_nibbles
from sparsecc.targets.kernels.rows import RowsForm, choose_chains, pack_rows, rows_kernel
from sparsecc.targets.layout import Layout, round_up
from sparsecc.targets.lower.bitmap import Columns, bitmap_call, stored_weights
from sparsecc.targets.lower.call import Call, LinearWeights, Tail, columns_of, few, tail_of
from sparsecc.targets.lower.conv_planes import define_result
from sparsecc.targets.lower.dots import Sums, choose_dots, define_finished, dots_step, finish_of
from sparsecc.targets.lower.exact_floats import FloatLayer, choose_floats, label_of, linear_in_floats
from sparsecc.targets.lower.layers import RowsLayer, SpmmLayer
from sparsecc.targets.lower.regions import PlaneRegions
from sparsecc.targets.lower.rowwise import padded_rows_of, residuals, row_operand_pointers
from sparsecc.targets.lower.select import RowsChoice, choose_rows, choose_spmm
from sparsecc.targets.lower.spmm import After, spmm_step
from sparsecc.targets.lower.state import LayerReport, Lowering, Pointer, Stored, at_origin, base, shape_of

FloatArray = npt.NDArray[np.float32]

_STORED_ROWS = 16  # `groups` stores so many with 8 lanes too
_SPARSE = {
    "lookup": "sparse lookup",
    "bitmap": "sparse bitmap",
    "csr": "sparse CSR",
    "groups": f"sparse 1x{BLOCK}",
}


def padded_rows(shape: tuple[int, ...]) -> Layout:
    """Row-major with the last dimension padded to the most rows that a kernel stores at once."""
    last = round_up(shape[-1], _STORED_ROWS)
    strides = [prod(shape[d + 1 : -1]) * last for d in range(len(shape) - 1)]
    return Layout((*strides, 1), 0, prod(shape[:-1]) * last)


def linear_layout(shape: tuple[int, ...], lanes: int) -> Layout:
    """The layout in which a linear layer leaves a value of this shape."""
    return padded_rows(shape) if few(shape) else Layout.features(shape, lanes)


def lower_linear(low: Lowering, regions: PlaneRegions, call: Call, weights: LinearWeights) -> None:
    """Emit a linear layer."""
    x_value, out = call.inputs[0], call.output
    assert x_value is not None
    shape, out_shape = shape_of(x_value), shape_of(out)
    if weights.transposed_input:
        shape = (shape[1], shape[0])
    rows = weights.matrix.shape[0]
    tail = tail_of(call, rows)
    bias = np.zeros(padded_rows_of(rows), np.float32)
    for part in (weights.bias, tail.bias):
        if part is not None:
            bias[:rows] += part
    if _codes(low, regions, call, weights, tail, bias, shape):
        return
    y = low.buffer(linear_layout(out_shape, low.machine.lanes), "float32", out.name or "")
    if few(shape):
        _few_columns(low, call, weights, tail, bias, shape, y)
    else:
        _many_columns(low, call, weights, tail, bias, shape, y)
    define_result(low, regions, call, y)


def _codes(
    low: Lowering,
    regions: PlaneRegions,
    call: Call,
    weights: LinearWeights,
    tail: Tail,
    bias: FloatArray,
    shape: tuple[int, ...],
) -> bool:
    """Emit a layer of 8-bit codes with 8-bit weights and many columns; False for others."""
    source = regions.codes.of(call.inputs[0])
    if source is None or source.planes or few(shape) or weights.transposed_input:
        return False
    found = quantized_of(weights.matrix)
    if found is None or found.bits != 8:
        return False
    sums = Sums.of(found.codes, found.scale, source, bias)
    finish = finish_of(
        low, regions, call, tail, sums, linear_layout(shape_of(call.output), low.machine.lanes)
    )
    vectors = -(-columns_of(shape) // low.machine.lanes)
    words, choice = choose_dots(
        low, call.name, found.codes, 1, vectors, group_rows=len(found.codes), batch=1
    )  # fmt: skip
    layer = SpmmLayer(found.codes.astype(np.float32), vectors, 1, len(found.codes), 1)
    floats = choose_floats(low, call.name, layer, choice, finish)
    columns = columns_of(shape)
    if floats is not None:
        own = linear_in_floats(low, regions, FloatLayer(call, layer, source, tail, finish, floats))
        define_finished(low, regions, call, finish)
        _report(
            low, call, weights, columns, label_of(floats), floats.reason, floats.seconds,
            floats.dense_seconds, own,
        )  # fmt: skip
        return True
    x = low.words(source.value)
    offsets = x.layout.origin + np.arange(words.shape[1], dtype=np.int64) * x.layout.strides[-1]
    step = dots_step(
        low, call, words, offsets, choice, finish,
        vectors=vectors, batch=1, x=x, strides=(finish.y.layout.strides[-1], 0, 0),
    )  # fmt: skip
    define_finished(low, regions, call, finish)
    _report(
        low, call, weights, columns, choice.label, choice.reason, choice.seconds, choice.dense_seconds, [step]
    )
    return True


def _matrix_view(stored: Stored, shape: tuple[int, ...], transposed: bool) -> Layout | None:
    """The [columns, K] view of an input."""
    layout = stored.layout.transpose((1, 0)) if transposed else stored.layout
    return layout.reshape(shape, (columns_of(shape), shape[-1]))


def _require(low: Lowering, value: ir.Value, shape: tuple[int, ...], transposed: bool, unit: bool) -> Stored:
    def accepts(s: Stored) -> bool:
        view = _matrix_view(s, shape, transposed)
        if view is None or s.dtype != "float32":
            return False
        return not unit or (not s.exact and view.strides[0] == 1)

    def layout() -> Layout:
        made = Layout.features(shape, low.machine.lanes) if unit else Layout.rows(shape)
        return made.transpose((1, 0)) if transposed else made

    return low.require(value, accepts, layout)


def _few_columns(
    low: Lowering,
    call: Call,
    weights: LinearWeights,
    tail: Tail,
    bias: np.ndarray,
    shape: tuple[int, ...],
    y: Stored,
) -> None:
    x_value = call.inputs[0]
    assert x_value is not None
    N, matrix = columns_of(shape), weights.matrix
    x = _require(low, x_value, shape, weights.transposed_input, unit=False)
    view = _matrix_view(x, shape, weights.transposed_input)
    assert view is not None
    quantized = quantized_of(matrix)
    stored = _stored(matrix, quantized)
    layer = RowsLayer(matrix, N, view.strides[1] == 1, BITS[stored], from_memory=low.from_memory)
    choice = choose_rows(
        layer, low.machine, dense_only=low.keep_dense(call.name), select=low.select(call.name)
    )
    steps: list[int] = []
    if choice.kind == "bitmap":
        columns = Columns(x, (N, matrix.shape[1]), (view.strides[0], view.strides[1]))
        found = bitmap_call(low, call.name, matrix, quantized, stored, bias, columns, tail.epilogue)
        symbol, pointers, scalars, steps = found.symbol, found.pointers, found.scalars, found.steps
    else:
        symbol, tables, scalars = _rows_kernel(
            low, choice, matrix, quantized, stored, N, view.strides[1], tail
        )
        pointers, scalars = [*tables, *low.pack(bias), at_origin(x)], [*scalars, view.strides[0]]
    extra = residuals(low, tail, y.layout)
    y_n = y.layout.strides[-2] if len(y.layout.strides) > 1 else 0
    kind = "rows" if choice.kind in ("dense", "blocks") else choice.kind
    steps.append(low.step(
        call.name, kind, symbol,
        [*pointers, at_origin(y),
         *row_operand_pointers(low, tail.row_operands), *map(at_origin, extra)],
        [*scalars, y_n, *(0 for _ in extra)],
        -(-matrix.shape[0] // choice.rows),
    ))  # fmt: skip
    kernel = f"sparse {choice.rows}x1" if choice.kind == "blocks" else _SPARSE.get(choice.kind, "dense")
    prefix = "" if choice.kind == "csr" or stored == "float32" else f"{stored} "
    label = f"{prefix}{kernel}, {N} column{'s' if N > 1 else ''}"
    _report(low, call, weights, N, label, choice.reason, choice.seconds, choice.dense_seconds, steps)


def _stored(matrix: FloatArray, quantized: Quantized | None) -> str:
    """How the weights of a layer with few columns are kept: the smallest type that holds them exactly."""
    if quantized is not None:
        return f"int{quantized.bits}"
    return "bfloat16" if is_bfloat16(matrix) else "float32"


def _rows_kernel(
    low: Lowering,
    choice: RowsChoice,
    matrix: FloatArray,
    quantized: Quantized | None,
    stored: str,
    columns: int,
    x_k: int,
    tail: Tail,
) -> tuple[str, list[Pointer], list[int]]:
    """The kernel for few columns: (symbol, pointers of its tables, scalars before X's stride along n)."""
    if choice.kind == "csr":
        form = CsrForm(columns, csr_chains(columns), choice.rows, tail.epilogue)
        packed = pack_csr(matrix, choice.rows, form.chains)
        symbol = low.kernel("csr", form, lambda s: csr_kernel(form, s))
        return symbol, low.pack(packed.start, packed.column, packed.value), [x_k]
    weights, scales = stored_weights(matrix, quantized, stored), []
    if quantized is not None and choice.kind == "groups":
        groups_form = GroupsForm(columns, low.machine.lanes, tail.epilogue)
        groups = pack_groups(quantized.codes, quantized.scale)
        symbol = low.kernel("groups", groups_form, lambda s: groups_kernel(groups_form, s))
        units = -(-len(matrix) // choice.rows)
        sums = low.buffer(Layout.rows((units, choice.rows, columns, low.machine.lanes)), "float32", "sums")
        tables = low.pack(groups.start, groups.member, groups.value)
        return symbol, [*tables, base(sums)], [quantized.scale.shape[1], -(-len(matrix) // 16)]
    if quantized is not None and choice.kind == "nibbles":
        nibbles_form = NibblesForm(columns, choice.rows, tail.epilogue)
        halves = pack_nibbles(quantized.codes, quantized.scale, choice.rows)
        symbol = low.kernel("nibbles", nibbles_form, lambda s: nibbles_kernel(nibbles_form, s))
        return symbol, low.pack(halves.value, halves.scale), [halves.scale.shape[1], x_k]
    if quantized is not None:
        scales = [np.pad(quantized.scale, (0, padded_rows_of(len(matrix)) - len(matrix)))]
    if choice.kind == "lookup":
        lookup_form = LookupForm(columns, tail.epilogue, stored)
        found = pack_lookup(weights)
        symbol = low.kernel("lookup", lookup_form, lambda s: lookup_kernel(lookup_form, s))
        arrays = (found.first, found.steps, found.place, found.value, *scales)
        return symbol, low.pack(*arrays), [found.steps.shape[1], matrix.shape[1]]
    dense = choice.kind == "dense"
    chains = choose_chains(columns, matrix.shape[1], dense=dense)
    tables = pack_rows(weights, choice.rows, chains, dense=dense)
    rows_form = RowsForm(columns, chains, dense, choice.rows, tail.epilogue, stored)
    symbol = low.kernel("rows", rows_form, lambda s: rows_kernel(rows_form, s))
    index_tables = [] if dense else [tables.start, tables.column]
    return symbol, low.pack(*index_tables, tables.value, *scales), [tables.runs, x_k]


def _many_columns(
    low: Lowering,
    call: Call,
    weights: LinearWeights,
    tail: Tail,
    bias: np.ndarray,
    shape: tuple[int, ...],
    y: Stored,
) -> None:
    x_value = call.inputs[0]
    assert x_value is not None
    V, matrix = low.machine.lanes, weights.matrix
    x = _require(low, x_value, shape, weights.transposed_input, unit=True)
    view = _matrix_view(x, shape, weights.transposed_input)
    assert view is not None
    vectors = -(-columns_of(shape) // V)
    choice = choose_spmm(
        SpmmLayer(matrix, vectors, 1, matrix.shape[0], 1),
        low.machine,
        dense_only=low.keep_dense(call.name),
        select=low.select(call.name),
    )
    offsets = view.origin + np.arange(matrix.shape[1], dtype=np.int64) * view.strides[1]
    after = After(tail.epilogue, tail.row_operands, residuals(low, tail, y.layout))
    step = spmm_step(
        low, call.name, (matrix, bias), offsets, choice, after, vectors=vectors, batch=1, x=x, y=y,
        strides=(y.layout.strides[-1], 0, 0),
    )  # fmt: skip
    _report(
        low,
        call,
        weights,
        columns_of(shape),
        choice.label,
        choice.reason,
        choice.seconds,
        choice.dense_seconds,
        [step],
    )


def _report(
    low: Lowering,
    call: Call,
    weights: LinearWeights,
    columns: int,
    kernel: str,
    reason: str,
    seconds: float,
    dense_seconds: float,
    steps: list[int],
) -> None:
    M, K = weights.matrix.shape
    zeros = float(1 - np.count_nonzero(weights.matrix) / weights.matrix.size)
    low.layers.append(
        LayerReport(
            call.layer,
            call.name,
            call.anchor.op_type,
            f"{M}x{K} on {columns} columns",
            str(encoding_of(weights.matrix)),
            zeros,
            kernel,
            reason,
            seconds,
            dense_seconds,
            steps,
        )
    )
