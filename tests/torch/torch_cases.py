"""How a one-node case is written, and the tensors that most cases read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from torch_graphs import Feeds

RNG = np.random.default_rng(11)
node = helper.make_node


def floats(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: Any) -> Any:
    return np.array(values, np.int64)


def bits(*shape: int) -> Any:
    return RNG.integers(0, 255, shape).astype(np.uint8)


def f32(*values: float) -> Any:
    return np.array(values, np.float32)


def case(op: str, feeds: Feeds, constants: Feeds | None = None, outputs: int = 1, **attributes: Any) -> Any:
    """One node; empty names in `feeds` or `constants` (keys starting with _) leave an input out."""
    constants = constants or {}
    names = ["" if name.startswith("_") else name for name in (*feeds, *constants)]
    given = {k: v for k, v in feeds.items() if not k.startswith("_")}
    settings = {k: v for k, v in constants.items() if not k.startswith("_")}
    made = node(op, names, [f"out{i}" for i in range(outputs)], **attributes)
    small = [np.asarray(c) for c in settings.values() if np.size(c) < 6]
    detail = "-".join(str(v) for v in (*attributes.values(), *(c.tolist() for c in small)))
    return pytest.param([made], given, settings, made.output, id=f"{op}-{detail}" if detail else op)


X = floats(2, 6, 7, 8)
Y = floats(2, 6, 7, 8)
S = floats(2, 5, 4)
IN = X.clip(-0.9, 0.9)
POSITIVE = np.abs(X) + np.float32(0.1)
WHOLE = (X * 10).astype(np.int64)
