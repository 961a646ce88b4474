"""PyTorch to ONNX: torch.export traces in eval mode, torch.onnx translates without optimising.

Exported at opset 20, where attention and RMS norm decompose into MatMul, Softmax and elementwise ops;
`normalize` then moves the graph to the pinned opset. Weights are copied, so training on changes no capture.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.export
import torch.onnx
from torch import nn

from sparsecc.errors import CaptureError, UnsupportedOpError, UsageError
from sparsecc.ir.shapes import first_line

EXPORT_OPSET = 20
NOISE = ("pkg.torch", "namespace")


def model_from_torch(
    source: object, example_inputs: object, shapes: Mapping[str, Sequence[int]] | None
) -> ir.Model:
    """Capture a module or exported program.

    Raises:
        UsageError: a module without example inputs or shapes.
        CaptureError: tracing failed.
        UnsupportedOpError: an aten op has no ONNX form.
    """
    if isinstance(source, torch.export.ExportedProgram):
        program = source
    elif isinstance(source, nn.Module):
        program = _traced(source, *_arguments(example_inputs, shapes))
    else:
        raise CaptureError(f"{type(source).__name__} is no PyTorch module")
    model = _translated(program)
    _own_weights(model)
    _strip_metadata(model)
    return model


def _arguments(
    example_inputs: object, shapes: Mapping[str, Sequence[int]] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword inputs of one call."""
    if example_inputs is None:
        if not shapes:
            raise UsageError("capturing a module needs example inputs, or shapes for float32 inputs of zeros")
        return (), {name: torch.zeros(*dims) for name, dims in shapes.items()}
    if isinstance(example_inputs, Mapping):
        return (), {str(name): _tensor(item) for name, item in example_inputs.items()}
    if isinstance(example_inputs, tuple | list):
        return tuple(_tensor(item) for item in example_inputs), {}
    return (_tensor(example_inputs),), {}


def _tensor(item: Any) -> Any:
    return torch.from_numpy(item) if isinstance(item, np.ndarray) else item


def _traced(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.export.ExportedProgram:
    with _eval_mode(module), _quiet(), torch.no_grad():
        try:
            return torch.export.export(module, args, kwargs)
        except Exception as error:  # the module's own code runs here and may raise anything
            raise CaptureError(
                f"torch.export cannot trace {type(module).__name__}: {type(error).__name__}: "
                f"{first_line(error)}; torch.export.export(module, inputs) shows the details"
            ) from error


def _translated(program: torch.export.ExportedProgram) -> ir.Model:
    with _quiet(), torch.no_grad():  # as when it was traced, or other kernels would be chosen
        try:
            exported = torch.onnx.export(
                program, dynamo=True, opset_version=EXPORT_OPSET, optimize=False, verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise UnsupportedOpError(
                f"torch.onnx has no translation of this program: {_root_message(error)}; "
                f"replace that op in the module, or export to ONNX yourself and capture the file"
            ) from error
    if exported is None:
        raise CaptureError("torch.onnx gave no model for this program")
    return exported.model


def _root_message(error: BaseException) -> str:
    """The deepest cause, which names the op; the outer layers only explain the exporter's steps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _own_weights(model: ir.Model) -> None:
    """Copy weights out of the module's storage; parameters that share a tensor share the copy."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            array = np.array(value.const_value.numpy())
            value.const_value = ir.Tensor(array, dtype=value.const_value.dtype, name=value.name)


def _strip_metadata(model: ir.Model) -> None:
    """Drop the exporter's notes, which hold source paths of the machine, keeping only module scopes."""
    for graph in model.graphs():
        for item in (*graph, *(value for node in graph for value in node.outputs), *graph.inputs):
            _strip(item.metadata_props)
        for value in graph.initializers.values():
            _strip(value.metadata_props)
        _strip(graph.metadata_props)
    _strip(model.metadata_props)


def _strip(metadata: Any) -> None:
    for key in [key for key in metadata if key.startswith(NOISE) and not key.endswith("name_scopes")]:
        del metadata[key]


@contextmanager
def _eval_mode(module: nn.Module) -> Generator[None]:
    """Switch to eval mode and restore every submodule's own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _quiet() -> Generator[None]:
    """Silence the exporter's warnings and log lines; what matters is raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
