"""Convolutional networks and vision transformers of the transformers library, with distinct small widths."""

from __future__ import annotations

from typing import Any

from .huggingface import from_config
from .samples import Floats, Ids, Mask, Sample

BATCH = 2
LABELS = 7
WIDTHS: dict[str, Any] = {"hidden_sizes": [24, 32, 40, 56], "depths": [1, 2, 2, 1]}
NARROW: dict[str, Any] = {"hidden_sizes": [12, 20, 28, 36], "depths": [1, 2, 2, 1]}
TRANSFORMER: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 88,
}


def _classifier(model: str, image: int, **options: Any) -> Sample:
    pixels = Floats((BATCH, 3, image, image))
    return from_config(model, {"num_labels": LABELS, **options}, {"pixel_values": pixels})


CNNS: dict[str, Sample] = {
    "ResNetForImageClassification": _classifier(
        "ResNetForImageClassification", 64, embedding_size=12, layer_type="bottleneck", **WIDTHS
    ),
    "RegNetForImageClassification": _classifier(
        "RegNetForImageClassification", 64, embedding_size=12, groups_width=8, layer_type="y", **WIDTHS
    ),
    "MobileNetV1ForImageClassification": _classifier(
        "MobileNetV1ForImageClassification", 64, image_size=64, depth_multiplier=0.2, min_depth=4
    ),
    "MobileNetV2ForImageClassification": _classifier(
        "MobileNetV2ForImageClassification", 64, image_size=64, depth_multiplier=0.3, depth_divisible_by=4
    ),
    # The top convolution has 1280 x width channels, and the classifier believes `hidden_dim`.
    "EfficientNetForImageClassification": _classifier(
        "EfficientNetForImageClassification",
        64,
        image_size=64,
        width_coefficient=0.25,
        depth_coefficient=0.4,
        depth_divisor=4,
        hidden_dim=320,
    ),
    "ConvNextForImageClassification": _classifier(
        "ConvNextForImageClassification", 64, image_size=64, layer_scale_init_value=0.5, **NARROW
    ),
    "ConvNextV2ForImageClassification": _classifier(
        "ConvNextV2ForImageClassification", 64, image_size=64, **NARROW
    ),
    "BitForImageClassification": _classifier(
        "BitForImageClassification", 64, embedding_size=16, num_groups=4, **WIDTHS
    ),
    "MobileViTForImageClassification": _classifier(
        "MobileViTForImageClassification",
        64,
        image_size=64,
        hidden_sizes=[24, 32, 40],
        neck_hidden_sizes=[8, 12, 16, 20, 28, 36, 52],
        num_attention_heads=4,
    ),
    "PoolFormerForImageClassification": _classifier(
        "PoolFormerForImageClassification", 64, layer_scale_init_value=0.5, **NARROW
    ),
}

VISION_TRANSFORMERS: dict[str, Sample] = {
    "ViTForImageClassification": _classifier(
        "ViTForImageClassification", 32, image_size=32, patch_size=8, **TRANSFORMER
    ),
    "DeiTForImageClassification": _classifier(
        "DeiTForImageClassification", 32, image_size=32, patch_size=8, **TRANSFORMER
    ),
    "SwinForImageClassification": _classifier(
        "SwinForImageClassification",
        32,
        image_size=32,
        patch_size=4,
        embed_dim=12,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "CLIPModel": from_config(
        "CLIPModel",
        {
            "text_config": {
                "hidden_size": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "intermediate_size": 56,
                "vocab_size": 60,
                "max_position_embeddings": 16,
                "bos_token_id": 1,
                "eos_token_id": 59,
                "projection_dim": 20,
            },
            "vision_config": {"image_size": 32, "patch_size": 8, "projection_dim": 20, **TRANSFORMER},
            "projection_dim": 20,
        },
        {
            "input_ids": Ids((BATCH, 10), 59, last=59),
            "pixel_values": Floats((3, 3, 32, 32)),
            "attention_mask": Mask((BATCH, 10)),
        },
        ("logits_per_image", "text_embeds", "image_embeds"),
    ),
    "YolosForObjectDetection": from_config(
        "YolosForObjectDetection",
        {
            "image_size": [32, 40],
            "patch_size": 8,
            "num_detection_tokens": 6,
            "num_labels": LABELS,
            **TRANSFORMER,
        },
        {"pixel_values": Floats((BATCH, 3, 32, 40))},
        ("logits", "pred_boxes"),
    ),
}
