"""Subtasks that the learned planner would not have written: a person's, or its own second choice.

What it did write stands in front of them (memory, scene), so that they are read as if it had written
these: then its pointer finds the place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from backbone.inference import Run
from backbone.network import Network
from backbone.pointer import read_out
from backbone.tokenizer import BOS, EOS, MEMORY, PAD, POINT, SCENE, SUBTASK, UNK, Tokenizer
from highlevel.plan import DONE, Plan, Target

NEVER = (PAD, UNK, BOS, MEMORY, SCENE, SUBTASK)  # within a subtask
RIVALS = 3  # to each word
TRIED = 8  # second choices that are written to their ends


class Told:
    """One look of a planner, and the subtask exchanged in it as often as one likes.

    run: in which `said` was written, into the segment `text`. seen: the segment that the pointer looks over.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, run: Run, said: Plan, text: str, seen: str):
        self.network, self.tokenizer, self.run, self.said, self.seen = network, tokenizer, run, said, seen
        segment, tokens = network.layout.planner[text], said.tokens
        self.first = run.layout.start(text)
        self.at = tokens.index(SUBTASK) if SUBTASK in tokens else None  # its words begin behind this
        self.room = segment.length - (self.at or 0) - 1
        self.words = tuple(t for t in tokens[(self.at or 0) + 1 :] if t not in (EOS, POINT, PAD))

    @torch.no_grad()
    def target(self, words: tuple[int, ...]) -> Target | None:
        """Where it points with these words; None if it never does."""
        camera = self.network.preset.pointer
        if not camera or self.at is None:
            return None
        query = self._states(words)[:, -1]
        tokens = self.run.hidden[self.seen]
        found = self.network.pointer(self.run.fine[camera], tokens, query)
        (place,) = read_out(found).tolist()
        return Target(*place, camera)

    @torch.no_grad()
    def otherwise(self, refused: Collection[str]) -> Plan:
        """See `LearnedPlanner.otherwise`."""
        if self.at is None or self.said.subtask not in refused:
            return self.said
        odds = self._odds(self.words)
        rivals = []
        for place, word in enumerate(self.words):
            row = odds[place].clone()
            kept = row[word].item()
            row[[*NEVER, EOS, POINT, word]] = -torch.inf
            best = row.topk(RIVALS)
            rivals += [
                (lead - kept, self.words[:place] + (rival,))
                for lead, rival in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
        for _, begun in sorted(rivals, reverse=True)[:TRIED]:
            words, end = self._to_the_end(begun)
            subtask = self.tokenizer.decode(words)
            if end is not None and subtask not in refused and subtask != DONE:
                target = self.target(words) if end == POINT else None
                return replace(self.said, subtask=subtask, target=target, tokens=(), done=False)
        return self.said

    def _to_the_end(self, words: tuple[int, ...]) -> tuple[tuple[int, ...], int | None]:
        """These words and what follows; and what ends them, if anything does."""
        while len(words) < self.room:
            row = self._odds(words)[-1]
            row[[*NEVER]] = -torch.inf
            best = int(row.argmax())
            if best in (EOS, POINT):
                return words, best
            words += (best,)
        return words, None

    def _states(self, words: tuple[int, ...]) -> torch.Tensor:
        """What the network makes of SUBTASK and these words, (1, n, width)."""
        ids = torch.tensor([[SUBTASK, *words[: self.room]]], device=self.network.device)
        slots = torch.arange(ids.shape[1], device=ids.device)[None] + self.first + self.at
        return self.run.predict(ids, slots)[2]

    def _odds(self, words: tuple[int, ...]) -> torch.Tensor:
        """Log-probabilities of the word behind SUBTASK and behind each of these, (n, vocabulary)."""
        return self.network.logits(self._states(words))[0].float().log_softmax(-1)
