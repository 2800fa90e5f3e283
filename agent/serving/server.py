"""The websocket side: who is let in, frames in turn, health and metrics, and a quiet end.

The event loop reads and writes frames and keeps the sessions; frames are unpacked, networks run and planners
think in threads of their own, so that pings, /healthz and /metrics are answered meanwhile. The server listens
before its network is loaded: who connects early waits for the metadata.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
import time
from collections import OrderedDict
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from agent.asks import Ask
from agent.serving import access
from agent.serving.client import Client, peer
from agent.serving.lines import connection_class, quiet_logger
from agent.serving.metrics import Metrics
from agent.serving.model import Served, load
from agent.serving.question import Question
from agent.serving.session import Session
from agent.serving.settings import Serving
from agent.serving.tarpit import Tarpit
from agent.serving.worker import Worker
from agent.wire import needed, pack
from backbone.errors import UserError

LOG = logging.getLogger("steersman.serve")
READERS = 2  # threads that unpack frames
TEXT = "text/plain; version=0.0.4; charset=utf-8"


class Server:
    """`run` serves until `stop`. UserError, in one line, where it cannot.

    freeze: for a process that does nothing else: what is there once the network is loaded is left out of the
    garbage collector's rounds, each of which would hold up pings for some tenths of a second.
    """

    def __init__(self, serving: Serving, freeze: bool = False):
        self._freeze = freeze
        self.serving, self.limits = serving, serving.limits
        self.served: Served | None = None
        self.metrics, self.tarpit = Metrics(), Tarpit(serving.limits.refusals)
        self.port: int | None = None
        self._ready, self._stopping = asyncio.Event(), asyncio.Event()
        self._tls = None
        if serving.certificate is not None:
            self._tls = access.tls(serving.certificate, serving.private_key)
        told = self.metrics.told
        rows = lambda asked: asked if self.served is None else self.served.rows(asked)
        self.inference = Worker("inference", serving.batch, rows=rows, told=told("inference"))
        self.readers = Worker("reading", threads=READERS)
        local = not serving.planner.startswith("openai:")
        self.planners = Worker("planning", threads=1 if local else serving.threads, told=told("planner"))
        self.sessions: OrderedDict[tuple[int, str], Session] = OrderedDict()
        self._alone: set[Session] = set()  # of one connection
        self._lines: set[Any] = set()  # connections that were let in
        for name, what, value in (
            ("connections", "Open connections.", lambda: len(self._lines)),
            ("sessions", "Sessions that are kept.", lambda: len(self.sessions) + len(self._alone)),
            ("waiting", "Questions that nobody has begun with.", lambda: len(self.inference)),
        ):
            self.metrics.gauge(name, what, value)

    async def run(self) -> None:
        """Listen, load, serve; until `stop`, then finish what is under way."""
        try:
            server = await self._listen()
        except UserError:
            self._end()
            raise
        self.port = server.sockets[0].getsockname()[1]
        sweeping = asyncio.create_task(self._sweep())
        stopping = asyncio.create_task(self._stopping.wait())
        loading = asyncio.create_task(self.inference.call(lambda: load(self.serving, LOG.info)))
        try:
            await asyncio.wait([loading, stopping], return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                self.served = loading.result()
                if self._freeze:
                    gc.collect()
                    gc.freeze()
                self._ready.set()
                self.metrics.ready.set(1)
                LOG.info("%s", self.about())
                await stopping
            LOG.info("ending: what is under way is finished")
        finally:
            self._stopping.set()
            for task in (sweeping, stopping, loading):
                task.cancel()
            server.close(close_connections=False)
            with suppress(TimeoutError):
                async with asyncio.timeout(self.limits.farewell):
                    await server.wait_closed()
            self._end()
            for worker in (self.inference, self.readers):
                await asyncio.to_thread(worker.join, 2.0)

    def _end(self) -> None:
        for worker in (self.inference, self.readers, self.planners):
            worker.end()

    def stop(self) -> None:
        """Say so from the event loop's thread."""
        self._stopping.set()

    @property
    def ready(self) -> bool:
        """Whether the network is loaded and warm."""
        return self._ready.is_set()

    @property
    def thinking(self) -> bool:
        """Whether some thread is still at work, after `run`."""
        return any(worker.alive for worker in (self.inference, self.readers, self.planners))

    def about(self) -> str:
        s = self.serving
        host = f"[{s.host}]" if ":" in s.host else s.host
        guarded = f"{len(s.keys)} API key{'s' * (len(s.keys) != 1)}" if s.keys else "no API key"
        where = f"{s.scheme}://{host}:{self.port}"
        return f"serving {s.checkpoint} (planner {s.planner}) for {s.robot} at {where}, {guarded}"

    # -- who is let in

    async def _listen(self):
        serve = needed("websockets.asyncio.server").serve
        s, limits = self.serving, self.limits
        try:
            return await serve(
                self._line,
                s.host,
                s.port,
                process_request=self._let_in,
                compression=None,
                max_size=limits.message,
                max_queue=limits.queue,
                open_timeout=limits.handshake,
                server_header=None,
                ssl=self._tls,
                logger=quiet_logger(),
                create_connection=connection_class(self._tls is not None, 2 * limits.connections + 64),
            )
        except OSError as error:
            where = f"{s.host}:{s.port}"
            if error.errno == errno.EADDRINUSE:
                raise UserError(f"port: expected a free one, {where} is in use by another program") from None
            if isinstance(error, socket.gaierror):
                raise UserError(f"host: expected a name or address of this machine, got '{s.host}'") from None
            raise UserError(f"serve: cannot listen at {where} ({error.strerror or error})") from None

    def _let_in(self, line, request):
        """An HTTP answer instead of a websocket, or None. /healthz is for everybody."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            if self._stopping.is_set():
                return line.respond(HTTPStatus.SERVICE_UNAVAILABLE, "ending\n")
            if not self._ready.is_set():
                return line.respond(HTTPStatus.SERVICE_UNAVAILABLE, "warming up\n")
            return line.respond(HTTPStatus.OK, "OK\n")
        given = request.headers.get_all("Authorization")
        key = access.who(given[0] if len(given) == 1 else None, self.serving.keys)
        if key is None:
            self.metrics.refused.labels("key").inc()
            LOG.warning("%s: refused, %s API key", peer(line), "a wrong" if given else "no")
            answer = line.respond(HTTPStatus.UNAUTHORIZED, "Expected Authorization: Api-Key KEY.\n")
            answer.headers["WWW-Authenticate"] = "Api-Key"
            return answer
        if path == "/metrics":
            answer = line.respond(HTTPStatus.OK, "")
            answer.body = self.metrics.page()
            for name, value in (("Content-Type", TEXT), ("Content-Length", str(len(answer.body)))):
                del answer.headers[name]
                answer.headers[name] = value
            return answer
        if self._stopping.is_set():
            return line.respond(HTTPStatus.SERVICE_UNAVAILABLE, "ending\n")
        if len(self._lines) >= self.limits.connections:
            self.metrics.refused.labels("connections").inc()
            LOG.warning("%s: refused, %d connections are open", peer(line), len(self._lines))
            return line.respond(HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections.\n")
        line.key = key
        return None

    # -- one connection

    async def _line(self, line) -> None:
        """Metadata, then frames until one side ends."""
        closed = needed("websockets.exceptions").ConnectionClosed
        self._lines.add(line)
        LOG.debug("%s: connected", peer(line))
        ending = asyncio.create_task(self._stopping.wait())
        client = Client(self, line)
        try:
            if await _first(self._ready.wait(), ending, line.wait_closed()) is not None:
                await line.send(pack(self.served.metadata))
                while (got := await _first(line.recv(), ending)) is not None:
                    if not await client.take(got):
                        return
            await client.finish()
            if self._stopping.is_set():
                await line.close(1001, "the server ends")
        except closed:
            pass
        finally:
            ending.cancel()
            client.close()
            self._lines.discard(line)
            LOG.debug("%s: gone", peer(line))

    # -- what a question needs

    async def ask(self, ask: Ask, question: Question | None) -> Any:
        """Answer one in the thread that it belongs to."""
        if ask.kind[:1] == ("reading",):
            return await self.readers.answer(ask)
        if self.served.apart and ask.kind[:1] == (id(self.served.planner),):
            return await self.planners.answer(ask)
        late = question is not None and question.id is not None
        found = await self.inference.answer(ask, question.born + self.limits.patience if late else None)
        if question is not None:
            question.passes.append(ask.seconds)
        return found

    def session(self, key: int, name: str) -> Session:
        """The one of that name, for this API key; a new one where there is none."""
        found = self.sessions.get((key, name))
        if found is None:
            while len(self.sessions) >= self.limits.sessions:
                idle = next((n for n, session in self.sessions.items() if not session.asked), None)
                if idle is None:
                    raise UserError(f"session: expected at most {self.limits.sessions} at a time")
                self.sessions.pop(idle).close()
            found = self.sessions[key, name] = Session(self.served, self.ask)
            found.events.append("session began")
        self.sessions.move_to_end((key, name))
        return found

    def alone(self) -> Session:
        """A session that ends with its connection."""
        found = Session(self.served, self.ask)
        self._alone.add(found)
        return found

    def forget(self, session: Session) -> None:
        self._alone.discard(session)
        session.close()

    async def _sweep(self) -> None:
        """Let go of sessions that nobody has asked for long."""
        while True:
            await asyncio.sleep(min(30.0, self.limits.idle / 4))
            old = time.monotonic() - self.limits.idle
            for name in [n for n, s in self.sessions.items() if not s.asked and s.used < old]:
                self.sessions.pop(name).close()


async def _first(wanted, *others) -> Any:
    """What the first coroutine gives; None where one of the others, tasks or coroutines, ends before it."""
    tasks = [asyncio.ensure_future(found) for found in (wanted, *others)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else None
    finally:
        for task, given in zip(tasks, (wanted, *others), strict=True):
            if task is not given:  # a task that was given is somebody else's to end
                task.cancel()
