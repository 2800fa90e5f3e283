"""What a server tells people: one line a trouble, and never a flood of them."""

from __future__ import annotations

import logging
import time

from agent.wire import needed

LOG = logging.getLogger("steersman.serve")
MOST, SECONDS = 30, 10.0  # lines of one kind in so many seconds
HELLO = b"\x16\x03"  # what a client that speaks TLS begins with


class Sparing(logging.Filter):
    """Lets through so many lines of one kind in a while, then says how many more there were."""

    def __init__(self, most: int = MOST, seconds: float = SECONDS):
        super().__init__()
        self.most, self.seconds = most, seconds
        self._kinds: dict[str, list[float]] = {}  # since when, lines

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        kind = self._kinds.setdefault(f"{record.levelno} {record.msg}", [now, 0])
        if now - kind[0] > self.seconds:
            more = kind[1] - self.most
            kind[:] = now, 0
            if more > 0:
                record.msg, record.args = f"{record.getMessage()} (and {more:.0f} like it before)", None
        kind[1] += 1
        return kind[1] <= self.most


def quiet_logger() -> logging.Logger:
    """For the websocket library: what it would tell with a traceback becomes a line of ours."""
    found = logging.getLogger("steersman.serve.websocket")
    found.setLevel(logging.WARNING)
    found.filters[:] = [_OneLine()]
    return found


class _OneLine(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        record.exc_info = record.exc_text = None
        if error is not None:
            reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
            record.msg, record.args = "%s (%s)", (record.getMessage(), reason[:200])
        return True


def connection_class(tls: bool, most: int) -> type:
    """Connections that are dropped at once where a client speaks TLS to a plain port, and where more than
    `most` are open (also those that have not said yet what they want).
    """
    base = needed("websockets.asyncio.server").ServerConnection

    class Line(base):
        key = 0
        open = 0
        _begun = _counted = False

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            Line.open += 1
            self._counted = True
            if Line.open > most:
                LOG.warning("a client was dropped: %d connections are open", Line.open)
                transport.abort()

        def connection_lost(self, exc) -> None:
            if self._counted:
                Line.open, self._counted = Line.open - 1, False
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self._begun:
                self._begun = True
                if not tls and data.startswith(HELLO):
                    LOG.warning("a client spoke TLS to this plain port, expected ws://")
                    self.transport.abort()
                    return
            super().data_received(data)

    return Line
