"""Whether the other end of a line lives: pings, with regard to how far it is and what is on its way out."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Iterator
from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

PIECE = 2**15  # bytes of a question between which a ping may go out
AHEAD = 2**17  # bytes that the kernel may hold before a ping: on a slow line it must not wait for long
TRIPS = 3  # round trips that an answer may take, where the other end is far away
SLICES = 4  # of a silence, after each of which it is seen whether something got away
FIRST = 0.5  # seconds for the first one, before it is known how far


class Pulse:
    """Of one server, over all its lines. least: seconds that an answer may take, near as it may be."""

    def __init__(self, least: float):
        self.least = least
        self._trip = math.inf  # seconds of the quickest so far
        self._handed = 0  # bytes of questions

    @property
    def limit(self) -> float:
        """Seconds of silence that mean something."""
        return max(self.least, TRIPS * self._trip if math.isfinite(self._trip) else FIRST)

    def begin(self, socket: Any) -> None:
        socket.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_SNDBUF, AHEAD)

    def pieces(self, frame: bytes) -> Iterator[bytes]:
        for at in range(0, len(frame), PIECE):
            piece = frame[at : at + PIECE]
            self._handed += len(piece)
            yield piece

    def ping(self, socket: Any) -> asyncio.Task:
        """Done when it is answered, or the line is lost (which is noticed where it is read)."""
        return asyncio.ensure_future(self._ping(socket))

    async def answered(self, ping: asyncio.Task, socket: Any, limit: float) -> bool:
        """Whether it is within so many seconds in which no more of a question got away: on a slow line an
        answer waits behind the pictures.
        """
        gone, until = self._gone(socket), time.monotonic() + limit
        while not ping.done():
            left = until - time.monotonic()
            await asyncio.wait({ping}, timeout=max(0.0, min(left, limit / SLICES)))
            await asyncio.sleep(0)  # where this thread was held up the answer may lie there
            now = self._gone(socket)
            if now > gone:  # than ever: the ping's own few bytes come and go
                gone, until = now, time.monotonic() + limit
            elif left <= 0:
                break
        return ping.done()

    async def _ping(self, socket: Any) -> None:
        started = time.monotonic()
        with contextlib.suppress(Exception):
            await (await socket.ping())
            self._trip = min(self._trip, time.monotonic() - started)

    def _gone(self, socket: Any) -> int:
        """Bytes of questions that the network took, as far as can be known."""
        transport = socket.transport
        return self._handed - transport.get_write_buffer_size() - _queued(transport.get_extra_info("socket"))


def _queued(socket: Any) -> int:
    """Bytes that the kernel holds until the other end has them; 0 where it does not tell."""
    try:
        import fcntl
        import struct
        import termios

        return struct.unpack("i", fcntl.ioctl(socket.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    except (ImportError, AttributeError, OSError, ValueError):
        return 0
