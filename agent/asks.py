"""What an agent asks of its levels at a look: answered alone, or with other agents' questions in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

Done = TypeVar("Done")
Asking = Generator["Ask", Any, Done]  # yields questions, is sent the answers, returns something


@dataclass(eq=False)
class Ask:
    """alone: what answers it. together: where set, what answers several of the same `kind` in one pass, given
    the asks themselves and how many rows the pass has to have. kind: who is asked, and for what. renew: makes
    who is asked ready for the next question while this one, which was given up, is still being answered.

    seconds: what the answer took. waited: until somebody began with it, and until the agent went on.
    """

    alone: Callable[[], Any]
    together: Callable[[Sequence[Ask], int], list[Any]] | None = None
    kind: tuple = ()
    content: Any = None
    renew: Callable[[], None] | None = None
    born: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    waited: float = 0.0


def run_alone(asking: Asking[Done]) -> Done:
    """Answer every question of one agent as it comes."""
    answer: Any = None
    while True:
        try:
            ask = asking.throw(answer) if isinstance(answer, Exception) else asking.send(answer)
        except StopIteration as end:
            return end.value
        answer = answer_alone(ask)


def answer_alone(ask: Ask) -> Any:
    """The answer, or the exception that came instead."""
    started = time.perf_counter()
    try:
        return ask.alone()
    except Exception as error:
        return error
    finally:
        ask.seconds = time.perf_counter() - started


def answer_together(asks: Sequence[Ask], size: int) -> list[Any]:
    """The same for several agents' questions, those of one kind in passes of `size` rows.

    A pass has always so many rows, however many ask: then what one is answered does not depend, to the last
    bit, on who else asks. Where a pass fails each is asked alone, so that only those at fault get the error.
    """
    answers: dict[int, Any] = {}
    groups: dict[tuple, list[Ask]] = {}
    for ask in asks:
        if ask.together is None:
            answers[id(ask)] = answer_alone(ask)
        else:
            groups.setdefault(ask.kind, []).append(ask)
    for group in groups.values():
        for first in range(0, len(group), size):
            part = group[first : first + size]
            started = time.perf_counter()
            try:
                found = part[0].together(part, size)
            except Exception:
                found = [answer_alone(ask) for ask in part]
            else:
                for ask in part:
                    ask.seconds = time.perf_counter() - started
            answers |= {id(ask): answer for ask, answer in zip(part, found, strict=True)}
    return [answers[id(ask)] for ask in asks]
