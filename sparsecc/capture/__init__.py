"""Capture: a PyTorch module, an exported program or an ONNX model becomes one graph at one opset.

nn.Module -torch.export-> ExportedProgram -torch.onnx-> ONNX -normalize-> onnx_ir.Model at OPSET
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from os import PathLike

import onnx
import onnx_ir as ir

from sparsecc.capture.from_onnx import model_from_bytes, model_from_path, model_from_proto
from sparsecc.capture.normalize import normalize
from sparsecc.errors import CaptureError, UsageError

__all__ = ["capture"]

SOURCES = "an nn.Module, fx.GraphModule, ExportedProgram, path to .onnx, bytes, ModelProto or onnx_ir.Model"


def capture(
    source: object,
    example_inputs: object = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    foreign_ops: bool = False,
) -> ir.Model:
    """Turn a model into an `onnx_ir.Model` at the pinned opset, with shapes inferred and the graph verified.

    PyTorch modules are captured in eval mode, which is restored; initializers keep their parameter names and
    tied parameters stay one initializer. External data of an ONNX file stays memory-mapped.

    Args:
        source: an nn.Module, fx.GraphModule, ExportedProgram, path, bytes, onnx.ModelProto or onnx_ir.Model
            (a given onnx_ir.Model is copied, not changed).
        example_inputs: for modules: a tensor, a sequence of positional or a mapping of keyword inputs.
        shapes: input name -> dims, fixes symbolic dimensions; a module without example inputs is traced with
            float32 zeros of these shapes.
        foreign_ops: let ops of domains that ONNX does not define pass, as pruning can work around them; the
            model must declare the shapes of their outputs.

    Raises:
        UsageError: arguments that do not fit the source.
        CaptureError: the source cannot be read or traced.
        UnsupportedOpError: an op that the pinned opset does not have.
        VerificationError: the graph is not well-formed, or a weight holds NaN.
    """
    if example_inputs is not None and not _is_module(source):
        raise UsageError("example inputs are for PyTorch modules only; an ONNX model knows its inputs")
    model = _read(source, example_inputs, shapes)
    return normalize(model, {} if shapes is None else shapes, foreign_ops=foreign_ops)


def _read(source: object, example_inputs: object, shapes: Mapping[str, Sequence[int]] | None) -> ir.Model:
    if _is_module(source) or _is_exported_program(source):
        from sparsecc.capture.from_torch import model_from_torch

        return model_from_torch(source, example_inputs, shapes)
    if isinstance(source, str | PathLike):
        return model_from_path(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return model_from_bytes(bytes(source))
    if isinstance(source, onnx.ModelProto):
        return model_from_proto(source)
    if isinstance(source, ir.Model):
        return source.clone()
    raise CaptureError(f"cannot capture an object of type {type(source).__name__}; give {SOURCES}")


def _is_module(source: object) -> bool:
    """Without importing torch: where it is not imported, no object can be a module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def _is_exported_program(source: object) -> bool:
    export = sys.modules.get("torch.export")
    return export is not None and isinstance(source, export.ExportedProgram)
