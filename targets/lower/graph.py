"""The lowering of a graph for the cpu target: every node becomes kernel calls, a view, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError
from sparsecc.ir.edit import constant_of
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, call_of, conv_geometry, linear_weights, unfused
from sparsecc.targets.lower.chains import Chain, find_chains
from sparsecc.targets.lower.conv import lower_conv
from sparsecc.targets.lower.linear import lower_linear
from sparsecc.targets.lower.memory import ALIGNMENT, Buffer, place
from sparsecc.targets.lower.other import (
    copy_to,
    lower_chain,
    lower_norm,
    lower_pool,
    lower_softmax,
    zero_halo,
)
from sparsecc.targets.lower.pool_codes import lower_pool_codes
from sparsecc.targets.lower.preference import Preferences
from sparsecc.targets.lower.product import lower_product
from sparsecc.targets.lower.recode import lower_decode, lower_encode
from sparsecc.targets.lower.regions import POOLS, PlaneRegions
from sparsecc.targets.lower.state import (
    LayerReport,
    Lowering,
    Pointer,
    Selector,
    Stored,
    check_index,
    dtype_of,
    shape_of,
)
from sparsecc.targets.lower.views import lower_view
from sparsecc.targets.machine import Machine
from sparsecc.targets.plan import Plan, Ref, Step, TensorSpec

NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


class GraphLowering:
    """Lowers one model; `run` returns the plan without object files.

    `dense_only` keeps all layers dense, `dense_layers` those of the nodes named; `selector` is asked before
    the cost model.
    """

    def __init__(
        self,
        model: ir.Model,
        machine: Machine,
        *,
        dense_only: bool = False,
        dense_layers: frozenset[str] = frozenset(),
        selector: Selector | None = None,
    ) -> None:
        self.model = model
        self.low = Lowering(
            model, machine, dense_only=dense_only, dense_layers=dense_layers, selector=selector
        )
        self.regions = PlaneRegions(model, machine.lanes)
        self.wishes = Preferences(model, self.regions, machine.lanes)
        self.low.copier = copy_to
        self.low.after_copy = self._zero_halo

    def run(self, name: str, target: str, progress: Callable[[int, int], None] | None = None) -> Plan:
        graph = self.model.graph
        for value in (output for node in graph for output in node.outputs):
            if value.uses() or value.is_graph_output():
                shape_of(value)  # the first that is not static is the one to name
        inputs = define_inputs(self.low, graph)
        outputs = [spec_of(value) for value in graph.outputs]
        units = find_chains(self.model)
        for done, unit in enumerate(units):
            self._lower(unit)
            for output in unit.outputs:
                self._zero_halo(output, None)
            if progress is not None:
                progress(done + 1, len(units))
        for index, (value, spec) in enumerate(zip(graph.outputs, outputs, strict=True)):
            self._write_output(value, spec, index)
        return self._plan(name, target, inputs, outputs)

    def _lower(self, unit: Chain) -> None:
        node = unit.nodes[0]
        if len(unit.nodes) > 1:
            lower_chain(self.low, unit.nodes, self._layout_of)
            return
        call = call_of(self.model, node)
        if call.coding is not None and self.regions.codes.of(call.output) is None:
            self._apart(call, call.coding)
        else:
            self._lower_call(call)

    def _apart(self, call: Call, coding: ir.Node) -> None:
        """Lower a call without its QuantizeLinear, and that by itself."""
        plain, node, actual = apart(call, coding)
        self._lower_call(plain)
        lower_chain(self.low, [node], self._layout_of, actual)

    def _lower_call(self, call: Call) -> None:
        node, op = call.node, call.anchor.op_type
        require_standard(call)
        if op == "Constant":
            array = constant_of(node.outputs[0])
            assert array is not None
            self.low.define(node.outputs[0], self.low.constant(array))
        elif op == "Conv" and (geometry := conv_geometry(call)) is not None:
            lower_conv(self.low, self.regions, call, geometry)
        elif op in ("MatMul", "Gemm") and (weights := linear_weights(call)) is not None:
            lower_linear(self.low, self.regions, call, weights)
        elif op in ("QuantizeLinear", "DequantizeLinear") and (codes := self.regions.codes.of(call.output)):
            recode = lower_encode if op == "QuantizeLinear" else lower_decode
            recode(self.low, self.regions, node, codes)
        elif op == "MatMul" and call.output.dtype == ir.DataType.FLOAT:
            lower_product(self.low, call, self.wishes.of(call.output))
        elif not self._has_own_kernel(node) and not lower_view(self.low, node):
            self._generic(call)

    def _has_own_kernel(self, node: ir.Node) -> bool:
        """Lower pools, softmax and norms where their kernels fit."""
        if node.op_type in POOLS:
            done = lower_pool_codes(self.low, self.regions, node)
            return done or lower_pool(self.low, node, self._layout_of)
        if node.op_type == "Softmax":
            return lower_softmax(self.low, node, self._layout_of)
        return node.op_type in NORMS and lower_norm(self.low, node, self._layout_of)

    def _generic(self, call: Call) -> None:
        if call.tail:
            nodes, actual = unfused(call)
            lower_chain(self.low, nodes, self._layout_of, actual)
        else:
            lower_chain(self.low, [call.node], self._layout_of)

    def _layout_of(self, value: ir.Value, source: Sequence[ir.Value]) -> Layout:
        return layout_for(self.low, self.wishes, value, source)

    def _zero_halo(self, value: ir.Value, made: Stored | None) -> None:
        planes = self.regions.planes(value)
        if planes is None or not planes.zero:
            return
        codes = self.regions.codes.of(value)
        if made is None and codes is not None:
            if codes.value is value:
                words, bits = self.low.words(value), codes.zero_word
                zero_halo(self.low, words, codes.words, planes.spec, value.name or "", bits)
            return
        layout = self.regions.layout(value)
        for stored in self.low.versions(value) if made is None else [made]:
            if stored.layout == layout and stored.own:
                zero_halo(self.low, stored, shape_of(value), planes.spec, value.name or "")

    def _write_output(self, value: ir.Value, spec: TensorSpec, index: int) -> None:
        buffer = Buffer.at(Ref("output", index), spec.nbytes)
        copy_to(
            self.low, self.low.any_version(value), spec.shape, Layout.rows(spec.shape), spec.name, into=buffer
        )

    def _plan(self, name: str, target: str, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> Plan:
        steps, arena = placed_steps(self.low)
        return Plan(
            name=name,
            target=target,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            steps=steps,
            arena_bytes=arena,
            weights=self.low.weights,
            objects={},
            symbols=dict(self.low.signatures),
            features=tuple(self.low.features),
            alternatives=dict(self.low.alternatives),
            optional=(self.low.machine.dot,) if self.low.alternatives else (),
            report={"layers": [layer_entry(layer) for layer in self.low.layers]},
            platform=self.low.machine.platform,
        )


def define_inputs(low: Lowering, graph: ir.Graph) -> list[TensorSpec]:
    """Make the graph's inputs known, row-major where the caller has them."""
    inputs = [spec_of(value) for value in graph.inputs]
    for index, (value, spec) in enumerate(zip(graph.inputs, inputs, strict=True)):
        check_index(f"input {spec.name!r}", prod(spec.shape))
        buffer = Buffer.at(Ref("input", index), spec.nbytes)
        low.define(value, Stored(buffer, Layout.rows(spec.shape), spec.dtype))
    return inputs


def require_standard(call: Call) -> None:
    """Refuse ops that ONNX does not define."""
    if call.anchor.domain not in ("", "ai.onnx"):
        raise UnsupportedOpError(
            f"op {call.node.domain}::{call.node.op_type} (node {call.name!r}) is not in the ONNX standard "
            "and has no kernel; export the model without it"
        )


def layout_for(low: Lowering, wishes: Preferences, value: ir.Value, source: Sequence[ir.Value]) -> Layout:
    """An output's layout: what its consumers wish, else that of an equally shaped operand, else rows."""
    shape = shape_of(value)
    wish = wishes.of(value)
    if wish is not None:
        return wish
    for operand in source:
        if constant_of(operand) is None and shape_of(operand) == shape and operand.dtype == value.dtype:
            stored = low.any_version(operand)
            if not stored.exact and dense_enough(stored.layout, shape):
                return stored.layout
    return Layout.rows(shape)


def placed_steps(low: Lowering, alignment: int = ALIGNMENT) -> tuple[tuple[Step, ...], int]:
    """The steps with all buffers in one arena, and its bytes."""
    buffers = {id(p.target): p.target for s in low.steps for p in s.pointers if isinstance(p.target, Buffer)}
    arena = place(buffers.values(), alignment)
    steps = tuple(
        Step(s.label, s.symbol, tuple(resolve(p) for p in s.pointers), tuple(s.scalars), s.extent, s.kind)
        for s in low.steps
    )
    return steps, arena


def apart(call: Call, coding: ir.Node) -> tuple[Call, ir.Node, dict[ir.Value, ir.Value]]:
    """A call without its QuantizeLinear, that by itself, and whom its output stands for."""
    name = f"{call.output.name}::fp32"
    plain = ir.Value(name=name, shape=call.output.shape, type=ir.TensorType(ir.DataType.FLOAT))
    numbers = list(coding.inputs[1:])
    node = ir.Node("", coding.op_type, [plain, *numbers], dict(coding.attributes), num_outputs=1, name=name)
    result = node.outputs[0]
    result.name, result.shape, result.type = call.output.name, call.output.shape, call.output.type
    return replace(call, output=plain, coding=None), node, {result: call.output}


def layer_entry(layer: LayerReport) -> dict[str, object]:
    """A line of the report, ready for JSON."""
    return {
        "name": layer.name,
        "node": layer.node,
        "op": layer.op,
        "shape": layer.shape,
        "pattern": layer.pattern,
        "zeros": round(layer.zeros, 4),
        "kernel": layer.kernel,
        "reason": layer.reason,
        "predicted_seconds": layer.predicted_seconds,
        "predicted_dense_seconds": layer.predicted_dense_seconds,
        "steps": layer.steps,
    }


def resolve(pointer: Pointer) -> Ref:
    """Where a pointer points, once the buffers are placed."""
    if isinstance(pointer.target, Buffer):
        return pointer.target.ref(pointer.offset)
    return Ref(pointer.target.space, pointer.target.index, pointer.target.offset + pointer.offset)


def spec_of(value: ir.Value) -> TensorSpec:
    """The name, type and shape of a graph input or output."""
    return TensorSpec(value.name or "", dtype_of(value), shape_of(value))


def dense_enough(layout: Layout, shape: tuple[int, ...]) -> bool:
    """Whether writing the elements of a value in this layout writes each place once."""
    sizes = sorted((abs(s), n) for s, n in zip(layout.strides, shape, strict=True) if n > 1)
    reach = 1
    for stride, n in sizes:
        if stride < reach:
            return False
        reach = stride * (n - 1) + reach
    return bool(np.prod(shape) <= layout.size)
