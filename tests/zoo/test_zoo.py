"""The zoo holds every network of the coverage list, and what it builds computes what the module computes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsecc.ir import evaluate
from tests.zoo import MODELS, sample
from tests.zoo.registry import SAMPLES
from tests.zoo.samples import Sample

FAMILIES = {
    "cnn": "ResNet RegNet MobileNetV1 MobileNetV2 EfficientNet ConvNext ConvNextV2 Bit MobileViT PoolFormer",
    "cnn-onnx": "AlexNet DenseNet Inception ResNet ShuffleNet SqueezeNet VGG ZFNet",
    "vision transformer": "ViT DeiT Swin CLIP Yolos",
    "encoder": "Bert DistilBert Albert DebertaV2",
    "decoder": "GPT2 Llama Qwen2 GPTNeoX Phi3 Gemma2 Mixtral",
    "encoder-decoder": "T5 Bart Whisper",
    "probe": "bidirectional-lstm gru pixel-shuffle einsum-attention tied-embedding functional-linear "
    "index-select flip-channels channel-shuffle u-net flatten-linear c2f position-embedding "
    "squeeze-and-excitation depthwise-separable overlapping-slices",
    "other framework": "keras flax",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_complete(family: str) -> None:
    names = [name for name, model in MODELS.items() if model.family == family]
    for start in FAMILIES[family].split():
        assert any(name.startswith(start) for name in names), start


@pytest.mark.parametrize(("module", "table"), sorted({row[:2] for rows in SAMPLES.values() for row in rows}))
def test_registry_lists_every_sample(module: str, table: str) -> None:
    samples: Mapping[str, Sample] = getattr(import_module(f"tests.zoo.{module}"), table)
    listed = [row[2] for rows in SAMPLES.values() for row in rows if row[:2] == (module, table)]
    assert listed == [tuple(samples)]


def test_listing_imports_no_framework() -> None:
    code = "import sys, tests.zoo; sys.exit(bool({'torch', 'onnx', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
    "name", ["LlamaForCausalLM", "bidirectional-lstm", "dict-outputs", "channel-shuffle"]
)
def test_computes_what_the_module_computes(name: str) -> None:
    inputs = MODELS[name].inputs(1)
    with torch.no_grad():
        result = sample(name).build_module()(
            **{key: torch.from_numpy(array) for key, array in inputs.items()}
        )
    if isinstance(result, torch.Tensor):
        result = (result,)
    expected = list(result.values()) if isinstance(result, dict) else list(result)
    found = list(evaluate(MODELS[name].build(), inputs).values())
    assert len(found) == len(expected)
    for array, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ShuffleNet", "keras_cnn", "flax_vit"])
def test_files_respond_to_their_inputs(name: str) -> None:
    model = MODELS[name].build()
    first, second = (evaluate(model, MODELS[name].inputs(seed)) for seed in (0, 1))
    for key, array in first.items():
        assert np.isfinite(array).all()
        assert np.abs(array - second[key]).max() > 0.05 * np.abs(array).max()


def test_weights_are_the_same_each_time() -> None:
    first, second = (MODELS["u-net"].build().graph.initializers for _ in range(2))
    assert list(first) == list(second)
    for one, other in zip(first.values(), second.values(), strict=True):
        assert one.const_value is not None and other.const_value is not None
        np.testing.assert_array_equal(one.const_value.numpy(), other.const_value.numpy())
