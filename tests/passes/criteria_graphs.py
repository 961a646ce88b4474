"""Networks for tests of criteria and reconstruction: small ones whose numbers can be worked out by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from pass_graphs import Weights, graph

from sparsecc.axes.dims import Dim
from sparsecc.axes.groups import Groups, groups
from sparsecc.axes.rewrite import Rewriter

CNN = """(float[2,3,8,8] x) => (float y) {
    a = Conv<pads=[1,1,1,1]>(x, a__weight, a__bias)
    n = BatchNormalization(a, n__scale, n__bias, n__mean, n__variance)
    r = Relu(n)  c = Conv(r, c__weight)  p = GlobalAveragePool(c)  f = Flatten(p)
    y = Gemm<transB=1>(f, d__weight, d__bias) }"""
CNN_WEIGHTS: Weights = {
    "a.weight": (8, 3, 3, 3),
    "a.bias": (8,),
    "n.scale": (8,),
    "n.bias": (8,),
    "n.mean": (8,),
    "n.variance": np.linspace(0.5, 2, 8, dtype=np.float32),
    "c.weight": (6, 8, 3, 3),
    "d.weight": (5, 6),
    "d.bias": (5,),
}

MLP = "(double[6,5] x) => (double y) { a = MatMul(x, w)  t = Tanh(a)  y = MatMul(t, v) }"


def mlp(seed: int = 0) -> tuple[ir.Model, np.ndarray, np.ndarray]:
    """A perceptron in float64 with 4 hidden units, and its weights w [5, 4] and v [4, 3]."""
    generator = np.random.default_rng(seed)
    w, v = generator.standard_normal((5, 4)), generator.standard_normal((4, 3))
    return graph(MLP, {"w": w, "v": v}), w, v


def array(model: ir.Model, name: str) -> np.ndarray:
    """Contents of an initializer."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


@dataclass(frozen=True)
class Pruned:
    """A model, its groups, and what the rewriter makes of it."""

    original: ir.Model
    groups: Groups
    kept: Mapping[Dim, np.ndarray]
    model: ir.Model


def without(model: ir.Model, removed: Mapping[str, list[int]]) -> Pruned:
    """Delete indices of groups: a key is a group's name, or `name.0` for what slices axis 0 of `name`."""
    found = groups(model)
    kept: dict[Dim, np.ndarray] = {}
    for key, indices in removed.items():
        (group,) = [
            group
            for group in found.prunable
            if group.name == key or any(f"{place.parameter}.{place.axis}" == key for place in group.axes)
        ]
        mask = np.ones(group.size, np.bool_)
        mask[indices] = False
        kept.update(group.mask_of(mask))
    return Pruned(model, found, kept, Rewriter(found.analysis, kept).run())
