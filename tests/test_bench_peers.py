"""The tables of `make peers` and `make decode-peer`, and llama.cpp's kernels where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize
from onnx import TensorProto, helper

from benchmarks import peers
from benchmarks.decode import Chain
from benchmarks.decode_peer import PARTS
from benchmarks.ggml import GgmlChain
from sparsecc.errors import UsageError, VerificationError


def network() -> dict[str, Any]:
    """One network in two columns; MNN failed with sparse weights."""
    ours = {"dense": {"median": 2e-3}, "4x1 80 %": {"median": 1e-3}}
    avx2 = {zeros: {"median": 1.5 * row["median"]} for zeros, row in ours.items()}
    rows = [
        {"engine": "onnxruntime", "zeros": "dense", "median": 4e-3},
        {"engine": "openvino", "zeros": "dense", "median": 1e-3},
        {"engine": "mnn", "zeros": "dense", "median": 8e-3},
        {"engine": "mnn-4x1", "zeros": "4x1 80 %", "error": "ran dense"},
    ]
    return {"ours": ours, "ours_avx2": avx2, "peers": rows}


def test_table_of_peers() -> None:
    lines = peers.as_table({"net": network()}).splitlines()
    assert lines[2] == "| net | dense | 2.00 | 4.00 | 1.00 | 8.00 | 0.50 | 2.00 | 0.25 | 0.38 |"
    assert lines[3] == "| net | 4x1 80 % | 1.00 | 4.00 | 1.00 | error | 0.25 | 1.00 | error | error |"
    assert peers.errors(network()) == ["mnn-4x1, 4x1 80 %: ran dense"]


def test_times_that_scatter_are_named() -> None:
    found = network()
    found["ours"]["dense"]["spread"] = 1e-3
    found["peers"][1]["spread"] = 1e-4
    assert peers.noisy(found) == ["sparsecc, dense"]


def test_fill_replaces_what_is_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- begin: make x -->\nold\n<!-- end: make x -->\nb\n", encoding="utf-8")
    for text in ("new", "newer"):
        peers.fill("make x", text, page)
    assert page.read_text(encoding="utf-8") == "a\n<!-- begin: make x -->\nnewer\n<!-- end: make x -->\nb\n"


def test_numbers_that_differ_are_no_row(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 17)]
    file = tmp_path / "relu.onnx"
    file.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    x = np.array([-1.0, 2.0], np.float32)
    assert peers.difference({"y": np.maximum(x, 0)}, file, {"x": x}) == 0.0
    with pytest.raises(VerificationError, match=r"differ from ONNX Runtime's by 0\.01 of"):
        peers.difference({"y": np.maximum(x, 0) * np.float32(1.01)}, file, {"x": x})


@pytest.mark.parametrize(("kind", "limit"), [("F32", 1e-5), ("Q8_0", 2e-2), ("Q4_0", 2e-2)])
def test_ggml_computes_the_chain(kind: str, limit: float) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama-cpp-python is not installed")
    width, hidden = 96, 160
    torch.manual_seed(0)
    sizes = [(width, width), (32, width), (32, width), (width, width), (hidden, width), (hidden, width)]
    layer = torch.nn.Module()
    layer.self_attn, layer.mlp = torch.nn.Module(), torch.nn.Module()
    weights: list[np.ndarray] = []
    for part, (outputs, inputs) in zip(PARTS, [*sizes, (width, hidden)], strict=True):
        linear = torch.nn.Linear(inputs, outputs, bias=False)
        weights.append(quantize(linear.weight.detach().numpy(), GGMLQuantizationType[kind]))
        values = dequantize(weights[-1], GGMLQuantizationType[kind]).astype(np.float32)
        linear.weight.data = torch.from_numpy(np.array(values))
        holder, name = part.split(".")
        setattr(layer.get_submodule(holder), name, linear)
    x = np.random.default_rng(0).standard_normal((1, width)).astype(np.float32)
    found = GgmlChain([weights], kind, width, hidden).run(x)
    with torch.no_grad():
        expected = Chain(torch.nn.ModuleList([layer]))(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() / np.abs(expected).max() < limit


def test_without_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.ggml.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install llama-cpp-python"):
        GgmlChain([], "F32", 8, 8)
