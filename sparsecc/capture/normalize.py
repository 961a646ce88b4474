"""From any ONNX graph to one form: known ops, one opset, weights as initializers, shapes inferred."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as common_passes

from sparsecc.errors import CaptureError, UnsupportedOpError, VerificationError
from sparsecc.ir.edit import attribute_int
from sparsecc.ir.fused import FUSED_DOMAIN
from sparsecc.ir.opset import IR_VERSION, OPSET
from sparsecc.ir.shapes import call_onnx, first_line, infer_shapes, light_proto, specialize_shapes
from sparsecc.ir.shuffles import gather_shuffles
from sparsecc.ir.verify import check, node_text

OLDEST_IN_PLACE = 18
"""Opsets from here on are converted in place by onnxscript; older ones by the onnx package."""

HINTS = {
    "com.microsoft": "export again without ONNX Runtime's graph optimisations",
    "ai.onnx.ml": "classical machine learning ops are not neural network layers; cut them off the model",
    "ai.onnx.training": "export the model in inference mode",
    "org.pytorch.aten": "export with torch.onnx.export(dynamo=True)",
}


def normalize(model: ir.Model, shapes: Mapping[str, Sequence[int]], *, foreign_ops: bool = False) -> ir.Model:
    """Bring a model into form; the argument may be changed and must not be used afterwards.

    Args:
        model: any ONNX graph.
        shapes: input name -> dims.
        foreign_ops: let ops of unknown domains pass.

    Raises:
        UsageError: shapes that do not fit the inputs.
        CaptureError: a cycle, or what ONNX's checker refuses.
        UnsupportedOpError: an unknown domain or op, a training op, or an opset without a conversion.
        VerificationError: a broken rule of the verifier.
    """
    with _quiet_onnx():
        _inline(model)
        _check_ops(model, foreign_ops=foreign_ops)
        _check_sources(model)
        _sort(model)
        common_passes.RemoveInitializersFromInputsPass()(model)
        model.ir_version = IR_VERSION
        _name(model)
        _check_onnx(model)
        _check_inference_mode(model)
        model = _at_opset(model)
        common_passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        _name(model)
        _drop_empty_parts(model)
        check(model, foreign_ops=foreign_ops)
        if shapes:
            specialize_shapes(model, shapes)
        else:
            infer_shapes(model)
        _drop_empty_parts(model)
        if gather_shuffles(model):
            common_passes.RemoveUnusedNodesPass()(model)
        check(model, foreign_ops=foreign_ops)
    return model


def _inline(model: ir.Model) -> None:
    """Inline every function but fused ones."""
    if any(function.domain != FUSED_DOMAIN for function in model.functions.values()):
        try:
            common_passes.InlinePass(lambda function: function.domain != FUSED_DOMAIN)(model)
        except (ir.passes.PassError, ValueError) as error:
            raise CaptureError(f"the model's functions cannot be inlined: {first_line(error)}") from error


def _check_ops(model: ir.Model, *, foreign_ops: bool) -> None:
    for node in model.graph.all_nodes():
        if node.domain == "ai.onnx":
            node.domain = ""
        if node.domain == "":
            if not onnx.defs.has(node.op_type):
                raise UnsupportedOpError(
                    f"{node_text(node)} is no op of any ONNX opset; replace it or export the model again"
                )
        elif node.op_identifier() not in model.functions and not foreign_ops:
            hint = HINTS.get(node.domain, "replace it by ONNX ops or define it as a model-local function")
            raise UnsupportedOpError(f"{node_text(node)} is of the unknown domain {node.domain}; {hint}")
    if "ai.onnx" in model.opset_imports:
        model.opset_imports.setdefault("", model.opset_imports.pop("ai.onnx"))


def _check_inference_mode(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.op_type == "BatchNormalization" and attribute_int(node, "training_mode", 0):
            raise UnsupportedOpError(
                f"{node_text(node)} is in training mode; call module.eval() before exporting the model"
            )


def _check_sources(model: ir.Model) -> None:
    """Dangling inputs and outputs, which would make the steps below stumble."""
    known = set(model.graph.inputs) | set(model.graph.initializers.values())
    for graph in model.graph.subgraphs():
        known |= set(graph.inputs) | set(graph.initializers.values())
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.producer() is None and value not in known:
                raise CaptureError(
                    f"{node_text(node)} reads {value.name}, which is no input, initializer or node output"
                )
    for value in model.graph.outputs:
        if value.producer() is None and value not in known:
            raise CaptureError(f"output {value.name} is not computed by any node")


def _sort(model: ir.Model) -> None:
    try:
        model.graph.sort()
    except ValueError as error:
        raise CaptureError(
            f"the graph has a cycle{_cycle_text(model)}; an ONNX graph must be acyclic"
        ) from error


def _cycle_text(model: ir.Model) -> str:
    """Name one node on a cycle: strip nodes whose inputs are all computed until none is left to strip."""
    done: set[ir.Node] = set()
    nodes = list(model.graph)
    while True:
        ready = [n for n in nodes if n not in done and all(p in done for p in n.predecessors())]
        if not ready:
            break
        done.update(ready)
    rest = [node for node in nodes if node not in done]
    return f" through {node_text(rest[0])}" if rest else ""


def _at_opset(model: ir.Model) -> ir.Model:
    version = model.opset_imports.get("")
    if version is None:
        raise CaptureError("the model does not say which ONNX opset it uses")
    if version == OPSET:
        return model
    if OLDEST_IN_PLACE <= version < OPSET:
        from onnxscript import version_converter

        version_converter.convert_version(model, OPSET)
        return model
    return _converted_by_onnx(model, version)


def _converted_by_onnx(model: ir.Model, version: int) -> ir.Model:
    """Convert a serialised copy without weights and give the weights back by name."""
    try:
        converted = call_onnx(model, lambda proto: onnx.version_converter.convert_version(proto, OPSET))
    except (onnx.version_converter.ConvertError, RuntimeError, ValueError, IndexError) as error:
        raise UnsupportedOpError(
            f"the model is at opset {version} and cannot be converted to {OPSET}: {first_line(error)}; "
            f"export it at opset {OPSET}"
        ) from error
    result = ir.from_proto(converted)
    given = {value.name for value in model.graph.inputs}
    for value in list(result.graph.inputs):
        origin = model.graph.initializers.get(value.name or "")
        if origin is not None and value.name not in given:
            result.graph.inputs.remove(value)
            value.const_value = origin.const_value
            value.metadata_props.update(origin.metadata_props)
            result.graph.register_initializer(value)
    return result


def _name(model: ir.Model) -> None:
    """Name unnamed nodes after their first output, so that messages can point at them."""
    for node in model.graph.all_nodes():
        if not node.name and node.outputs:
            node.name = node.outputs[0].name
    if not model.graph.name:
        model.graph.name = "main"


def _drop_empty_parts(model: ir.Model) -> None:
    """Concatenations lose inputs without entries, such as `x[..., rotary_dim:]` of a full rotation."""
    changed = False
    for node in list(model.graph):
        if node.domain != "" or node.op_type != "Concat":
            continue
        full = [value for value in node.inputs if value is None or not _is_empty(value)]
        if not full or len(full) == len(node.inputs):
            continue
        changed = True
        if len(full) > 1:
            node.resize_inputs(len(full))
            for number, value in enumerate(full):
                node.replace_input_with(number, value)
        else:
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
            node.replace_input_with(0, full[0])
    if changed:
        common_passes.RemoveUnusedNodesPass()(model)


def _is_empty(value: ir.Value) -> bool:
    return value.shape is not None and any(dim == 0 for dim in value.shape)


def _check_onnx(model: ir.Model) -> None:
    """ONNX's own checker; it demands a rank of every value, so unknown ranks are hidden from it."""
    try:
        proto = light_proto(model)
    except ir.serde.SerdeError as error:
        cause = error.__cause__ or error
        raise CaptureError(f"the model is damaged and cannot be written: {first_line(cause)}") from error
    for value in (*proto.graph.input, *proto.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise VerificationError(f"the ONNX checker refuses the model: {first_line(error)}") from error


@contextmanager
def _quiet_onnx() -> Generator[None]:
    """Silence log lines of the ONNX libraries; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
