"""Capture of PyTorch: modules, graph modules, exported programs, tied parameters, transformers' models."""

from __future__ import annotations

import os
import re
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from sparsecc.capture import capture
from sparsecc.errors import CaptureError, UnsupportedOpError, UsageError, VerificationError
from sparsecc.ir import OPSET, dump, evaluate, random_inputs, verify, weight_uses
from sparsecc.passes import COMPILE_PIPELINE, CompareNumerics, Pipeline, VerifyEach
from sparsecc.passes.hooks import relative_difference


def statistics(norm: nn.BatchNorm2d, spread: float) -> None:
    """Random running statistics around zero and one."""
    assert norm.running_mean is not None and norm.running_var is not None
    nn.init.uniform_(norm.running_mean, -spread, spread)
    nn.init.uniform_(norm.running_var, 1 - spread, 1 + spread)


class Small(nn.Module):
    """Convolution, batch norm with statistics of its own, dropout, linear."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        statistics(self.norm, 0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(image)))).mean((2, 3)))


class Tied(nn.Module):
    """An embedding whose weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(ids))


IMAGE = torch.randn(2, 3, 8, 8)


def agree(model: ir.Model, module: nn.Module, tolerance: float = 1e-5) -> None:
    """The captured graph computes what the module computes in eval mode."""
    inputs = random_inputs(model)
    found = next(iter(evaluate(model, inputs).values()))
    modes = module.training
    module.eval()
    with torch.no_grad():
        reference = module(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    module.train(modes)
    expected = reference if isinstance(reference, torch.Tensor) else reference[0]
    assert relative_difference(found, expected.numpy()) <= tolerance


def test_a_module_in_training_is_captured_in_eval_mode() -> None:
    module = Small().train()
    module.drop.eval()
    model = capture(module, IMAGE)
    assert module.training and module.norm.training and not module.drop.training
    assert {"conv.weight", "head.weight", "head.bias", "norm.running_var"} <= set(model.graph.initializers)
    assert [value.name for value in model.graph.inputs] == ["image"]
    assert model.opset_imports[""] == OPSET
    assert not verify(model)
    agree(model, module)


@pytest.mark.parametrize("inputs", [IMAGE, (IMAGE,), [IMAGE], {"image": IMAGE}, IMAGE.numpy()])
def test_forms_of_example_inputs(inputs: object) -> None:
    assert len(capture(Small(), inputs).graph.inputs) == 1


def test_shapes_instead_of_example_inputs() -> None:
    model = capture(Small(), shapes={"image": (1, 3, 6, 6)})
    assert "input image: float32[1,3,6,6]" in dump(model)


def test_the_capture_does_not_follow_later_training() -> None:
    module = Small()
    model = capture(module, IMAGE)
    inputs = random_inputs(model)
    before = next(iter(evaluate(model, inputs).values()))
    with torch.no_grad():
        module.conv.weight.mul_(2)
    np.testing.assert_array_equal(next(iter(evaluate(model, inputs).values())), before)


def test_no_traces_of_the_machine_are_kept() -> None:
    assert b"/test_torch.py" not in ir.to_proto(capture(Small(), IMAGE)).SerializeToString()


def test_graph_module() -> None:
    module = torch.fx.symbolic_trace(Small().eval())
    model = capture(module, IMAGE)
    assert {use.layer for use in weight_uses(model)} == {"conv", "head"}
    agree(model, module)


def test_exported_program_with_a_dynamic_batch() -> None:
    module = Small().eval()
    program = torch.export.export(module, (IMAGE,), dynamic_shapes={"image": {0: torch.export.Dim("batch")}})
    model = capture(program)
    assert re.search(r"input image: float32\[\w+,3,8,8\]", dump(model))
    agree(model, module)
    spec = f"specialize-shapes{{shapes=image:3x3x8x8}},{COMPILE_PIPELINE}"
    Pipeline.parse(spec).run(model, hooks=[VerifyEach(), CompareNumerics()])
    assert not verify(model, static=True)
    assert "input image: float32[3,3,8,8]" in dump(capture(program, shapes={"image": (3, 3, 8, 8)}))


def test_tied_parameters_stay_one_initializer() -> None:
    model = capture(Tied(), torch.zeros(2, 4, dtype=torch.long))
    assert len([v for v in model.graph.initializers.values() if v.dtype == ir.DataType.FLOAT]) == 1
    (use,) = weight_uses(model)
    assert use.shared and use.axis == 0
    agree(model, tied_like(model))


def tied_like(model: ir.Model) -> nn.Module:
    """A tied module with the weights of a captured one."""
    module = Tied()
    (use,) = weight_uses(model)
    assert use.value.const_value is not None
    with torch.no_grad():
        module.embed.weight.copy_(torch.from_numpy(use.value.const_value.numpy()))
    return module


class Attention(nn.Module):
    """Scaled dot product attention, RMS norm, activations."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(16, 16)
        self.norm = nn.RMSNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.query(x).reshape(2, 6, 2, 8).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
        return nn.functional.silu(self.norm(mixed.transpose(1, 2).reshape(2, 6, 16)))


def test_attention_is_decomposed() -> None:
    module = Attention()
    model = capture(module, torch.randn(2, 6, 16))
    agree(model, module)
    Pipeline.parse(COMPILE_PIPELINE).run(model, hooks=[VerifyEach(), CompareNumerics()])
    kinds = {node.op_type for node in model.graph}
    assert {"Softmax", "RMSNormalization", "MatMul_Add"} <= kinds
    assert "Attention" not in kinds


class Branch(nn.Module):
    """Control flow on data, which cannot be traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Raises(nn.Module):
    """A module with a defect of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("my own defect")


class NoTranslation(nn.Module):
    """An op that ONNX has no form of."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvals(x).real


class NotANumber(nn.Linear):
    """NaN in the weight."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        nn.init.constant_(self.weight, float("nan"))


X = torch.ones(4, 4)
BAD = [
    (Branch(), X, CaptureError, "torch.export cannot trace Branch"),
    (Raises(), X, CaptureError, "cannot trace Raises: .*my own defect"),
    (Small(), torch.randn(2, 4, 8, 8), CaptureError, "cannot trace Small"),
    (Small(), (IMAGE, IMAGE), CaptureError, "cannot trace Small"),
    (Small(), None, UsageError, "needs example inputs"),
    (NoTranslation(), X, UnsupportedOpError, "linalg_eig"),
    (NotANumber(), X, VerificationError, "weight holds NaN"),
]


@pytest.mark.parametrize(
    ("module", "inputs", "error", "message"),
    BAD,
    ids=[type(b[0]).__name__ + str(i) for i, b in enumerate(BAD)],
)
def test_what_cannot_be_captured(
    module: nn.Module, inputs: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        capture(module, inputs)
    assert "\n" not in str(caught.value)
    assert module.training


def test_example_inputs_are_for_modules() -> None:
    program = torch.export.export(Small().eval(), (IMAGE,))
    with pytest.raises(UsageError, match="PyTorch modules only"):
        capture(program, IMAGE)


def transformers_case(name: str) -> tuple[nn.Module, object]:
    """A small model of a family and its example inputs."""
    import transformers as t

    torch.manual_seed(0)
    ids = {"input_ids": torch.ones(2, 12, dtype=torch.long)}
    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    if name == "mobilenet-v1":
        config = t.MobileNetV1Config(image_size=32, depth_multiplier=0.25)
        return t.MobileNetV1ForImageClassification(config), torch.randn(1, 3, 32, 32)
    if name == "mobilenet-v2":
        config = t.MobileNetV2Config(image_size=32, depth_multiplier=0.35)
        return t.MobileNetV2ForImageClassification(config), torch.randn(1, 3, 32, 32)
    if name == "resnet":
        config = t.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic")
        return t.ResNetForImageClassification(config), torch.randn(1, 3, 32, 32)
    if name == "bert":
        return t.BertModel(t.BertConfig(vocab_size=50, **small)), {
            **ids,
            "attention_mask": torch.ones(2, 12).long(),
        }
    if name == "llama":
        return t.LlamaForCausalLM(t.LlamaConfig(vocab_size=50, use_cache=False, **small)), ids
    return t.ViTModel(t.ViTConfig(image_size=16, patch_size=8, **small)), torch.randn(1, 3, 16, 16)


def spread(module: nn.Module) -> None:
    """Weights and statistics with which numbers stay of order one through all layers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.BatchNorm2d):
            statistics(part, 0.2)


LAYERS = {"mobilenet-v1": 28, "mobilenet-v2": 53, "resnet": 11, "bert": 13, "llama": 15, "vit": 14}


@pytest.mark.parametrize("name", list(LAYERS))
def test_transformers(name: str) -> None:
    module, inputs = transformers_case(name)
    spread(module)
    model = capture(module, inputs)
    agree(model, module, tolerance=1e-4)
    Pipeline.parse(COMPILE_PIPELINE).run(model, hooks=[VerifyEach(), CompareNumerics()])
    assert not verify(model, static=True)
    kinds = {node.op_type for node in model.graph}
    assert not kinds & {"BatchNormalization", "Erf", "Identity", "Dropout", "Shape", "Pad"}
    assert len(weight_uses(model)) == LAYERS[name]
    parameters = {parameter for parameter, _ in module.named_parameters()}
    assert {f"{use.layer}.weight" for use in weight_uses(model)} <= parameters


class FullRotation(nn.Module):
    """Rotates all of its features, so the part that is passed on is empty."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rotated, passed = x[..., :6], x[..., 6:]
        return torch.cat([rotated * 2, passed], dim=-1)


def test_parts_without_entries_are_dropped() -> None:
    x = torch.randn(2, 6)
    model = capture(FullRotation(), (x,))
    (found,) = evaluate(model, {model.graph.inputs[0].name or "": x.numpy()}).values()
    np.testing.assert_array_equal(found, 2 * x.numpy())
