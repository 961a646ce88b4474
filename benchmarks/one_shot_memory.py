"""`make one-shot-memory`: a language model of 500 M parameters by SparseGPT, and the memory that it takes.

Random weights and ids; 50 % unstructured zeros in all linear layers. The peak is that of the whole process,
from the exporter to the result.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

import sparsecc
from sparsecc.passes.criteria import Calibration

RESULTS = Path(__file__).parent / "results" / "one-shot-memory.json"
TOKENS, WINDOWS, VOCABULARY = 128, 8, 32000
LIMIT = 8e9
"""Bytes that the process may take at most."""


class _Logits(nn.Module):
    """A language model as a function of ids."""

    def __init__(self) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        options: dict[str, Any] = {
            "vocab_size": VOCABULARY,
            "hidden_size": 1280,
            "intermediate_size": 3456,
            "num_hidden_layers": 24,
            "num_attention_heads": 20,
            "num_key_value_heads": 20,
            "tie_word_embeddings": True,
            "attn_implementation": "eager",
        }
        torch.manual_seed(0)
        self.model = LlamaForCausalLM(LlamaConfig(**options)).eval()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


def main() -> int:
    model, parameters = _model()
    captured = _peak()
    generator = np.random.default_rng(0)
    ids = [generator.integers(0, VOCABULARY, (1, TOKENS)) for _ in range(WINDOWS)]
    start = time.perf_counter()
    result = sparsecc.sparsify(
        model,
        "unstructured",
        0.5,
        method="sparsegpt",
        calibration=Calibration([{"input_ids": window} for window in ids]),
    )
    found = {
        "command": "make one-shot-memory",
        "parameters": parameters,
        "zeros": result.notes[0],
        "gigabytes after capture": captured / 1e9,
        "gigabytes": _peak() / 1e9,
        "seconds": time.perf_counter() - start,
    }
    print(json.dumps(found, indent=1))
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if _peak() < LIMIT else 4


def _model() -> tuple[ir.Model, int]:
    module = _Logits()
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return sparsecc.capture(module, {"input_ids": torch.ones(1, TOKENS, dtype=torch.int64)}), parameters


def _peak() -> float:
    """Bytes of memory that this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    sys.exit(main())
