"""Every model type of the transformers library: a small configuration, a class with a head, inputs to it.

A sweep over all of them shows which architectures can be captured at all, and feeds the pruning tables.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from .huggingface import TensorsOnly
from .samples import Draw, Floats, Ids, Mask, Sample
from .shrink import FIRST_SPECIAL, shrunken

BATCH = 2
TOKENS = 10
TARGETS = 7
WAVE = 2000

# Heads before base models: where the hidden states are the output, the whole residual stream is fixed.
TASKS = (
    "IMAGE_CLASSIFICATION",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "MASKED_LM",
    "CAUSAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "CTC",
    "AUDIO_CLASSIFICATION",
    "VIDEO_CLASSIFICATION",
    "OBJECT_DETECTION",
    "SEMANTIC_SEGMENTATION",
    "DEPTH_ESTIMATION",
    "SEQUENCE_CLASSIFICATION",
    "IMAGE_TEXT_TO_TEXT",
    "ZERO_SHOT_IMAGE_CLASSIFICATION",
    "ZERO_SHOT_OBJECT_DETECTION",
    "TIME_SERIES_PREDICTION",
    "UNIVERSAL_SEGMENTATION",
    "IMAGE_TO_IMAGE",
    "KEYPOINT_DETECTION",
    "QUESTION_ANSWERING",
    "PRETRAINING",
)

# Fields of a configuration that the general rules leave in a state that the model refuses.
SMALL_WINDOW = {"window_size": 2}
SERIES = {"prediction_length": 5, "context_length": 12, "num_time_features": 2}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e4}
MROPE: dict[str, Any] = {"text_config": {"rope_parameters": {**ROPE, "mrope_section": [4, 6, 6]}}}
RESNET: dict[str, Any] = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [24, 32, 40, 56],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage4"],
}
ON_RESNET: dict[str, Any] = {"use_timm_backbone": False, "backbone": None, "backbone_config": RESNET}
ON_RESNET_STAGES: dict[str, Any] = {
    **ON_RESNET,
    "backbone_config": {**RESNET, "out_features": ["stage2", "stage3", "stage4"]},
}
OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin", "swin2sr"), SMALL_WINDOW),
    **dict.fromkeys(("time_series_transformer", "informer", "autoformer"), SERIES),
    **dict.fromkeys(("detr", "conditional_detr", "dab-detr", "table-transformer"), ON_RESNET),
    "deformable_detr": {**ON_RESNET_STAGES, "d_model": 64},
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), MROPE),
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "nemotron": {"num_key_value_heads": 2},
    "bit": {"num_groups": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
}


@dataclass(frozen=True)
class Built:
    """A model type that runs: its class, its sample, and the fields of the result that are outputs."""

    model_class: str
    sample: Sample
    fields: tuple[str, ...]


def model_types() -> list[str]:
    """Names of all model types that have a model class, in alphabetical order."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return sorted(name for name in CONFIG_MAPPING if _class_name(name) is not None)


def build(model_type: str) -> Built:
    """A small model of one type that was run once on its example inputs.

    Raises:
        LookupError: no class, or no inputs with which it runs; the message names the last cause.
        Exception: what the configuration or the model raises.
    """
    import transformers

    name = _class_name(model_type)
    if name is None:
        raise LookupError(f"no model class for {model_type}")
    kind: Any = getattr(transformers, name)
    config = shrunken(kind.config_class, OVERRIDES.get(model_type))
    config._experts_implementation = "batched_mm"
    torch.manual_seed(0)
    model: nn.Module = kind(config).eval()
    cause: Exception | None = None
    for inputs in _candidates(model, config):
        try:
            fields = _fields(model, inputs)
        except Exception as error:  # the model's own code runs here and may raise anything
            cause = cause or error
            continue

        def module(model: nn.Module = model, fields: tuple[str, ...] = fields) -> nn.Module:
            return TensorsOnly(copy.deepcopy(model), fields, {})

        return Built(name, Sample(module, inputs), fields)
    raise LookupError(f"no inputs fit {name}: {type(cause).__name__}: {cause}") from cause


def _class_name(model_type: str) -> str | None:
    import transformers.models.auto.modeling_auto as auto

    for task in TASKS:
        names = getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES", {})
        if model_type in names:
            return _first(names[model_type])
    if model_type in auto.MODEL_MAPPING_NAMES:
        return _first(auto.MODEL_MAPPING_NAMES[model_type])
    return None


def _first(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]


def _fields(model: nn.Module, inputs: Mapping[str, Draw]) -> tuple[str, ...]:
    """Logits where there are any, else all floating-point tensors of the result."""
    with torch.no_grad():
        result = model(**Sample(lambda: model, inputs).tensors(), return_dict=True)
    found = [
        name
        for name, value in result.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel()
    ]
    if not found:
        raise LookupError("the result holds no tensor of floats")
    heads = [name for name in found if name in {"logits", "prediction_logits", "logits_per_image"}]
    return tuple(heads[:1] or found)


def _candidates(model: nn.Module, config: Any) -> Iterator[dict[str, Draw]]:
    """Sets of inputs to try, from the fewest to the most."""
    known = {name: draws for name, draws in _draws(config).items() if _takes_by_name(model, name)}
    main = model.main_input_name
    first: list[str] = [main] if isinstance(main, str) else list(cast("tuple[str, ...]", main))
    parameters = inspect.signature(model.forward).parameters
    first += [
        n for n, item in parameters.items() if item.default is item.empty and n in known and n not in first
    ]
    optional = [
        (),
        ("decoder_input_ids",),
        ("attention_mask",),
        ("pixel_values",),
        ("input_ids",),
        ("input_ids", "attention_mask"),
        ("pixel_values", "attention_mask"),
        ("decoder_input_values",),
        ("bbox",),
        ("bbox", "pixel_values"),
        ("pixel_mask",),
        ("token_type_ids",),
        ("query_pixel_values",),
        ("visual_feats", "visual_pos"),
        ("input_features",),
        ("past_time_features", "past_observed_mask", "future_values", "future_time_features"),
    ]
    for extra in optional:
        names = dict.fromkeys([*first, *extra])
        if all(name in known for name in names):
            for index in range(max(len(known[name]) for name in names)):
                yield {name: known[name][min(index, len(known[name]) - 1)] for name in names}


def _takes_by_name(model: nn.Module, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def _draws(config: Any) -> dict[str, list[Draw]]:
    """Input name -> shapes to try."""
    vision = _part(config, "vision_config", "backbone_config")
    size = _field(vision, "image_size", _field(config, "image_size", 64))
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    channels = _field(vision, "num_channels", _field(config, "num_channels", 3))
    channels = channels if isinstance(channels, int) else 3
    frames = _field(config, "num_frames", 4)
    audio = _part(config, "audio_config", "encoder_config", "speech_encoder")
    mel = _field(
        audio, "num_mel_bins", _field(config, "num_mel_bins", _field(config, "input_feat_per_channel", 80))
    )
    source = 2 * _field(config, "max_source_positions", 32)
    ids: list[Draw] = [Ids((BATCH, TOKENS), FIRST_SPECIAL)]
    image: list[Draw] = [Floats((BATCH, channels, height, width)), Floats((BATCH, 3, 64, 64))]
    image += [Floats((BATCH, 3, 128, 128)), Floats((BATCH, 3, 224, 224))]
    video: list[Draw] = [Floats((BATCH, frames, channels, height, width))]
    wave: list[Draw] = [Floats((BATCH, WAVE)), Floats((BATCH, 1, WAVE))]
    time = _field(config, "max_length", 64)
    features: list[Draw] = [
        Floats((BATCH, mel, source)),
        Floats((BATCH, 64, mel)),
        Floats((BATCH, 64, 80)),
        Floats((BATCH, 64, 160)),
        Floats((BATCH, 80, 64)),
        Floats((BATCH, 128, 64)),
        Floats((BATCH, mel, 3000)),
    ]
    past = _field(config, "context_length", None) or _field(config, "prediction_length", None) or 32
    future = _field(config, "prediction_length", 5)
    lagged = past + max(_field(config, "lags_sequence", [0]) or [0])
    times = _field(config, "num_time_features", 1)
    series: list[Draw] = [
        Floats((BATCH, past, _field(config, "num_input_channels", 1))),
        Floats((BATCH, past)),
    ]
    return {
        "input_ids": ids,
        "decoder_input_ids": [Ids((BATCH, TARGETS), FIRST_SPECIAL)],
        "attention_mask": [Mask((BATCH, TOKENS))],
        "token_type_ids": [Ids((BATCH, TOKENS), 2, low=0)],
        "bbox": [Ids((BATCH, TOKENS, 4), 30, low=0)],
        "pixel_values": [*image, *video],
        "query_pixel_values": image,
        "pixel_values_videos": video,
        "pixel_mask": [Ids((BATCH, height, width), 2, low=1)],
        "input_values": [*wave, Floats((BATCH, time, mel)), Floats((BATCH, 64, 80))],
        "input_features": features,
        "audio_values": [Floats((BATCH, 1, WAVE))],
        "inputs": ids,
        "past_values": [Floats((BATCH, lagged))] if lagged > past else series,
        "past_time_features": [Floats((BATCH, lagged, times))],
        "past_observed_mask": [Floats((BATCH, lagged))],
        "future_values": [Floats((BATCH, future))],
        "future_time_features": [Floats((BATCH, future, times))],
        "context_input_ids": ids,
        "visual_feats": [Floats((BATCH, 6, _field(config, "visual_feat_dim", 16)))],
        "visual_pos": [Floats((BATCH, 6, 4))],
    }


def _part(config: Any, *names: str) -> Any:
    return next((getattr(config, name) for name in names if getattr(config, name, None) is not None), None)


def _field(config: Any, name: str, default: Any) -> Any:
    value = getattr(config, name, None)
    return default if value is None or isinstance(value, bool) else value
