"""Encoders, decoders and encoder-decoders of the transformers library: four heads, two key/value heads.

Decoders run without a cache; the attention mask is an input where padding is usual.
"""

from __future__ import annotations

from typing import Any

from .huggingface import from_config
from .samples import Draw, Floats, Ids, Mask, Sample

BATCH = 2
TOKENS = 10
TARGETS = 7
VOCABULARY = 60
LABELS = 5
IDS: dict[str, Draw] = {"input_ids": Ids((BATCH, TOKENS), VOCABULARY)}
PADDED: dict[str, Draw] = {**IDS, "attention_mask": Mask((BATCH, TOKENS))}
TO_TARGETS: dict[str, Draw] = {**PADDED, "decoder_input_ids": Ids((BATCH, TARGETS), VOCABULARY)}

TRANSFORMER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 88,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED: dict[str, Any] = {**TRANSFORMER, "num_key_value_heads": 2}


def _decoder(model: str, options: dict[str, Any], inputs: dict[str, Draw] = IDS) -> Sample:
    return from_config(model, options, inputs, use_cache=False)


ENCODERS: dict[str, Sample] = {
    "BertForSequenceClassification": from_config(
        "BertForSequenceClassification",
        {**TRANSFORMER, "num_labels": LABELS},
        {**PADDED, "token_type_ids": Ids((BATCH, TOKENS), 2, low=0)},
    ),
    "DistilBertForSequenceClassification": from_config(
        "DistilBertForSequenceClassification",
        {
            "vocab_size": VOCABULARY,
            "dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 88,
            "max_position_embeddings": 24,
            "num_labels": LABELS,
        },
        PADDED,
    ),
    "AlbertForSequenceClassification": from_config(
        "AlbertForSequenceClassification",
        {**TRANSFORMER, "embedding_size": 20, "num_hidden_layers": 3, "num_labels": LABELS},
        PADDED,
    ),
    "DebertaV2ForSequenceClassification": from_config(
        "DebertaV2ForSequenceClassification",
        {
            **TRANSFORMER,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 6,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "conv_kernel_size": 3,
            "num_labels": LABELS,
        },
        PADDED,
    ),
}

DECODERS: dict[str, Sample] = {
    "GPT2LMHeadModel": _decoder(
        "GPT2LMHeadModel",
        {
            "vocab_size": VOCABULARY,
            "n_embd": 48,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 24,
            "n_inner": 88,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "LlamaForCausalLM": _decoder("LlamaForCausalLM", GROUPED, PADDED),
    "Qwen2ForCausalLM": _decoder("Qwen2ForCausalLM", GROUPED),
    "GPTNeoXForCausalLM": _decoder("GPTNeoXForCausalLM", {**TRANSFORMER, "rotary_pct": 0.5}),
    # Full rotation leaves an empty slice of channels that are passed on, which no graph may hold.
    "Phi3ForCausalLM": _decoder(
        "Phi3ForCausalLM",
        {
            **GROUPED,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "Gemma2ForCausalLM": _decoder(
        "Gemma2ForCausalLM", {**GROUPED, "head_dim": 10, "query_pre_attn_scalar": 10, "sliding_window": 6}
    ),
    # The default grouped matrix products have no ONNX form; the batched ones read every chosen expert.
    "MixtralForCausalLM": _decoder(
        "MixtralForCausalLM",
        {
            **GROUPED,
            "num_local_experts": 3,
            "num_experts_per_tok": 2,
            "experts_implementation": "batched_mm",
        },
    ),
}

ENCODER_DECODERS: dict[str, Sample] = {
    "T5ForConditionalGeneration": from_config(
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 48,
            "d_kv": 10,
            "d_ff": 88,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
        TO_TARGETS,
        use_cache=False,
    ),
    "BartForConditionalGeneration": from_config(
        "BartForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 88,
            "decoder_ffn_dim": 72,
            "max_position_embeddings": 24,
        },
        TO_TARGETS,
        use_cache=False,
    ),
    "WhisperForConditionalGeneration": from_config(
        "WhisperForConditionalGeneration",
        {
            "vocab_size": VOCABULARY,
            "num_mel_bins": 14,
            "d_model": 48,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 88,
            "decoder_ffn_dim": 72,
            "max_source_positions": 15,
            "max_target_positions": 24,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        {
            "input_features": Floats((BATCH, 14, 30)),
            "decoder_input_ids": Ids((BATCH, TARGETS), VOCABULARY),
        },
        use_cache=False,
    ),
}
