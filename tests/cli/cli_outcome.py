"""What a command line did, and ONNX Runtime to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


@dataclass(frozen=True)
class Outcome:
    """Exit code and both streams."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one line of an error, checked to be one."""
        lines = [line for line in self.err.splitlines() if line.startswith("sparsecc: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0])
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return lines[0].removeprefix("sparsecc: ")


Cli = Callable[..., Outcome]


def reference(path: Path, feeds: Mapping[str, np.ndarray] | np.ndarray) -> np.ndarray:
    """The first output of an .onnx file in ONNX Runtime."""
    session: Any = onnxruntime.InferenceSession(str(path))
    if isinstance(feeds, np.ndarray):
        feeds = {session.get_inputs()[0].name: feeds}
    return session.run(None, dict(feeds))[0]
