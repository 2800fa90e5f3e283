"""The tokens of a prefix, segment by segment, and which of them are there.

What a sample lacks is masked, never removed, so a sample never depends on its batch: an optional input may be
missing altogether, be empty, or be flagged absent for some samples, and all three come to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone.cache import Collect
from backbone.errors import UserError
from backbone.layout import Layout, Segment
from backbone.tokenizer import PAD


@dataclass
class Encoded:
    """A computed prefix: hidden (B, n, width) of `layout`, which of them are real, and what was seen."""

    layout: Layout
    hidden: Tensor
    valid: Tensor
    memory: Collect
    fine: dict[str, Tensor]


Tokens = tuple[Tensor, Tensor]  # (B, n, width) and which are real, (B, n) bool


def embed(network: nn.Module, layout: Layout, inputs: Mapping) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x (B, n, width), valid (B, n) bool, and fine maps of the cameras.

    inputs: what the segments' sources name. "images" and "subgoals" {camera: (B, H, W, 3)}, uint8 or in
    [-1, 1]; images may have a time axis, oldest first. "state" (B, D) or (B, T, D) in physical units; ids
    (B, <= length). Optional: "there" {segment: (B,) or (B, n) bool}; "history" {camera or "state": (B, T)
    bool}, without which only the current frame and state are real. UserError names the segment, what it
    expects and what came.
    """
    batch, fine = _batch(inputs), {}
    seen = _pictures(network, layout, inputs, fine)
    found: dict[str, Tokens] = {}
    for segment in layout.segments:
        if segment.kind != "constant":
            found[segment.name] = _read(network, segment, inputs, batch, seen)
    parts = [
        found.get(s.name) or _constant(network, layout, s, found, batch, inputs) for s in layout.segments
    ]
    x = torch.cat([tokens.float() for tokens, _ in parts], 1)
    valid = torch.cat([real for _, real in parts], 1)
    tables = layout.on(x.device)
    if network.slot is not None:
        x = x + network.slot(tables.slots)
    if network.modality is not None:
        x = x + network.modality(tables.modalities)
    return x, valid, fine


def _batch(inputs: Mapping) -> int:
    sizes = {}
    for name, value in inputs.items():
        for key, tensor in value.items() if isinstance(value, Mapping) else ((name, value),):
            if isinstance(tensor, Tensor) and tensor.dim():
                sizes.setdefault(len(tensor), key)
    if len(sizes) != 1:
        got = ", ".join(f"{size} of '{key}'" for size, key in sizes.items()) or "nothing"
        raise UserError(f"batch: expected the same number of samples everywhere, got {got}")
    return next(iter(sizes))


def _read(network: nn.Module, segment: Segment, inputs: Mapping, batch: int, seen: Mapping) -> Tokens:
    found = given(segment, inputs)
    if found is None:
        if not segment.optional:
            raise UserError(f"{segment.name}: expected '{segment.source}', got none")
        device, width = network.device, network.preset.decoder.width
        nothing = torch.zeros(batch, segment.length, width, device=device)
        return nothing, torch.zeros(batch, segment.length, dtype=torch.bool, device=device)
    if segment.kind == "image":
        tokens = seen[segment.name]
        real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    elif segment.kind == "state":
        tokens, real = _state(network, segment, found, inputs.get("history", {}).get("state"))
    else:
        tokens, real = _words(network, segment, found)
    if tokens.shape[1] != segment.length:
        raise UserError(f"{segment.name}: expected {segment.length} tokens, got {tokens.shape[1]}")
    there = inputs.get("there", {}).get(segment.name)
    if there is None:
        return tokens, real
    most = network.layout[segment.name].length  # of which `segment` may be a part that is long enough
    if there.dtype != torch.bool or there.dim() not in (1, 2) or there.shape[1:] > (most,):
        got = f"{there.dtype} of shape {tuple(there.shape)}"
        raise UserError(f"{segment.name}: expected (B,) or (B, up to {most}) bool as there, got {got}")
    if there.dim() == 1:
        return tokens, real & there[:, None]
    there = F.pad(there[:, : segment.length], (0, max(0, segment.length - there.shape[1])))
    # A mask of tokens is the whole truth of a text: the padding id may be a word of its own.
    return tokens, there if segment.kind in ("text", "fast") else real & there


def given(segment: Segment, inputs: Mapping) -> Tensor | None:
    """What the inputs hold for a segment."""
    group, _, camera = segment.source.partition(".")
    return inputs.get(group, {}).get(camera) if camera else inputs.get(segment.source)


def _pictures(network: nn.Module, layout: Layout, inputs: Mapping, fine: dict) -> dict[str, Tensor]:
    """The tokens (B, n, width) of every picture that is given. Those that share a tower, and are of one kind,
    go through it as one batch.
    """
    groups: dict[tuple, list[tuple[Segment, Tensor]]] = {}
    for segment in layout.segments:
        images = given(segment, inputs) if segment.kind == "image" else None
        if images is None:
            continue
        camera = segment.source.partition(".")[2]
        name = camera if camera in network.towers else next(iter(network.towers))
        config = network.towers[name].config
        side, frames = config.image_size, images.shape[1] if images.dim() == 5 else 1
        most = config.frames if segment.source.startswith("images.") else 1  # a subgoal is one picture
        if images.dim() not in (4, 5) or images.shape[-3:] != (side, side, 3) or frames > most:
            most = f"1 to {most}, " if most > 1 else ""
            shape = f"(B, {most}{side}, {side}, 3)"
            raise UserError(f"{segment.name}: expected pictures of shape {shape}, got {tuple(images.shape)}")
        groups.setdefault((name, images.shape[1:], images.dtype), []).append((segment, images))
    tokens = {}
    for (name, shape, _), members in groups.items():
        images = _joined([images for _, images in members])
        history = early = None
        if len(shape) == 4:
            history = _joined([_history(segment, images, inputs) for segment, images in members])
            known = [inputs.get("early", {}).get(segment.source) for segment, _ in members]
            early = None if any(k is None for k in known) else _joined(known)
        made, maps = network.towers[name](images, history, early)
        size = len(members[0][1])
        for at, (segment, _) in enumerate(members):
            rows = slice(at * size, (at + 1) * size)
            tokens[segment.name] = made[rows]
            if maps is not None:
                fine[segment.source.partition(".")[2]] = maps[rows]
    return tokens


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _history(segment: Segment, images: Tensor, inputs: Mapping) -> Tensor:
    """Which frames of a picture with a past are there: without a word about it, the current one alone."""
    known = inputs.get("history", {}).get(segment.source.partition(".")[2])
    there = torch.zeros(images.shape[:2], dtype=torch.bool, device=images.device)
    if known is None:
        there[:, -1] = True
    elif known.shape != there.shape:
        expected, got = tuple(there.shape), tuple(known.shape)
        raise UserError(f"{segment.name}: expected a history of shape {expected}, got {got}")
    return there if known is None else known


def _state(network: nn.Module, segment: Segment, state: Tensor, history: Tensor | None) -> Tokens:
    """One token a step. What is not there is zeroed before it is projected, so nothing of it gets through."""
    state = state[:, None] if state.dim() == 2 else state
    if state.dim() == 3 and state.shape[1] == 1 and history is None:  # the present alone
        state = F.pad(state, (0, 0, segment.length - 1, 0))
    if state.dim() != 3 or state.shape[1:] != (segment.length, network.preset.state_dim):
        shape = f"(B, {segment.length}, {network.preset.state_dim})"
        raise UserError(f"{segment.name}: expected a state of shape {shape}, got {tuple(state.shape)}")
    real = torch.zeros(state.shape[:2], dtype=torch.bool, device=state.device)
    if history is not None:
        if history.shape != real.shape:
            raise UserError(
                f"{segment.name}: expected a history of shape {tuple(real.shape)}, got {tuple(history.shape)}"
            )
        real = history.clone()
    real[:, -1] = True  # the present is always there
    state = network.state_norm(state).masked_fill(~real[..., None], 0)
    return network.state(state), real


def _words(network: nn.Module, segment: Segment, ids: Tensor) -> Tokens:
    most = network.layout[segment.name].length  # of which `segment` may be a part that is long enough
    if ids.dim() != 2 or ids.shape[1] > most:
        raise UserError(f"{segment.name}: expected ids of shape (B, up to {most}), got {tuple(ids.shape)}")
    check_ids(segment.name, ids, network.preset.fast_words if segment.kind == "fast" else network.text.size)
    ids = F.pad(ids[:, : segment.length], (0, max(0, segment.length - ids.shape[1])), value=PAD)
    return (network.fast if segment.kind == "fast" else network.text)(ids), ids != PAD


def check_ids(name: str, ids: Tensor, words: int) -> None:
    """UserError unless the ids of a segment are whole numbers from 0 to `words`."""
    if ids.is_floating_point():
        raise UserError(f"{name}: expected whole numbers as ids, got {ids.dtype}")
    if ids.device.type != "cpu" or not ids.numel() or torch.compiler.is_compiling():
        return  # elsewhere the question would wait for the device
    if int(ids.max()) >= words:
        raise UserError(f"{name}: expected ids below {words}, got {int(ids.max())}")
    if int(ids.min()) < 0:
        raise UserError(f"{name}: expected ids from 0 on, got {int(ids.min())}")


def _constant(
    network: nn.Module,
    layout: Layout,
    segment: Segment,
    found: Mapping[str, Tokens],
    batch: int,
    inputs: Mapping,
) -> Tokens:
    ids = layout.on(network.device).ids[segment.name].expand(batch, -1)
    real = torch.ones_like(ids, dtype=torch.bool)
    for names, wanted in ((segment.when, True), (segment.unless, False)):
        if names:
            some = [found[name][1].any(1) for name in names if name in found]
            some = torch.stack(some).any(0) if some else torch.zeros_like(real[:, 0])
            real = real & (some == wanted)[:, None]
    there = inputs.get("there", {}).get(segment.name)
    return network.text(ids), real if there is None else there[:, None].expand_as(real)
