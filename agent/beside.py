"""Thinking beside the control loop: an agent's questions are answered in threads, its bookkeeping stays put.

A look is a generator that asks (see `agent.asks`). Here its questions go to threads and the generator goes on
at the tick after the answer is there, so all that an agent remembers is touched by one thread alone.
"""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from agent.asks import Ask, Asking, answer_alone


class Beside:
    """One thread for each who is asked: a network answers one question at a time, a planner elsewhere does
    not hold up the hand.
    """

    def __init__(self):
        self._threads: dict[Any, ThreadPoolExecutor] = {}
        self._looks: dict[str, tuple[Asking, Future]] = {}

    def begin(self, lane: str, look: Asking) -> None:
        """Take a look in this lane, which must not be busy."""
        self._go_on(lane, look, None)

    def busy(self, lane: str) -> bool:
        """Whether a look of this lane is under way."""
        return lane in self._looks

    def ready(self) -> bool:
        """Whether some question has been answered that nobody has heard yet."""
        return any(future.done() for _, future in self._looks.values())

    def go_on(self) -> None:
        """Let the looks go on whose questions have been answered by now."""
        for lane, (look, future) in list(self._looks.items()):
            if future.done():
                self._go_on(lane, look, future.result())

    def wait(self, lane: str, seconds: float) -> None:
        """For this lane's look to come to its end, at most so long."""
        until = time.perf_counter() + seconds
        while seconds and lane in self._looks and (left := until - time.perf_counter()) > 0:
            wait([self._looks[lane][1]], left)
            self.go_on()

    def forget(self) -> None:
        """Whatever is being thought is of an episode that is over: nobody waits for it."""
        for look, _ in self._looks.values():
            look.close()
        self._looks.clear()

    def close(self) -> None:
        self.forget()
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)

    def _go_on(self, lane: str, look: Asking, answer: Any) -> None:
        self._looks.pop(lane, None)
        try:
            ask = look.throw(answer) if isinstance(answer, Exception) else look.send(answer)
        except StopIteration:
            return
        self._looks[lane] = look, self._submit(ask)

    def _submit(self, ask: Ask) -> Future:
        who = ask.kind[:1]
        if who not in self._threads:
            self._threads[who] = ThreadPoolExecutor(1, "thinking")
        return self._threads[who].submit(answer_alone, ask)
