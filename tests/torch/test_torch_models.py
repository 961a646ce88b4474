"""Whole networks: equal results and parameters, captured again, traced, exported, copied."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.export
from torch import Tensor, fx, nn
from torch.nn import functional
from torch_graphs import Array, agree, reference, run

from sparsecc import to_torch
from sparsecc.capture import capture
from sparsecc.ir import random_inputs
from sparsecc.passes import COMPILE_PIPELINE, Pipeline

IMAGE = torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().reshape(2, 3, 32, 32)
IDS = torch.arange(16).reshape(2, 8) % 7 + 3
WIDTHS: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
TEXT: dict[str, Any] = {"vocab_size": 32, "use_cache": False, "bos_token_id": 1, "eos_token_id": 2}


class Call(nn.Module):
    """A function of an input and of modules or parameters held under their names."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **held: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, item in held.items():
            setattr(self, name, item)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def recurrent(kind: Callable[..., nn.RNNBase]) -> tuple[nn.Module, Any]:
    return Call(lambda m, x: m.layer(x)[0], layer=kind(8, 6, bidirectional=True)), torch.randn(3, 2, 8)


def transformers_case(name: str) -> tuple[nn.Module, Any]:
    import transformers as t

    ids, image = {"input_ids": IDS}, {"pixel_values": IMAGE}
    both = {"input_ids": IDS, "decoder_input_ids": IDS}
    eager: dict[str, Any] = {"attn_implementation": "eager"}
    relative: dict[str, Any] = {
        "relative_attention": True,
        "position_buckets": 4,
        "pos_att_type": ["p2c", "c2p"],
    }
    seq: dict[str, Any] = {"decoder_start_token_id": 1, **eager}
    makers: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
        "resnet": lambda: (
            t.ResNetForImageClassification(
                t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
            ),
            image,
        ),
        "swin": lambda: (
            t.SwinModel(
                t.SwinConfig(
                    image_size=32,
                    patch_size=2,
                    embed_dim=8,
                    depths=[2],
                    num_heads=[2],
                    window_size=4,
                    **eager,
                )
            ),
            image,
        ),
        "bert": lambda: (t.BertModel(t.BertConfig(vocab_size=32, **WIDTHS)), ids),
        "deberta": lambda: (
            t.DebertaV2Model(t.DebertaV2Config(vocab_size=32, **relative, **WIDTHS)),
            ids,
        ),
        "gpt2": lambda: (
            t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=16, **TEXT)),
            ids,
        ),
        "llama": lambda: (
            t.LlamaForCausalLM(
                t.LlamaConfig(num_key_value_heads=1, tie_word_embeddings=True, **WIDTHS, **TEXT)
            ),
            ids,
        ),
        "t5": lambda: (
            t.T5ForConditionalGeneration(
                t.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, **seq, **TEXT)
            ),
            both,
        ),
    }
    return makers[name]()


HAND: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "lstm": lambda: recurrent(nn.LSTM),
    "gru": lambda: recurrent(nn.GRU),
    "shuffle": lambda: (Call(lambda m, x: functional.pixel_shuffle(m.c(x), 2), c=nn.Conv2d(3, 8, 3)), IMAGE),
    "transposed": lambda: (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), IMAGE),
    "einsum": lambda: (
        Call(lambda m, x: torch.einsum("bchw,dc->bdhw", x, m.w), w=nn.Parameter(torch.randn(4, 3))),
        IMAGE,
    ),
    "norms": lambda: (
        nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU6()),
        IMAGE,
    ),
    "pools": lambda: (
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1, 1), nn.AdaptiveAvgPool2d(1)
        ),
        IMAGE,
    ),
    "resize": lambda: (
        Call(
            lambda m, x: functional.interpolate(m.c(x), scale_factor=2, mode="bilinear"), c=nn.Conv2d(3, 4, 3)
        ),
        IMAGE,
    ),
    "shuffled-channels": lambda: (
        Call(
            lambda m, x: m.c(x).reshape(2, 2, 3, 30, 30).transpose(1, 2).flatten(1, 2)[:, ::2],
            c=nn.Conv2d(3, 6, 3),
        ),
        IMAGE,
    ),
}
SAME_GRAPH = {"norms", "pools", "transposed", "shuffle", "einsum", "resnet"}
TRANSFORMERS = ["resnet", "swin", "bert", "deberta", "gpt2", "llama", "t5"]


def spread(module: nn.Module) -> None:
    """Weights and statistics with which numbers stay of order one through all layers."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
        elif isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


def captured(name: str) -> tuple[nn.Module, ir.Model, Mapping[str, Array]]:
    torch.manual_seed(0)
    module, inputs = HAND[name]() if name in HAND else transformers_case(name)
    spread(module.eval())
    model = capture(module, inputs)
    return module, model, random_inputs(model)


def weights(model: ir.Model) -> set[str]:
    """Names of float initializers with a name of their own."""
    return {
        name
        for name, value in model.graph.initializers.items()
        if value.dtype is not None
        and value.dtype.is_floating_point()
        and not name.startswith(("val_", "constant."))
    }


def folded_ops(model: ir.Model) -> list[str]:
    """Op types after everything constant is computed."""
    copied = model.clone()
    Pipeline.parse(COMPILE_PIPELINE).run(copied)
    return sorted(item.op_type for item in copied.graph)


@pytest.mark.parametrize("name", [*HAND, *TRANSFORMERS])
def test_the_same_results_parameters_and_graph(name: str) -> None:
    module, model, inputs = captured(name)
    converted = to_torch(model)
    expected = reference(model, inputs)
    agree(run(converted, inputs), expected)
    agree(run(fx.symbolic_trace(converted), inputs), expected)
    # Under tied weights the graph keeps one of the names.
    trained = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    found = {name for name, _ in converted.named_parameters()}
    assert found <= trained
    assert len(found) == len(dict(module.named_parameters())) - unused(module, model)
    again = capture(converted, tuple(torch.from_numpy(array) for array in inputs.values()))
    assert weights(again) == weights(model)
    names = [value.name or "" for value in again.graph.inputs]
    agree(reference(again, dict(zip(names, inputs.values(), strict=True))), expected)
    assert {key for key, _ in to_torch(again).named_parameters()} == found
    if name in SAME_GRAPH:
        assert folded_ops(again) == folded_ops(model)


def unused(module: nn.Module, model: ir.Model) -> int:
    """Parameters that no node reads, such as the pooler of a model whose output does not need it."""
    names: dict[int, list[str]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(key)
    read = {name for name, value in model.graph.initializers.items() if value.uses()}
    return sum(not read & set(aliases) for aliases in names.values())


def test_copies_keep_their_names() -> None:
    _, model, inputs = captured("norms")
    converted = to_torch(model)
    expected = run(converted, inputs)
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert other.initializer_names == converted.initializer_names
        assert set(other.state_dict()) == set(converted.state_dict())
        for ours, theirs in zip(run(other, inputs), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)


class Dynamic(nn.Module):
    """Attention over any number of tokens, with the shape arithmetic that its export has."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.project = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, tokens, _ = x.shape
        q, k, v = self.project(x).reshape(batch, tokens, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, 16))


def dynamic_program(module: nn.Module, ids: Tensor) -> torch.export.ExportedProgram:
    batch, tokens = torch.export.Dim("batch", max=64), torch.export.Dim("tokens", min=2, max=64)
    return torch.export.export(module.eval(), (ids,), dynamic_shapes=({0: batch, 1: tokens},))


def test_dynamic_shapes() -> None:
    """A graph of symbolic shapes runs at any size, and stays so when it is exported again."""
    torch.manual_seed(0)
    module = Dynamic()
    ids = torch.arange(10).reshape(2, 5)
    model = capture(dynamic_program(module, ids))
    converted = to_torch(model)
    again = capture(dynamic_program(converted, ids))
    assert len(again.graph.inputs[0].shape or ()) == 2
    assert not any(isinstance(dim, int) for dim in again.graph.inputs[0].shape or ())
    for shape in ((2, 5), (1, 7), (4, 3)):
        tokens = (torch.arange(shape[0] * shape[1]).reshape(shape) * 7) % 20
        with torch.no_grad():
            expected = [module(tokens).numpy()]
        agree(run(converted, {"ids": tokens.numpy()}), expected)
        agree(reference(again, {again.graph.inputs[0].name or "": tokens.numpy()}), expected)
