"""Writing a plan's tokens: greedily, or by confirming the last plan's tokens in one pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.inference import Run
from backbone.tokenizer import BOS, EOS, MEMORY, PAD, POINT, UNK

ENDS = (EOS, POINT)
NEVER = [PAD, UNK, BOS, MEMORY]  # never written


@dataclass(frozen=True)
class Decoded:
    """tokens: `Updated Memory:` ... <point> or <eos>. margin: smallest log-probability gap
    between a token and its best rival.

    query: the hidden state (1, width) that predicted the last token. confirmed: nothing had to be written
    anew.
    """

    tokens: tuple[int, ...]
    margin: float
    query: Tensor
    confirmed: bool
    finished: bool


@torch.inference_mode()
def decode(run: Run, segment: str, previous: tuple[int, ...] = ()) -> Decoded:
    """Greedy decoding onto a prefix. `previous` tokens are verified in one pass, what follows a changed one
    in the next.

    The result does not depend on `previous`, only the time it takes does.
    """
    length = run.layout[segment].length
    guess = list(previous[: length + 1]) if previous[:1] == (MEMORY,) else []
    tokens, margin = [MEMORY], float("inf")
    feed = guess[:-1] if len(guess) > 1 else [MEMORY]
    written = 0  # tokens whose keys and values are in the cache
    while True:
        hidden = run.write(segment, torch.tensor([feed], device=run.network.device), written)
        best, gaps = _choose(run.network.logits(hidden)[0])
        for at, (token, gap) in enumerate(zip(best, gaps, strict=True)):
            tokens.append(token)
            margin = min(margin, gap)
            ended = token in ENDS
            if ended or len(tokens) > length:
                confirmed = tuple(tokens) == tuple(previous)
                return Decoded(tuple(tokens), margin, hidden[:, at], confirmed, ended)
            if at + 1 < len(feed) and token != feed[at + 1]:
                break  # what was fed from here on was a wrong guess; the next write forgets it
        written = len(tokens) - 1
        # One word of a plan may have changed and the rest not: the guess goes on behind the new word.
        feed = [tokens[-1], *guess[len(tokens) : -1]]


def _choose(logits: Tensor) -> tuple[list[int], list[float]]:
    """logits (k, words) -> the best token of each row and its log-probability's lead over the second."""
    logits[:, NEVER] = -torch.inf
    top = logits.topk(2, -1)
    return top.indices[:, 0].tolist(), (top.values[:, 0] - top.values[:, 1]).tolist()
