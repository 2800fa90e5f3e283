"""A server in a thread of this process: for tests, benchmarks and notebooks."""

from __future__ import annotations

import asyncio
import threading
import time

from agent.serving.server import Server
from agent.serving.settings import Serving
from backbone.errors import UserError


class Background:
    """`with Background(Serving(port=0)) as server: server.url`. It is ready when it is entered, unless
    `wait` is False; UserError where it cannot begin.
    """

    def __init__(self, serving: Serving, wait: bool = True):
        self.server, self.wait = Server(serving), wait
        self._error: Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="serving", daemon=True)

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"{self.server.serving.scheme}://127.0.0.1:{self.port}"

    def __enter__(self) -> Background:
        self._thread.start()
        while self._thread.is_alive() and (self.server.port is None or (self.wait and not self.server.ready)):
            time.sleep(0.005)
        if self._error is not None:
            raise self._error
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self.server.stop)
            self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self.server.run())
        except UserError as error:
            self._error = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()
