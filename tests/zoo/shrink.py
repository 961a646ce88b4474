"""Small configurations of any transformers model type, derived from the defaults of its fields.

Widths are divided by one factor, so that equal ones stay equal and ratios stay whole; heads and head widths
share that factor. Layers, experts, positions and vocabularies are set; kernels and strides are kept.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LAYERS = 2
EXPERTS = 4
VOCABULARY = 64
FIRST_SPECIAL = 40
"""Token ids from here on stand for images, sounds and other things that a text does not hold."""

POSITIONS = 64
WIDTH_FACTOR = 16
HEAD_FACTOR = 4
LIST_FACTOR = 4
SMALLEST_WIDTH = 48
WIDE = 128
"""Lists that start narrower than this are divided by a smaller factor."""

Rule = tuple[str, Callable[[str, int], int]]


def _special_token(name: str, value: int) -> int:
    """Ids of the text's own marks stay, others get a place of their own at the vocabulary's end."""
    fixed = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    if name in fixed:
        return fixed[name]
    if value < FIRST_SPECIAL:
        return value
    return FIRST_SPECIAL + zlib.crc32(name.encode()) % (VOCABULARY - FIRST_SPECIAL)


def _heads(_name: str, value: int) -> int:
    for factor in (HEAD_FACTOR, 2):
        if value % factor == 0:
            return value // factor
    return value


def _width(_name: str, value: int) -> int:
    return value if value < SMALLEST_WIDTH else max(1, value // WIDTH_FACTOR)


def _constant(number: int) -> Callable[[str, int], int]:
    return lambda _name, value: min(value, number)


def _kept(_name: str, value: int) -> int:
    return value


# The first pattern that is found in a field's name decides; a field that none matches is kept.
RULES: tuple[Rule, ...] = (
    (r"type_vocab|type_size|window|kernel|stride|dilation|patch|merge_size|chunk|ratio|factor|expan", _kept),
    (r"(token_id|token_index|_id|_idx)$", _special_token),
    (r"vocab|num_embeddings$|codebook_size", _constant(VOCABULARY)),
    (r"(experts_per_tok|topk|top_k|moe_k|num_selected_experts)$", _constant(2)),
    (r"^(n_group|topk_group|num_expert_groups?)$", _constant(1)),
    (r"experts$|expert_num$|num_experts", _constant(EXPERTS)),
    (r"^(attention_)?heads$|_heads$|^n_heads?$|num_heads|_n_head$", _heads),
    (r"head_dim|d_kv|attention_head_size|dim_head|head_size|d_head", lambda _name, value: _quarter(value)),
    (r"first_k_dense|num_dense_layers", _constant(1)),
    (
        r"(num|n)_(hidden_|encoder_|decoder_|text_)?(layers?|blocks)$|^(encoder|decoder)_layers$",
        _constant(LAYERS),
    ),
    (r"_num_(hidden_)?layers$|^depth$|_depth$|^n_layers?$|_layers$", _constant(LAYERS)),
    (
        r"position_embeddings$|n_positions|n_ctx|max_.*positions|max_length|seq_len|max_seq",
        _constant(POSITIONS),
    ),
    (r"num_queries|num_proposals|num_denoising|num_points$", _constant(12)),
    (r"num_frames", _constant(4)),
    (r"num_channels|in_channels|num_labels|group|num_mel|sampl|_rate|bins|frame|image_size|time", _kept),
    (r"size|dim|channels|hidden|width|d_model|embd|inner|ff|rank|features|state|proj|expand_v", _width),
)


def _quarter(value: int) -> int:
    return value // HEAD_FACTOR if value >= 2 * HEAD_FACTOR else value


def _small(name: str, value: Any) -> Any:
    """The small value of one field."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        rule = next((rule for pattern, rule in RULES if re.search(pattern, name)), _kept)
        return rule(name, value)
    if isinstance(value, list | tuple) and value and all(type(item) is int for item in value):
        factor = WIDTH_FACTOR if min(value) >= WIDE else LIST_FACTOR
        return type(value)(_small_item(name, item, factor) for item in value)
    return value


def _small_item(name: str, value: int, factor: int) -> int:
    """A stage of a network with several: depths become at most two, wide stages narrower by `factor`."""
    if re.search(r"depths|num_block|layers$|num_conv", name):
        return min(value, LAYERS)
    kept = re.search(r"kernel|stride|patch|size$|ratio|dilation|rates|index|bins|window|groups|heads", name)
    if kept and not re.search(r"hidden_size|embed", name):
        return value
    return value // factor if value >= 32 else value


def shrunken(kind: Any, overrides: Mapping[str, Any] | None = None) -> Any:
    """A configuration of class `kind` with small sizes.

    Args:
        kind: a configuration class of the transformers library.
        overrides: fields to set instead; a mapping under a sub-configuration's name goes to its fields.

    Raises:
        Exception: whatever the class raises on these fields.
    """
    given = dict(overrides or {})
    default = _default(kind)
    options: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        value = field.default
        if field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        if value is not dataclasses.MISSING and field.init:
            small = _small(field.name, value)
            if small != value:
                options[field.name] = small
    if hasattr(default, "use_cache"):
        options["use_cache"] = False
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        options["rope_parameters"] = {
            **rope,
            "mrope_section": [_quarter(part) for part in rope["mrope_section"]],
        }
    for name in kind.sub_configs:
        if "model_type" in given.get(name, {}):
            continue
        part = getattr(default, name, None) if default is not None else None
        part_kind: Any = type(part) if part is not None else kind.sub_configs[name]
        if dataclasses.is_dataclass(part_kind):
            options[name] = shrunken(part_kind, {**_stages(part), **given.pop(name, {})})
    options = _with_image(kind, options)
    return kind(**{**options, **given})


def _default(kind: Any) -> Any:
    """The configuration with all defaults, or None where a class needs arguments."""
    try:
        return kind()
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _stages(part: Any) -> dict[str, Any]:
    """The stages that a backbone gives out, as far as they exist in a network of few layers."""
    indices: Sequence[int] | None = getattr(part, "out_indices", None)
    names: Sequence[str] | None = getattr(part, "stage_names", None)
    if not indices or not names:
        return {}
    return {"out_indices": list(indices)} if len(names) <= 6 else {"out_indices": [1, 2][-len(indices) :]}


def _with_image(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Add an image size of four patches a side, and at least 64 pixels for networks in stages."""
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    size, patch = fields.get("image_size"), fields.get("patch_size")
    side = 4 * patch if isinstance(patch, int) and patch >= 8 else 64
    if isinstance(size, int) and not isinstance(size, bool) and size > side:
        return {**options, "image_size": side}
    if isinstance(size, list | tuple) and len(size) == 2:
        return {**options, "image_size": type(size)([side, side])}
    return options
