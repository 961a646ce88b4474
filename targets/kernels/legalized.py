"""ONNX nodes -> Relax -> the TE stages of TVM's legalisation, and which of them are kept in memory."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from math import prod
from typing import Any

import numpy.typing as npt
import onnx
import tvm
from tvm import relax, topi
from tvm.ir import GenericConst
from tvm.relax.frontend.onnx import onnx_frontend

from sparsecc.errors import UnsupportedOpError
from sparsecc.targets.kernels.stages import Stage, children, stages_of

Array = npt.NDArray[Any]
_CHEAP_CALLS = {"if_then_else", "likely", "fabs", "shift_left", "shift_right", "bitwise_and", "bitwise_or"}

# It prints every node that it refuses, which is in our error's text as well.
vars(onnx_frontend)["print"] = lambda *_: None


@dataclass
class StageGraph:
    """All stages of a chain in topological order.

    Attributes:
        producers: the stage that computes a value.
        types: shape and dtype per value.
        numbers: values that are one constant number.
        arrays: values that are larger constants.
        outputs: for each output of the ONNX graph the value that holds it.
        functions: keeps the TIR alive, whose handles the stages refer to.
    """

    producers: dict[str, Stage] = field(default_factory=dict[str, Stage])
    types: dict[str, tuple[tuple[int, ...], str]] = field(
        default_factory=dict[str, tuple[tuple[int, ...], str]]
    )
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    arrays: dict[str, Array] = field(default_factory=dict[str, Array])
    outputs: list[str] = field(default_factory=list[str])
    functions: list[Any] = field(default_factory=list[Any])

    @property
    def stages(self) -> list[Stage]:
        return list(dict.fromkeys(self.producers.values()))

    def add_constant(self, name: str, array: Array) -> None:
        self.types[name] = (array.shape, str(array.dtype))
        if array.size == 1:
            self.numbers[name] = array.item()
        else:
            self.arrays[name] = array


def import_stages(model: onnx.ModelProto, where: str) -> StageGraph:
    """Run TVM's importer and legalisation; graph inputs keep their names.

    Raises:
        UnsupportedOpError: the importer or the legalisation has no rule for an op; `where` names the nodes.
    """
    try:
        module = relax.transform.LegalizeOps({"relax.take": _take})(_import(model))
        module = relax.transform.FoldConstant()(module)
    except (
        tvm.error.OpNotImplemented,
        tvm.error.InternalError,
        NotImplementedError,
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
    ) as error:
        lines = str(error).strip().splitlines()
        reason = lines[-1] if lines else type(error).__name__
        raise UnsupportedOpError(
            f"{where}: TVM's ONNX importer cannot lower this node ({reason}); "
            "replace it by simpler ops before compiling"
        ) from error
    graph = StageGraph()
    main = module["main"]
    names: dict[int, Any] = {}
    for param, value in zip(main.params, model.graph.input, strict=True):
        names[hash(param)] = value.name
        graph.types[value.name] = _tensor_type(param.ty)
    serial = count()
    for block in main.body.blocks:
        for binding in block.bindings:
            names[hash(binding.var)] = _bind(graph, module, binding.value, names, serial, where)
    result = _operand(graph, main.body.body, names, serial)
    graph.outputs = list(result) if isinstance(result, tuple) else [result]
    return graph


def _import(model: onnx.ModelProto) -> Any:
    """TVM's `from_onnx` without its second check of the model, and silent where it refuses a node."""
    importer: Any = onnx_frontend.ONNXGraphImporter({}, "float32", keep_params_in_input=False, sanitize=True)
    try:
        return importer.from_onnx(model.graph, model.opset_import[0].version)
    except Exception:
        with suppress(tvm.error.InternalError):  # none is open
            importer.bb._end_block()  # else a warning of an open block comes with its end
        raise


def _take(builder: Any, call: Any) -> Any:
    """`take` with indices beyond the end at the end: TVM's default reads outside, and warns of it."""
    data, indices = call.args
    return builder.call_te(topi.take, data, indices, call.attrs.axis, mode="clip")


def _tensor_type(ty: Any) -> tuple[tuple[int, ...], str]:
    return tuple(int(n) for n in ty.shape), str(ty.dtype)


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind)  # apart, since TVM's stubs would narrow `value` to classes without fields


def _operand(graph: StageGraph, expr: Any, names: Mapping[int, Any], serial: Any) -> Any:
    if _is(expr, GenericConst):
        name = f"constant{next(serial)}"
        graph.add_constant(name, expr.value.numpy())
        return name
    return names[hash(expr)]


def _bind(
    graph: StageGraph, module: Any, value: Any, names: Mapping[int, Any], serial: Any, where: str
) -> Any:
    """The name, or tuple of names, of what a binding's right-hand side yields."""
    if _is(value, relax.Tuple):
        return tuple(_operand(graph, f, names, serial) for f in value.fields)
    if _is(value, relax.TupleGetItem):
        return names[hash(value.tuple_value)][value.index]
    if not _is(value, relax.Call):
        return _operand(graph, value, names, serial)
    if value.op.name != "relax.call_tir":
        raise UnsupportedOpError(
            f"{where}: TVM has no lowering for {value.op.name}; replace it by simpler ops before compiling"
        )
    args = [_operand(graph, a, names, serial) for a in value.args[1].fields]
    ty = value.ty_args[0]
    types = [_tensor_type(f) for f in ty.fields] if _is(ty, relax.TupleType) else [_tensor_type(ty)]
    results = [f"value{next(serial)}" for _ in types]
    graph.types |= dict(zip(results, types, strict=True))
    func = module[value.args[0]]
    graph.functions.append(func)
    try:
        stages, internal = stages_of(func, [*args, *results], lambda: f"value{next(serial)}")
    except NotImplementedError as error:
        raise UnsupportedOpError(
            f"{where}: {value.args[0].name_hint} has no element-wise form ({error})"
        ) from error
    graph.types |= internal
    for stage in stages:
        graph.producers |= dict.fromkeys(stage.outputs, stage)
    return tuple(results) if len(results) > 1 or _is(ty, relax.TupleType) else results[0]


def kept_stages(graph: StageGraph) -> list[Stage]:
    """The stages that become kernels of their own, in order; all others are inlined into them.

    Outputs are kept; a reduction, or a stage with a costly call, is kept where inlining would evaluate
    it more often than once per element.
    """
    stages = graph.stages
    consumers: dict[Stage, list[Stage]] = {s: [] for s in stages}
    for stage in stages:
        for name in stage.loaded():
            if name in graph.producers:
                consumers[graph.producers[name]].append(stage)
    kept: set[Stage] = set()
    evaluations: dict[Stage, dict[Stage, int]] = {}
    for stage in reversed(stages):
        size = prod(stage.shape)
        by_root: dict[Stage, int] = {}
        for consumer in consumers[stage]:
            inner = prod(n for _, n in consumer.reduce)
            roots = {consumer: prod(consumer.shape)} if consumer in kept else evaluations[consumer]
            for root, times in roots.items():
                by_root[root] = max(by_root.get(root, 0), times * inner)
        repeated = sum(by_root.values()) > size
        if set(stage.outputs) & set(graph.outputs) or (repeated and (stage.reduce or _is_costly(stage))):
            kept.add(stage)
        evaluations[stage] = by_root
    return [s for s in stages if s in kept]


def _is_costly(stage: Stage) -> bool:
    stack: list[Any] = [*stage.values, *(v for _, v in stage.lets)]
    while stack:
        e = stack.pop()
        if type(e).__name__ == "Call" and str(e.op.name).rsplit(".", 1)[-1] not in _CHEAP_CALLS:
            return True
        stack += children(e)
    return False
