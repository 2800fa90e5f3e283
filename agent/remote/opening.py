"""Opening a line to a policy server, and in one line why it cannot be opened."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from errno import ECONNREFUSED
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from agent.wire import needed, unpack
from backbone.errors import PolicyError, UserError

CLOSE = 1.0  # seconds for a farewell
LARGEST = 2**26  # bytes of a frame that is taken
KEYS = "STEERSMAN_API_KEY", "OPENPI_API_KEY"  # of the environment; sent as "Authorization: Api-Key ..."


class NoLine(PolicyError):
    """reason: the same in few words."""

    def __init__(self, line: str, reason: str):
        super().__init__(line)
        self.reason = reason


async def opened(url: str, headers: Mapping[str, str] | None, limit: float) -> tuple[Any, dict[str, Any]]:
    """A websocket, and the server's first frame. limit: seconds. UserError for what is no address, else
    PolicyError.
    """
    client, errors, name = needed("websockets.asyncio.client"), needed("websockets.exceptions"), hidden(url)
    expected = f"{name}: expected a policy server within {limit:g} s"
    socket = None
    try:
        async with asyncio.timeout(limit):
            # No pings of its own: a server that thinks on its only thread answers none.
            socket = await client.connect(
                url,
                compression=None,
                max_size=LARGEST,
                additional_headers=headers,
                open_timeout=None,
                close_timeout=CLOSE,
                ping_interval=None,
            )
            return socket, read(name, await socket.recv())
    except errors.InvalidURI:
        raise UserError(f"policy: expected ws://HOST:PORT or wss://HOST, got '{name}'") from None
    except TimeoutError:
        dropped(socket)
        raise NoLine(f"{expected}, none came", "nobody answers there") from None
    except UserError as error:
        dropped(socket)
        told = str(error)
        raise PolicyError(told if told.startswith(name) else f"{name}: {told}") from None
    except (OSError, EOFError, errors.WebSocketException) as error:
        dropped(socket)
        raise _why(error, url, expected) from None


def read(name: str, frame: bytes | str) -> dict[str, Any]:
    """What a frame says; PolicyError for a traceback (its last line says what it was) and for no dict."""
    if isinstance(frame, str):
        lines = frame.strip().splitlines() or ["no reason given"]
        raise PolicyError(f"{name}: the server failed: {lines[-1].strip()}")
    try:
        message = unpack(frame)
    except UserError as error:
        raise PolicyError(f"{name}: {error}") from None
    if not isinstance(message, dict):
        raise PolicyError(f"{name}: expected a dict, the server sent {type(message).__name__}")
    return message


def dropped(socket: Any) -> None:
    """At once, without a farewell: nobody may be there to answer it."""
    if socket is not None:
        socket.transport.abort()


def hidden(url: str) -> str:
    """A URL as it may be printed and kept: without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


without_secrets = hidden


def _why(error: Exception, url: str, expected: str) -> NoLine:
    name, tls = hidden(url), urlsplit(url).scheme == "wss"
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = " ".join(str(error).split()) or type(error).__name__
    if status in (401, 403):
        wish, reason = f"a key that the server takes (in {KEYS[0]})", f"it answered {status}"
    elif status is not None:
        wish, reason = "a policy server", f"it answered with HTTP status {status}"
    elif isinstance(error, ssl.SSLCertVerificationError):
        wish = "a certificate to trust (the file SSL_CERT_FILE names others)"
        reason = f"but {error.verify_message or reason}"
    elif isinstance(error, ssl.SSLError) or (tls and isinstance(error, EOFError | ConnectionResetError)):
        wish, reason = "a server with TLS", f"but it speaks none; then it is ws://, not wss:// ({reason})"
    elif not tls and type(error).__name__ == "InvalidMessage":
        wish, reason = "a policy server without TLS", f"but {reason}; one with TLS is wss://, not ws://"
    else:
        refused = getattr(error, "errno", None) == ECONNREFUSED or f"[Errno {ECONNREFUSED}]" in reason
        reason = "the connection was refused" if refused else reason
        return NoLine(f"{expected}, but {reason}", reason)
    return NoLine(f"{name}: expected {wish}, {reason}", f"expected {wish}, {reason}")
