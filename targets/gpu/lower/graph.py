"""The lowering of a graph for a device: every node becomes launches, a view, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from sparsecc.errors import UnsupportedOpError
from sparsecc.ir.edit import constant_of
from sparsecc.targets.gpu.lower.layers import lower_conv, lower_linear
from sparsecc.targets.gpu.lower.other import lower_norm, lower_product, lower_softmax
from sparsecc.targets.gpu.lower.state import DeviceLowering, planes
from sparsecc.targets.gpu.machine import Gpu
from sparsecc.targets.gpu.plan import ALIGNMENT, GpuPlan
from sparsecc.targets.kernels.ordered_nodes import ALONE
from sparsecc.targets.layout import Layout
from sparsecc.targets.lower.call import Call, call_of, conv_geometry, linear_weights, unfused
from sparsecc.targets.lower.chains import Chain, find_chains
from sparsecc.targets.lower.graph import (
    NORMS,
    apart,
    define_inputs,
    layer_entry,
    layout_for,
    placed_steps,
    require_standard,
    spec_of,
)
from sparsecc.targets.lower.memory import Buffer
from sparsecc.targets.lower.other import copy_to, lower_chain
from sparsecc.targets.lower.preference import Preferences
from sparsecc.targets.lower.state import dtype_of, shape_of
from sparsecc.targets.lower.views import lower_view
from sparsecc.targets.plan import Ref, TensorSpec


class _NoCodes:
    """Values in words of codes: a device has none."""

    def of(self, value: ir.Value | None) -> None:
        """None: every value lies as it is."""


class PlainPlanes:
    """The layouts of images on a device: channels at whole quads, no zeros around."""

    codes = _NoCodes()

    def __init__(self, model: ir.Model) -> None:
        self._images: set[ir.Value] = set()
        for node in model.graph:
            call = call_of(model, node)
            if call.anchor.op_type == "Conv" and (g := conv_geometry(call)) is not None:
                self._images.add(call.output)
                if g.pointwise and call.inputs[0] is not None:
                    self._images.add(call.inputs[0])
                self._images |= {v for n in call.tail for i in n.inputs if i and (v := call.binding.get(i))}

    def layout(self, value: ir.Value) -> Layout | None:
        """Of a value that a convolution reads or writes."""
        if value not in self._images or value.shape is None or value.shape.rank() < 3:
            return None
        return planes(shape_of(value))


class DeviceGraph:
    """Lowers one model; `run` returns the plan without sources."""

    def __init__(
        self,
        model: ir.Model,
        gpu: Gpu,
        *,
        dense_only: bool = False,
        dense_layers: frozenset[str] = frozenset(),
    ) -> None:
        self.model = model
        self.low = DeviceLowering(model, gpu, dense_only=dense_only, dense_layers=dense_layers)
        self.low.copier = copy_to
        self._wishes = Preferences(model, PlainPlanes(model), 1)

    def run(self, name: str, progress: Callable[[int, int], None] | None = None) -> GpuPlan:
        """Lower every node.

        Raises:
            LoweringError, UnsupportedOpError: what cannot be lowered, and why.
        """
        graph = self.model.graph
        self._check_types()
        inputs = define_inputs(self.low, graph)
        outputs = [spec_of(value) for value in graph.outputs]
        units = find_chains(self.model)
        for done, unit in enumerate(units):
            self._lower(unit)
            if progress is not None:
                progress(done + 1, len(units))
        for index, (value, spec) in enumerate(zip(graph.outputs, outputs, strict=True)):
            buffer = Buffer.at(Ref("output", index), spec.nbytes)
            stored = self.low.any_version(value)
            copy_to(self.low, stored, spec.shape, Layout.rows(spec.shape), spec.name, into=buffer)
        return self._plan(name, inputs, outputs)

    def _check_types(self) -> None:
        """Every value must be of a type that the device's language has."""
        known = self.low.gpu.types
        values = [*self.model.graph.inputs, *(v for node in self.model.graph for v in node.outputs)]
        for value in values:
            if (value.uses() or value.is_graph_output()) and dtype_of(value) not in known:
                raise UnsupportedOpError(
                    f"value {value.name!r} is of type {dtype_of(value)}, which {self.low.gpu.name} has not; "
                    f"it has {', '.join(sorted(known))}"
                )
            if value.uses() or value.is_graph_output():
                shape_of(value)  # the first that is not static is the one to name

    def _lower(self, unit: Chain) -> None:
        node = unit.nodes[0]
        if len(unit.nodes) > 1:
            lower_chain(self.low, unit.nodes, self._layout_of)
            return
        call = call_of(self.model, node)
        if call.coding is not None:
            plain, coding, actual = apart(call, call.coding)
            self._lower_call(plain)
            lower_chain(self.low, [coding], self._layout_of, actual)
        else:
            self._lower_call(call)

    def _lower_call(self, call: Call) -> None:
        node, op = call.node, call.anchor.op_type
        require_standard(call)
        if op in ALONE:
            raise UnsupportedOpError(
                f"{op} node {call.name!r} has no kernel for {self.low.gpu.name}; compile for a CPU, "
                "or export the model without it"
            )
        if op == "Constant":
            array = constant_of(node.outputs[0])
            assert array is not None
            self.low.define(node.outputs[0], self.low.constant(array))
        elif op == "Conv" and (geometry := conv_geometry(call)) is not None:
            lower_conv(self.low, call, geometry)
        elif op in ("MatMul", "Gemm") and (weights := linear_weights(call)) is not None:
            lower_linear(self.low, call, weights)
        elif op == "MatMul" and call.output.dtype == ir.DataType.FLOAT:
            lower_product(self.low, call, self._wishes.of(call.output))
        elif not self._has_own_kernel(node) and not lower_view(self.low, node):
            nodes, actual = unfused(call) if call.tail else ([call.node], {})
            lower_chain(self.low, nodes, self._layout_of, actual)

    def _has_own_kernel(self, node: ir.Node) -> bool:
        if node.op_type == "Softmax":
            return lower_softmax(self.low, node, self._layout_of)
        return node.op_type in NORMS and lower_norm(self.low, node, self._layout_of)

    def _layout_of(self, value: ir.Value, source: Sequence[ir.Value]) -> Layout:
        return layout_for(self.low, self._wishes, value, source)

    def _plan(self, name: str, inputs: list[TensorSpec], outputs: list[TensorSpec]) -> GpuPlan:
        low = self.low
        steps, arena = placed_steps(low, ALIGNMENT)
        return GpuPlan(
            name=name,
            target=low.gpu.name,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            steps=steps,
            arena_bytes=arena,
            weights=low.weights,
            objects={},
            symbols=dict(low.signatures),
            features=(),
            report={"layers": [layer_entry(layer) for layer in low.layers]},
            platform=low.gpu.platform,
            launches=low.launches(),
        )
