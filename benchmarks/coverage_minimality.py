"""Whether the groups are as small as they can be: a slice that may stay whole does not belong to its group.

All groups are pruned at once, then one slice after the other is put back; the network must notice.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from sparsecc.axes.dims import Dim, keep_mask
from sparsecc.axes.groups import Group, GroupAxis, Groups
from sparsecc.axes.rewrite import taken
from sparsecc.passes.prune_plan import prune_with

HARMLESS = 1e-6
"""A change of the outputs below this share of them cannot be told from rounding."""

MOST = 300
"""Slices to try with one seed; of more, a random choice."""

Masks = dict[Dim, np.ndarray]
"""Which indices of each dimension stay, [dim.size]; a dimension that is absent keeps all."""


@dataclass(frozen=True)
class Minimality:
    """What happens when one slice of a group stays whole while the others lose their indices.

    Attributes:
        tried: number of slices.
        unrunnable: how many no longer fit the other tensors.
        different: how many change an output by more than `HARMLESS`.
        harmless: the rest, as `group: parameter.axis`.
    """

    tried: int = 0
    unrunnable: int = 0
    different: int = 0
    harmless: tuple[str, ...] = ()

    def __add__(self, other: Minimality) -> Minimality:
        """Counts of both."""
        return Minimality(
            self.tried + other.tried,
            self.unrunnable + other.unrunnable,
            self.different + other.different,
            tuple(dict.fromkeys((*self.harmless, *other.harmless))),
        )


def minimality(found: Groups, kept: Masks, inputs: Mapping[str, np.ndarray], seed: int = 0) -> Minimality:
    """Leave each slice of each group whole in turn, all else pruned by `kept`, and look at the outputs.

    Weights become inputs of the graph without sizes, so that one session tries all of them.

    Args:
        found: groups of the model.
        kept: masks of the groups that lose indices.
        inputs: arrays for all graph inputs.
        seed: of the choice among more than `MOST` slices.
    """
    pruned, _ = prune_with(found, kept)
    proto = ir.to_proto(pruned)
    present = {tensor.name for tensor in proto.graph.initializer}
    weights = {value.name or "": value for value in found.analysis.parameters if value.name in present}
    arrays = {name: _array(value) for name, value in weights.items()}
    feeds = {name: taken(array, _masks(found, weights[name], kept)) for name, array in arrays.items()}
    session = _session(_without_sizes(proto, feeds))
    base = _arrays(session.run(None, {**inputs, **feeds}))
    result = Minimality()
    for group, axis in _some([pair for pair in _slices(found, kept) if pair[1].parameter in feeds], seed):
        without = {dim: mask for dim, mask in kept.items() if dim not in group.dims}
        value = weights[axis.parameter]
        masks = _masks(found, value, kept)
        masks[axis.axis] = keep_mask(found.analysis.axes[value][axis.axis], without)
        whole = taken(arrays[axis.parameter], masks)
        try:
            outputs = _arrays(session.run(None, {**inputs, **feeds, axis.parameter: whole}))
        except RUNTIME_ERRORS:
            result += Minimality(1, unrunnable=1)
            continue
        if [array.shape for array in outputs] != [array.shape for array in base]:
            result += Minimality(1, unrunnable=1)
        elif _change(outputs, base) > HARMLESS:
            result += Minimality(1, different=1)
        else:
            result += Minimality(1, harmless=(f"{group.name}: {axis.parameter}.{axis.axis}",))
    return result


def _slices(found: Groups, kept: Masks) -> Iterator[tuple[Group, GroupAxis]]:
    for group in found.prunable:
        if any(dim in kept for dim in group.dims):
            for axis in group.axes:
                yield group, axis


def _some(slices: list[tuple[Group, GroupAxis]], seed: int) -> list[tuple[Group, GroupAxis]]:
    chosen = np.random.default_rng(seed).permutation(len(slices))[:MOST]
    return [slices[number] for number in sorted(chosen.tolist())]


def _masks(found: Groups, value: ir.Value, kept: Masks) -> list[np.ndarray]:
    return [keep_mask(axis, kept) for axis in found.analysis.axes[value]]


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def _arrays(values: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(value) for value in values]


def _change(outputs: Sequence[np.ndarray], base: Sequence[np.ndarray]) -> float:
    largest = 0.0
    for found, expected in zip(outputs, base, strict=True):
        if not np.array_equal(np.isfinite(found), np.isfinite(expected)):
            return math.inf
        scale = float(np.abs(expected).max(initial=0.0)) or 1.0
        largest = max(largest, float(np.abs(found - expected).max(initial=0.0)) / scale)
    return largest


def _without_sizes(proto: onnx.ModelProto, weights: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The model with weights as inputs of any sizes, and no recorded sizes that could contradict them."""
    others = [tensor for tensor in proto.graph.initializer if tensor.name not in weights]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(others)
    for name, array in weights.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        sizes: list[int | str | None] = [None] * array.ndim
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for size in value.type.tensor_type.shape.dim:
            size.Clear()
    return proto


def _session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def _runtime_errors() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exception types, which share no base class of their own."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
    return (*(getattr(state, name) for name in names), ValueError)


RUNTIME_ERRORS = _runtime_errors()
