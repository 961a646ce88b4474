"""The transformers library's models as functions from tensors to tensors, from small configurations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .samples import Draw, Sample


class TensorsOnly(nn.Module):
    """A model whose keyword inputs are tensors and whose result is the named fields of its output."""

    def __init__(self, model: nn.Module, fields: tuple[str, ...], fixed: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.fields = fields
        self.fixed = dict(fixed)

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The fields, in order."""
        result = self.model(**inputs, **self.fixed, return_dict=True)
        return tuple(result[field] for field in self.fields)


def from_config(
    model: str,
    options: Mapping[str, Any],
    inputs: Mapping[str, Draw],
    fields: tuple[str, ...] = ("logits",),
    **fixed: Any,
) -> Sample:
    """A model of the transformers library with random weights.

    Args:
        model: class name; its configuration class is the model's own.
        options: fields of the configuration.
        inputs: tensors to call the model with.
        fields: of the model's output.
        fixed: further keyword arguments of every call.
    """

    def build() -> nn.Module:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import transformers

        kind: Any = getattr(transformers, model)
        config = kind.config_class(**options)
        return TensorsOnly(kind(config), fields, fixed)

    return Sample(build, inputs)
