"""Attention and rotary embedding of opset 23, and their table."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from sparsecc.torch.op import Op


def _heads(x: Tensor, count: int | None) -> Tensor:
    """[B, S, heads * d] to [B, heads, S, d]; four axes stay."""
    if x.dim() == 4 or count is None:
        return x
    return x.unflatten(2, (count, x.shape[2] // count)).transpose(1, 2)


def _bias(
    mask: Tensor | None, causal: int, past: int, queries: int, keys: int, like: Tensor
) -> Tensor | None:
    """What is added to the scores: minus infinity where a query must not see a key."""
    bias = mask
    if mask is not None and mask.dtype == torch.bool:
        bias = torch.zeros_like(mask, dtype=like.dtype).masked_fill(~mask, float("-inf"))
    if bias is not None and bias.shape[-1] < keys:
        bias = functional.pad(bias, [0, keys - bias.shape[-1]], value=float("-inf"))
    if causal:
        seen = torch.ones(queries, keys, dtype=torch.bool, device=like.device).tril(past)
        triangle = torch.zeros(queries, keys, dtype=like.dtype, device=like.device)
        triangle = triangle.masked_fill(~seen, float("-inf"))
        bias = triangle if bias is None else bias + triangle
    return bias


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    qk_matmul_output_mode: int = 0,
    scale: float | None = None,
    softcap: float = 0.0,
    softmax_precision: torch.dtype | None = None,
    outputs: int = 1,
) -> Tensor | tuple[Tensor, ...]:
    """softmax(scale Q K' + mask) V with grouped heads and a cache (ONNX, Attention-23).

    Query, key and value are [B, heads, S, d] or [B, S, heads * d]. Further outputs are the keys and values
    with the past before them and, in the chosen stage, the scores.
    """
    flat = query.dim() == 3
    q, k, v = _heads(query, q_num_heads), _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    past = 0 if past_key is None else past_key.shape[2]
    k = k if past_key is None else torch.cat((past_key, k), 2)
    v = v if past_value is None else torch.cat((past_value, v), 2)
    bias = _bias(mask, is_causal, past, q.shape[2], k.shape[2], q)
    scale = 1 / math.sqrt(q.shape[3]) if scale is None else scale
    grouped = q.shape[1] // k.shape[1]
    wide_k = k if grouped == 1 else k.repeat_interleave(grouped, 1)
    wide_v = v if grouped == 1 else v.repeat_interleave(grouped, 1)
    scores = None
    if softcap == 0 and outputs < 4 and softmax_precision in (None, q.dtype):
        y = functional.scaled_dot_product_attention(q, wide_k, wide_v, bias, scale=scale)
    else:
        y, scores = _explicit(
            q, wide_k, wide_v, bias, scale, softcap, softmax_precision, qk_matmul_output_mode
        )
    y = y.transpose(1, 2).flatten(2) if flat else y
    results = (y, k, v, y if scores is None else scores)
    return y if outputs == 1 else results[:outputs]


def _explicit(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    scale: float,
    softcap: float,
    precision: torch.dtype | None,
    stage: int,
) -> tuple[Tensor, Tensor]:
    """Result, and scores as they are (0), after the soft cap (1), the bias (2) or the softmax (3)."""
    root = math.sqrt(scale)
    raw = (q * root) @ (k.transpose(2, 3) * root)
    capped = softcap * torch.tanh(raw / softcap) if softcap else raw
    biased = capped if bias is None else capped + bias
    wide = biased if precision is None else biased.to(precision)
    weights = torch.softmax(wide, -1).to(q.dtype)
    if bias is not None:
        unseen = torch.isneginf(bias).all(-1, keepdim=True)
        weights = weights.masked_fill(unseen, 0.0)
    return weights @ v, (raw, capped, biased, weights)[stage]


def rotary_embedding(
    x: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    position_ids: Tensor | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Tensor:
    """Turn pairs of features by an angle that grows with the position (Su et al. 2021; ONNX-23).

    x is [B, heads, S, d] or [B, S, heads * d]; the caches are [positions, r / 2], or [B, S, r / 2] without
    position_ids [B, S].
    """
    heads = _heads(x, num_heads or None)
    size = rotary_embedding_dim or heads.shape[3]
    cos, sin = (
        (cos_cache, sin_cache) if position_ids is None else (cos_cache[position_ids], sin_cache[position_ids])
    )
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned, rest = heads[..., :size], heads[..., size:]
    a, b = (turned[..., 0::2], turned[..., 1::2]) if interleaved else turned.chunk(2, -1)
    real, imaginary = cos * a - sin * b, sin * a + cos * b
    if interleaved:
        turned = torch.stack((real, imaginary), -1).flatten(-2)
    else:
        turned = torch.cat((real, imaginary), -1)
    y = torch.cat((turned, rest), -1)
    return y if x.dim() == 4 else y.transpose(1, 2).flatten(2)


OPS = {
    "Attention": Op(attention),
    "RotaryEmbedding": Op(rotary_embedding),
}
