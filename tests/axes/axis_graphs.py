"""One node in front of its rule: all its inputs are weights, and nothing but its shape leaves the graph.

So no axis is frozen from outside, and what is written as a pattern is what the rule alone says.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import onnxruntime

from sparsecc.axes.analysis import Analysis, analyse
from sparsecc.axes.dims import AxisExpr, Dim, expand, keep_mask, terminals
from sparsecc.axes.exactness import check_exactness
from sparsecc.axes.rewrite import Rewriter

Spec = tuple[int, ...] | np.ndarray | list[int] | float
Weights = Mapping[str, Spec]


class Case(NamedTuple):
    """Nodes that make the value `y`, their weights and the axes to be found.

    Attributes:
        text: in ONNX's textual syntax.
        weights: by name.
        expected: axes of the values that it names, as `pattern_of` writes them.
        opset: an older one where ONNX Runtime has no kernel of the op at 23.
    """

    text: str
    weights: Weights
    expected: str
    opset: int = 23


def array_of(name: str, spec: Spec) -> np.ndarray:
    """An array, an int64 list, a float32 number, or positive numbers of a shape, seeded by the name."""
    if isinstance(spec, np.ndarray):
        return spec
    if isinstance(spec, list):
        return np.array(spec, np.int64)
    if isinstance(spec, tuple):
        generator = np.random.default_rng(zlib.crc32(name.encode()))
        return generator.uniform(0.2, 1.0, spec).astype(np.float32)
    return np.array(spec, np.float32)


def model_of(text: str, weights: Weights, opset: int = 23) -> ir.Model:
    """A model without inputs that sums all entries of the value `y` of `text` and gives a shape only.

    Zeros add nothing to the sum, so the exactness pass flags what may be non-zero at removed indices of `y`.
    """
    opsets = f'"" : {opset}, "com.microsoft" : 1, "my" : 1'
    tail = ["y_float = Cast<to = 1>(y)", "y_sum = ReduceSum(y_float)", "y_shape = Shape(y_sum)"]
    if _is_sequence(text):
        tail = ["y_shape = SequenceLength(y)"]
    body = "\n".join((*text.strip().splitlines(), *tail))
    proto = onnx.parser.parse_model(
        f"<ir_version: 10, opset_import: [{opsets}]> g () => (int64 y_shape) {{ {body} }}"
    )
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    for name, spec in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array_of(name, spec), name))
    return ir.from_proto(proto)


def _is_sequence(text: str) -> bool:
    last = text.strip().splitlines()[-1]
    return any(f" {op}" in last for op in ("SplitToSequence", "SequenceConstruct", "SequenceInsert"))


def pattern_of(analysis: Analysis, names: list[str]) -> str:
    """Axes of values, equal dimensions with equal letters: `x[(a b),!spatial,c~] w[a,1]`."""
    letters: dict[Dim, str] = {}
    values = {value.name: value for value in analysis.axes}
    return " ".join(
        f"{name}[{','.join(_axis(axis, letters) for axis in analysis.axes[values[name]])}]" for name in names
    )


def _axis(axis: AxisExpr, letters: dict[Dim, str]) -> str:
    factors = [_factor(dim, letters) for dim in expand(axis)]
    return "1" if not factors else factors[0] if len(factors) == 1 else f"({' '.join(factors)})"


def _factor(dim: Dim, letters: dict[Dim, str]) -> str:
    if dim.terms is not None:
        return f"({'|'.join(_axis(term, letters) for term in dim.terms)})"
    if dim.frozen is not None:
        return f"!{dim.frozen.code}"
    letter = letters.setdefault(dim, "abcdefghijklmnopqrstuvwxyz"[len(letters)])
    return f"{letter}~" if dim.norms else letter


def check_rule(case: Case) -> Analysis:
    """The rule applies, its axes are as expected, and pruning equals zeroing for random kept indices."""
    analysis = analyse(model_of(case.text, case.weights, case.opset))
    assert not analysis.uncovered
    assert pattern_of(analysis, re.findall(r"(\w+)\[", case.expected)) == case.expected
    check_numbers(analysis)
    return analysis


def check_numbers(analysis: Analysis, output: str = "y", seeds: int = 4) -> None:
    """Delete random indices or zero them: what stays is equal, what goes is 0 where it is said to be."""
    given = [
        value
        for value in analysis.model.graph.initializers.values()
        if value in analysis.axes and value.dtype is not None and value.dtype.is_floating_point()
    ]
    dims = {dim for value in given for axis in analysis.axes[value] for dim in terminals(axis)}
    free = sorted((dim for dim in dims if not dim.frozen and not dim.norms and dim.size > 1), key=repr)
    inexact = check_exactness(analysis).inexact
    axes = next(analysis.axes[value] for value in analysis.axes if value.name == output)
    for seed in range(seeds):
        generator = np.random.default_rng(seed)
        kept = {dim: _some(generator, dim.size) for dim in free}
        expected = run(_masked(analysis, given, kept), output)
        for axis, mask in enumerate(keep_mask(axis, kept) for axis in axes):
            expected = np.compress(mask, expected, axis)
        found = run(Rewriter(analysis, kept).run(), output)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
        for dim in inexact:
            kept.pop(dim, None)
        zeroed = run(_masked(analysis, given, kept), output)
        removed = np.zeros(zeroed.shape, bool)
        for axis, mask in enumerate(keep_mask(axis, kept) for axis in axes):
            removed[(slice(None),) * axis + (~mask,)] = True
        # 0 / 0 at a removed index is read by nothing that stays.
        assert not np.nan_to_num(zeroed[removed].astype(np.float64)).any()


def _masked(analysis: Analysis, given: list[ir.Value], kept: Mapping[Dim, np.ndarray]) -> ir.Model:
    """The model with zeros at the removed indices of its weights."""
    masked = analysis.model.clone()
    for value in given:
        copy = masked.graph.initializers[value.name or ""]
        assert copy.const_value is not None
        array = copy.const_value.numpy().copy()
        for axis, mask in enumerate(keep_mask(axis, kept) for axis in analysis.axes[value]):
            array[(slice(None),) * axis + (~mask,)] = 0
        copy.const_value = ir.tensor(array, name=copy.name)
    return masked


def _some(generator: np.random.Generator, size: int) -> np.ndarray:
    mask = generator.random(size) < 0.5
    mask[generator.integers(size)] = True
    return mask


def run(model: ir.Model, output: str) -> np.ndarray:
    """One value of a model without inputs."""
    proto = ir.to_proto(model)
    del proto.graph.output[:]
    proto.graph.output.append(onnx.ValueInfoProto(name=output))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run([output], {})[0])
