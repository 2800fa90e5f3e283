"""Thinking beside the control loop: an agent's questions are answered in threads, its bookkeeping stays put.

A look is a generator that asks (see `agent.asks`). Here its questions go to threads and the generator goes on
at the tick after the answer is there, so all that an agent remembers is touched by one thread alone.

A question that takes far longer than usual is given up: the look is told so, the thread is left to itself,
and the next question goes to a new one. What the old one still answers is heard by nobody.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from statistics import median
from typing import Any

from agent.asks import Ask, Asking, answer_alone

FIRST = 60.0  # seconds for an answer of one who has not answered yet: it may have to warm up
PATIENCE, TIMES = 0.8, 4  # seconds at least for the others; or so many times what they usually take
LEFT = 8  # threads that are left to themselves at the most
FAREWELL = 2.0  # seconds that the program waits at its end for those that still think


class Beside:
    """One thread for each who is asked: a network answers one question at a time, a planner elsewhere does
    not hold up the hand.

    patience: seconds that an answer may take, or four times the usual time where that is longer; twice as
    long after each that was given up, until one comes. first: seconds for the first answer.
    """

    def __init__(self, patience: float = PATIENCE, first: float = FIRST):
        self.patience, self.first = patience, first
        self.given_up = 0
        self._threads: dict[Any, _Thread] = {}
        self._habits: dict[Any, _Habit] = {}
        self._left: list[_Thread] = []
        self._looks: dict[str, _Waiting] = {}

    def begin(self, lane: str, look: Asking) -> None:
        """Take a look in this lane, which must not be busy."""
        self._go_on(lane, look, None)

    def busy(self, lane: str) -> bool:
        """Whether a look of this lane is under way."""
        return lane in self._looks

    def ready(self) -> bool:
        """Whether some question has been answered, or is to be given up, that nobody has heard of yet."""
        return any(w.future.done() or w.overdue for w in self._looks.values())

    def go_on(self) -> None:
        """Let the looks go on whose questions have been answered by now, or will not be."""
        for lane, waiting in list(self._looks.items()):
            if waiting.future.done():
                answer = waiting.future.result()
                if waiting.thread is not None and not isinstance(answer, Exception):
                    self._habits[waiting.who].answered(waiting.ask.seconds)
            elif waiting.overdue:
                answer = self._give_up(waiting)
            else:
                continue
            self._go_on(lane, waiting.look, answer)

    def wait(self, lane: str, seconds: float) -> None:
        """For this lane's look to come to its end, at most so long."""
        until = time.perf_counter() + seconds
        while seconds and lane in self._looks and (left := until - time.perf_counter()) > 0:
            wait([self._looks[lane].future], left)
            self.go_on()

    def forget(self, lane: str | None = None) -> None:
        """Whatever is being thought (in this lane) is of a moment that is over: nobody waits for it."""
        for name in [name for name in self._looks if lane in (None, name)]:
            waiting = self._looks.pop(name)
            waiting.future.cancel()
            waiting.look.close()

    def meet_anew(self) -> None:
        """Who is asked may be another than before, and have to warm up."""
        self._habits.clear()

    def close(self) -> None:
        self.forget()
        for thread in self._threads.values():
            thread.end()
        self._threads.clear()

    @property
    def left(self) -> int:
        """Threads that were left to themselves and are still there."""
        self._left = [thread for thread in self._left if thread.is_alive()]
        return len(self._left)

    def _go_on(self, lane: str, look: Asking, answer: Any) -> None:
        self._looks.pop(lane, None)
        try:
            ask = look.throw(answer) if isinstance(answer, Exception) else look.send(answer)
        except StopIteration:
            return
        self._looks[lane] = self._submit(look, ask)

    def _submit(self, look: Asking, ask: Ask) -> _Waiting:
        who, future = ask.kind[:1], Future()
        habit = self._habits.setdefault(who, _Habit())
        limit = habit.limit(self.patience, self.first)
        if who not in self._threads and self.left >= LEFT:
            future.set_result(TimeoutError(f"{LEFT} threads hang, no more are begun"))
            return _Waiting(look, ask, who, future, None, limit)
        if who not in self._threads:
            self._threads[who] = _Thread()
        self._threads[who].questions.put((ask, future))
        return _Waiting(look, ask, who, future, self._threads[who], limit)

    def _give_up(self, waiting: _Waiting) -> TimeoutError:
        self.given_up += 1
        self._habits[waiting.who].in_a_row += 1
        waiting.future.cancel()
        if self._threads.get(waiting.who) is waiting.thread:
            del self._threads[waiting.who]
            waiting.thread.end()
            self._left.append(waiting.thread)
            if waiting.ask.renew is not None:
                waiting.ask.renew()
        return TimeoutError(f"no answer within {waiting.limit:.1f} s")


class _Thread(threading.Thread):
    """Answers questions in turn. A daemon: one that hangs does not keep the program from ending."""

    def __init__(self):
        super().__init__(name="thinking", daemon=True)
        self.questions: SimpleQueue = SimpleQueue()
        self.start()
        _THREADS.add(self)

    def end(self) -> None:
        """After what it is at."""
        self.questions.put(None)

    def run(self) -> None:
        while (question := self.questions.get()) is not None:
            ask, future = question
            if future.set_running_or_notify_cancel():
                try:
                    answer = answer_alone(ask)
                except BaseException as error:  # SystemExit: a level has no say in whether the loop goes on
                    answer = RuntimeError(f"{type(error).__name__}: {error}")
                future.set_result(answer)
            del question, ask, future


_THREADS: weakref.WeakSet[_Thread] = weakref.WeakSet()


@atexit.register
def _farewell() -> None:
    """A thread that is cut off in the middle of a network's work takes the program down with an error."""
    until, threads = time.perf_counter() + FAREWELL, list(_THREADS)
    for thread in threads:
        thread.end()
    for thread in threads:
        thread.join(max(0.0, until - time.perf_counter()))


@dataclass
class _Waiting:
    """A look, its open question, and who is at it (None: nobody)."""

    look: Asking
    ask: Ask
    who: Any
    future: Future
    thread: _Thread | None
    limit: float  # seconds
    since: float = field(default_factory=time.perf_counter)

    @property
    def overdue(self) -> bool:
        return time.perf_counter() - self.since > self.limit


@dataclass
class _Habit:
    """How long one who is asked takes."""

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=9))
    in_a_row: int = 0  # given up

    def answered(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.in_a_row = 0

    def limit(self, patience: float, first: float) -> float:
        if not self.seconds:
            return first
        usual = max(patience, TIMES * median(self.seconds))
        return max(usual, min(first, usual * 2**self.in_a_row))
