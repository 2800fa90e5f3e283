"""A server for tests that speaks openpi's public protocol, on loopback, in threads of this process.

Its frames are made by openpi's own code where that is installed, else by the few lines here: not by ours.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

import msgpack
import numpy as np
import websockets
from websockets.sync.server import ServerConnection, serve

try:
    from openpi_client.msgpack_numpy import packb, unpackb
except ImportError:

    def packb(value) -> bytes:
        def encode(found):
            if isinstance(found, np.ndarray):
                keys = {b"data": found.tobytes(), b"dtype": found.dtype.str, b"shape": found.shape}
                return {b"__ndarray__": True, **keys}
            return {b"__npgeneric__": True, b"data": found.item(), b"dtype": found.dtype.str}

        return msgpack.packb(value, default=encode)

    def unpackb(data: bytes):
        def decode(found):
            if b"__ndarray__" in found:
                return np.ndarray(found[b"shape"], found[b"dtype"], found[b"data"])
            if b"__npgeneric__" in found:
                return np.dtype(found[b"dtype"]).type(found[b"data"])
            return found

        return msgpack.unpackb(data, object_hook=decode)


class PolicyServer:
    """answer: observation -> reply (packed if it is no frame yet), or an exception: then its text, and 1011.

    metadata: the first frame, or None for none. asked: the frames that came; headers: of each connection.
    """

    def __init__(self, answer: Callable, metadata: Mapping | bytes | str | None = None, port: int = 0):
        self.answer, self.metadata = answer, {} if metadata is None else metadata
        self.asked: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.lines: list[ServerConnection] = []
        self._server = serve(self._serve, "127.0.0.1", port, compression=None, max_size=None)
        self.port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, line: ServerConnection) -> None:
        self.headers.append(line.request.headers)
        self.lines.append(line)
        line.send(_frame(self.metadata))
        try:
            for frame in line:
                self.asked.append(frame)
                try:
                    line.send(_frame(self.answer(unpackb(frame))))
                except websockets.ConnectionClosed:
                    return
                except Exception as error:
                    line.send(f"Traceback (most recent call last):\n  ...\n{type(error).__name__}: {error}\n")
                    return line.close(1011, "Internal server error.")
        except websockets.ConnectionClosed:
            pass

    def hang_up(self) -> None:
        """Drop every line, and wait until it is gone."""
        for line in self.lines:
            line.close()
        self.lines.clear()

    def close(self) -> None:
        self.hang_up()
        self._server.shutdown()
        self._thread.join(5)

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _frame(value) -> bytes | str:
    return value if isinstance(value, bytes | str) else packb(value)
