"""Blocks of a network that are fitted as a whole: between two values through which all that is sparse passes.

x -> attention -> Add -> feed-forward -> Add = y   the weights that stay, by gradient: ||y_dense - y_sparse||²
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sparsecc.host import multiplies_bfloat16
from sparsecc.ir.edit import constant_of, replace_constant
from sparsecc.ir.provenance import record
from sparsecc.passes.criteria.linear_layers import LinearLayer
from sparsecc.passes.frontier import read_by

LAYERS = 6
"""A block has at least so many sparse layers: a transformer's attention and feed-forward network are one."""


HELD_OUT = 8
"""Of so many batches one is not fitted to: the weights that are best on those are kept."""


@dataclass(frozen=True)
class Block:
    """Layers that are fitted together.

    Attributes:
        layers: all weights of the block that are made sparse, in the order of the graph.
        inputs: names of the values that its nodes read from before.
        output: name of the one value that the rest of the network reads of what these layers compute, or None
            where there is no such value.
    """

    layers: tuple[LinearLayer, ...]
    inputs: tuple[str, ...]
    output: str | None


@dataclass(frozen=True)
class Reconstruction:
    """How blocks are fitted by gradient.

    Adam (Kingma and Ba 2015) on the weights that stay and on the vectors of the block such as biases and
    scales of normalisations, the learning rate falling to 0 along half a cosine. The error of every channel
    counts relative to its mean square in the dense network, and then that of every position relative to its
    norm, so that a few large ones, which normalisations behind make small again, do not decide. Blockwise
    fitting with the compressed network's own inputs follows BRECQ (Li et al. 2021). Products are bfloat16
    where the CPU multiplies that, which is several times faster; weights and errors are float32. One batch of
    eight is held out; the weights after the epoch that is best on those are kept, or those before the first.

    Attributes:
        epochs: how often the calibration data are gone through for each block.
        rate: learning rate at the start, as a share of the root mean square of each weight.
        seed: of the order of the batches.
    """

    epochs: int = 6
    rate: float = 0.02
    seed: int = 0


def blocks(model: ir.Model, layers: Sequence[LinearLayer], least: int = LAYERS) -> list[Block]:
    """The blocks of a network, front to back.

    Args:
        model: whose nodes are in an order in which they can run.
        layers: that are made sparse, in the order of their first uses.
        least: layers of a block; the last may have fewer.
    """
    nodes = list(model.graph)
    places = {node: number for number, node in enumerate(nodes)}
    spans = [(places[layer.uses[0].node], places[layer.uses[-1].node]) for layer in layers]
    found: list[Block] = []
    start, taken = -1, 0
    ends = _ends(model, nodes, spans, {use.node for layer in layers for use in layer.uses})
    for count in sorted(ends):
        end, value = ends[count]
        if count - taken >= least or (count == len(layers) > taken):
            inputs = _inputs(model, nodes, start, end)
            found.append(Block(tuple(layers[taken:count]), inputs, value.name))
            start, taken = end, count
    if taken < len(layers):
        found.append(Block(tuple(layers[taken:]), _inputs(model, nodes, start, len(nodes) - 1), None))
    return found


def _ends(
    model: ir.Model, nodes: list[ir.Node], spans: list[tuple[int, int]], sparse: set[ir.Node]
) -> dict[int, tuple[int, ir.Value]]:
    """Number of layers before -> the last node and the one value where the network can be cut.

    Of several such places the smallest value is taken, and of equal ones the first.
    """
    last: dict[ir.Value, int] = {value: len(nodes) for value in model.graph.outputs}
    for number, node in enumerate(nodes):
        for value in read_by(node, model.graph):
            last[value] = max(last.get(value, 0), number)
    touched: set[ir.Value] = set()
    alive: set[ir.Value] = set()
    found: dict[int, tuple[int, ir.Value]] = {}
    for number, node in enumerate(nodes):
        if node in sparse or not touched.isdisjoint(read_by(node, model.graph)):
            touched.update(node.outputs)
            alive.update(value for value in node.outputs if value in last)
        alive = {value for value in alive if last[value] > number}
        begun, done = (sum(span[side] <= number for span in spans) for side in (0, 1))
        if len(alive) == 1 and begun == done:
            (value,) = alive
            if done not in found or _size(value) < _size(found[done][1]):
                found[done] = (number, value)
    found.pop(0, None)
    return found


def _size(value: ir.Value) -> float:
    """Elements, open dimensions counted as 1."""
    if value.shape is None:
        return math.inf
    return math.prod(size if isinstance(size, int) else 1 for size in value.shape)


def _inputs(model: ir.Model, nodes: list[ir.Node], start: int, end: int) -> tuple[str, ...]:
    """What the nodes behind `start` up to `end` read of the others and of the graph's inputs."""
    part = nodes[start + 1 : end + 1]
    own = {value for node in part for value in node.outputs}
    read = dict.fromkeys(value for node in part for value in read_by(node, model.graph))
    outer = [value for value in read if value not in own and not value.is_initializer()]
    return tuple(value.name or "" for value in outer)


def reconstruct_block(
    model: ir.Model,
    block: Block,
    inputs: Sequence[Mapping[str, np.ndarray]],
    targets: Iterable[np.ndarray],
    options: Reconstruction,
    weights: Sequence[float],
) -> tuple[float, float, dict[str, np.ndarray]]:
    """Fit the weights of a block that are not zero, and its vectors, in place.

    Args:
        model: the sparse network.
        block: of it, with an output.
        inputs: what the block reads in the sparse network, batch by batch.
        targets: the block's output in the dense network, batch by batch.
        options: of the fit.
        weights: how much each batch counts.

    Returns:
        The relative error on what is held out before and after, and the new arrays by initializer.

    Raises:
        UnsupportedOpError: an op without a PyTorch form.
    """
    import torch
    from torch import Tensor

    from sparsecc.torch import to_torch

    assert block.output is not None
    values = {value.name: value for value in model.graph.inputs}
    values |= {value.name: value for node in model.graph for value in node.outputs}
    ends = [values[name] for name in block.inputs], [values[block.output]]
    graph = ir.convenience.extract(model.graph, *ends)
    functions = list(model.functions.values())
    module = to_torch(ir.Model(graph, ir_version=model.ir_version, functions=functions))
    names = {name: path for path, name in module.initializer_names.items()}
    mine = {layer.name for layer in block.layers}
    nodes = {node.name for node in graph}
    fitted: dict[str, torch.nn.Parameter] = {}
    for path, parameter in module.named_parameters():
        name = module.initializer_names[path]
        inside = all(user.name in nodes for user in model.graph.initializers[name].consumers())
        parameter.requires_grad_(name in mine or (parameter.dim() <= 1 and inside))
        if parameter.requires_grad:
            fitted[name] = parameter
    order = [module.get_parameter(names[name]) for name in fitted]
    keep = [(parameter != 0).to(parameter.dtype) if parameter.dim() > 1 else None for parameter in order]
    groups = [{"params": [one], "lr": options.rate * _scale(one)} for one in order]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    wanted = [torch.from_numpy(np.array(target)) for target in targets]
    given = [[torch.from_numpy(np.array(batch[name])) for name in block.inputs] for batch in inputs]
    axis = 1 if wanted[0].dim() == 4 else wanted[0].dim() - 1
    others = [number for number in range(wanted[0].dim()) if number != axis]
    channels = sum((target.square().mean(others, keepdim=True) for target in wanted), torch.zeros(()))
    channels = channels / len(wanted) + torch.finfo(torch.float32).tiny
    steps = options.epochs * (len(given) - len(given) // HELD_OUT)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: (1 + math.cos(math.pi * n / steps)) / 2)
    generator = np.random.default_rng(options.seed)

    half = multiplies_bfloat16()
    counts = [weight / float(np.mean(weights)) for weight in weights]

    def loss(number: int, half: bool = False) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found, target = module(*given[number]), wanted[number]
        norms = (target.square() / channels).mean(axis, keepdim=True)
        errors = (found.float() - target).square() / channels / (norms + 1e-3 * norms.mean())
        return counts[number] * errors.mean()

    held = len(given) // HELD_OUT
    learnt = range(len(given) - held)

    def total() -> float:
        with torch.no_grad():
            numbers = range(len(given) - held, len(given)) if held else learnt
            return float(np.mean([loss(number).item() for number in numbers]))

    before = best = total()
    kept = [parameter.detach().clone() for parameter in order]
    for _ in range(options.epochs):
        for number in generator.permutation(learnt):
            optimizer.zero_grad()
            loss(int(number), half).backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                for parameter, mask in zip(order, keep, strict=True):
                    if mask is not None:
                        parameter.mul_(mask)
        after = total()
        if after < best:
            best, kept = after, [parameter.detach().clone() for parameter in order]
    if not best < before:
        return before, before, {}
    changed: dict[str, np.ndarray] = {}
    for name, parameter in zip(fitted, kept, strict=True):
        value = model.graph.initializers[name]
        array = constant_of(value)
        assert array is not None
        changed[name] = parameter.numpy().reshape(array.shape).astype(array.dtype)
        replace_constant(value, changed[name])
        record(value, "sparsify")
    return before, best, changed


def _scale(parameter: object) -> float:
    import torch

    assert isinstance(parameter, torch.Tensor)
    kept = parameter.detach()[parameter.detach() != 0]
    return float(kept.square().mean().sqrt()) if kept.numel() else 1e-2
