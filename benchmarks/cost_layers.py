"""Layers for the cost model: many of them in one network, timed there in several forms each.

A network runs all its layers one after the other, so weights come from L2 or L3 and inputs are fresh from the
step before, as in use. Only the product is timed, not the split or shift of its input.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto, compose, helper, numpy_helper

from benchmarks.kernel_codes import in_8_bits
from benchmarks.kernel_layers import LAYER, OPSET, Convolution, Linear, Shape
from sparsecc.arrays import random_arrays
from sparsecc.artifact.manifest import TensorInfo
from sparsecc.compiler import build_plan, prepare
from sparsecc.ir.quantized import BLOCK, quantize_matrix
from sparsecc.measurement import LocalRunner, Measured, Trial
from sparsecc.targets.lower.layers import Layer
from sparsecc.tuning import Fixed

PRODUCTS = frozenset({"spmm", "dots", "rows", "lookup", "csr", "nibbles", "groups", "bitmap"})
"""Kinds of steps that are predicted."""
BEST, OTHERS, WITHIN = 4, 6, 3.0
"""Forms of a layer that are measured: best predictions, and how many of those up to so many times slower."""
WIDEST = 32
"""Columns of the widest blocks."""
TOGETHER = 3
"""Variants that are timed in turns."""


@dataclass(frozen=True)
class Group:
    """Layers that are timed in one network.

    Attributes:
        shapes: the layers.
        patterns: of the zeros, with their share in percent.
        bits: of weights: 32, 8 or 4.
        codes: activations are in 8 bits too.
    """

    name: str
    shapes: tuple[Shape, ...]
    patterns: tuple[tuple[str, int], ...]
    bits: int = 32
    codes: bool = False


@dataclass
class Observed:
    """One layer in one pattern.

    Attributes:
        shape: its label.
        pattern: kind and percent.
        layer: as selectors see it.
        best: the form of the cost model at that time.
        seconds: of its product, by form.
    """

    shape: str
    pattern: str
    layer: Layer
    best: str
    seconds: dict[str, float] = field(default_factory=dict[str, float])


class Gather:
    """A selector that leaves all to the cost model and keeps what it saw.

    Attributes:
        seen: by node the layer, predicted seconds by form, and the cost model's form.
    """

    def __init__(self) -> None:
        self.seen: dict[str, tuple[Layer, dict[str, float], str]] = {}

    def select(self, node: str, layer: Layer, forms: Mapping[str, float], best: str) -> None:
        """See `Selector`."""
        self.seen[node] = (layer, dict(forms), best)


def observe(group: Group, pattern: tuple[str, int], rng: np.random.Generator) -> list[Observed]:
    """Time the layers of a group in one pattern, each in several forms."""
    model = prepare(network(group, pattern))
    gather = Gather()
    plan = build_plan(model, selector=gather)
    inputs = random_arrays([TensorInfo(s.name, s.dtype, s.shape) for s in plan.inputs])
    del plan
    names = {f"l{i}_{LAYER}": shape.label for i, shape in enumerate(group.shapes)}
    text = f"{pattern[0]} {pattern[1]} %" if pattern[1] else "dense"
    found = {
        node: Observed(names[_named(node, names)], f"{group.name}, {text}", layer, best)
        for node, (layer, _, best) in gather.seen.items()
    }
    wanted = {node: _sample(forms, rng) for node, (_, forms, _) in gather.seen.items()}
    variants = [
        {node: forms[i] for node, forms in wanted.items() if i < len(forms)}
        for i in range(max(map(len, wanted.values())))
    ]
    for first in range(0, len(variants), TOGETHER):
        together = variants[first : first + TOGETHER]
        with tempfile.TemporaryDirectory(prefix="sparsecc-cost-") as folder, ExitStack() as stack:
            runner = LocalRunner(Path(folder), budget=2.5 * len(together))
            trials: list[Trial] = []
            for forms in together:
                trials.append(runner.load(build_plan(model, selector=Fixed(forms))))
                stack.callback(trials[-1].close)
            for trial, forms, measured in zip(trials, together, runner.measure(trials, inputs), strict=True):
                for node, seconds in _products(trial, measured).items():
                    if node in forms:
                        found[node].seconds[forms[node]] = seconds
    return list(found.values())


def _named(node: str, names: Mapping[str, str]) -> str:
    return next(name for name in names if node == name or node.startswith(f"{name}_") or name in node)


def _sample(forms: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    ranked = sorted(forms, key=forms.__getitem__)
    others = [form for form in ranked[BEST:] if forms[form] <= WITHIN * forms[ranked[0]]]
    picked = rng.permutation(len(others))[:OTHERS]
    return [*ranked[:BEST], *(others[i] for i in sorted(picked))]


def _products(trial: Trial, measured: Measured) -> dict[str, float]:
    kinds = [step.kind for step in trial.session.steps]
    return {
        line.node: sum(measured.steps[i] for i in line.steps if kinds[i] in PRODUCTS)
        for line in measured.layers
    }


def network(group: Group, pattern: tuple[str, int]) -> ModelProto:
    """All layers of a group beside each other in one graph."""
    parts: list[ModelProto] = []
    for index, shape in enumerate(group.shapes):
        proto = shape.model()
        (tensor,) = (t for t in proto.graph.initializer if t.name == "w")
        # equal weights would be stored once, and so be in the caches for the second layer
        weight = np.roll(pruned(numpy_helper.to_array(tensor), *pattern), WIDEST * index, axis=1)
        if group.codes:
            proto = in_8_bits(proto, weight)
        else:
            tensor.CopyFrom(numpy_helper.from_array(_on_grid(weight, group.bits), "w"))
        parts.append(compose.add_prefix(proto, f"l{index}_"))
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node],
        group.name,
        [value for part in parts for value in part.graph.input],
        [value for part in parts for value in part.graph.output],
        [tensor for part in parts for tensor in part.graph.initializer],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _on_grid(weight: np.ndarray, bits: int) -> np.ndarray:
    """Weights that 8 or 4 bits hold."""
    if bits == 32:
        return weight
    made = quantize_matrix(weight, bits)
    scale = np.repeat(made.scale.reshape(len(weight), -1), BLOCK if bits == 4 else weight.shape[1], axis=1)
    return (made.codes * scale).astype(np.float32)


def pruned(weight: np.ndarray, pattern: str, percent: int) -> np.ndarray:
    """Zero the blocks of least magnitude: rows x input channels at one position of the kernel."""
    if pattern == "dense":
        return weight
    high, wide = (1, 1) if pattern == "unstructured" else map(int, pattern.split("x"))
    cube = np.abs(weight.reshape(*weight.shape[:2], -1))
    M, C, taps = cube.shape
    padded = np.pad(cube, ((0, -M % high), (0, -C % wide), (0, 0)))
    blocks = padded.reshape(-(-M // high), high, -(-C // wide), wide, taps).sum(axis=(1, 3))
    keep = blocks > np.quantile(blocks, percent / 100)
    mask = np.repeat(np.repeat(keep, high, axis=0), wide, axis=1)[:M, :C]
    return (weight * mask.reshape(weight.shape)).astype(np.float32)


_POINTWISE = (
    Convolution(64, 32, 112), Convolution(128, 64, 56), Convolution(128, 128, 56),
    Convolution(256, 128, 28), Convolution(256, 256, 28), Convolution(512, 256, 14),
    Convolution(512, 512, 14), Convolution(1024, 512, 7), Convolution(1024, 1024, 7),
    Convolution(96, 16, 112), Convolution(24, 96, 56), Convolution(144, 24, 56),
    Convolution(32, 144, 28), Convolution(192, 32, 28), Convolution(64, 192, 14),
    Convolution(384, 64, 14), Convolution(96, 384, 14), Convolution(576, 96, 14),
    Convolution(160, 576, 7), Convolution(960, 160, 7), Convolution(320, 960, 7),
    Convolution(1280, 320, 7), Convolution(64, 64, 56), Convolution(256, 64, 56),
    Convolution(64, 256, 56), Convolution(512, 128, 28), Convolution(128, 512, 28),
    Convolution(1024, 256, 14), Convolution(256, 1024, 14), Convolution(512, 2048, 7),
    Convolution(2048, 512, 7),
)  # fmt: skip
_SPATIAL = (
    Convolution(64, 64, 56, 3), Convolution(128, 128, 28, 3), Convolution(256, 256, 14, 3),
    Convolution(512, 512, 7, 3), Convolution(128, 128, 56, 3, 2), Convolution(256, 256, 28, 3, 2),
    Convolution(512, 512, 14, 3, 2),
)  # fmt: skip
_TOKENS = tuple(
    Linear(outputs, inputs, tokens)
    for outputs, inputs in ((768, 768), (3072, 768), (768, 3072), (384, 384), (1536, 384), (384, 1536))
    for tokens in (16, 128)
)
_FEW = tuple(
    Linear(outputs, inputs, tokens)
    for outputs, inputs in ((576, 576), (1536, 576), (768, 768), (3072, 768), (768, 3072), (2048, 2048))
    for tokens in (1, 2, 4, 8)
)
_MANY = (("unstructured", 50), ("unstructured", 80), ("unstructured", 90), ("unstructured", 95))
GROUPS = (
    Group(
        "fp32", (*_POINTWISE, *_SPATIAL, *_TOKENS),
        (("dense", 0), ("4x1", 50), ("4x1", 80), ("4x1", 90), ("2x1", 70), ("2x1", 90), *_MANY),
    ),
    Group(
        "int8", (*_POINTWISE[1:], *_SPATIAL, *_TOKENS),
        (("dense", 0), ("4x4", 50), ("4x4", 80), ("4x4", 90)), bits=8, codes=True,
    ),
    Group(
        "few columns", _FEW,
        (("dense", 0), ("16x1", 50), ("16x1", 80), ("16x1", 90), ("unstructured", 50), ("unstructured", 70),
         ("unstructured", 80), ("unstructured", 90)),
    ),
    Group(
        "few columns, int8", _FEW,
        (("dense", 0), ("16x1", 80), ("unstructured", 50), ("unstructured", 80), ("unstructured", 90)),
        bits=8,
    ),
    Group("few columns, int4", _FEW, (("dense", 0), ("1x32", 50), ("1x32", 80)), bits=4),
)  # fmt: skip
