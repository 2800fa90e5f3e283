"""One line to a policy server, kept by a thread of its own.

The server speaks first, with its metadata. Then each binary frame (an observation) is answered by one, and a
text frame is the server's traceback. What the public client leaves open is settled here: nothing is waited
for without end, a line that is lost is opened again, and an answer that came too late is never taken for the
next one. Servers of ours (their metadata has "steersman") echo an `id`, so that several questions may be
open, and answer pings while they think, so that a dead line is known at once. With others questions are
asked strictly in turn, and only a closed socket or no answer in time tells.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from agent.remote.opening import dropped, hidden, opened, read
from agent.remote.pulse import Pulse
from agent.wire import pack
from backbone.errors import LinkError, PolicyError, UserError

CONNECT, ANSWER = 10.0, 120.0  # seconds; a server may compile its network at the first question
LONGEST = 86400  # seconds that can be asked for
BEAT = 0.06  # seconds without a sign of life from which on a line is down, if it is not a long one
GONE = 0.5  # and from which on it is given up for a new one: a short silence is cheaper to wait for
PATIENT = 5.0  # likewise, at least, where whoever asks can wait: a busy machine is no dead one
BEATS = 5  # pings in that time
PAUSES = 0.05, 0.5  # seconds between two attempts to connect: at first, and at most
ATTEMPT, TIMES = 0.4, 4  # seconds at least for one of them; or so many times what the first one took


class Link:
    """Connects at once; UserError in one line where that cannot be (PolicyError where nobody is there).

    url: ws:// or wss://. timeout: seconds for an answer, with a line that is lost meanwhile. heartbeat:
    seconds, or three round trips, after which a server of ours that gives no sign of life is gone, where
    nobody is patient.

    metadata: the server's, as it said when we connected. ours: what it says of itself, if it is a server of
    ours. patient: whether a question outlives the line and waits for the next one; else it fails with it.
    down: why there is no line, None while there is one. heard: monotonic seconds of the last sign of life.
    breaks: how often the line was lost; broke: why, the last time. stale: late answers that were dropped.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        timeout: float = ANSWER,
        connect_timeout: float = CONNECT,
        heartbeat: float = BEAT,
    ):
        for what, seconds in (
            ("timeout", timeout), ("timeout", connect_timeout), ("heartbeat", heartbeat)
        ):  # fmt: skip
            if not 0 < seconds < LONGEST:
                raise UserError(f"{what}: expected seconds between 0 and {LONGEST}, got {seconds}")
        if api_key and "@" in urlsplit(url).netloc:
            raise UserError("policy: expected a user in the URL or an API key, got both")
        self.url, self.name = url, hidden(url)
        self.timeout, self.connect_timeout, self.heartbeat = timeout, connect_timeout, heartbeat
        self.metadata: dict[str, Any] = {}
        self.down, self.broke, self._patient = "not connected yet", "", True
        self.breaks, self.stale, self.heard = 0, 0, time.monotonic()
        self._headers = {"Authorization": f"Api-Key {api_key}"} if api_key else None
        self._ids = itertools.count(1)
        self._open: dict[int, _Question] = {}  # in the order they came; of the thread alone, as are:
        self._socket: Any = None
        self._pulse = Pulse(heartbeat)
        self._sending: set[asyncio.Task] = set()
        first: Future = Future()
        self._thread = threading.Thread(target=self._run, args=(first,), name="link", daemon=True)
        self._thread.start()
        first.result()

    @property
    def ours(self) -> Mapping[str, Any] | None:
        said = self.metadata.get("steersman")
        return said if isinstance(said, Mapping) else None

    def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The server's reply. PolicyError where none comes in time, or the line is lost (see `patient`)."""
        number = next(self._ids)
        question = _Question(number, pack({**message, "id": number} if self.ours else dict(message)))
        self._call(self._take, question)
        try:
            return question.reply.result(self.timeout)
        except TimeoutError:
            reason = f"but {self.down}" if self.down else "none came"
            self._call(self._give_up, question)
        raise PolicyError(f"{self._expected}, {reason}")

    def give_up(self) -> None:
        """Whoever asks waits no longer: what is open fails, and what still comes to it is dropped."""
        self._call(self._give_up)

    def close(self) -> None:
        """Say good-bye, for good."""
        with contextlib.suppress(PolicyError):
            self._call(self._main.cancel)
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def patient(self) -> bool:
        return self._patient

    @patient.setter
    def patient(self, patient: bool) -> None:
        self._patient = patient
        self._call(self._wanted.set)

    @property
    def _expected(self) -> str:
        return f"{self.name}: expected an answer within {self.timeout:g} s"

    def _call(self, do, *given) -> None:
        """In the thread that keeps the line."""
        try:
            self._loop.call_soon_threadsafe(do, *given)
        except RuntimeError:
            raise PolicyError(f"{self.name}: expected a link, got one that was closed") from None

    # -- the thread

    def _run(self, first: Future) -> None:
        try:
            asyncio.run(self._keep(first))
        except BaseException as error:
            if not first.done():
                first.set_exception(error)

    async def _keep(self, first: Future) -> None:
        self._loop, self._main = asyncio.get_running_loop(), asyncio.current_task()
        self._wanted = asyncio.Event()
        started = time.monotonic()
        socket, self.metadata = await opened(self.url, self._headers, self.connect_timeout)
        self._took = time.monotonic() - started
        first.set_result(None)
        try:
            while True:
                await self._serve(socket)
                socket = await self._again()
        except asyncio.CancelledError:  # closed
            socket, self._socket, self.down = self._socket, None, "closed"
            self._fail("it was closed")
            if socket is not None:
                with contextlib.suppress(Exception):
                    await socket.close()

    async def _serve(self, socket: Any) -> None:
        """Until this line is lost."""
        if self.ours:
            self._pulse.begin(socket)
        self._socket, self.heard, self.down = socket, time.monotonic(), None
        beats = asyncio.create_task(self._beats(socket)) if self.ours else None
        self._send()
        try:
            while True:
                frame = await socket.recv()
                self.heard = time.monotonic()
                self._heed(socket, frame)
        except PolicyError as error:  # it was not what was agreed: nobody waits for another
            self._fail(str(error))
            self._lost(socket, str(error).removeprefix(f"{self.name}: "))
        except Exception as error:
            self._lost(socket, " ".join(str(error).split()) or type(error).__name__)
        finally:
            if beats is not None:
                beats.cancel()

    def _heed(self, socket: Any, frame: bytes | str) -> None:
        reply = read(self.name, frame)
        if self.ours:
            number = reply.pop("id", None)
        else:
            number = next((n for n, question in self._open.items() if question.sent is socket), None)
        question = self._open.pop(number, None) if isinstance(number, int) else None
        if question is None:
            self.stale += 1
            return
        question.reply.set_result(reply)
        self._send()

    async def _beats(self, socket: Any) -> None:
        """Ask for signs of life. Silence is told at once, so that an arm can hold; the line is kept for a
        while, as the network may only have been slow.
        """
        pulse = self._pulse
        while True:
            started, ping = time.monotonic(), pulse.ping(socket)
            limit = max(pulse.limit, PATIENT) if self.patient else pulse.limit
            alive = await pulse.answered(ping, socket, limit)
            if not alive and not self.patient and socket is self._socket:
                self._broken(f"no sign of life for {limit * 1000:.0f} ms")
                alive = await pulse.answered(ping, socket, max(0.0, GONE - limit))
            if not alive:
                ping.cancel()
                return self._lost(socket, f"no sign of life for {max(limit, GONE) * 1000:.0f} ms")
            self.heard = time.monotonic()
            if socket is self._socket:
                self.down = None
            await asyncio.sleep(max(0.0, started + self.heartbeat / BEATS - self.heard))

    def _lost(self, socket: Any, reason: str) -> None:
        if socket is not self._socket:
            return
        self._socket = None
        self._broken(reason)
        dropped(socket)

    def _broken(self, reason: str) -> None:
        self.broke, self.down = reason, reason
        self.breaks += 1
        if not self.patient:
            self._fail(f"{self._expected}, but {reason}", LinkError)

    async def _again(self) -> Any:
        """The next line, sooner or later."""
        for attempt in itertools.count():
            if self.patient and not self._open:  # nobody needs it
                self._wanted.clear()
                await self._wanted.wait()
            # What was sent into a hole never comes back: better soon again. But a server that answers nothing
            # while it thinks is waited for.
            limit = max(ATTEMPT, TIMES * self._took) * (
                1 + attempt % 3 if self.ours else 2.0 ** min(attempt, 10)
            )
            try:
                socket, metadata = await opened(self.url, self._headers, min(limit, self.connect_timeout))
            except UserError as error:
                self.down = getattr(error, "reason", str(error))
            else:
                if pack(metadata) == pack(self.metadata):
                    return socket
                dropped(socket)
                self.down = "another policy answers there now"
                self._fail(f"{self.name}: expected the policy of before, {self.down}")
            least, most = PAUSES
            pause = min(most, least * 2.0 ** min(attempt, 10)) * random.uniform(0.5, 1.0)  # not all at once
            await asyncio.sleep(pause)
        raise AssertionError

    # -- questions

    def _take(self, question: _Question) -> None:
        if self.down is not None and not self.patient:
            question.reply.set_exception(LinkError(f"{self._expected}, but {self.down}"))
            return
        self._open[question.number] = question
        self._wanted.set()
        self._send()

    def _send(self) -> None:
        """What may be sent now and was not yet, over this line."""
        for question in self._open.values():
            if self._socket is None or (question.sent is self._socket and not self.ours):
                return
            if question.sent is not self._socket:
                question.sent = self._socket
                task = asyncio.create_task(self._sent(self._socket, question.frame))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)
            if not self.ours:
                return

    async def _sent(self, socket: Any, frame: bytes) -> None:
        with contextlib.suppress(Exception):  # that the line is lost is noticed where it is read
            await socket.send(self._pulse.pieces(frame) if self.ours else frame)

    def _give_up(self, question: _Question | None = None) -> None:
        for found in list(self._open.values()) if question is None else [question]:
            if self._open.pop(found.number, None) is None:
                continue
            found.reply.set_exception(PolicyError(f"{self.name}: expected an answer, it was given up"))
            if not self.ours and found.sent is self._socket is not None:  # it would answer the next one
                self._lost(self._socket, "no answer in time")

    def _fail(self, line: str, kind: type[PolicyError] = PolicyError) -> None:
        questions, self._open = list(self._open.values()), {}
        for question in questions:
            question.reply.set_exception(kind(line))


@dataclass(eq=False)
class _Question:
    """number: its id. sent: the socket that it went over last."""

    number: int
    frame: bytes
    sent: Any = None
    reply: Future = field(default_factory=Future)
