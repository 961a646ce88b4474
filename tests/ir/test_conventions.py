"""Weights, provenance, verifier rules, text dump, evaluation and shape inference on small graphs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from sparsecc.errors import UnsupportedOpError, UsageError, VerificationError
from sparsecc.ir import (
    Evaluator,
    check,
    dump,
    evaluate,
    infer_shapes,
    random_inputs,
    set_encoding,
    static_shape,
    verify,
    weight_uses,
)
from sparsecc.ir.encoding import ENCODING_KEY, Encoding
from sparsecc.ir.provenance import (
    inherit,
    passes_of,
    record,
    record_transform,
    set_source,
    source_name,
    transforms_of,
)
from sparsecc.ir.shapes import require_static
from sparsecc.ir.verify import RULES


def parse(text: str, **weights: np.ndarray) -> ir.Model:
    """A model at the pinned opset from ONNX text, not normalised."""
    proto = onnx.parser.parse_model(f'<ir_version: 11, opset_import: ["" : 23]> g {text}')
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def ones(*shape: int) -> np.ndarray:
    """float32 ones."""
    return np.ones(shape, np.float32)


MLP = "(float[2,4] x) => (float[2,4] y) { a = MatMul(x, w) y = Relu(a) }"


WEIGHT_CASES = [
    ("y = Conv(x, w)", "float[1,4,3,3]", (6, 4, 1, 1), 0, 1, False),
    ("y = Conv<group=4>(x, w)", "float[1,4,3,3]", (4, 1, 3, 3), 0, 4, True),
    ("y = Conv<group=2>(x, w)", "float[1,4,3,3]", (4, 2, 3, 3), 0, 2, False),
    ("y = Gemm(x, w)", "float[3,4]", (4, 6), 1, 1, False),
    ("y = Gemm<transB=1>(x, w)", "float[3,4]", (6, 4), 0, 1, False),
    ("y = MatMul(x, w)", "float[2,3,4]", (4, 6), 1, 1, False),
    ("t = Transpose<perm=[1,0]>(w) y = MatMul(x, t)", "float[2,3,4]", (6, 4), 0, 1, False),
    ("t = Transpose(w) i = Identity(t) y = Gemm<transB=1>(x, i)", "float[3,4]", (4, 6), 1, 1, False),
]


@pytest.mark.parametrize("case", WEIGHT_CASES, ids=[body for body, *_ in WEIGHT_CASES])
def test_weights(case: tuple[str, str, tuple[int, ...], int, int, bool]) -> None:
    body, kind, shape, axis, groups, depthwise = case
    model = parse(f"({kind} x) => (float y) {{ {body} }}", w=ones(*shape))
    model.graph.initializers["w"].name = "fc.weight"
    (use,) = weight_uses(model)
    found = (use.axis, use.groups, use.depthwise, use.layer, use.shared)
    assert found == (axis, groups, depthwise, "fc", False)


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, x)",
        "y = ConvTranspose(q, k) q = Unsqueeze(x, s)",
        "y = MatMul(x, b)",
        "r = Relu(w) y = MatMul(x, r)",
    ],
)
def test_what_is_no_weight(body: str) -> None:
    model = parse(
        f"(float[2,4,4] x) => (float y) {{ {body} }}", w=ones(4, 4), b=ones(2, 4, 4), k=ones(4, 4, 1, 1)
    )
    assert not weight_uses(model)


def test_provenance() -> None:
    value, other = ir.val("w"), ir.val("w.1")
    assert (source_name(value), passes_of(value), transforms_of(value)) == ("w", (), ())
    set_source(value, "layer.weight")
    record(value, "sparsify")
    record(value, "sparsify")
    record(value, "fold-constants")
    record_transform(value, "transpose(1,0)")
    inherit(other, value)
    assert source_name(other) == "layer.weight"
    assert passes_of(other) == ("sparsify", "fold-constants")
    assert transforms_of(other) == ("transpose(1,0)",)


def test_a_sound_model_has_no_violations() -> None:
    assert not verify(parse(MLP, w=ones(4, 4)))


def test_every_rule_says_what_it_demands() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.demands for rule in RULES)


def duplicate(model: ir.Model) -> None:
    """Two values of one name."""
    model.graph[0].outputs[0].name = "x"


def nameless(model: ir.Model) -> None:
    """A value without a name."""
    model.graph[0].outputs[0].name = None


def cycle(model: ir.Model) -> None:
    """The first node reads the last."""
    model.graph[0].replace_input_with(0, model.graph[1].outputs[0])


def dangling(model: ir.Model) -> None:
    """A node reads a value from nowhere."""
    model.graph[0].replace_input_with(0, ir.val("nowhere"))


def lost_output(model: ir.Model) -> None:
    """The output is computed by nothing."""
    model.graph.outputs[0] = ir.val("lost", ir.DataType.FLOAT, [2, 4])


def old_opset(model: ir.Model) -> None:
    """Another opset."""
    model.opset_imports[""] = 17


def unknown_op(model: ir.Model) -> None:
    """No such op."""
    model.graph[1].op_type = "Reluu"


def unknown_domain(model: ir.Model) -> None:
    """No such domain."""
    model.graph[1].domain = "acme"


def without_data(model: ir.Model) -> None:
    """An initializer without contents."""
    model.graph.initializers["w"].const_value = None


def wrong_shape(model: ir.Model) -> None:
    """Another shape than declared."""
    model.graph.initializers["w"].const_value = ir.tensor(ones(4, 5), name="w")


def zero_size(model: ir.Model) -> None:
    """An empty dimension."""
    model.graph.inputs[0].shape = ir.Shape([0, 4])


def not_a_number(model: ir.Model) -> None:
    """NaN in a weight."""
    model.graph.initializers["w"].const_value = ir.tensor(np.full((4, 4), np.nan, np.float32), name="w")


def infinite(model: ir.Model) -> None:
    """Infinity in a weight."""
    model.graph.initializers["w"].const_value = ir.tensor(np.full((4, 4), np.inf, np.float32), name="w")


def untyped(model: ir.Model) -> None:
    """An output without type."""
    model.graph.outputs[0].type = None


def false_tag(model: ir.Model) -> None:
    """A tag that the zeros contradict."""
    set_encoding(model.graph.initializers["w"], Encoding("n:m", n=2, m=4))


def wrong_tag(model: ir.Model) -> None:
    """A tag that is none."""
    model.graph.initializers["w"].metadata_props[ENCODING_KEY] = "4y1"


def lost_function(model: ir.Model) -> None:
    """A fused call of nothing."""
    model.graph[1].domain = "sparsecc.fused"


BROKEN = [
    (duplicate, "single-assignment", "x is defined twice"),
    (nameless, "single-assignment", "without a name"),
    (cycle, "order", "in a cycle"),
    (dangling, "order", "nowhere, which is no input"),
    (lost_output, "order", "lost is not computed"),
    (old_opset, "opset", "opset 17 instead of 23"),
    (unknown_op, "opset", "Reluu node .* is no op"),
    (unknown_domain, "domains", "unknown domain"),
    (without_data, "data", "w has no data"),
    (wrong_shape, "data", "another shape"),
    (zero_size, "zero-size", "x has a dimension of size zero"),
    (not_a_number, "finite", "w holds NaN"),
    (infinite, "finite", "w holds infinity"),
    (untyped, "output-types", "y has no type"),
    (false_tag, "encoding", "tagged 2:4"),
    (wrong_tag, "encoding", "wrong encoding tag"),
    (lost_function, "fused", "has no function"),
]


@pytest.mark.parametrize(("wreck", "rule", "message"), BROKEN, ids=[item[0].__name__ for item in BROKEN])
def test_verifier_rules(wreck: object, rule: str, message: str) -> None:
    model = parse(MLP, w=ones(4, 4))
    assert callable(wreck)
    wreck(model)
    assert rule in [violation.rule for violation in verify(model)]
    with pytest.raises(VerificationError, match=message):
        check(model)


def test_static_rule() -> None:
    model = parse("(float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    assert not verify(model)
    assert {violation.rule for violation in verify(model, static=True)} == {"static"}
    with pytest.raises(UnsupportedOpError, match="--shape x=1,4"):
        require_static(model)


def test_subgraphs_see_outer_values() -> None:
    model = parse(
        """(float[2] x, bool c) => (float[2] y) { a = Neg(x)
        y = If(c) <then_branch = g1 () => (float[2] p) { p = Abs(a) },
                   else_branch = g2 () => (float[2] q) { q = Relu(a) }> }"""
    )
    assert not verify(model)
    assert "then_branch()" in dump(model)


def test_dump_is_stable() -> None:
    model = parse(MLP, w=np.eye(4, dtype=np.float32))
    again = ir.from_proto(ir.to_proto(model))
    assert dump(model) == dump(again)
    assert dump(model).splitlines() == [
        "model g (onnx 23)",
        "  input x: float32[2,4]",
        "  weight w: float32[4,4] 1:4 zeros=75.0%",
        "  a: ?[?] = MatMul(x, w)",
        "  y: float32[2,4] = Relu(a)",
        "  output y: float32[2,4]",
    ]


def test_evaluate() -> None:
    model = parse(MLP, w=2 * np.eye(4, dtype=np.float32))
    inputs = random_inputs(model, seed=3)
    np.testing.assert_array_equal(inputs["x"], random_inputs(model, seed=3)["x"])
    np.testing.assert_allclose(evaluate(model, inputs)["y"], np.maximum(2 * inputs["x"], 0))


def test_evaluate_refuses_wrong_inputs() -> None:
    evaluator = Evaluator(parse(MLP, w=ones(4, 4)))
    with pytest.raises(UsageError, match=r"input x: float32\[2,4\] is not given"):
        evaluator.run({})
    with pytest.raises(UsageError, match="no input z; its inputs are x"):
        evaluator.run({"x": ones(2, 4), "z": ones(1)})
    with pytest.raises(VerificationError, match="ONNX Runtime failed"):
        evaluator.run({"x": ones(2, 5)})
    with pytest.raises(VerificationError, match="ONNX Runtime failed"):
        evaluator.run({"x": np.ones((2, 4), np.int32)})


def test_evaluate_refuses_a_wrong_model() -> None:
    model = parse(MLP, w=ones(4, 4))
    model.graph[1].op_type = "Reluu"
    with pytest.raises(VerificationError, match="ONNX Runtime refused"):
        Evaluator(model)


def test_random_inputs_of_other_types() -> None:
    model = parse("(int64[N,3] i, bool[2] b, float16[2] h) => (int64[N,3] y) { y = Identity(i) }")
    inputs = random_inputs(model, default_dim=5)
    assert inputs["i"].shape == (5, 3) and set(np.unique(inputs["i"])) <= {0, 1}
    assert (inputs["b"].dtype, inputs["h"].dtype) == (np.bool_, np.float16)
    strings = parse("(string[2] s) => (string[2] y) { y = Identity(s) }")
    with pytest.raises(UsageError, match="no random array"):
        random_inputs(strings)


def test_shape_inference_leaves_weights_and_inputs_alone() -> None:
    model = parse("(float[2,400] x) => (float[N,M] y) { a = MatMul(x, w) y = Relu(a) }", w=ones(400, 300))
    names = [value.name for value in model.graph.inputs]
    assert infer_shapes(model)
    assert not infer_shapes(model)
    assert [value.name for value in model.graph.inputs] == names
    assert model.graph.initializers["w"].const_value is not None
    assert static_shape(model.graph.outputs[0]) == (2, 300)
