"""Names of passes and where they live; a pass's module is imported when it is first asked for."""

from __future__ import annotations

import importlib

from sparsecc.errors import UsageError
from sparsecc.passes.base import Pass

PASSES: dict[str, str] = {
    "drop-dead": "drop_dead:DropDead",
    "fold-batch-norm": "fold_batch_norm:FoldBatchNorm",
    "fold-constants": "fold_constants:FoldConstants",
    "fold-dequantize": "fold_dequantize:FoldDequantize",
    "fold-pad": "fold_pad:FoldPad",
    "fuse-epilogues": "fuse_epilogues:FuseEpilogues",
    "permute": "permute:Permute",
    "prune": "prune:Prune",
    "quantize": "quantize:Quantize",
    "quantize-static": "quantize_static:QuantizeStatic",
    "recognize-ops": "recognize_ops:RecognizeOps",
    "resolve-sequences": "resolve_sequences:ResolveSequences",
    "simplify-attention": "simplify_attention:SimplifyAttention",
    "simplify-layout": "simplify_layout:SimplifyLayout",
    "sparsify": "sparsify:Sparsify",
    "specialize-shapes": "specialize_shapes:SpecializeShapes",
}


def pass_names() -> tuple[str, ...]:
    """All pass names, sorted."""
    return tuple(sorted(PASSES))


def get_pass(name: str) -> type[Pass]:
    """The class of a pass.

    Raises:
        UsageError: no pass has this name.
    """
    if name not in PASSES:
        raise UsageError(f"there is no pass {name!r}; passes are {', '.join(pass_names())}")
    module, _, attribute = PASSES[name].partition(":")
    found: type[Pass] = getattr(importlib.import_module(f"sparsecc.passes.{module}"), attribute)
    return found
