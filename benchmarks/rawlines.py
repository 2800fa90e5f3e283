"""Lines to a server written by hand, so that everything can be wrong about them: LINES are websocket frames
that break the rules, DOORS are bytes in a handshake's place, SILENT ones that end in the middle.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct

import numpy as np
from attacks import Make, Rng, choice, cut, request, size

CLOSED = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, OSError)
REVERSE = "TLS to a plain port, or the reverse"
INSIDE = {"half a frame", "a piece without end"}  # silent ones that were let in


def frame(
    code: int, data: bytes = b"", fin: bool = True, masked: bool = True, rsv: int = 0, says: int = -1
) -> bytes:
    """One websocket frame (RFC 6455). says: the length that it declares, if not its own."""
    length = len(data) if says < 0 else says
    first, bit = bytes([(0x80 if fin else 0) | rsv << 4 | code]), 0x80 if masked else 0
    if length < 126:
        head = bytes([bit | length])
    elif length < 1 << 16:
        head = bytes([bit | 126]) + struct.pack(">H", length)
    else:
        head = bytes([bit | 127]) + struct.pack(">Q", length)
    if not masked:
        return first + head + data
    key = b"\x11\x22\x33\x44"
    return first + head + key + mask(data, key)


def mask(data: bytes, key: bytes) -> bytes:
    pad = np.resize(np.frombuffer(key, np.uint8), len(data))
    return (np.frombuffer(data, np.uint8) ^ pad).tobytes()


TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def in_pieces(rng: Rng) -> bytes:
    """A message cut off, in many fragments, with pings in between."""
    data, out = cut(rng)[:3000], b""
    edges = [0, *sorted(int(rng.integers(len(data) + 1)) for _ in range(size(rng, 400))), len(data)]
    for at, (first, last) in enumerate(zip(edges, edges[1:], strict=False)):
        out += frame(0 if at else BINARY, data[first:last], fin=at == len(edges) - 2)
        out += frame(PING, b"x") if rng.random() < 0.05 else b""
    return out


LINES: dict[str, Make] = {
    "text frame": lambda rng: frame(TEXT, choice(rng, (b"", b"hello", b"{}", b"x" * 100_000))),
    "text frame not UTF-8": lambda rng: frame(TEXT, rng.bytes(50) + b"\xff"),
    "huge frame declared": lambda rng: frame(
        BINARY, rng.bytes(9), says=choice(rng, ((1 << 63) - 1, 1 << 40, 1 << 32, 1 << 27, 1 << 63))
    ),
    "in pieces": in_pieces,
    "piece of nothing": lambda rng: frame(0, rng.bytes(9), fin=rng.random() < 0.5),
    "two at once": lambda rng: frame(BINARY, b"a", fin=False) + frame(BINARY, b"b"),
    "opcode of none": lambda rng: frame(choice(rng, (3, 4, 5, 6, 7, 11, 15)), rng.bytes(9)),
    "bits of none": lambda rng: frame(BINARY, rng.bytes(9), rsv=int(rng.integers(1, 8))),
    "not masked": lambda rng: frame(BINARY, request(rng), masked=False),
    "long ping": lambda rng: frame(PING, rng.bytes(126 + size(rng, 60_000))),
    "ping in pieces": lambda rng: frame(PING, b"a", fin=False),
    "many pings": lambda rng: frame(PING, b"x" * 125) * size(rng, 2000) + frame(BINARY, b"\xc1"),
    "odd farewell": lambda rng: frame(
        CLOSE,
        choice(rng, (b"\x00", struct.pack(">H", choice(rng, (0, 999, 1005, 5000, 65535))), b"\x03\xe8\xff")),
    ),
    "farewell, then more": lambda rng: frame(CLOSE, struct.pack(">H", 1000)) + frame(BINARY, request(rng)),
    "noise after the handshake": lambda rng: b"\xff" + rng.bytes(size(rng, 4000)),
}


# --- in a handshake's place ------------------------------------------------------------------------------

ASKS = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
KEY = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
VERSION = b"Sec-WebSocket-Version: 13\r\n"
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"\x20" + bytes(160)

END = VERSION + b"\r\n"
METHODS = b"POST", b"PUT", b"CONNECT", b"TRACE", b"\0GET"
KEYS = b"", b"Sec-WebSocket-Key: short\r\n", KEY * 2
HEADERS = b"no colon\r\n", b": empty\r\n", b"\xff\xfe: x\r\n", b" folded\r\n"
OTHERS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n", b"GET /\r\n\r\n", b"EHLO x\r\n\r\n"

DOORS: dict[str, Make] = {
    "garbage": lambda rng: rng.bytes(1 + size(rng, 20_000)) + b"\r\n\r\n",
    "huge header": lambda rng: ASKS + b"X: " + b"a" * (9000 + size(rng, 1 << 20)) + b"\r\n" + KEY + END,
    "many headers": lambda rng: ASKS + b"X: 1\r\n" * (200 + size(rng, 20_000)) + KEY + END,
    "long path": lambda rng: b"GET /" + b"a" * (9000 + size(rng, 1 << 20)) + b" HTTP/1.1\r\n\r\n",
    "not GET": lambda rng: choice(rng, METHODS) + ASKS[3:] + KEY + END,
    "no key": lambda rng: ASKS + choice(rng, KEYS) + END,
    "other version": lambda rng: ASKS + KEY + choice(rng, (b"", b"Sec-WebSocket-Version: 8\r\n")) + b"\r\n",
    "not HTTP/1.1": lambda rng: choice(rng, OTHERS),
    "a body": lambda rng: b"GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + rng.bytes(size(rng, 4000)),
    "header of nothing": lambda rng: ASKS + choice(rng, HEADERS) + KEY + END,
    "gone at once": lambda rng: b"",
}

# Those that say nothing more: a server must hang up by itself.
SILENT: dict[str, Make] = {
    "half a handshake": lambda rng: (ASKS + KEY)[: int(rng.integers(1, 90))],
    "a byte now and then": lambda rng: ASKS + b"X: " + b"a" * 4000,  # sent one by one
    "TLS to a plain port, or the reverse": lambda rng: HELLO,
    "half a frame": lambda rng: frame(BINARY, b"\x81", says=5000),
    "a piece without end": lambda rng: frame(BINARY, request(rng)[:500], fin=False),
}


# --- a line ----------------------------------------------------------------------------------------------


class Line:
    """A websocket written by hand, so that everything can be wrong about it."""

    def __init__(self, port: int, tls: ssl.SSLContext | None):
        self.port, self.tls = port, tls

    async def connect(self, plain: bool = False) -> None:
        given = {} if plain or self.tls is None else {"ssl": self.tls, "server_hostname": "localhost"}
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, limit=1 << 26, **given
        )

    async def open(self) -> str:
        """Be let in, and read the metadata -> "", or why not."""
        await self.connect()
        await self.send(ASKS + KEY + VERSION + b"\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.splitlines()[0]:
            return head.splitlines()[0].decode()
        code, _ = await self.frame()
        return "" if code == BINARY else f"frame {code}"

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def frame(self) -> tuple[int, bytes]:
        """The next frame but for pings, which are answered, and pongs."""
        while True:
            first, second = await self.reader.readexactly(2)
            length = second & 0x7F
            if length > 125:
                length = int.from_bytes(await self.reader.readexactly(2 if length == 126 else 8), "big")
            code, data = first & 0x0F, await self.reader.readexactly(length)
            if code == PING:
                await self.send(frame(PONG, data))
            elif code != PONG:
                return code, data

    def close(self) -> None:
        self.writer.transport.abort()


async def drip(line: Line, data: bytes) -> None:
    with contextlib.suppress(*CLOSED):
        for at in range(len(data)):
            await line.send(data[at : at + 1])
            await asyncio.sleep(0.5)
