"""Reads SOURCE (an .onnx file or `file.py:function`), and writes .onnx files whole or not at all."""

from __future__ import annotations

import importlib.util
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsecc.errors import CaptureError, UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST_SINGLE_FILE = 1_500_000_000
"""Bytes of weights above which they go to a file beside the model (protobuf ends at 2 GB)."""

_USER_CODE_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
    RuntimeError, SyntaxError, TypeError, ValueError,
)  # fmt: skip


def read_source(text: str) -> tuple[object, object]:
    """What to capture, and its example inputs.

    Raises:
        UsageError: a Python file or function that does not exist.
        CaptureError: the function fails, or returns something else than a module.
    """
    file, sign, name = text.rpartition(":")
    if not (sign and file.endswith(".py")):
        if text.endswith(".py"):
            raise UsageError(
                f"{text} is Python: name the function that makes the model, as {text}:make_model"
            )
        return Path(text), None
    made = _call(Path(file), name)
    if isinstance(made, tuple) and len(made) == 2:
        return made
    return made, None


def read_model(text: str, shapes: Mapping[str, Sequence[int]], *, foreign_ops: bool = False) -> ir.Model:
    """Capture SOURCE.

    Raises:
        UsageError, CaptureError, UnsupportedOpError, VerificationError: see `sparsecc.capture`.
    """
    from sparsecc.capture import capture

    source, inputs = read_source(text)
    return capture(source, inputs, shapes=shapes, foreign_ops=foreign_ops)


def write_model(model: ir.Model, path: Path) -> int:
    """Write an .onnx file by renaming a finished one; returns its size in bytes.

    Weights of more than 1.5 GB go to `PATH.data`.

    Raises:
        UsageError: the file cannot be written.
    """
    import onnx_ir as ir

    weights = sum(
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    )
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        if weights > LARGEST_SINGLE_FILE:
            ir.save(model, temporary, external_data=f"{path.name}.data")
        else:
            temporary.write_bytes(ir.to_proto(model).SerializeToString())
        os.replace(temporary, path)
        return path.stat().st_size
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _call(file: Path, name: str) -> object:
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if not callable(function):
            raise UsageError(f"{file} has no function {name!r}")
        return function()
    except _USER_CODE_ERRORS as error:
        raise CaptureError(f"{file}:{name} failed with {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
