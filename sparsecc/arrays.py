"""Arrays for the inputs of an artifact: drawn at random, or read from files without ever unpickling."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsecc.artifact.manifest import TensorInfo
from sparsecc.errors import UsageError

Array = npt.NDArray[Any]


def random_arrays(specs: Sequence[TensorInfo], seed: int = 0) -> dict[str, Array]:
    """Standard normal floats; integers and booleans are 0 or 1, which is safe for indices and masks."""
    generator = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for spec in specs:
        if np.dtype(spec.dtype).kind == "f":
            found[spec.name] = generator.standard_normal(spec.shape).astype(spec.dtype)
        else:
            found[spec.name] = generator.integers(0, 2, spec.shape).astype(spec.dtype)
    return found


def read_arrays(texts: Sequence[str], specs: Sequence[TensorInfo]) -> dict[str, Array]:
    """Read inputs from files.

    Args:
        texts: `FILE.npz` with arrays by name, `NAME=FILE.npy`, or `FILE.npy` where there is one input.
        specs: the inputs.

    Raises:
        UsageError: a file that cannot be read, or an array without a name.
    """
    found: dict[str, Array] = {}
    for text in texts:
        name, file = _split(text, specs)
        content = _load(Path(file))
        if isinstance(content, dict):
            if name:
                raise UsageError(f"{file} is an .npz with names of its own: give it without {name}=")
            found.update(content)
        elif name:
            found[name] = content
        elif len(specs) == 1:
            found[specs[0].name] = content
        else:
            names = ", ".join(spec.name for spec in specs)
            raise UsageError(f"which input is {file}? Write NAME={file}; the inputs are {names}")
    return found


def _split(text: str, specs: Sequence[TensorInfo]) -> tuple[str, str]:
    """Name and file; both may hold equals signs, so names that exist are tried first."""
    for spec in specs:
        if text.startswith(f"{spec.name}="):
            return spec.name, text.removeprefix(f"{spec.name}=")
    name, sign, file = text.partition("=")
    return (name, file) if sign and not Path(text).exists() else ("", text)


def _load(path: Path) -> Array | dict[str, Array]:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                return {name: content[name] for name in content.files}
        return content
    except FileNotFoundError as error:
        raise UsageError(f"there is no file {path}") from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not an .npy or .npz file of numbers that can be read") from error
