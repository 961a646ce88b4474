"""What an interrupted run has finished, in a folder: a file for each step, and what was asked for."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from sparsecc.errors import UsageError
from sparsecc.ir.edit import constant_of
from sparsecc.passes.criteria.calibration import Calibration

_TASK = "run.json"


class State:
    """Finished steps of a run; each is written whole or not at all.

    Args:
        folder: made if it does not exist.
        task: `fingerprint` of the run.

    Raises:
        UsageError: the folder cannot be written, or holds steps of another run.
    """

    def __init__(self, folder: Path, task: str) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / _TASK
            if file.exists():
                known = json.loads(file.read_text(encoding="utf-8")).get("task")
                if known != task:
                    raise UsageError(
                        f"{folder} holds steps of a run with another model, data or options; "
                        f"name another folder or remove this one"
                    )
            else:
                file.write_text(json.dumps({"task": task}) + "\n", encoding="utf-8")
        except (OSError, ValueError, AttributeError) as error:
            raise UsageError(f"{folder} cannot keep the steps of this run: {error}") from error

    def read(self, step: int) -> dict[str, np.ndarray] | None:
        """Arrays by initializer of a step that was finished, or None.

        Raises:
            UsageError: the file is damaged.
        """
        path = self._path(step)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path} is damaged, remove it: {error}") from error

    def write(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keep a step."""
        part = self._folder / f"step-{os.getpid()}.part"
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(part, self._path(step))

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:05}.npz"


def fingerprint(model: ir.Model, calibration: Calibration, options: Iterable[object]) -> str:
    """A hash of all that a run's result depends on: weights, data and options."""
    digest = hashlib.sha256(repr(list(options)).encode())
    for name in sorted(model.graph.initializers):
        array = constant_of(model.graph.initializers[name])
        if array is not None:
            _add(digest, name, array)
    digest.update(repr(calibration.weights and list(calibration.weights)).encode())
    for batch, target in calibration.stream(model):
        for name in sorted(batch):
            _add(digest, name, batch[name])
        if target is not None:
            _add(digest, "target", target)
    return digest.hexdigest()


def _add(digest: hashlib._Hash, name: str, array: np.ndarray) -> None:  # pyright: ignore[reportPrivateUsage]
    digest.update(f"{name} {array.dtype} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
