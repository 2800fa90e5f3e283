"""Greedy text for a batch of samples at once, each ending on its own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.inference import Run

CHECK_EVERY = 8  # on a GPU: tokens between two questions whether all samples have ended, each of which waits


@dataclass(frozen=True)
class Written:
    """ids (B, length): <bos>, the text, its end, then padding. margin (B,): the smallest lead in
    log-probability of a chosen token over its best rival. finished (B,): whether the text came to its end.
    """

    ids: Tensor
    margin: Tensor
    finished: Tensor


@torch.inference_mode()
def write(run: Run, segment: str, begin: int, ends: Collection[int], pad: int = 0) -> Written:
    """Write a target segment onto a prefix, until every sample has ended or the segment is full.

    begin: the id that starts a text (<bos>). ends: ids that end one (<eos>; the padding id always does). The
    result is what plain greedy decoding gives, whatever the other samples of the batch do.
    """
    network, length = run.network, run.layout[segment].length
    batch, device = len(run.cache.valid), network.device
    stops = torch.tensor(sorted({*ends, pad}), device=device)
    ids = torch.full((batch, length), pad, dtype=torch.long, device=device)
    ids[:, 0] = begin
    alive = torch.ones(batch, dtype=torch.bool, device=device)
    margin = torch.full((batch,), torch.inf, device=device)
    for at in range(length):
        hidden = run.write(
            segment, ids[:, at : at + 1], at, alive[:, None]
        )  # an end counts, what follows not
        if at:
            alive = alive & ~torch.isin(ids[:, at], stops)
        if at + 1 == length or ((device.type == "cpu" or at % CHECK_EVERY == 0) and not alive.any()):
            break
        top = network.logits(hidden[:, 0]).topk(2, -1)
        margin = torch.where(alive, torch.minimum(margin, top.values[:, 0] - top.values[:, 1]), margin)
        ids[:, at + 1] = torch.where(alive, top.indices[:, 0], pad)
    return Written(ids, margin, ~alive)
