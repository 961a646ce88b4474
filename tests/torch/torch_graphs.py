"""One-node graphs with feeds and constants, and the checks of a converted module against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir
import torch
from onnx import helper, numpy_helper

from sparsecc.ir import IR_VERSION, OPSET, evaluate

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Any]

RTOL = 1e-5


def graph_of(
    nodes: Sequence[onnx.NodeProto], feeds: Feeds, constants: Feeds, outputs: Sequence[str]
) -> ir.Model:
    """A graph with shapes inferred; the last dimension of nothing is symbolic."""
    arrays = {name: np.asarray(array) for name, array in constants.items()}
    graph = helper.make_graph(
        list(nodes),
        "case",
        [
            helper.make_tensor_value_info(
                k, helper.np_dtype_to_tensor_dtype(np.asarray(v).dtype), np.shape(v)
            )
            for k, v in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))


def run(module: torch.nn.Module, feeds: Feeds) -> list[Array]:
    """The module's outputs for inputs in order."""
    with torch.no_grad():
        found = module(*(torch.from_numpy(np.asarray(array).copy()) for array in feeds.values()))
    return [item.numpy() for item in (found if isinstance(found, tuple) else (found,))]


def reference(model: ir.Model, feeds: Feeds) -> list[Array]:
    """ONNX Runtime's outputs."""
    return list(evaluate(model, {name: np.asarray(array) for name, array in feeds.items()}).values())


def agree(found: Sequence[Array], expected: Sequence[Array], rtol: float = RTOL) -> None:
    """Floats are within `rtol` of the largest magnitude of their tensor, everything else is equal."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        if theirs.dtype.kind != "f":
            np.testing.assert_array_equal(ours, theirs)
            continue
        finite = theirs[np.isfinite(theirs)]
        scale = float(np.abs(finite).max()) if finite.size else 1.0
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=rtol * max(scale, 1e-30))
