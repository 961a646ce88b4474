"""Reading ONNX files, bytes and protos; external data stays memory-mapped and is checked before use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from os import PathLike, fspath
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from sparsecc.errors import CaptureError
from sparsecc.ir.shapes import first_line


def model_from_path(path: str | PathLike[str]) -> ir.Model:
    """Read an .onnx file.

    Raises:
        CaptureError: no such file, not ONNX, truncated, or external data missing, too short or elsewhere.
    """
    file = Path(fspath(path))
    if not file.is_file():
        raise CaptureError(f"{file} is not a file; give the path of an .onnx model")
    try:
        proto = _parse(file.read_bytes(), str(file))
    except OSError as error:
        raise CaptureError(f"{file} cannot be read: {error.strerror}") from error
    model = _model(proto, str(file), file.parent.resolve())
    _detach(model)
    return model


def model_from_bytes(payload: bytes) -> ir.Model:
    """Read a serialised model; weights in external files need `model_from_path` instead.

    Raises:
        CaptureError: not ONNX, truncated, or with external data.
    """
    return model_from_proto(_parse(payload, "the given bytes"))


def model_from_proto(proto: onnx.ModelProto) -> ir.Model:
    """Read a parsed model.

    Raises:
        CaptureError: damaged, or with external data, for which a path is needed.
    """
    return _model(proto, "the given model", None)


def _parse(payload: bytes, where: str) -> onnx.ModelProto:
    try:
        return onnx.ModelProto.FromString(payload)
    except DecodeError as error:
        raise CaptureError(f"{where} is not an ONNX model, or it is truncated or corrupt") from error


def _model(proto: onnx.ModelProto, where: str, folder: Path | None) -> ir.Model:
    if not proto.HasField("graph") or not proto.graph.output:
        raise CaptureError(f"{where} holds no graph with outputs; it is not an ONNX model or it is truncated")
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        model = ir.from_proto(proto)
    except (ir.serde.SerdeError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise CaptureError(f"{where} holds a damaged graph: {first_line(cause)}") from error
    finally:
        logger.setLevel(level)
    _check_names(model, where)
    for tensor in _tensors(model):
        _check_tensor(tensor, where, folder)
    return model


def _detach(model: ir.Model) -> None:
    """Copy the initializers out of the parsed file, so that each is freed when a pass replaces it."""
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.TensorProtoTensor) and tensor.dtype != ir.DataType.STRING:
            value.const_value = ir.tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)


def _check_names(model: ir.Model, where: str) -> None:
    """Damaged files often still parse, but with names that are no text."""
    for graph in (model.graph, *model.graph.subgraphs()):
        names: list[object] = [
            value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())
        ]
        for node in graph:
            names += [node.name, node.op_type, node.domain, node.overload]
            names += [value.name for value in (*node.inputs, *node.outputs) if value is not None]
        for name in names:
            if name and not (isinstance(name, str) and name.isprintable()):
                raise CaptureError(f"{where} holds the name {name!r}, which is no text; the file is corrupt")


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in model.graph.all_nodes():
        for attr in node.attributes.values():
            if not attr.is_ref() and attr.type == ir.AttributeType.TENSOR:
                yield attr.value


def _check_tensor(tensor: ir.TensorProtocol, where: str, folder: Path | None) -> None:
    """Make sure that the data is there in full, before anything reads it."""
    if any(not isinstance(dim, int) or dim < 0 for dim in tensor.shape):
        raise CaptureError(f"initializer {tensor.name} of {where} has a negative dimension")
    try:
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(tensor, where, folder)
        size = tensor.numpy().size
    except (ValueError, TypeError, OSError, OverflowError, AssertionError) as error:
        raise CaptureError(f"initializer {tensor.name} of {where} is damaged: {first_line(error)}") from error
    if size != tensor.size:
        raise CaptureError(
            f"initializer {tensor.name} of {where} holds {size} elements instead of {tensor.size}"
        )


def _check_external(tensor: ir.ExternalTensor, where: str, folder: Path | None) -> None:
    location = str(tensor.location)
    if folder is None:
        raise CaptureError(
            f"initializer {tensor.name} is in the external file {location}; "
            f"capture the model by its path instead"
        )
    file = (folder / location).resolve()
    if not file.is_relative_to(folder):
        raise CaptureError(
            f"initializer {tensor.name} of {where} points outside the model's folder: {location}"
        )
    if not file.is_file():
        raise CaptureError(f"external data {location} of {where} is missing; put it beside the model")
    needed = (tensor.offset or 0) + max(tensor.length or 0, tensor.nbytes)
    if file.stat().st_size < needed:
        raise CaptureError(
            f"external data {location} of {where} is truncated: initializer {tensor.name} needs {needed} "
            f"bytes, the file has {file.stat().st_size}"
        )
    tensor.base_dir = str(folder)
