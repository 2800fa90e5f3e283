"""Training both levels on one prefix, as the π family does: all segments in one pass, the flow beside it.

The expert reads what is marked for it, so it never sees FAST tokens or a text that is the planner's alone.
Means are over real tokens and real action dimensions only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.attention import mask_bias, project
from backbone.cache import Beside
from backbone.errors import UserError
from backbone.layout import Segment
from backbone.losses import mean, sample_time
from backbone.prefix import Encoded


def losses(network: nn.Module, batch: dict, samples: int = 1) -> dict[str, Tensor]:
    """batch: the prefix's inputs (backbone/prefix.py) and, for a network with an expert, "actions" (B, H, A)
    in robot units. Optional: "valid" (B, H) bool, "dims" (B,) real action dimensions, "delay" (B,) actions
    that are already promised (training-time real-time chunking; drawn up to the preset's `trained_delay` by
    default), "noise" (B, F, H, A), "time" (B, F),
    "z_weight" (of the squared log-partition of the text).

    Returns "text_loss" (the sum of its targets' means), "fast_loss", "flow_loss", as far as they apply; under
    "tokens" each target's loss per token (B, n) and which count; under "flow" the squared errors' sums and
    counts per sample, and the velocity. UserError names what does not fit, what was expected and what came.
    """
    _check(network, batch)
    encoded = network.encode(network.layout.prefix, batch)
    out: dict = {"tokens": {}}
    for segment in encoded.layout.segments:
        if segment.target:
            loss, real = token_loss(
                network, encoded, segment, batch[segment.source], batch.get("z_weight", 0.0)
            )
            out["tokens"][segment.name] = loss, real
            name = "fast_loss" if segment.kind == "fast" else "text_loss"
            out[name] = out.get(name, 0.0) + mean(loss, real.float())
    if network.preset.expert and "actions" in batch:
        out |= flow(network, encoded, batch, samples)
    return out


def _check(network: nn.Module, batch: dict) -> None:
    """What a prefix cannot see: cameras that no segment reads, and actions of another shape."""
    p, sources = network.preset, {s.source for s in network.layout.segments}
    for group in ("images", "subgoals"):
        for camera in batch.get(group, ()):
            if f"{group}.{camera}" not in sources:
                known = ", ".join(
                    name.partition(".")[2] for name in sorted(sources) if name.startswith(group)
                )
                raise UserError(f"{group}: expected cameras of {known or 'none'}, got '{camera}'")
    if not batch.get("images"):
        raise UserError(f"images: expected some of {', '.join(name for name, _ in p.cameras)}, got none")
    if p.expert and "actions" in batch:
        shape, got = (p.horizon, p.action_dim), tuple(batch["actions"].shape)
        if got[1:] != shape:
            raise UserError(f"actions: expected shape (B, {shape[0]}, {shape[1]}), got {got}")


def token_logits(network: nn.Module, encoded: Encoded, segment: Segment) -> Tensor:
    """What predicts each token of a target: (B, n, words). A text begins with <bos>, which nothing predicts,
    so it has n = length - 1. The first FAST token is predicted by the last real token before it, whichever
    that is: never by padding.
    """
    span = encoded.layout.span(segment.name)
    own = encoded.hidden[:, span]
    if segment.kind != "fast":
        return network.logits(own[:, :-1])
    columns = torch.arange(span.start, device=own.device) * encoded.valid[:, : span.start]
    last = encoded.hidden[torch.arange(len(own), device=own.device), columns.amax(1)]
    return project(network.fast_head, torch.cat((last[:, None], own[:, :-1]), 1)).float()


def token_loss(
    network: nn.Module, encoded: Encoded, segment: Segment, ids: Tensor, z_weight: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each token (B, n), zero where it is padding, and which are real."""
    logits = token_logits(network, encoded, segment)
    real = encoded.valid[:, encoded.layout.span(segment.name)]
    labels = F.pad(ids, (0, segment.length - ids.shape[1]))
    if segment.kind != "fast":
        labels, real = labels[:, 1:], real[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    if z_weight:
        loss = loss + z_weight * logits.logsumexp(-1).square()
    return loss * real, real


def flow(network: nn.Module, encoded: Encoded, batch: dict, samples: int = 1) -> dict:
    """Flow matching on the prefix, `samples` noisy chunks each. batch: see `losses`; also "weight" (B,)."""
    actions = network.action_norm(batch["actions"])[:, None]
    count, horizon, dims = len(actions), actions.shape[2], actions.shape[3]
    device = actions.device
    noise, time = batch.get("noise"), batch.get("time")
    noise = torch.randn(count, samples, horizon, dims, device=device) if noise is None else noise
    time = sample_time((count, samples), device) if time is None else time
    steps = torch.arange(horizon, device=device)
    delay = batch.get("delay")
    if delay is None:
        most = network.preset.trained_delay * network.training
        delay = torch.randint(0, most + 1, (count,), device=device)
    promised = steps < delay[:, None]  # (B, H)
    each = time[..., None].expand(-1, -1, horizon).masked_fill(promised[:, None], 0.0)
    velocity = predict(network, encoded, torch.lerp(actions, noise, each[..., None]), each)
    real = batch.get("valid", torch.ones(count, horizon, dtype=torch.bool, device=device)) & ~promised
    wide = (
        torch.arange(dims, device=device)
        < batch.get("dims", torch.full((count,), dims, device=device))[:, None]
    )
    weight = (real[:, None, :, None] & wide[:, None, None, :]).float().expand_as(velocity)
    squared = (velocity - (noise - actions)).square() * weight
    sums, counts = squared.sum((1, 2, 3)), weight.sum((1, 2, 3))
    worth = batch.get("weight", torch.ones_like(sums))
    loss = (sums * worth).sum() / (counts * worth).sum().clamp(min=1e-6)
    return {"flow_loss": loss, "flow": {"sums": sums, "counts": counts, "velocity": velocity}}


def predict(network: nn.Module, encoded: Encoded, noisy: Tensor, time: Tensor) -> Tensor:
    """noisy (B, F, H, A) at time (B, F) or (B, F, H) -> velocity, alike."""
    positions, mask = network.suffix_view(encoded.layout, encoded.valid, noisy.shape[1])
    memory = Beside(encoded.memory, network.preset.knowledge_insulation)
    return network.velocity(noisy, network.modulation(time), positions, mask_bias(mask, noisy.dtype), memory)
