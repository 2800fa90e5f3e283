"""Means over what is real: real tokens, points that exist, valid steps. Samples can be weighted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.pointer import read_out, soft_target
from backbone.tokenizer import PAD, SCENE, SUBTASK


def mean(values: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean, 0 if nothing has weight. Same shapes."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def text(logits: Tensor, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """logits (B, L, words), target ids (B, L) padded, weight (B,). The words between `Scene:` and `Subtask:`
    count by themselves, as "scene_loss".
    """
    begun, ended = ((target == token).int().cumsum(1) for token in (SCENE, SUBTASK))
    scene = (begun > 0) & (target != SCENE) & (ended == 0) & (target != PAD)
    plan = (target != PAD) & ~scene
    loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(target)
    right = logits.argmax(-1) == target
    out = {
        "text_loss": mean(loss, plan * weight[:, None]),
        "token_accuracy": mean(right.float(), plan.float()).detach(),
        "text_accuracy": (right | ~plan).all(1).float().mean(),
    }
    if scene.any():
        out["scene_loss"] = mean(loss, scene * weight[:, None])
        out["scene_accuracy"] = mean(right.float(), scene.float()).detach()
    return out


def point(scores: Tensor, points: Tensor, weight: Tensor, sigma: float, pixels: int) -> dict[str, Tensor]:
    """scores (B, cells), points (B, 2) in [0, 1) (nan where weight is 0). Loss 0 = the soft target."""
    there = weight > 0
    points = points.nan_to_num(0.5)
    soft = soft_target(points, int(scores.shape[1] ** 0.5), sigma)
    loss = F.kl_div(scores.log_softmax(-1), soft, reduction="none").sum(-1)
    with torch.no_grad():
        error = (read_out(scores) - points).norm(dim=-1) * pixels
    return {"point_loss": mean(loss, weight), "point_error_px": mean(error, there.float())}


def sample_time(shape: tuple[int, ...], device) -> Tensor:
    """Flow times, Beta(1.5, 1) * 0.999 + 0.001: more of them near noise (t = 1)."""
    return torch.rand(shape, device=device) ** (1 / 1.5) * 0.999 + 0.001
