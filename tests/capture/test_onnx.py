"""Capture of ONNX: paths, bytes, external data, old opsets, lifted constants, and every kind of bad file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest

from sparsecc.capture import capture
from sparsecc.errors import CaptureError, SparseccError, UnsupportedOpError, UsageError, VerificationError
from sparsecc.ir import OPSET, dump, evaluate, random_inputs, verify, weight_uses
from sparsecc.passes import COMPILE_PIPELINE, CompareNumerics, Pipeline, VerifyEach

LIGHT = sorted((Path(onnx.__file__).parent / "backend" / "test" / "data" / "light").glob("*.onnx"))


def proto_of(
    text: str, opset: int = OPSET, ir_version: int = 10, imports: str = "", **weights: np.ndarray
) -> onnx.ModelProto:
    """A model from ONNX text and weights by name."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]>'
    proto = onnx.parser.parse_model(f"{header} g {text}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def linear() -> onnx.ModelProto:
    """Relu(x W) with a weight large enough to go to an external file."""
    weight = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    return proto_of("(float[2,16] x) => (float[2,32] y) { a = MatMul(x, w) y = Relu(a) }", w=weight)


def test_path_bytes_proto_and_model_agree(tmp_path: Path) -> None:
    proto = linear()
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    texts = {
        dump(capture(source))
        for source in (
            path,
            str(path),
            path.read_bytes(),
            bytearray(path.read_bytes()),
            proto,
            ir.from_proto(proto),
        )
    }
    assert len(texts) == 1


def test_a_given_model_is_not_changed() -> None:
    model = ir.from_proto(linear())
    captured = capture(model)
    Pipeline.parse("sparsify{sparsity=0.5 min-size=0},fuse-epilogues").run(captured)
    assert [node.op_type for node in model.graph] == ["MatMul", "Relu"]
    value = model.graph.initializers["w"].const_value
    assert value is not None and np.count_nonzero(value.numpy()) == 512


def test_external_data_stays_in_its_file(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    before = (tmp_path / "m.data").read_bytes()
    model = capture(tmp_path / "m.onnx")
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    Pipeline.parse(f"sparsify{{sparsity=0.5 min-size=0}},{COMPILE_PIPELINE}").run(model, hooks=[VerifyEach()])
    assert (tmp_path / "m.data").read_bytes() == before


def test_weights_that_are_inputs_too_are_no_inputs() -> None:
    weight = np.ones((4, 4), np.float32)
    proto = proto_of(
        "(float[2,4] x, float[4,4] w) => (float[2,4] y) { y = MatMul(x, w) }", ir_version=3, w=weight, opset=9
    )
    model = capture(proto)
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert len(weight_uses(model)) == 1


def test_constant_nodes_become_initializers() -> None:
    text = """(float[2] x) => (float[2] y) {
        w = Constant<value = float[2] {1.0, 2.0}>()  k = Constant<value_float=3.0>()
        a = Mul(x, w)  y = Add(a, k) }"""
    model = capture(proto_of(text))
    assert [node.op_type for node in model.graph] == ["Mul", "Add"]
    assert set(model.graph.initializers) == {"w", "k"}


def test_model_functions_are_inlined() -> None:
    text = """<ir_version: 10, opset_import: ["" : 23, "acme" : 1]>
    g (float[2] x) => (float[2] y) { y = acme.twice(x) }
    <domain: "acme", opset_import: ["" : 23]> twice (a) => (b) { b = Add(a, a) }"""
    model = capture(onnx.parser.parse_model(text))
    assert [node.op_type for node in model.graph] == ["Add"]


OLD = [
    (7, "y = Add(x, x)", ["Add"]),
    (9, "d = Dropout(x) y = Relu(d)", ["Dropout", "Relu"]),
    (9, "s = Slice<axes=[1], starts=[0], ends=[2]>(x) y = Relu(s)", ["Slice", "Relu"]),
    (10, "y = Clip<min=0.0, max=6.0>(x)", ["Clip"]),
    (11, "s = Squeeze<axes=[0]>(u) u = Unsqueeze<axes=[0]>(x) y = Neg(s)", ["Unsqueeze", "Squeeze", "Neg"]),
    (12, "y = ReduceMean<axes=[1]>(x)", ["ReduceMean"]),
    (13, "y = HardSwish(x)", None),
    (18, "y = ReduceMax(x)", ["ReduceMax"]),
    (21, "y = Identity(x)", ["Identity"]),
    (24, "y = Relu(x)", ["Relu"]),
]


@pytest.mark.parametrize(("opset", "body", "expected"), OLD)
def test_other_opsets_are_converted(opset: int, body: str, expected: list[str] | None) -> None:
    proto = proto_of(f"(float[2,4] x) => (float[a,b] y) {{ {body} }}", opset=opset, ir_version=8)
    if expected is None:
        with pytest.raises(SparseccError):
            capture(proto)
        return
    model = capture(proto)
    assert model.opset_imports[""] == OPSET
    assert [node.op_type for node in model.graph if node.op_type != "Constant"] == expected
    evaluate(model, random_inputs(model))


@pytest.mark.parametrize("path", LIGHT, ids=[path.stem for path in LIGHT])
def test_zoo_structures(path: Path) -> None:
    model = capture(path)
    assert len(model.graph.inputs) == 1
    assert not verify(model, static=True)


def test_a_zoo_structure_compiles() -> None:
    model = capture(next(path for path in LIGHT if "squeezenet" in path.stem))
    Pipeline.parse(COMPILE_PIPELINE).run(model, hooks=[VerifyEach(), CompareNumerics()])
    assert len(weight_uses(model)) == 26
    assert {"Conv_Relu", "MaxPool", "Concat", "Softmax"} <= {node.op_type for node in model.graph}
    assert not {"ConstantOfShape", "Dropout"} & {node.op_type for node in model.graph}


def test_control_flow_is_captured() -> None:
    text = """(float[2] x, bool c) => (float[2] y) {
        y = If(c) <then_branch = g1 () => (float[2] p) { p = Neg(x) },
                   else_branch = g2 () => (float[2] q) { q = Relu(x) }> }"""
    model = capture(proto_of(text))
    assert [node.op_type for node in model.graph.all_nodes()] == ["If", "Neg", "Relu"]


def test_dynamic_batch() -> None:
    proto = proto_of("(float[batch,4] x) => (float[batch,4] y) { y = Relu(x) }")
    assert "input x: float32[batch,4]" in dump(capture(proto))
    assert "output y: float32[3,4]" in dump(capture(proto, shapes={"x": (3, 4)}))
    with pytest.raises(UsageError, match="cannot become"):
        capture(proto, shapes={"x": (3, 5)})


X = "(float[2,4] x) => (float[2,4] y)"
W = np.ones((4, 4), np.float32)
BAD: list[tuple[str, onnx.ModelProto, type[SparseccError], str]] = [
    (
        "cycle",
        proto_of(f"{X} {{ a = Add(x, b) b = Relu(a) y = Neg(b) }}"),
        CaptureError,
        "cycle through .*Add node",
    ),
    (
        "unknown op",
        proto_of(f"{X} {{ y = Frobnicate(x) }}"),
        UnsupportedOpError,
        "Frobnicate node y is no op",
    ),
    (
        "unknown domain",
        proto_of(f"{X} {{ y = com.microsoft.FusedGelu(x) }}", imports=', "com.microsoft" : 1'),
        UnsupportedOpError,
        "com.microsoft.FusedGelu node y .*graph optimisations",
    ),
    ("dangling input", proto_of(f"{X} {{ y = Relu(z) }}"), CaptureError, "Relu node y reads z"),
    ("lost output", proto_of(f"{X} {{ z = Relu(x) }}"), CaptureError, "output y is not computed"),
    ("two definitions", proto_of(f"{X} {{ y = Relu(x) y = Neg(x) }}"), CaptureError, "redeclared"),
    ("missing attribute", proto_of(f"{X} {{ y = Concat(x, x) }}"), VerificationError, "axis"),
    ("wrong attribute", proto_of(f"{X} {{ y = Relu<speed=3>(x) }}"), VerificationError, "speed"),
    ("wrong rank", proto_of(f"{X} {{ y = Conv(x, w) }}", w=W), VerificationError, "shape inference failed"),
    (
        "shapes that clash",
        proto_of(f"{X} {{ y = MatMul(x, w) }}", w=np.ones((3, 4), np.float32)),
        VerificationError,
        "shape",
    ),
    (
        "zero size",
        proto_of("(float[0,4] x) => (float[0,4] y) { y = Relu(x) }"),
        VerificationError,
        "size zero",
    ),
    (
        "empty weight",
        proto_of(f"{X} {{ y = MatMul(x, w) }}", w=np.ones((4, 0), np.float32)),
        VerificationError,
        "size zero",
    ),
    (
        "NaN",
        proto_of(f"{X} {{ y = MatMul(x, w) }}", w=W * np.nan),
        VerificationError,
        "initializer w holds NaN",
    ),
    (
        "infinity",
        proto_of(f"{X} {{ y = MatMul(x, w) }}", w=W * np.inf),
        VerificationError,
        "weight w holds infinity",
    ),
    (
        "training",
        proto_of(
            f"{X} {{ y, m, v = BatchNormalization<training_mode=1>(x, k, k, k, k) }}",
            k=np.ones(4, np.float32),
        ),
        UnsupportedOpError,
        "training mode",
    ),
    ("no graph", onnx.ModelProto(), CaptureError, "holds no graph"),
]


@pytest.mark.parametrize(("name", "proto", "error", "message"), BAD, ids=[name for name, *_ in BAD])
def test_bad_models(name: str, proto: onnx.ModelProto, error: type[SparseccError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        capture(proto)
    assert "\n" not in str(caught.value)


def test_no_opset() -> None:
    proto = linear()
    del proto.opset_import[:]
    with pytest.raises(SparseccError):
        capture(proto)


def test_truncated_and_corrupt_files(tmp_path: Path) -> None:
    payload = linear().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in [0, 1, 10, len(payload) // 2, len(payload) - 1]:
        path.write_bytes(payload[:size])
        with pytest.raises(CaptureError, match="truncated"):
            capture(path)
    path.write_bytes(b"PK\x03\x04 this is a zip file, not a model")
    with pytest.raises(CaptureError, match=r"m\.onnx"):
        capture(path)


def test_flipped_bytes_never_end_in_a_foreign_exception() -> None:
    payload = linear().SerializeToString()
    generator = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(payload)
        for position in generator.integers(0, len(payload), 3):
            damaged[position] ^= 1 << int(generator.integers(0, 8))
        try:
            capture(bytes(damaged))
        except SparseccError as error:
            assert str(error)


def test_short_weight_data() -> None:
    proto = linear()
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    with pytest.raises(CaptureError, match="initializer w of the given model is damaged"):
        capture(proto)


def external(tmp_path: Path) -> Path:
    """A model whose weight is in m.data."""
    path = tmp_path / "m.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    return path


def test_missing_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "m.data").unlink()
    with pytest.raises(CaptureError, match=r"external data m\.data of .* is missing"):
        capture(path)


def test_truncated_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    (tmp_path / "m.data").write_bytes((tmp_path / "m.data").read_bytes()[:100])
    with pytest.raises(CaptureError, match="is truncated: initializer w needs 2048 bytes, the file has 100"):
        capture(path)


def test_external_data_outside_the_folder(tmp_path: Path) -> None:
    path = external(tmp_path)
    proto = onnx.load(path, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret.data"
    (tmp_path.parent / "secret.data").write_bytes(bytes(4096))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(CaptureError, match="outside the model's folder"):
        capture(path)


def test_bytes_with_external_data(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="capture the model by its path instead"):
        capture(external(tmp_path).read_bytes())


@pytest.mark.parametrize(
    ("source", "message"),
    [("no/such/file.onnx", "is not a file"), (3, "cannot capture an object of type int")],
)
def test_other_sources(source: object, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(source)
