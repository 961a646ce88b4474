"""The networks of the zoo by name. Listing them imports neither torch nor ONNX; building one does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

    from .samples import Sample

FIXTURES = Path(__file__).parents[1] / "fixtures"

# Family -> module and table that hold the samples, and their names.
SAMPLES: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "cnn": [
        (
            "vision",
            "CNNS",
            (
                "ResNetForImageClassification",
                "RegNetForImageClassification",
                "MobileNetV1ForImageClassification",
                "MobileNetV2ForImageClassification",
                "EfficientNetForImageClassification",
                "ConvNextForImageClassification",
                "ConvNextV2ForImageClassification",
                "BitForImageClassification",
                "MobileViTForImageClassification",
                "PoolFormerForImageClassification",
            ),
        )
    ],
    "vision transformer": [
        (
            "vision",
            "VISION_TRANSFORMERS",
            (
                "ViTForImageClassification",
                "DeiTForImageClassification",
                "SwinForImageClassification",
                "CLIPModel",
                "YolosForObjectDetection",
            ),
        )
    ],
    "encoder": [
        (
            "language",
            "ENCODERS",
            (
                "BertForSequenceClassification",
                "DistilBertForSequenceClassification",
                "AlbertForSequenceClassification",
                "DebertaV2ForSequenceClassification",
            ),
        )
    ],
    "decoder": [
        (
            "language",
            "DECODERS",
            (
                "GPT2LMHeadModel",
                "LlamaForCausalLM",
                "Qwen2ForCausalLM",
                "GPTNeoXForCausalLM",
                "Phi3ForCausalLM",
                "Gemma2ForCausalLM",
                "MixtralForCausalLM",
            ),
        )
    ],
    "encoder-decoder": [
        (
            "language",
            "ENCODER_DECODERS",
            (
                "T5ForConditionalGeneration",
                "BartForConditionalGeneration",
                "WhisperForConditionalGeneration",
            ),
        )
    ],
    "probe": [
        (
            "probes_convolution",
            "PROBES",
            (
                "pixel-shuffle",
                "pixel-unshuffle",
                "flip-channels",
                "channel-shuffle",
                "u-net",
                "flatten-linear",
                "c2f",
                "squeeze-and-excitation",
                "depthwise-separable",
                "group-norm",
                "instance-norm",
                "resnet-option-a",
                "dense-block",
                "inception",
                "conv3d",
                "prelu",
                "bilinear-upsample",
                "conv1d",
                "gated-conv",
                "unit-axis",
                "grouped-transposed-conv",
            ),
        ),
        (
            "probes_parameters",
            "PROBES",
            ("shared-module", "weight-norm", "spectral-norm", "scalar-parameters"),
        ),
        (
            "probes_attention",
            "PROBES",
            (
                "bidirectional-lstm",
                "gru",
                "rnn",
                "einsum-attention",
                "tied-embedding",
                "position-embedding",
                "multihead-attention",
                "encoder-layers",
                "cross-attention",
                "linear-attention",
                "stacked-qkv",
                "gated-linear-unit",
                "rotary-half",
                "rotary-interleaved",
                "rms-norm",
                "soft-experts",
                "bag-of-embeddings",
                "mixer",
                "windows",
                "multi-query-decay",
            ),
        ),
        (
            "probes_layout",
            "PROBES",
            (
                "functional-linear",
                "index-select",
                "overlapping-slices",
                "roll",
                "sigmoid-sum",
                "many-inputs",
                "dict-outputs",
                "hand-norm",
                "split",
                "maxout",
                "strided-channels",
                "repeated",
                "outer-product",
                "generated-weights",
                "normalised",
            ),
        ),
    ],
}
LIGHT = (
    "AlexNet",
    "DenseNet-121",
    "Inception v1",
    "Inception v2",
    "ResNet-50",
    "ShuffleNet",
    "SqueezeNet",
    "VGG-19",
    "ZFNet",
)


@dataclass(frozen=True)
class ZooModel:
    """A network that structural pruning must handle.

    Attributes:
        name: unique; transformers' class name, the publication's name, or a probe's subject.
        family: a row group of the coverage table.
        build: captures the network anew, with the same weights each time.
        inputs: seed -> example inputs by graph input name, with valid ids and masks.
    """

    name: str
    family: str
    build: Callable[[], ir.Model]
    inputs: Callable[[int], dict[str, np.ndarray]]


def sample(name: str) -> Sample:
    """The PyTorch module behind a network.

    Raises:
        KeyError: no such network, or it comes from an ONNX file.
    """
    for tables in SAMPLES.values():
        for module, table, names in tables:
            if name in names:
                return _in_zoo(module, table)[name]
    raise KeyError(name)


def _in_zoo(module: str, attribute: str) -> Any:
    return getattr(import_module(f".{module}", __package__), attribute)


def _from_sample(name: str, family: str) -> ZooModel:
    return ZooModel(name, family, lambda: sample(name).build(), lambda seed: sample(name).draw(seed))


def _from_light(name: str) -> ZooModel:
    return ZooModel(
        name,
        "cnn-onnx",
        lambda: _in_zoo("light", "build")(name),
        lambda seed: _in_zoo("light", "inputs")(name, seed),
    )


def _from_fixture(file: Path) -> ZooModel:
    def build() -> ir.Model:
        import sparsecc

        return sparsecc.capture(file)

    def inputs(seed: int) -> dict[str, np.ndarray]:
        from sparsecc.ir import random_inputs

        return random_inputs(build(), seed)

    return ZooModel(file.stem, "other framework", build, inputs)


def _registry() -> dict[str, ZooModel]:
    found = [
        _from_sample(name, family)
        for family, tables in SAMPLES.items()
        for _, _, names in tables
        for name in names
    ]
    found += [_from_light(name) for name in LIGHT]
    found += [_from_fixture(file) for file in sorted(FIXTURES.glob("*.onnx"))]
    return {model.name: model for model in found}


MODELS: dict[str, ZooModel] = _registry()
"""Every network by name."""
