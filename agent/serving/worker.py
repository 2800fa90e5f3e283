"""Answering questions in threads: whoever waits when a thread gets free goes into one pass with others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from agent.asks import Ask, Asking, Done, answer_together
from agent.sound import line
from backbone.errors import UserError

Told = Callable[[Sequence[Ask]], None]


class Late(UserError):
    """A question that waited too long: what was seen is of another moment."""


class Worker:
    """Threads that answer `Ask`s, the oldest first.

    batch: so many at most in one pass. rows: how many rows a pass of so many has (more where shapes are
    fixed). told: called after each pass with what was answered in it.
    """

    def __init__(
        self,
        name: str,
        batch: int = 1,
        threads: int = 1,
        rows: Callable[[int], int] = int,
        told: Told | None = None,
    ):
        self.batch, self.rows, self.told = batch, rows, told
        self._waiting: deque[_Question] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [
            threading.Thread(target=self._run, name=name, daemon=True) for _ in range(threads)
        ]  # daemons: one that hangs does not keep the program from ending
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Questions that nobody has begun with."""
        return len(self._waiting)

    def submit(self, ask: Ask, until: float | None = None) -> Future:
        """The answer, or the exception in its place, as the future's result. until: `time.perf_counter()`
        after which nobody begins with it any more: then the answer is `Late`.
        """
        question = _Question(ask, until)
        with self._changed:
            self._waiting.append(question)
            self._changed.notify()
        return question.future

    async def answer(self, ask: Ask, until: float | None = None) -> Any:
        """The same for the event loop; raises what came in the answer's place."""
        found = await asyncio.wrap_future(self.submit(ask, until))
        if isinstance(found, Exception):
            raise found
        return found

    async def call(self, work: Callable[[], Any]) -> Any:
        """The same for any piece of work."""
        return await self.answer(Ask(work))

    def end(self) -> None:
        """After what is being answered; what waits is dropped."""
        with self._changed:
            self._ended = True
            for question in self._waiting:
                question.future.cancel()
            self._waiting.clear()
            self._changed.notify_all()

    def join(self, seconds: float) -> None:
        """Wait for the threads, at most so long: cut off in the middle, a network's work ends in an error."""
        until = time.perf_counter() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.perf_counter()))

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (group := self._next()) is not None:
            self._answer(group)
            del group  # pictures are not kept until the next one comes

    def _next(self) -> list[_Question] | None:
        """The oldest question, and with it those of its kind."""
        with self._changed:
            while not self._waiting and not self._ended:
                self._changed.wait()
            if self._ended:
                return None
            group = [self._waiting.popleft()]
            first = group[0].ask
            if first.together is not None:
                others = deque()
                for question in self._waiting:
                    same = question.ask.together is not None and question.ask.kind == first.kind
                    (group if same and len(group) < self.batch else others).append(question)
                self._waiting = others
            return group

    def _answer(self, group: list[_Question]) -> None:
        group = [question for question in group if question.future.set_running_or_notify_cancel()]
        now = time.perf_counter()
        for question in [q for q in group if q.until is not None and q.until < now]:
            group.remove(question)
            waited = now - question.ask.born
            question.future.set_result(Late(f"request: expected to be asked in time, waited {waited:.1f} s"))
        if not group:
            return
        asks = [question.ask for question in group]
        for ask in asks:
            ask.waited = now - ask.born
        try:
            answers = answer_together(asks, self.rows(len(asks)))
        except BaseException as error:  # SystemExit: a level has no say in whether the server goes on
            answers = [RuntimeError(line(error))] * len(asks)
        if self.told is not None and asks[0].kind:
            self.told(asks)
        for question, answer in zip(group, answers, strict=True):
            question.future.set_result(answer)


class _Question:
    def __init__(self, ask: Ask, until: float | None):
        self.ask, self.until, self.future = ask, until, Future()


async def drive(asking: Asking[Done], answer: Callable[[Ask], Any]) -> Done:
    """Answer every question of an asker as it comes, `answer` being a coroutine."""
    found: Any = None
    while True:
        try:
            ask = asking.throw(found) if isinstance(found, Exception) else asking.send(found)
        except StopIteration as end:
            return end.value
        try:
            found = await answer(ask)
        except Exception as error:
            found = error
