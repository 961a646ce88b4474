"""Torch-Pruning on the networks of the zoo, without hints, judged by the same oracle as our own pruning.

What it removed is read off the weights: they are made distinct, so that each surviving element tells where
it was. The output layer is named to it, as all its examples do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

import sparsecc
from benchmarks.coverage_checks import TOLERANCE, output_makers, verdict_of
from benchmarks.coverage_minimality import Masks
from sparsecc.axes.dims import expand, keep_mask
from sparsecc.axes.groups import Groups, groups
from sparsecc.oracle import check
from tests.zoo.registry import sample
from tests.zoo.samples import Sample

PACKAGE = "torch-pruning"
SECONDS = 75
RATIO = 0.5
MAGNITUDE = "MagnitudeImportance"
RANDOM = "RandomImportance"
Positions = dict[str, dict[str, list[int]]]


@dataclass(frozen=True)
class PeerResult:
    """How Torch-Pruning fared on one network.

    Attributes:
        outcome: `crashed`, `pruned nothing`, `does not run`, `equal`, `wrong`, `not compared`, `time limit`
            or `no module`.
        detail: the exception or what is wrong.
        difference: largest |pruned - masked| relative to the largest |masked|, or None.
        parameters: share of the parameters that stay, or None.
    """

    outcome: str
    detail: str = ""
    difference: float | None = None
    parameters: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As in the results file."""
        return asdict(self)


def installed() -> str:
    """The version of Torch-Pruning, empty where it is not installed."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return ""


def torch_pruning(name: str) -> PeerResult:
    """Prune half of everything in a network of the zoo with Torch-Pruning's MetaPruner.

    Indices are ranked by magnitude, and at random where that crashes, which leaves the dependencies alone.

    Args:
        name: of the zoo.

    Raises:
        SparseccError: the network cannot be captured before pruning.
    """
    try:
        zoo = sample(name)
    except KeyError:
        return PeerResult("no module", "the network is an ONNX file")
    inputs = zoo.tensors()
    module = _fresh(zoo)
    with torch.no_grad():
        original = sparsecc.capture(module, inputs)
    found = groups(original, zoo.draw(0))
    before = tensors_of(module)
    try:
        _prune(module, inputs, output_layers(module, found), MAGNITUDE)
    except Exception as first:  # any failure of the other library is a result
        module = _fresh(zoo)
        try:
            _prune(module, inputs, output_layers(module, found), RANDOM)
        except Exception:
            return PeerResult("crashed", _line(first))
    after = tensors_of(module)
    share = _count(after) / _count(before)
    if all(after[key].shape == array.shape for key, array in before.items() if key in after):
        return PeerResult("pruned nothing", "", None, share)
    try:
        with torch.no_grad():
            module(**inputs)
    except Exception as error:  # shapes that no longer fit raise whatever the layer at hand raises
        return PeerResult("does not run", _line(error), None, share)
    try:
        with torch.no_grad():
            pruned = ir.to_proto(sparsecc.capture(module, inputs))
        kept = kept_of(before, after)
    except (sparsecc.errors.SparseccError, ValueError) as error:
        return PeerResult("not compared", _line(error), None, share)
    return _judged(original, pruned, found, kept, zoo.draw(0), share)


def _fresh(zoo: Sample) -> nn.Module:
    module = zoo.build_module()
    make_distinct(module)
    return module


def make_distinct(module: nn.Module) -> None:
    """Nudge equal elements of each floating-point tensor apart, by units in the last place."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.ndim and torch.isfinite(tensor).all():
                array = tensor.cpu().numpy().reshape(-1).copy()
                order = np.argsort(array, kind="stable")
                line = array[order]
                for index in range(1, line.size):
                    if line[index] <= line[index - 1]:
                        line[index] = np.nextafter(line[index - 1], np.inf, dtype=line.dtype)
                array[order] = line
                tensor.copy_(torch.from_numpy(array).reshape(tensor.shape))


def output_layers(module: nn.Module, found: Groups) -> list[nn.Module]:
    """The layers that make an axis of a graph output, and those that share a parameter with them."""
    names = output_makers(found)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    makers = {id(parameters[name]) for name in names if name in parameters}
    return [
        part
        for part in module.modules()
        if part is not module and makers & {id(parameter) for parameter in part.parameters(recurse=False)}
    ]


def tensors_of(module: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all floating-point parameters and buffers, by name."""
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in module.state_dict(keep_vars=True).items()
        if tensor.is_floating_point()
    }


def kept_of(before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Positions:
    """The positions that stay of each tensor that shrank, by axis, in whatever order they now are.

    Args:
        before: distinct elements.
        after: slices of them.

    Raises:
        ValueError: a tensor is no slice of what it was.
    """
    return {
        name: positions
        for name, array in before.items()
        if name in after and (positions := _positions(name, array, after[name]))
    }


def _positions(name: str, before: np.ndarray, after: np.ndarray) -> dict[str, list[int]]:
    if before.shape == after.shape:
        return {}
    if before.ndim != after.ndim or after.size == 0:
        raise ValueError(f"{name} went from {list(before.shape)} to {list(after.shape)}")
    order = np.argsort(before, axis=None)
    places = np.searchsorted(before.reshape(-1)[order], after.reshape(-1)).clip(max=before.size - 1)
    # Flat, because numpy 2.4 miscounts arrays of several axes that are longer than its buffer.
    indices = [index.reshape(after.shape) for index in np.unravel_index(order[places], before.shape)]
    first = (slice(None), *[0] * (after.ndim - 1))
    lines = [np.moveaxis(index, axis, 0)[first] for axis, index in enumerate(indices)]
    repeats = any(len(set(line.tolist())) < len(line) for line in lines)
    if repeats or not np.array_equal(before[np.ix_(*lines)], after):
        raise ValueError(f"{name} is no slice of what it was")
    return {
        str(axis): sorted(line.tolist()) for axis, line in enumerate(lines) if len(line) < before.shape[axis]
    }


def _prune(
    module: nn.Module, inputs: Mapping[str, torch.Tensor], ignored: list[nn.Module], importance: str
) -> None:
    tp = importlib.import_module("torch_pruning")

    pruner = tp.pruner.MetaPruner(
        module,
        dict(inputs),
        importance=getattr(tp.importance, importance)(),
        pruning_ratio=RATIO,
        ignored_layers=ignored,
    )
    pruner.step()


def _judged(
    original: ir.Model,
    pruned: onnx.ModelProto,
    found: Groups,
    kept: Positions,
    inputs: Mapping[str, np.ndarray],
    share: float,
) -> PeerResult:
    carried = {value.name for value in found.analysis.parameters}
    planned = {name: axes for name, axes in kept.items() if name in carried}
    if not planned:
        return PeerResult("not compared", "no exported weight shrank", None, share)
    proto = ir.to_proto(original)
    if len(proto.graph.output) != len(pruned.graph.output):
        return PeerResult("not compared", "the numbers of outputs differ", None, share)
    _name_outputs(pruned, [value.name for value in proto.graph.output])
    plan = {"format": 1, "kept": planned, "normalizations": _normalizations(found, planned)}
    verdict = verdict_of(check(proto, pruned, plan, inputs), 0)
    if verdict.difference <= TOLERANCE:
        return PeerResult("equal", "", verdict.difference, share)
    if not np.isfinite(verdict.difference):
        return PeerResult("not compared", "; ".join(verdict.problems)[:400], None, share)
    return PeerResult("wrong", "; ".join(verdict.problems)[:400], verdict.difference, share)


def _name_outputs(proto: onnx.ModelProto, names: list[str]) -> None:
    """Exported outputs are named after the op that makes them; give them the original's names, in order."""
    renamed = {value.name: name for value, name in zip(proto.graph.output, names, strict=True)}
    taken = {name for old, name in renamed.items() if old != name}
    made = {name for node in proto.graph.node for name in node.output}
    renamed |= {name: f"{name}/other" for name in taken & made if name not in renamed}
    for node in proto.graph.node:
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                values[index] = renamed.get(name, name)
    for value in (*proto.graph.output, *proto.graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _normalizations(found: Groups, kept: Positions) -> Positions:
    """What stays of axes over which statistics run: that of the norm's scale, else what the groups say."""
    masks = _masks(found, kept)
    analysis = found.analysis
    result: Positions = {}
    for node, facts in analysis.facts.items():
        source = node.inputs[0] if node.inputs else None
        if not facts.statistics or source is None:
            continue
        scale = node.inputs[1] if len(node.inputs) > 1 else None
        own = kept.get(scale.name or "", {}).get("0") if scale is not None else None
        chosen: dict[str, list[int]] = {}
        for axis in facts.statistics:
            if own is not None and len(facts.statistics) == 1:
                chosen[str(axis)] = own
                continue
            expression = analysis.axes[source][axis]
            same = _of_same_axis(found, kept, expand(expression))
            mask = keep_mask(expression, masks)
            if same is not None or not mask.all():
                chosen[str(axis)] = same if same is not None else np.flatnonzero(mask).tolist()
        if chosen:
            result[node.outputs[0].name or ""] = chosen
    return result


def _of_same_axis(found: Groups, kept: Positions, expression: tuple[Any, ...]) -> list[int] | None:
    """What stays of a parameter's axis that the analysis found to be this one."""
    for value in found.analysis.parameters:
        for axis, positions in kept.get(value.name or "", {}).items():
            if expand(found.analysis.axes[value][int(axis)]) == expression:
                return positions
    return None


def _masks(found: Groups, kept: Positions) -> Masks:
    masks: Masks = {}
    for group in found:
        for axis in group.axes:
            positions = kept.get(axis.parameter, {}).get(str(axis.axis))
            if positions is not None:
                mask = np.zeros(group.size, bool)
                for labels in axis.labels:
                    reached = labels[positions]
                    mask[reached[reached >= 0]] = True
                masks.update(group.mask_of(mask))
                break
    return masks


def _count(tensors: Mapping[str, np.ndarray]) -> int:
    return sum(array.size for array in tensors.values())


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
