"""Masked attention with grouped keys, in two interchangeable implementations, and the rotary positions."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MASKED = -30000.0  # finite in every dtype, and exp() of it is exactly 0: no row can turn into NaN


def project(layer: nn.Linear, x: Tensor) -> Tensor:
    """layer(x), also where the layer's weights are half-precision and x, a norm's output say, is float32."""
    kind = layer.weight.dtype
    return layer(x if kind == torch.float32 else x.to(kind))


def mask_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, S, N) bool (True = may look) -> additive (B, 1, S, N): 0 where allowed, MASKED elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, MASKED)[:, None]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, implementation: str = "auto") -> Tensor:
    """q (B, S, heads, D); k, v (B, N, kv_heads, D); bias (B or 1, 1, S, N) or None -> (B, S, heads * D).

    "sdpa": torch's scaled_dot_product_attention. "math": plain matmul, softmax, matmul. "folded": sdpa with
    the query heads that share a key head as one taller matrix, so that keys are never repeated; on CUDA,
    masks leave sdpa no other way to share them but its slow one. "auto": folded on CUDA, else sdpa, but math
    on a CPU in training and in bfloat16, where it is faster than the fused kernel (backward: far).
    """
    batch, queries, heads, dim = q.shape
    keys, groups = k.shape[1], heads // k.shape[2]
    if bias is not None:
        bias = bias.to(q.dtype)
    if implementation == "auto":
        slow = q.device.type == "cpu" and (q.requires_grad or q.dtype != torch.float32)
        usual = "folded" if q.device.type == "cuda" and groups > 1 else "sdpa"
        implementation = "math" if slow else usual
    if implementation == "sdpa":
        out = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=bias, enable_gqa=groups > 1
        )
        return out.transpose(1, 2).reshape(batch, queries, heads * dim)
    if implementation not in ("math", "folded"):
        known = "'auto', 'sdpa', 'folded' or 'math'"
        raise ValueError(f"attention: expected {known}, got {implementation!r}")
    shape = (batch, k.shape[2], groups * queries)
    q = q.unflatten(2, (-1, groups)).permute(0, 2, 3, 1, 4).reshape(*shape, dim)
    if implementation == "folded":
        mask = None if bias is None else bias.repeat(1, 1, groups, 1)
        out = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
    else:
        scores = (q * dim**-0.5) @ k.permute(0, 2, 3, 1)  # (B, kv, groups * S, N)
        if bias is not None:
            scores = scores.view(batch, -1, groups, queries, keys) + bias[:, None]
        out = scores.view(*shape, keys).softmax(-1) @ v.transpose(1, 2)
    return (
        out.view(batch, -1, groups, queries, dim).permute(0, 3, 1, 2, 4).reshape(batch, queries, heads * dim)
    )


def rotary(positions: Tensor, dim: int, theta: float, stretch: float = 1.0) -> tuple[Tensor, Tensor]:
    """positions (S,) or (B, S) -> cosines and sines (..., S, 1, dim / 2), float32.

    positions (3, B, S): time, row and column of every token; band i turns with axis i mod 3 (interleaved
    MRoPE). stretch: positions are divided by it (linear RoPE scaling).
    """
    made = _frequencies.__wrapped__ if torch.compiler.is_compiling() else _frequencies
    frequency = made(dim, theta, stretch, positions.device)
    if positions.dim() == 3:
        axes = torch.arange(dim // 2, device=positions.device) % 3
        angle = positions.float()[axes].movedim(0, -1) * frequency
    else:
        angle = positions.float()[..., None] * frequency
    return angle.cos().unsqueeze(-2), angle.sin().unsqueeze(-2)


@lru_cache(maxsize=256)
def _frequencies(dim: int, theta: float, stretch: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, so they must also serve training
        return theta ** (-torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim) / stretch


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, halves convention. x (B, S, heads, D)."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
