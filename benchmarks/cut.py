"""A line between a client and a server that can be cut: what a pulled cable, a dead router or a dropped
connection look like from both ends."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

CHUNK = 65536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close at once, with a reset


class Cable:
    """Listens on a port of its own and hands on to 127.0.0.1:`port`, both ways. A context manager.

    pull: nothing gets through any more and nobody is told; `plug` again, and what was under way arrives late.
    drop: both ends are told at once that the connection is gone; new ones are made.
    refuse: the same, and none is made until it is plugged in.
    """

    def __init__(self, port: int):
        self._target = port
        self._up, self._over, self._refuses = threading.Event(), False, False
        self._up.set()
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        self._up.clear()

    def plug(self) -> None:
        self._refuses = False
        self._up.set()

    def refuse(self) -> None:
        self._refuses = True
        self.drop()

    def drop(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._over = True
        self._up.set()
        self._listener.close()
        self.drop()

    def __enter__(self) -> Cable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                near.close()
            else:
                threading.Thread(target=self._join, args=(near,), daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        self._up.wait()
        try:
            far = socket.create_connection(("127.0.0.1", self._target), 5.0)
        except OSError:
            return near.close()
        far.settimeout(None)
        self._ends += [near, far]
        for one, other in ((near, far), (far, near)):
            with contextlib.suppress(OSError):  # dropped already
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(CHUNK):
                self._up.wait()
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
