"""Names of parameters and buffers, which initializers are trained, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper
from torch_graphs import agree, graph_of, reference, run

from sparsecc import to_torch
from sparsecc.capture import capture
from sparsecc.errors import SparseccError, UnsupportedOpError, UsageError
from sparsecc.passes import COMPILE_PIPELINE, Pipeline

node = helper.make_node
X = np.random.default_rng(3).standard_normal((2, 4)).astype(np.float32)
W = np.random.default_rng(4).standard_normal((4, 4)).astype(np.float32)


def chain(*names: str) -> ir.Model:
    """x times each of the named 4 x 4 matrices."""
    values = ["x", *(f"y{i}" for i in range(len(names)))]
    nodes = [node("MatMul", [values[i], name], [values[i + 1]]) for i, name in enumerate(names)]
    return graph_of(nodes, {"x": X}, {name: W + i for i, name in enumerate(names)}, [values[-1]])


def test_dotted_names_become_containers() -> None:
    module = to_torch(chain("layer.0.weight", "layer.0.attention.proj", "head"))
    names = {"layer.0.weight", "layer.0.attention.proj", "head"}
    assert {name for name, _ in module.named_parameters()} == names
    assert module.get_parameter("layer.0.weight") is module.get_submodule("layer.0").weight
    assert set(module.state_dict()) == names


MAPPED = {
    "a": "a_",
    "a.b": "a.b",
    "training": "training_",
    "layer.forward": "layer.forward_",
    "graph.weight": "graph_.weight",
    "x..y": "x._.y",
    ".z": "_.z",
    'quoted"name': "quoted_name",
    "quoted_name": "quoted_name_",
    "conv/weight:0": "conv/weight:0",
    "0": "0",
    "class.def": "class_.def_",
}


def test_names_that_torch_cannot_take_are_mapped() -> None:
    model = chain(*MAPPED)
    module = to_torch(model)
    assert {name: path for path, name in module.initializer_names.items()} == MAPPED
    assert {name for name, _ in module.named_parameters()} == set(MAPPED.values())
    for path, parameter in module.named_parameters():
        tensor = model.graph.initializers[module.initializer_names[path]].const_value
        assert tensor is not None
        np.testing.assert_array_equal(parameter.detach().numpy(), tensor.numpy())
    agree(run(module, {"x": X}), reference(model, {"x": X}))


def test_a_tied_initializer_is_one_parameter() -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Gemm", ["a", "w"], ["y"], transB=1)]
    model = graph_of(nodes, {"x": X}, {"w": W}, ["y"])
    module = to_torch(model)
    assert [name for name, _ in module.named_parameters()] == ["w"]
    agree(run(module, {"x": X}), reference(model, {"x": X}))


def test_the_model_is_not_changed_by_training() -> None:
    model = chain("w")
    module = to_torch(model)
    with torch.no_grad():
        module.get_parameter("w").zero_()
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), W)


def test_parameters_buffers_and_settings() -> None:
    """Weights are trained; statistics, integers and constants are buffers; shapes are in the code."""
    nodes = [
        node("Conv", ["x", "conv.weight"], ["c"]),
        node("BatchNormalization", ["c", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"], ["b"]),
        node("Mul", ["b", "val_3"], ["h"]),
        node("Mul", ["h", "logit_scale"], ["s"]),
        node("PRelu", ["s", "slope/alpha:0"], ["p"]),
        node("Pow", ["p", "exponent"], ["e"]),
        node("Add", ["e", "/block/Constant_2_output_0"], ["k"]),
        node("Reshape", ["k", "shape"], ["r"]),
        node("Gather", ["r", "indices"], ["g"], axis=1),
        node("MatMul", ["g", "onnx::MatMul_7"], ["y"]),
    ]
    ones = np.ones(3, np.float32)
    constants: dict[str, Any] = {
        "conv.weight": np.ones((3, 2, 1, 1), np.float32),
        **{f"bn.{name}": ones for name in ("weight", "bias", "running_mean", "running_var")},
        "val_3": np.float32(0.5),
        "logit_scale": np.float32(2),
        "slope/alpha:0": np.ones((1, 1, 1), np.float32),
        "exponent": np.full((1,), 2, np.float32),
        "/block/Constant_2_output_0": np.ones((1, 3, 1, 1), np.float32),
        "shape": np.array([2, 12], np.int64),
        "indices": np.array([3, 1], np.int64),
        "onnx::MatMul_7": np.ones((2, 5), np.float32),
    }
    feeds = {"x": np.random.default_rng(5).standard_normal((2, 2, 2, 2)).astype(np.float32)}
    model = graph_of(nodes, feeds, constants, ["y"])
    module = to_torch(model)
    trained = {"conv.weight", "bn.weight", "bn.bias", "logit_scale", "slope/alpha:0", "onnx::MatMul_7"}
    assert {name for name, _ in module.named_parameters()} == trained
    assert set(module.initializer_names.values()) == constants.keys() - {"shape"}
    assert {name for name, _ in module.named_buffers()} == {
        "bn.running_mean",
        "bn.running_var",
        "constant.val_3",
        "exponent",
        "/block/Constant_2_output_0",
        "indices",
    }
    agree(run(module, feeds), reference(model, feeds))


def test_rotary_frequencies_are_no_parameter() -> None:
    nodes = [
        node("Cast", ["ids"], ["p"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["p", "axis"], ["u"]),
        node("Mul", ["u", "rotary.inv_freq"], ["f"]),
        node("Cos", ["f"], ["c"]),
        node("Mul", ["c", "scale"], ["y"]),
    ]
    constants: dict[str, Any] = {
        "axis": np.array([1], np.int64),
        "rotary.inv_freq": np.array([1, 0.1, 0.01], np.float32),
        "scale": np.ones(3, np.float32),
    }
    module = to_torch(graph_of(nodes, {"ids": np.arange(5)}, constants, ["y"]))
    assert [name for name, _ in module.named_parameters()] == ["scale"]
    assert [name for name, _ in module.named_buffers()] == ["rotary.inv_freq"]


def test_inputs_are_positional_and_by_keyword() -> None:
    feeds = {"b.1": X, "for": X + 1, "input": X + 2}
    model = graph_of(
        [node("Sub", ["b.1", "for"], ["d"]), node("Mul", ["d", "input"], ["y"])], feeds, {}, ["d", "y"]
    )
    module = to_torch(model)
    agree(run(module, feeds), reference(model, feeds))
    b, keyword, plain = (torch.from_numpy(array) for array in feeds.values())
    difference, product = module(b_1=b, for_=keyword, input=plain)
    assert torch.equal(difference, b - keyword)
    assert torch.equal(product, (b - keyword) * plain)


def if_model() -> ir.Model:
    branch = helper.make_graph(
        [node("Identity", ["x"], ["z"])],
        "b",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])],
    )
    nodes = [node("If", ["c"], ["y"], name="branch", then_branch=branch, else_branch=branch)]
    return graph_of(nodes, {"c": np.array(True), "x": X}, {}, ["y"])


def fused_model() -> ir.Model:
    nodes = [node("Gemm", ["x", "w"], ["a"]), node("Relu", ["a"], ["y"])]
    proto = ir.to_proto(graph_of(nodes, {"x": X}, {"w": W}, ["y"]))
    model = capture(proto)
    Pipeline.parse(COMPILE_PIPELINE).run(model)
    return model


def old_model() -> ir.Model:
    model = chain("w")
    model.opset_imports[""] = 13
    return model


def one(op: str, *inputs: str, x: Any = X, outputs: int = 1, **attributes: Any) -> ir.Model:
    made = node(op, list(inputs), [f"y{i}" for i in range(outputs)], name="culprit", **attributes)
    return graph_of([made], {"x": x}, {}, [made.output[-1]])


def foreign_model() -> ir.Model:
    model = one("Gelu", "x")
    model.graph[0].domain = "com.microsoft"
    return model


def training_model() -> ir.Model:
    names = ("scale", "bias", "mean", "var")
    made = node("BatchNormalization", ["x", *names], ["y", "m", "v"], name="culprit", training_mode=1)
    return graph_of([made], {"x": X}, {name: np.ones(4, np.float32) for name in names}, ["y"])


BAD: list[tuple[str, Any, type[SparseccError], str]] = [
    ("control", if_model, UnsupportedOpError, "If node .?branch.* no PyTorch form .*unroll"),
    ("fused", fused_model, UnsupportedOpError, "fused call, which only the compiler reads"),
    ("opset", old_model, UsageError, "at opset 13, expected 23; pass it through sparsecc.capture"),
    (
        "unknown",
        lambda: one("NonMaxSuppression", "x", "x"),
        UnsupportedOpError,
        "NonMaxSuppression node .?culprit",
    ),
    ("domain", foreign_model, UnsupportedOpError, "domain com.microsoft"),
    ("attribute", lambda: one("Relu", "x", slope=0.1), UnsupportedOpError, "attribute slope"),
    ("missing", lambda: one("DepthToSpace", "x"), UnsupportedOpError, "lacks the attribute blocksize"),
    ("inputs", lambda: one("Flatten", "x", "x"), UnsupportedOpError, "has 2 inputs, expected 1"),
    (
        "string",
        lambda: one("Identity", "x", x=X.astype(np.uint32)),
        UnsupportedOpError,
        "input x is of type uint32",
    ),
    ("float8", lambda: one("Cast", "x", to=TensorProto.FLOAT8E4M3FN), UnsupportedOpError, "float8e4m3fn"),
    ("ratio", lambda: one("Dropout", "x", "x"), UnsupportedOpError, "culprit.* computes its ratio"),
    ("mode", training_model, UnsupportedOpError, "culprit.* in training mode; export the model in inference"),
    (
        "mask",
        lambda: one("Dropout", "x", outputs=2),
        UnsupportedOpError,
        "asked for its 2 outputs, expected one",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_what_is_refused(make: Any, error: type[SparseccError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        to_torch(make())
    assert "\n" not in str(caught.value)


RUN_TIME: list[tuple[str, dict[str, Any], Any, str]] = [
    ("Resize", {"mode": "nearest"}, X, "neither scales nor sizes"),
    ("Unique", {"sorted": 0}, X[0], "order of appearance"),
    ("MaxPool", {"kernel_shape": [1, 1, 1, 1]}, np.ones((1,) * 6, np.float32), "1 to 3 spatial axes"),
    ("Pad", {"mode": "mirror"}, X, "constant, reflect, edge or wrap, not mirror"),
]


@pytest.mark.parametrize(("op", "attributes", "x", "message"), RUN_TIME, ids=[r[0] for r in RUN_TIME])
def test_what_is_refused_when_it_runs(op: str, attributes: dict[str, Any], x: Any, message: str) -> None:
    """Options that torch lacks for these shapes are known only then."""
    constants = {"p": np.array([1] * 4, np.int64)} if op == "Pad" else {}
    made = node(op, ["x", *constants], ["y"], **attributes)
    module = to_torch(graph_of([made], {"x": x}, constants, ["y"]))
    with pytest.raises(UnsupportedOpError, match=message):
        module(torch.from_numpy(x))


def test_an_initializer_without_data_is_refused() -> None:
    model = chain("w")
    model.graph.initializers["w"].const_value = None
    with pytest.raises(UsageError, match="initializer w has no data"):
        to_torch(model)


def test_a_float16_and_a_bfloat16_weight() -> None:
    for kind, wanted in ((TensorProto.FLOAT16, torch.float16), (TensorProto.BFLOAT16, torch.bfloat16)):
        weight = helper.make_tensor("w", kind, [4, 4], W.reshape(-1).tolist())
        graph = helper.make_graph(
            [node("Cast", ["x"], ["h"], to=kind), node("MatMul", ["h", "w"], ["m"]),
             node("Cast", ["m"], ["y"], to=TensorProto.FLOAT)],
            "half",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
            [weight],
        )  # fmt: skip
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
        module = to_torch(ir.from_proto(onnx.shape_inference.infer_shapes(proto)))
        held = module.get_parameter("w")
        assert held.dtype is wanted
        assert torch.equal(held, torch.from_numpy(W).to(wanted))
        (found,) = run(module, {"x": X})
        expected = torch.from_numpy(X).to(wanted) @ torch.from_numpy(W).to(wanted)
        np.testing.assert_array_equal(found, expected.float().numpy())
