"""Camera pictures to tokens: a stem (SigLIP's patches or small convolutions), then ViT blocks.

Blocks can attend over past frames too ("space-time"): values are first mixed over time, per patch and
causally, then over space, with one set of projections. The offset of the current frame embeds as exactly
zero, so one frame alone gives exactly the numbers of a plain ViT, and pretrained image weights stay right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from backbone.attention import attend, mask_bias, project
from backbone.config import VisionConfig
from backbone.errors import UserError
from backbone.transformer import RMSNorm, time_features


class PatchStem(nn.Module):
    """Non-overlapping patches through one convolution (SigLIP). Makes no fine map."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.patch = nn.Conv2d(3, config.width, config.patch, config.patch)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        """images (B, H, W, 3) in [-1, 1] -> (B, grid * grid, width), None."""
        return self.patch(images.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2), None


class ConvStem(nn.Module):
    """4 x 4 pixels become channels, two convolutions on that grid (the fine map), then strided ones."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        first, *rest = config.channels
        self.entry = nn.Conv2d(48, first, 3, padding=1)
        self.fine = nn.Conv2d(first, first, 3, padding=1)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(config.channels, rest, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, c) for c in (first, first, *rest))
        self.out = nn.Linear(config.channels[-1], config.width)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images (B, H, W, 3) in [-1, 1] -> tokens (B, grid * grid, width), fine map (B, H/4, W/4, C)."""
        b, h, w, _ = images.shape
        x = images.view(b, h // 4, 4, w // 4, 4, 3).permute(0, 2, 4, 5, 1, 3).reshape(b, 48, h // 4, w // 4)
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu(self.norms[0](self.entry(x)))
        fine = x = x + F.relu(self.norms[1](self.fine(x)))
        for conv, norm in zip(self.down, self.norms[2:], strict=True):
            x = F.relu(norm(conv(x)))
        return self.out(x.permute(0, 2, 3, 1).flatten(1, 2)), fine.permute(0, 2, 3, 1)


class VisionBlock(nn.Module):
    """Pre-norm ViT block, with optional attention over frames."""

    def __init__(self, config: VisionConfig, temporal: bool, attention: str):
        super().__init__()
        self.heads, self.temporal, self.attention = config.heads, temporal, attention
        self.gelu = config.gelu
        self.norm1, self.norm2 = nn.LayerNorm(config.width, 1e-6), nn.LayerNorm(config.width, 1e-6)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.up, self.down = nn.Linear(config.width, config.mlp), nn.Linear(config.mlp, config.width)

    def forward(
        self,
        x: Tensor,
        frames: int = 1,
        ages: Tensor | None = None,
        bias: Tensor | None = None,
        last: bool = False,
    ) -> Tensor:
        """x (B * T, N, D), frames oldest first. ages (T, D): embedded offsets, bias (B, 1, T, T).

        last: nothing after this block looks at the past, so only the current frame goes on, (B, N, D).
        """
        mixes = self.temporal and frames > 1
        seen = (x.unflatten(0, (-1, frames)) + ages[:, None]).flatten(0, 1) if mixes else x
        q, k, v = project(self.qkv, self.norm1(seen)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        if mixes:
            v = self._over_time(q, k, v, frames, bias)
        if last and frames > 1:
            q, k, v, x = (y.unflatten(0, (-1, frames))[:, -1] for y in (q, k, v, x))
        x = x + self.out(attend(q, k, v, None, self.attention))
        return x + self.down(F.gelu(project(self.up, self.norm2(x)), approximate=self.gelu))

    def _over_time(self, q: Tensor, k: Tensor, v: Tensor, frames: int, bias: Tensor) -> Tensor:
        """Mix the values (B * T, N, heads, d) of each patch over the frames it may see."""
        batch, patches = q.shape[0] // frames, q.shape[1]

        def by_patch(y):  # (B * T, N, heads, d) -> (B * N, T, heads, d)
            return y.unflatten(0, (batch, frames)).transpose(1, 2).flatten(0, 1)

        mixed = attend(
            by_patch(q), by_patch(k), by_patch(v), bias.repeat_interleave(patches, 0), self.attention
        )
        mixed = mixed.view(batch, patches, frames, *q.shape[2:])
        return mixed.transpose(1, 2).flatten(0, 1)


class VisionTower(nn.Module):
    """One camera (or all of one size): pictures, maybe with their past, to tokens of the current one."""

    def __init__(self, config: VisionConfig, out: int, attention: str = "auto"):
        super().__init__()
        self.config = config
        self.recompute = False  # blocks in the backward pass, instead of keeping what they made
        self.stem = ConvStem(config) if config.stem == "conv" else PatchStem(config)
        self.position = nn.Parameter(torch.randn(config.grid**2, config.width) * 0.02)
        every = config.spacetime_every
        self.blocks = nn.ModuleList(
            VisionBlock(config, bool(every) and i % every == every - 1, attention)
            for i in range(config.depth)
        )
        temporal = [at for at, block in enumerate(self.blocks) if block.temporal]
        self.alone = temporal[0] if temporal else len(self.blocks)  # blocks that see one frame by itself
        self.looks_back = temporal[-1] if temporal else -1  # the last that sees the past
        self.norm = nn.LayerNorm(config.width, 1e-6) if config.final_norm else nn.Identity()
        if config.projector not in ("linear", "gemma3"):
            raise ValueError(f"projector: expected 'linear' or 'gemma3', got {config.projector!r}")
        self.soft_norm = RMSNorm(config.width) if config.projector == "gemma3" else nn.Identity()
        self.project = nn.Linear(config.width, out, bias=config.projector == "linear")

    def forward(
        self, images: Tensor, history: Tensor | None = None, early: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """images (B, H, W, 3) or (B, T, H, W, 3), uint8 or [-1, 1], oldest first; history (B, T) bool; early
        (B, T, grid * grid, width): what `early` made of these pictures, if that is known.

        -> tokens (B, N, out) and the fine map (B, h, w, C) of the last frame (None for a patch stem).
        A frame whose history is False is not there and changes nothing; the last is always taken to be there.
        Without a history only the last frame is.
        """
        x, fine = self.features(images, history, early)
        if self.config.pool > 1:
            square = x.transpose(1, 2).unflatten(2, (self.config.grid, self.config.grid))
            x = F.avg_pool2d(square, self.config.pool).flatten(2).transpose(1, 2)
        return project(self.project, self.soft_norm(x)), fine

    def features(
        self, images: Tensor, history: Tensor | None = None, early: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The same before pooling and projection: (B, grid * grid, width), and the fine map."""
        frames = images.shape[1] if images.dim() == 5 else 1
        x, fine = (early.flatten(0, 1), None) if early is not None else self.early(images)
        ages = bias = None
        if frames > 1:
            ages, bias = self._time(images, history, frames)
        for at in range(self.alone, len(self.blocks)):
            x = self._block(at, x, frames if at <= self.looks_back else 1, ages, bias, at == self.looks_back)
        if self.looks_back < 0:
            x = x.unflatten(0, (-1, frames))[:, -1]
        fine = None if fine is None else fine.unflatten(0, (-1, frames))[:, -1]
        return self.norm(x), fine

    def early(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """What a frame looks like before any block that looks at others: (B * T, grid * grid, width), and the
        fine map. It does not depend on how old the frame is.
        """
        pictures = images.flatten(0, 1) if images.dim() == 5 else images
        x = pictures.float() / 127.5 - 1 if pictures.dtype == torch.uint8 else pictures
        x, fine = self.stem(x)
        x = x + self.position
        for at in range(self.alone):
            x = self._block(at, x)
        return x, fine

    def _block(self, at: int, x: Tensor, *more) -> Tensor:
        if self.recompute and self.training and torch.is_grad_enabled():
            return checkpoint(self.blocks[at], x, *more, use_reentrant=False)
        return self.blocks[at](x, *more)

    def _time(self, images: Tensor, history: Tensor | None, frames: int) -> tuple[Tensor, Tensor]:
        """Embedded offsets (T, D), zero for the current frame, and the causal bias (B, 1, T, T)."""
        there = torch.zeros(images.shape[:2], dtype=torch.bool, device=images.device)
        if history is not None:
            if history.shape != there.shape:
                raise UserError(f"history: expected shape {tuple(there.shape)}, got {tuple(history.shape)}")
            there = history.clone()
        there[:, -1] = True
        causal = torch.ones(frames, frames, dtype=torch.bool, device=images.device).tril()
        # A frame sees itself even where it is not there: no row is empty, and nobody else looks at it.
        mask = causal & there[:, None, :] | torch.eye(frames, dtype=torch.bool, device=images.device)
        made = _ages.__wrapped__ if torch.compiler.is_compiling() else _ages
        ages = made(AGES[self.config.ages], frames, self.config.width, images.device)
        return ages, mask_bias(mask, torch.float32)


def _periods(offsets: Tensor, dim: int) -> Tensor:
    """Offsets in frames (T,), the last 0 -> (T, dim). Many of these periods are shorter than two frames and
    alias; the published weights are defined with them.
    """
    features = time_features(offsets, dim, longest=40.0)
    return features - features[-1]


def _powers(offsets: Tensor, dim: int) -> Tensor:
    """LeRobot's: sin and cos - 1 of t * 10000^(-2i / dim), in turn."""
    frequency = 10000.0 ** (-torch.arange(0, dim, 2, device=offsets.device, dtype=torch.float32) / dim)
    angle = offsets[:, None] * frequency
    return torch.stack((angle.sin(), angle.cos() - 1), -1).flatten(1)


AGES = {"periods": _periods, "powers": _powers}


@lru_cache(maxsize=64)
def _ages(embed: Callable[[Tensor, int], Tensor], frames: int, dim: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, so it must also serve training
        return embed(torch.arange(1 - frames, 1, dtype=torch.float32), dim).to(device)
