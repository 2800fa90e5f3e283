"""What comes over one connection, and what goes back."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from typing import Any, Protocol

from agent.asks import Ask
from agent.serving.metrics import Metrics
from agent.serving.model import Served
from agent.serving.question import Question, read
from agent.serving.session import Session
from agent.serving.settings import Limits
from agent.serving.tarpit import Tarpit
from agent.serving.worker import Late, Worker
from agent.sound import line
from agent.wire import needed, pack
from backbone.errors import PolicyError, UserError

LOG = logging.getLogger("steersman.serve")
CLOSING = "Internal server error. The reason is in the previous frame."
SHORT = 1 << 19  # bytes of a frame that is read at once: 0.6 ms, 6 at the worst, and no thread is waited for


class Host(Protocol):
    """What a client needs of its server."""

    served: Served
    limits: Limits
    metrics: Metrics
    readers: Worker
    tarpit: Tarpit

    def session(self, key: int, name: str) -> Session: ...
    def alone(self) -> Session: ...
    def forget(self, session: Session) -> None: ...


class Client:
    """What comes over one connection. Requests without an `id` are answered strictly in turn, as openpi does;
    those with one side by side, each reply bearing its id.
    """

    def __init__(self, server: Host, line):
        self.server, self.line = server, line
        self._session: Session | None = None
        self._tasks: set[asyncio.Task] = set()
        self._before: float | None = None  # seconds that the last request took, all in all

    async def take(self, frame: bytes | str) -> bool:
        """Answer a frame, or begin with it. False where the line is closed because of it."""
        server, started = self.server, time.perf_counter()
        server.metrics.received.inc(len(frame))
        observe, size = server.served.observe, server.served.policy.action_dim
        reading = Ask(lambda: read(frame, observe, size), kind=("reading",))
        try:
            if len(frame) <= SHORT:
                question = reading.alone()
            else:
                question = await server.readers.answer(reading)
        except Exception as error:
            return await self._failed(error, getattr(error, "id", None))
        if question.id is None:
            return await self._answer(question, started)
        task = asyncio.create_task(self._answer(question, started))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        while len(self._tasks) > self.server.limits.queue:  # no more frames are read meanwhile
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        return True

    async def finish(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._session is not None:
            self.server.forget(self._session)

    async def _answer(self, question: Question, started: float) -> bool:
        closed = needed("websockets.exceptions").ConnectionClosed
        metrics = self.server.metrics
        try:
            session = self._of(question)
            if session.asked >= self.server.limits.queue:
                raise UserError(f"session: expected at most {session.asked} requests at a time")
            reply = await session.reply(question)
        except Exception as error:
            with suppress(closed):
                return await self._failed(error, question.id)
            return False
        took = time.perf_counter() - started
        reply |= self._timing(took, sum(question.passes))
        if question.id is not None:
            reply["id"] = question.id
        frame = pack(reply)
        with suppress(closed):
            await self.line.send(frame)
        self._before = time.perf_counter() - started
        metrics.requests.labels("ok").inc()
        metrics.sent.inc(len(frame))
        metrics.seconds.observe(self._before)
        if "plan_age_ms" in reply:
            metrics.age.observe(reply["plan_age_ms"] / 1000)
        return True

    def _of(self, question: Question) -> Session:
        if question.session is not None:
            return self.server.session(self.line.key, question.session)
        if self._session is None:
            self._session = self.server.alone()
        return self._session

    def _timing(self, took: float, passes: float) -> dict[str, Any]:
        """Milliseconds, where openpi's servers put them: of the network alone, and of all done here."""
        timing = {"infer_ms": 1000 * took}
        if self._before is not None:
            timing["prev_total_ms"] = 1000 * self._before
        return {"policy_timing": {"infer_ms": 1000 * passes}, "server_timing": timing}

    async def _failed(self, error: Exception, id: int | str | None) -> bool:
        """Tell the client: by its id where it gave one, else as openpi does, with the line's end."""
        outcome = (
            "late" if isinstance(error, Late) else "refused" if isinstance(error, UserError) else "failed"
        )
        if isinstance(error, PolicyError):
            outcome = "failed"
        self.server.metrics.requests.labels(outcome).inc()
        said = line(error)
        if outcome == "failed":
            LOG.error(
                "%s: a request failed: %s", peer(self.line), said, exc_info=LOG.isEnabledFor(logging.DEBUG)
            )
        else:
            LOG.info("%s: %s: %s", peer(self.line), outcome, said)
            await asyncio.sleep(self.server.tarpit.wait())
        if id is not None:
            await self.line.send(pack({"id": id, "error": said}))
            return True
        await self.line.send(said)
        await self.line.close(1011, CLOSING)
        return False


def peer(line) -> str:
    """A client's address, for people."""
    found = line.remote_address
    return f"{found[0]}:{found[1]}" if found else "somebody"
