"""A server for tests that speaks openpi's public protocol, on loopback, in threads of this process.

Its frames are made by openpi's own code where that is installed, else by the few lines here: not by ours.
With OURS as metadata and `planned` as answer it is like a server of ours: started as a program (`Process`) it
can be killed and frozen, and a `Proxy` before it is a network that swallows everything.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
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

    def __init__(
        self, answer: Callable, metadata: Mapping | bytes | str | None = None, port: int = 0, tls=None
    ):
        self.answer, self.metadata = answer, {} if metadata is None else metadata
        self.asked: list[bytes] = []
        self.headers: list[Mapping[str, str]] = []
        self.lines: list[ServerConnection] = []
        self._server = serve(self._serve, "127.0.0.1", port, compression=None, max_size=None, ssl=tls)
        self.port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _serve(self, line: ServerConnection) -> None:
        self.headers.append(line.request.headers)
        self.lines.append(line)
        try:
            line.send(_frame(self.metadata))
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


OURS = {
    "steersman": {
        "protocol": 1, "name": "test", "robot": "libero", "planner": True, "horizon": 10, "action_dim": 7,
        "state_dim": 8, "rate": 20.0,
    }
}  # fmt: skip


def planned(asked: Mapping) -> dict:
    """Like a server of ours: it is always for going on, to the right, and counts in its memory."""
    time.sleep(0.02)
    count = int(asked.get("memory") or 0) + 1
    said = {
        "id": asked["id"],
        "memory": str(count),
        "subtask": asked.get("subtask") or "go on <loc0256><loc0512>",
    }
    actions = np.zeros((10, 7), np.float32)
    actions[:, 1], actions[:, 6] = 0.25, -1.0
    return said if asked.get("want") == "plan" else {**said, "actions": actions}


class Process:
    """Such a server in a process of its own."""

    def __init__(self, port: int = 0):
        command = [sys.executable, __file__, str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())
        self.url = f"ws://127.0.0.1:{self.port}"

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class Proxy:
    """Passes on what comes, both ways, a `delay` later (seconds), unless it is `cut`: then it swallows
    everything and closes nothing.
    """

    def __init__(self, to: int, delay: float = 0.0):
        self.to, self.delay, self.cut = to, delay, False
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self._door.getsockname()[1]}"
        self._pairs: dict[socket.socket, socket.socket | None] = {}
        self._ends, self._end = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._ends, self._door, *self._pairs], [], [])
            for found in ready:
                if found == self._ends:
                    return
                if found is self._door:
                    self._accept()
                elif found in self._pairs:
                    self._pass_on(found)

    def _accept(self) -> None:
        near, _ = self._door.accept()
        far = None
        if not self.cut:
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                return near.close()
            self._pairs[far] = near
        self._pairs[near] = far

    def _pass_on(self, found: socket.socket) -> None:
        try:
            data = found.recv(1 << 16)
            time.sleep(self.delay)
            other = self._pairs[found]
            if data and not self.cut and other is not None:
                other.sendall(data)
        except OSError:
            data = b""
        if not data:
            other = self._pairs.pop(found)
            found.close()
            if other is not None and not self.cut:
                self._pairs.pop(other, None)
                other.close()

    def close(self) -> None:
        os.write(self._end, b"x")
        self._thread.join(5)
        for found in (self._door, *self._pairs):
            found.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


if __name__ == "__main__":
    server = PolicyServer(planned, OURS, int(sys.argv[1]))
    print(server.port, flush=True)
    threading.Event().wait()
