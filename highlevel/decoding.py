"""Writing a plan's texts, greedily, for many samples at once: what is guessed is verified in one pass.

The last plan's tokens are a guess at the next one's. All of them are fed at once; each that the network would
have written itself stands, at the first that it would not the guess is mended and goes on behind it. So the
tokens are those of plain greedy decoding, and a plan that still holds costs one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backbone.inference import Run
from backbone.layout import Layout, Segment

AHEAD = 8  # where shapes are fixed: tokens written between two questions whether all texts have ended

Guess = Sequence[Sequence[int]]  # of each text, from its first token to its end
Pair = tuple[int, int]  # a slot and the id in it
Heard = Callable[[list[list[int]]], None]  # is told a sample's texts so far


@dataclass(frozen=True)
class Alphabet:
    """How texts begin and end. begin: the id that starts each (<bos>). ends: ids that end one, as `pad` does.

    never: ids that are not written. open_end: the last text's end is not fed, as nobody reads it, and may
    stand one token behind the segment.
    """

    begin: int
    ends: tuple[int, ...]
    pad: int = 0
    never: tuple[int, ...] = ()
    open_end: bool = False


@dataclass(frozen=True)
class Written:
    """texts: of each target segment, its ids from the first to its end. margin: the smallest lead in
    log-probability of a token over its best rival. finished: whether every text came to its end. confirmed:
    the guess stood. state (width,): what predicted the last token. passes: through the network.
    """

    texts: tuple[tuple[int, ...], ...]
    margin: float
    finished: bool
    confirmed: bool
    state: Tensor
    passes: int


def write(
    run: Run,
    alphabet: Alphabet,
    guesses: Sequence[Guess | None] | None = None,
    heard: Heard | None = None,
) -> list[Written]:
    """Write the layout's texts, and the words between them, onto a prefix that has been read.

    guesses: for each sample what may stand there. The result does not depend on them, only the time it takes
    does; nor on the other samples. heard: called after each pass with what the first sample's texts are by
    then; not at all where one pass is enough, as it is for a guess that stands.
    """
    return Writing(run, alphabet, guesses, heard).finish()


class Writing:
    """The same, pass by pass: `feed` says what goes into the network next, `take` what came out."""

    def __init__(
        self,
        run: Run,
        alphabet: Alphabet,
        guesses: Sequence[Guess | None] | None = None,
        heard: Heard | None = None,
    ):
        self.run, self.alphabet, self.heard, self.passes = run, alphabet, heard, 0
        last = max(at for at, segment in enumerate(run.prefix.segments) if segment.target)
        tail = run.prefix.segments[len(run.layout.context) : last + 1]
        self.names, self.whole = [s.name for s in tail], sum(s.length for s in tail)
        self.limit = run.prefix.starts[last] + tail[-1].length - 1  # the last slot
        self.ahead = AHEAD if run.static else 1
        self.drafts = [_Draft(run.layout, tail, alphabet, g) for g in guesses or [None] * run.batch]

    @property
    def done(self) -> bool:
        return all(draft.done for draft in self.drafts)

    def feed(self, whole: bool = False) -> tuple[Tensor, Tensor]:
        """ids and slots (B, k) of the next pass. whole: as many as there can be, in a static run's shape."""
        feeds = [draft.feed() for draft in self.drafts]
        width = max(map(len, feeds))
        width = self.whole if whole or (self.run.static and width > 1) else width
        # Shorter ones feed their last token again: the same numbers into the same place.
        padded = [feed + [feed[-1]] * (width - len(feed)) for feed in feeds]
        slots, ids = torch.tensor(padded, device=self.run.network.device).unbind(-1)
        return ids, slots

    def take(self, ids: Tensor, slots: Tensor, states: Tensor, best: Tensor, gaps: Tensor) -> None:
        """What was fed, and what `Run.predict` says of it; what did not come true is taken back."""
        self.passes += 1
        stale = torch.zeros_like(self.run.valid)
        lists = slots.tolist(), ids.tolist(), best.tolist(), gaps.tolist()
        for row, (draft, *found) in enumerate(zip(self.drafts, *lists, states, strict=True)):
            stale[row, draft.take(*found)] = True
        self.run.valid &= ~stale

    @torch.no_grad()
    def finish(self, read: bool = True) -> list[Written]:
        """Pass after pass until every text has ended. read: the controller reads the text, so that its last
        token is fed too.
        """
        run = self.run
        run.open(self.names)
        while not (self.done if read else all(draft.closing for draft in self.drafts)):
            ids, slots = self.feed()
            ahead = self.ahead if ids.shape[1] == 1 else 1  # what follows an end is taken back
            self.take(*run.predict(ids, slots, self.alphabet.never, ahead, self.limit))
            if self.heard is not None and not (self.passes == 1 and self.drafts[0].closing):
                self.heard([list(text) for text in self.drafts[0].texts])
        return [draft.written(self.passes) for draft in self.drafts]


class _Draft:
    """One sample's texts while they are written: what is certain, as (slot, id), of which some are fed."""

    def __init__(self, layout: Layout, tail: Sequence[Segment], alphabet: Alphabet, guess: Guess | None):
        self.alphabet, self.stops = alphabet, {*alphabet.ends, alphabet.pad}
        self.targets = [s for s in tail if s.target]
        self.starts = [layout.start(s.name) for s in self.targets]
        self.between: list[list[Pair]] = [[] for _ in self.targets]  # the words behind each text
        for segment in tail[tail.index(self.targets[0]) :]:
            if segment.target:
                at = self.targets.index(segment)
            else:
                first = layout.start(segment.name)
                self.between[at] += [(first + k, i) for k, i in enumerate(segment.ids)]
        given = [list(text) for text in guess or ()]
        fits = len(given) == len(self.targets) and all(text[:1] == [alphabet.begin] for text in given)
        self.guess = given if fits else []
        self.texts: list[list[int]] = []
        self.certain: list[Pair] = []
        self.fed, self.done, self.closing = 0, False, False  # closing: all is certain, not all is fed
        self.margin, self.state = float("inf"), torch.empty(0)
        self._begin()

    def _begin(self) -> None:
        self.texts.append([self.alphabet.begin])
        self.certain.append((self.starts[len(self.texts) - 1], self.alphabet.begin))

    def _room(self, at: int) -> int:
        """How many ids a text may have."""
        return self.targets[at].length + (self.alphabet.open_end and at + 1 == len(self.targets))

    def _pairs(self, at: int, text: Sequence[int], first: int) -> list[Pair]:
        """The ids of a text from number `first` on that are fed, with their slots."""
        last = at + 1 == len(self.targets)
        if last and self.alphabet.open_end and text[-1] in self.stops:
            text = text[:-1]
        return [(self.starts[at] + k, text[k]) for k in range(first, min(len(text), self.targets[at].length))]

    def feed(self) -> list[Pair]:
        """What is certain and not fed yet, then what is guessed to follow."""
        if self.done:
            return self.certain[-1:]
        pairs, at = self.certain[self.fed :], len(self.texts) - 1
        first = len(self.texts[at])
        while self.guess and not self.closing and at < len(self.guess):
            text = self.guess[at][: self._room(at)]
            pairs += self._pairs(at, text, first)
            if len(text) <= first or (text[-1] not in self.stops and len(text) < self._room(at)):
                break
            pairs += self.between[at]
            at, first = at + 1, 0
        return pairs or self.certain[-1:]

    def take(
        self, slots: list[int], ids: list[int], best: list[int], gaps: list[float], states: Tensor
    ) -> list[int]:
        """What was fed, and what the network would write behind each: keep it as far as it came true. Returns
        the slots that hold what did not.
        """
        for k, pair in enumerate(zip(slots, ids, strict=True)):
            if self.done or pair != self.certain[self.fed]:
                kept = {slot for slot, _ in self.certain[: self.fed]}
                return [slot for slot in slots[k:] if slot not in kept]
            self.fed += 1
            if self.fed == len(self.certain) and not self.closing:
                self._extend(best[k], gaps[k], states[k])
            self.done = self.closing and self.fed == len(self.certain)
        return []

    def _extend(self, token: int, gap: float, state: Tensor) -> None:
        at = len(self.texts) - 1
        text, last = self.texts[at], at + 1 == len(self.targets)
        text.append(token)
        self.margin, self.state = min(self.margin, gap), state
        self.certain += self._pairs(at, text, len(text) - 1)
        if token not in self.stops and len(text) < self._room(at):
            return
        if last:
            self.closing = True
        else:
            self.certain += self.between[at]
            self._begin()

    def written(self, passes: int) -> Written:
        finished = all(text[-1] in self.stops for text in self.texts)
        texts = tuple(map(tuple, self.texts))
        return Written(texts, self.margin, finished, self.guess == self.texts, self.state, passes)
