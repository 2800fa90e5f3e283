"""Gemma-style blocks and streams made of them. One class is the decoder and, with AdaRMS, the expert."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbone.attention import MASKED, attend, project, rotary, rotate
from backbone.config import StreamConfig


class _RMS(torch.autograd.Function):
    """x / rms(x) * weight with a short backward: torch's own takes three times as long on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse, weight)
        return unit * weight

    @staticmethod
    def backward(ctx, grad: Tensor):
        unit, inverse, weight = ctx.saved_tensors
        product, flat_weight = (grad * unit), weight.expand(unit.shape[-weight.dim() :])
        d_weight = product.flatten(0, -1 - weight.dim()).sum(0) if ctx.needs_input_grad[1] else None
        along = (product @ weight if weight.dim() == 1 else (product * weight).sum(-1)) / unit.shape[-1]
        d_x = torch.addcmul(grad * flat_weight, unit, along.unsqueeze(-1), value=-1).mul_(inverse)
        return d_x, d_weight, None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return (norm * norm / x.shape[-1] + eps).rsqrt()


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In float32. x (..., D), weight (D,) or (heads, D)."""
    x = x.float()
    if x.device.type != "cpu":
        return F.rms_norm(x, x.shape[-1:], eps=eps) * weight
    if x.requires_grad:
        with torch.autocast("cpu", enabled=False):
            return _RMS.apply(x, weight, eps)
    return x * _inverse_rms(x, eps) * weight  # half the time of torch's own, which is many small steps


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), in float32; the weight starts at zero (Gemma)."""

    def __init__(self, dim: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, 1 + self.weight, self.eps)


class AdaRMS(nn.Module):
    """RMS norm whose scale, shift and gate come from a condition; all zero at the start (openpi's order)."""

    def __init__(self, dim: int, condition: int, eps: float = 1e-6):
        super().__init__()
        self.dense = nn.Linear(condition, 3 * dim)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.eps = eps

    def forward(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, Tensor]:
        """x (..., D), modulation = dense(condition), broadcastable to (..., 3 D) -> normed x, gate."""
        scale, shift, gate = modulation.float().chunk(3, -1)
        one = torch.ones(x.shape[-1], device=x.device)
        return torch.addcmul(shift, rms_norm(x, one, self.eps), 1 + scale), gate


class Block(nn.Module):
    """One layer: attention and GeGLU. The attention between `project` and `finish` may span streams."""

    def __init__(self, config: StreamConfig, adaptive: bool):
        super().__init__()
        c = self.config = config
        self.adaptive = adaptive

        def norm():
            return AdaRMS(c.width, c.width) if adaptive else RMSNorm(c.width)

        self.attention_norm, self.mlp_norm = norm(), norm()
        self.qkv = nn.Linear(c.width, (c.heads + 2 * c.kv_heads) * c.head_dim, bias=False)
        self.out = nn.Linear(c.heads * c.head_dim, c.width, bias=False)
        self.gate_up = nn.Linear(c.width, 2 * c.mlp, bias=False)
        self.down = nn.Linear(c.mlp, c.width, bias=False)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c.head_dim), RMSNorm(c.head_dim)
        if c.sandwich:
            self.after_attention, self.after_mlp = RMSNorm(c.width), RMSNorm(c.width)

    def keys(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, S, D) -> k and v (B, S, kv_heads, d) as `project` has them; not for adaptive blocks."""
        c = self.config
        x = self.attention_norm(x).to(self.qkv.weight.dtype)
        rows = self.qkv.weight[c.heads * c.head_dim :]
        k, v = F.linear(x, rows).unflatten(-1, (2 * c.kv_heads, c.head_dim)).chunk(2, 2)
        return rotate(self.k_norm(k) if c.qk_norm else k, *rope).to(v.dtype), v

    def project(self, x: Tensor, rope: tuple[Tensor, Tensor], modulation: Tensor | None):
        """x (B, S, D) or (B, F, H, D) -> q (B, S, heads, d), k and v (B, S, kv_heads, d), gate or None."""
        c, gate = self.config, None
        if self.adaptive:
            x, gate = self.attention_norm(x, modulation)
        else:
            x = self.attention_norm(x)
        qkv = project(self.qkv, x).view(x.shape[0], -1, c.heads + 2 * c.kv_heads, c.head_dim)
        qk, v = qkv.split((c.heads + c.kv_heads, c.kv_heads), 2)
        if c.qk_norm:  # one pass over queries and keys together
            weight = torch.cat(
                (self.q_norm.weight.expand(c.heads, -1), self.k_norm.weight.expand(c.kv_heads, -1))
            )
            qk = rms_norm(qk, 1 + weight, self.q_norm.eps)
        qk = rotate(qk, *rope).to(v.dtype)
        q = qk[:, :, : c.heads]
        if c.query_scale is not None:  # attention itself divides by the root of head_dim
            q = q * (c.head_dim / c.query_scale) ** 0.5
        return q, qk[:, :, c.heads :], v, gate

    def finish(self, x: Tensor, attended: Tensor, gate: Tensor | None, modulation: Tensor | None) -> Tensor:
        """Add what attention brought (B, S, heads * d) and then the MLP, both gated in an adaptive block."""
        y = self._dropped(project(self.out, attended).view(x.shape))
        if self.config.sandwich:
            y = self.after_attention(y)
        x = x + y if gate is None else torch.addcmul(x, y, gate)
        if self.adaptive:
            y, gate = self.mlp_norm(x, modulation)
        else:
            y, gate = self.mlp_norm(x), None
        a, b = project(self.gate_up, y).chunk(2, -1)
        y = self._dropped(self.down(F.gelu(a, approximate=self.config.gelu) * b))
        if self.config.sandwich:
            y = self.after_mlp(y)
        return x + y if gate is None else torch.addcmul(x, y, gate)

    def _dropped(self, y: Tensor) -> Tensor:
        return F.dropout(y, self.config.dropout, self.training) if self.config.dropout else y


class Stream(nn.Module):
    """A stack of blocks with its final norm: the decoder, or (adaptive) the action expert."""

    def __init__(self, config: StreamConfig, adaptive: bool = False, attention: str = "auto"):
        super().__init__()
        self.config, self.adaptive, self.attention = config, adaptive, attention
        self.recompute = False  # blocks in the backward pass, instead of keeping what they made
        self.blocks = nn.ModuleList(Block(config, adaptive) for _ in range(config.depth))
        self.norm = AdaRMS(config.width, config.width) if adaptive else RMSNorm(config.width)
        for block in self.blocks:  # residual branches start small, so depth does not blow up the stream
            for branch in (block.out, block.down):
                nn.init.normal_(
                    branch.weight, std=0.02 / math.sqrt(2 * config.depth) if not adaptive else 0.02
                )

    def modulation(self, condition: Tensor) -> list[Tensor]:
        """condition (..., D) -> what every AdaRMS needs, (..., 3 D) each, the final norm last."""
        norms = [n for block in self.blocks for n in (block.attention_norm, block.mlp_norm)]
        return [norm.dense(condition) for norm in (*norms, self.norm)]

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        bias: Tensor,
        memory,
        modulation: list[Tensor] | None = None,
        wanted: tuple[int, int] | None = None,
    ) -> Tensor:
        """x (B, S, D) or (B, F, H, D) with F * H = S; positions (S,), (B, S) or (3, B, S); bias (B, 1, S, N).

        memory: a Collect, Beside or Cache, which says what the S queries attend to (N keys). wanted: first
        and last + 1 of the tokens whose hidden states come back (all by default): the last block gives the
        others no more than their keys and values.
        """
        c = self.config
        kinds = list(zip(c.thetas, c.stretch, strict=True))
        ropes = {kind: rotary(positions, c.head_dim, *kind) for kind in set(kinds)}
        biases = {window: _windowed(bias, positions, window) for window in set(c.windows)}

        def run(layer: int, block: Block, x: Tensor) -> Tensor:
            first, second = modulation[2 * layer : 2 * layer + 2] if self.adaptive else (None, None)
            q, k, v, gate = block.project(x, ropes[kinds[layer]], first)
            keys, values = memory.extend(layer, k, v)
            attended = attend(q, keys, values, biases[c.windows[layer]], self.attention)
            return block.finish(x, attended, gate, second)

        whole = self.blocks if wanted is None else self.blocks[:-1]
        for layer, block in enumerate(whole):
            if self.recompute and self.training and torch.is_grad_enabled():
                x = checkpoint(run, layer, block, x, use_reentrant=False)
            else:
                x = run(layer, block, x)
        if wanted is not None:
            x = self._last(x, ropes[kinds[-1]], biases[c.windows[-1]], memory, wanted)
        return self.norm(x, modulation[-1])[0] if self.adaptive else self.norm(x)

    def _last(self, x: Tensor, rope: tuple, bias: Tensor, memory, wanted: tuple[int, int]) -> Tensor:
        """The last block for some tokens only."""
        block, (first, end) = self.blocks[-1], wanted
        if first == end:
            memory.extend(len(self.blocks) - 1, *block.keys(x, rope))
            return x[:, :0]
        q, k, v, _ = block.project(x, rope, None)
        keys, values = memory.extend(len(self.blocks) - 1, k, v)
        attended = attend(q[:, first:end], keys, values, bias[:, :, first:end], self.attention)
        return block.finish(x[:, first:end], attended, None, None)


def _windowed(bias: Tensor, positions: Tensor, window: int) -> Tensor:
    """Hide from each query what lies `window` or more positions before it; 0 hides nothing. The queries are
    the keys: a window is for whole sequences, as a language model reads them.
    """
    if not window:
        return bias
    far = positions[..., :, None] - positions[..., None, :] >= window
    return bias.masked_fill(far if far.dim() == 2 else far[:, None], MASKED)


def time_features(time: Tensor, dim: int, shortest: float = 4e-3, longest: float = 4.0) -> Tensor:
    """Flow time (...) -> (..., dim): sines, then cosines, of 2 pi t / period, geometric periods."""
    exact = torch.float32 if time.device.type == "mps" else torch.float64  # phases reach thousands of radians
    fraction = torch.linspace(0, 1, dim // 2, dtype=torch.float64)  # on the CPU: MPS has no float64
    period = (shortest * (longest / shortest) ** fraction).to(time.device, exact)
    angle = 2 * math.pi * time.to(exact)[..., None] / period
    return torch.cat((angle.sin(), angle.cos()), -1).float()
