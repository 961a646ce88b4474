"""Random small networks: the compile pipeline computes what the original computes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pass_graphs import array_of, graph

from sparsecc.ir import encoding_of, evaluate, get_encoding, random_inputs, verify, weight_uses
from sparsecc.passes import COMPILE_PIPELINE, CompareNumerics, Pipeline, VerifyEach

ACTIVATIONS = ["Relu", "Sigmoid", "Tanh", "HardSwish", "Elu", "LeakyRelu", "Identity"]


@dataclass
class Network:
    """ONNX text under construction: values are names with their channel counts."""

    lines: list[str] = field(default_factory=list[str])
    weights: dict[str, tuple[int, ...] | np.ndarray | float] = field(default_factory=dict)

    def add(self, call: str, **weights: tuple[int, ...] | np.ndarray | float) -> str:
        """Append a node; `{name}` in the call stands for a fresh weight."""
        number = len(self.lines)
        for name, spec in weights.items():
            self.weights[f"{name}{number}"] = spec
        result = f"n{number}"
        self.lines.append(f"{result} = " + call.format(**{name: f"{name}{number}" for name in weights}))
        return result


def variance(channels: int) -> np.ndarray:
    """Positive numbers."""
    return np.abs(array_of("variance", (channels,))) + np.float32(0.5)


@st.composite
def networks(
    draw: st.DrawFn, convolutional: bool
) -> tuple[str, dict[str, tuple[int, ...] | np.ndarray | float]]:
    """A text and its weights: layers, norms, activations, residuals, scales and dead code in random order."""
    net = Network()
    value, width = "x", 4
    earlier: list[tuple[str, int]] = []
    tail = (1, 1) if convolutional else ()
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(
            st.sampled_from(
                ["layer", "layer", "norm", "activation", "residual", "scale", "shift", "gate", "dead"]
            )
        )
        if kind == "layer":
            following = draw(st.sampled_from([4, 6, 8]))
            if convolutional:
                bias = draw(st.booleans())
                size = draw(st.sampled_from([1, 3]))
                pads = [size // 2] * 4
                call = f"Conv<pads={pads}>({value}, {{w}}" + (", {b})" if bias else ")")
                value = net.add(
                    call, w=(following, width, size, size), **({"b": (following,)} if bias else {})
                )
            else:
                value = net.add(f"MatMul({value}, {{w}})", w=(width, following))
            width = following
        elif kind == "norm" and convolutional:
            value = net.add(
                f"BatchNormalization({value}, {{g}}, {{b}}, {{m}}, {{v}})",
                g=(width,),
                b=(width,),
                m=(width,),
                v=variance(width),
            )
        elif kind == "activation":
            value = net.add(f"{draw(st.sampled_from(ACTIVATIONS))}({value})")
        elif kind == "residual":
            same = [name for name, channels in earlier if channels == width]
            if same:
                value = net.add(f"Add({value}, {draw(st.sampled_from(same))})")
        elif kind == "scale":
            value = net.add(f"Mul({value}, {{s}})", s=draw(st.sampled_from([(width, *tail), (1,), 0.5])))
        elif kind == "shift":
            value = net.add(f"Sub({value}, {{s}})", s=draw(st.sampled_from([(width, *tail), (1,), 0.5])))
        elif kind == "gate":
            gate = net.add(f"Sigmoid({value})")
            value = net.add(f"Mul({value}, {gate})")
        elif kind == "dead":
            net.add(f"Neg({value})")
        earlier.append((value, width))
    shape = "float[1,4,5,5]" if convolutional else "float[3,4]"
    lines = "\n".join([*net.lines, f"y = Identity({value})"])
    return f"({shape} x) => (float y) {{ {lines} }}", net.weights


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans().flatmap(networks))
def test_the_compile_pipeline_keeps_numbers(
    network: tuple[str, dict[str, tuple[int, ...] | np.ndarray | float]],
) -> None:
    text, weights = network
    model = graph(text, weights)
    inputs = random_inputs(model)
    before = evaluate(model, inputs)["y"]
    Pipeline.parse(COMPILE_PIPELINE).run(model, hooks=[VerifyEach(), CompareNumerics(1e-4)])
    after = evaluate(model, inputs)["y"]
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-4 * max(1e-6, float(np.abs(before).max())))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks(True), st.sampled_from(["4x1", "2x1", "2:4", "unstructured"]))
def test_sparse_encodings_survive_the_pipeline(
    network: tuple[str, dict[str, tuple[int, ...] | np.ndarray | float]], pattern: str
) -> None:
    text, weights = network
    model = graph(text, weights)
    sparsity = "" if ":" in pattern else " sparsity=0.5"
    spec = f"sparsify{{pattern={pattern}{sparsity} min-size=0}},{COMPILE_PIPELINE}"
    Pipeline.parse(spec).run(model, hooks=[VerifyEach(), CompareNumerics(1e-4)])
    assert not verify(model, static=True)
    for use in weight_uses(model):
        assert use.value.const_value is not None
        found = get_encoding(use.value, use.axis)
        if "sparsecc.encoding" in use.value.metadata_props:
            assert str(found) == pattern
        else:
            assert found == encoding_of(use.value.const_value.numpy(), use.axis)
